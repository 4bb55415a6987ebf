"""Peak memory: what the kernel's figures are read as, and a child process that reports back or says why not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from adapter_bench import child, memory
from adapter_infer.errors import AdapterError, EnvironmentMissing, UsageError

MEGABYTE = 2**20

# What the child processes of these tests run.
WORK = '''
import os, pathlib, signal, time
from contextlib import contextmanager
import numpy as np
from adapter_bench import memory
from adapter_infer.errors import UsageError

def stand_in(weights, activations):
    """A model that holds `weights` bytes and touches `activations` more whenever it runs."""
    @contextmanager
    def load():
        held = np.ones(weights, np.uint8)
        yield lambda: int(np.ones(activations, np.uint8)[-1]) + int(held[0])
    return memory.record(load)

def refuse():
    raise UsageError("batch 0 holds no image")

def fail():
    raise ZeroDivisionError("a bug")

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def linger(path):
    new = pathlib.Path(path + ".new")
    new.write_text(str(os.getpid()))
    new.rename(path)
    time.sleep(600)
'''


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bench_child_work.py").write_text(WORK)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_the_kernels_figures_are_kibibytes(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\nThreads:\t1\n")
    assert memory.read_status(status) == {"VmRSS": MEGABYTE, "VmHWM": 2 * MEGABYTE}


def test_a_system_without_the_figures_is_said_to_lack_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> NoReturn:
        raise FileNotFoundError("/proc/self/status")

    monkeypatch.setattr(memory, "read_status", missing)
    with pytest.raises(EnvironmentMissing, match="leave --memory out"):
        memory.measure({"kind": "engine"})


def test_weights_and_activations_are_told_apart() -> None:
    found = child.call("bench_child_work:stand_in", weights=200 * MEGABYTE, activations=100 * MEGABYTE)
    assert found["loaded_bytes"] - found["runtime_bytes"] == pytest.approx(200 * MEGABYTE, abs=4 * MEGABYTE)
    assert found["peak_bytes"] - found["runtime_bytes"] == pytest.approx(300 * MEGABYTE, abs=6 * MEGABYTE)
    if found["activations_bytes"] is not None:  # the kernel lets the high-water mark be reset
        assert found["activations_bytes"] == pytest.approx(100 * MEGABYTE, abs=4 * MEGABYTE)
        assert found["run_peak_bytes"] == found["peak_bytes"]


def test_the_childs_refusal_keeps_its_kind_and_message() -> None:
    with pytest.raises(UsageError, match="batch 0 holds no image"):
        child.call("bench_child_work:refuse")


def test_the_childs_bug_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError: a bug"):
        child.call("bench_child_work:fail")


def test_a_killed_child_is_said_to_be_killed() -> None:
    with pytest.raises(AdapterError, match="ended by signal 9; if memory ran out"):
        child.call("bench_child_work:die")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_process_ends_with_its_parent(number: signal.Signals, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    program = f"from adapter_bench import child; child.call('bench_child_work:linger', path={str(pid)!r})"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    parent = subprocess.Popen([sys.executable, "-c", program], env=environment)
    wait_until(pid.exists)
    parent.send_signal(number)
    parent.wait(timeout=60)
    wait_until(lambda: has_ended(pid.read_text()))


def has_ended(pid: str) -> bool:
    """Also where nobody has collected it: a container's first process may not care for orphans."""
    try:
        return "State:\tZ" in Path("/proc", pid, "status").read_text()
    except FileNotFoundError:
        return True


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)

"""How a command ends: what it holds is let go whichever signal asks, and a signal that was ignored stays ignored."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from adapter_infer import command_line
from adapter_infer.errors import UsageError

HOLDS_A_FOLDER = """
import sys, tempfile, time
from adapter_infer import command_line

def body(argv):
    with tempfile.TemporaryDirectory(dir=sys.argv[1]):
        print("ready", flush=True)
        time.sleep(600)
    return 0

sys.exit(command_line.run("adapter-test", body))
"""

# Whoever runs these tests in the background may have left them ignored.
AS_IN_A_TERMINAL = """
import signal
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
"""


def start(program: str, folder: Path, *before: str) -> subprocess.Popen[str]:
    command = [*before, sys.executable, "-c", program, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (signal.SIGTERM, "ended by SIGTERM"),
        (signal.SIGHUP, "ended by SIGHUP"),
        (signal.SIGINT, "interrupted"),
    ],
)
def test_a_signal_leaves_no_temporary_folder(number: signal.Signals, says: str, tmp_path: Path) -> None:
    process = start(AS_IN_A_TERMINAL + HOLDS_A_FOLDER, tmp_path)
    process.send_signal(number)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert complaint == f"adapter-test: {says}\n"
    assert list(tmp_path.iterdir()) == []


def test_nohup_keeps_a_command_running(tmp_path: Path) -> None:
    process = start(HOLDS_A_FOLDER, tmp_path, "nohup")
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM


def test_a_caller_gets_its_handlers_back(capsys: pytest.CaptureFixture[str]) -> None:
    def body(_: object) -> int:
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        raise UsageError("a mistake\n of the user")

    before = signal.getsignal(signal.SIGTERM)
    assert command_line.run("adapter-test", body) == 2
    assert signal.getsignal(signal.SIGTERM) is before
    assert capsys.readouterr().err == "adapter-test: a mistake of the user\n"


def test_a_command_runs_in_a_thread_too() -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(command_line.run("adapter-test", lambda _: 7)))
    thread.start()
    thread.join()
    assert codes == [7]

"""Finding the libraries, and saying what is here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

import adapter_plugins
from adapter_infer.errors import EnvironmentMissing


def listing(**environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "adapter_plugins"]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)


def test_the_listing_names_every_library_and_the_code_path():
    done = listing()
    assert (done.returncode, done.stderr) == (0, "")
    assert all(name in done.stdout for name in adapter_plugins.LIBRARIES)
    assert f"code path {adapter_plugins.instruction_set()}" in done.stdout


def test_a_forced_code_path_is_reported():
    done = listing(ADAPTER_MSDA_ISA="sse2")
    assert done.returncode == 0
    assert "code path sse2" in done.stdout


def test_a_wrong_code_path_is_one_line_and_exit_code_5():
    done = listing(ADAPTER_MSDA_ISA="mmx")
    assert done.returncode == 5
    assert len(done.stderr.splitlines()) == 1
    assert "'mmx' is unknown" in done.stderr


def test_a_library_that_was_not_built_says_why():
    with pytest.raises(EnvironmentMissing, match=r"libmsda_trt\.so is not part of this installation: not part of this"):
        adapter_plugins.library("msda_trt")


def test_an_installation_without_libraries_says_why(monkeypatch, tmp_path):
    monkeypatch.setattr(adapter_plugins, "_folder", lambda: tmp_path)
    assert adapter_plugins.build_info() == {}
    with pytest.raises(EnvironmentMissing, match="ADAPTER_PLUGINS=none"):
        adapter_plugins.library("msda_ort_cpu")


def test_the_library_exports_its_two_doors_and_nothing_else():
    """The C++ runtime is linked in; were it exported too, other libraries of the process could bind to it."""
    nm = shutil.which("nm")
    if not nm:
        pytest.skip("needs nm")
    command = [nm, "-D", "--defined-only", str(adapter_plugins.library("msda_ort_cpu"))]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {line.split()[-1] for line in lines} == {"RegisterCustomOps", "adapter_msda_isa"}

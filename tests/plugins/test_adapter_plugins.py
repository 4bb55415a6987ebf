"""Finding the libraries, and saying what is here."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys

import pytest

import adapter_plugins
import adapter_plugins.__main__
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


def test_the_build_says_of_every_library_what_became_of_it():
    info = adapter_plugins.build_info()
    assert set(info) == set(adapter_plugins.LIBRARIES)
    for name, sentence in info.items():
        there = (adapter_plugins._folder() / f"lib{name}.so").is_file()
        assert there == sentence.startswith("built with "), f"{name}: {sentence}"


def test_a_library_that_was_not_built_says_why(monkeypatch, tmp_path):
    (tmp_path / "build_info.json").write_text('{"msda_cuda": "nvcc was not found"}')
    monkeypatch.setattr(adapter_plugins, "_folder", lambda: tmp_path)
    with pytest.raises(
        EnvironmentMissing, match=r"libmsda_cuda\.so is not part of this installation: nvcc was not found"
    ):
        adapter_plugins.library("msda_cuda")
    with pytest.raises(EnvironmentMissing, match="nvcc was not found"):
        adapter_plugins.cuda_architectures()
    assert adapter_plugins.cuda_unusable() == "libmsda_cuda.so is not part of this installation: nvcc was not found"


def test_the_tensorrt_plugin_is_chosen_by_major_and_by_who_registers_it(monkeypatch, tmp_path):
    monkeypatch.setattr(adapter_plugins, "_folder", lambda: tmp_path)
    for name in ("msda_trt10", "msda_trt11", "msda_trt11_static"):
        (tmp_path / f"lib{name}.so").touch()
    assert adapter_plugins.tensorrt_plugin(10).name == "libmsda_trt10.so"
    assert adapter_plugins.tensorrt_plugin(11).name == "libmsda_trt11.so"
    assert adapter_plugins.tensorrt_plugin(11, self_registering=True).name == "libmsda_trt11_static.so"
    with pytest.raises(EnvironmentMissing, match=r"libmsda_trt10_static\.so is not part of this installation"):
        adapter_plugins.tensorrt_plugin(10, self_registering=True)
    with pytest.raises(EnvironmentMissing, match="no plugin for TensorRT 9; it is written for TensorRT 10 and 11"):
        adapter_plugins.tensorrt_plugin(9)


def test_the_cuda_library_names_the_gpus_it_was_built_for():
    try:
        architectures = adapter_plugins.cuda_architectures()
    except EnvironmentMissing as error:
        pytest.skip(str(error))
    assert re.fullmatch(r"(\d{2,3},)*\d{2,3}\+ptx", architectures)
    assert f"hold code for {architectures}" in listing().stdout
    assert all(number in adapter_plugins.build_info()["msda_cuda"] for number in re.findall(r"\d+", architectures))


def test_the_listing_fits_a_narrow_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "40")
    assert adapter_plugins.__main__.main([]) == 0
    lines = terminal.getvalue().splitlines()
    assert all(len(line) <= 40 for line in lines if not line.startswith("They are in /"))
    assert all(any(line.endswith(f"lib{name}.so") for line in lines) for name in adapter_plugins.LIBRARIES)


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

"""What nvcc makes of the CUDA kernels: registers and spills on every architecture, instructions on sm_90; the build."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from cuda_emulation import KERNELS, SHIM, compiler, nvcc, run

ARCHITECTURES = ("80", "86", "89", "90", "100", "120")
#: 64 registers let 1024 threads stay on a processor. Two spilled words outside the loops cost nothing that shows.
MAX_REGISTERS = 64
MAX_SPILLED = 8
#: Instructions of the whole kernel for each sample and channel that a lane sums up, fp16 and D = 32, by L.
MAX_INSTRUCTIONS = {1: 22.0, 3: 17.0}
CHANNELS, POINTS = 8, 4  # of a lane: 16 bytes of fp16; of a level


def the_nvcc() -> Path:
    found = nvcc()
    if found is None or not found.is_file():
        pytest.skip("needs nvcc on PATH or in CUDACXX")
    return found


def cuobjdump() -> str:
    """NVIDIA's disassembler, of the toolkit or of the wheel nvidia-cuda-cuobjdump."""
    beside = [Path(entry) for entry in sys.path]
    found = [path for entry in beside for path in entry.glob("nvidia/*/bin/cuobjdump")]
    tool = shutil.which("cuobjdump") or (str(found[0]) if found else None)
    if tool is None:
        pytest.skip("needs cuobjdump: of a CUDA toolkit, or the wheel nvidia-cuda-cuobjdump")
    return tool


def compile_few(folder: Path, architecture: str) -> tuple[Path, str]:
    """few_kernels.cu as machine code, and what the assembler says about it."""
    tool = the_nvcc()
    if f"sm_{architecture}\n" not in run(tool, "--list-gpu-code"):
        pytest.skip(f"{tool} does not know sm_{architecture}")
    cubin = folder / f"few_{architecture}.cubin"
    command = [tool, "-std=c++17", "-O3", f"-arch=sm_{architecture}", "-Xptxas", "-v", "-I", KERNELS, "-cubin"]
    done = subprocess.run([*command, "-o", cubin, SHIM / "few_kernels.cu"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return cubin, done.stderr


def budget_passed(said: str) -> list[str]:
    """Kernels over the budget, by what `ptxas -v` says."""
    over = []
    for part in said.split("Compiling entry function '")[1:]:
        name = part.split("'", 1)[0]
        registers = int(re.findall(r"Used (\d+) registers", part)[0])
        spilled = [int(n) for n in re.findall(r"(\d+) bytes spill (?:stores|loads)", part)]
        if registers > MAX_REGISTERS or len(spilled) != 2 or max(spilled) > MAX_SPILLED:
            over.append(f"{name}: {registers} registers, {spilled} bytes spilled")
    return over


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_kernel_passes_its_registers_or_spills(tmp_path, architecture):
    """About four seconds of a core each."""
    _, said = compile_few(tmp_path, architecture)
    assert said.count("Compiling entry function") == 8  # three layouts of two ops, two generic ones
    assert budget_passed(said) == []


def test_the_budget_notices_more_registers_and_a_spill():
    entry = (
        "Compiling entry function 'k' for 'sm_90'\n{} bytes stack frame, {} bytes spill stores, {} bytes spill loads\n"
    )
    entry += "Used {} registers, used 1 barriers\n"
    assert budget_passed(entry.format(0, 0, 0, 64)) == []
    assert budget_passed(entry.format(0, 0, 0, 65)) != []
    assert budget_passed(entry.format(8, 0, 12, 64)) != []


def instructions(cubin: Path) -> dict[str, list[str]]:
    """Names of the instructions of every kernel, predicates and the padding at the end left out."""
    kernels = {}
    for part in run(cuobjdump(), "--dump-sass", cubin).split("Function : ")[1:]:
        lines = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", part, re.MULTILINE)
        while lines and lines[-1] in {"NOP", "BRA"}:
            lines.pop()
        kernels[part.split()[0]] = lines
    return kernels


@pytest.mark.slow
def test_instructions_for_a_sample_and_channel(tmp_path):
    """The whole kernel counted, also what only one warp of a block runs. About six seconds."""
    cubin, _ = compile_few(tmp_path, "90")
    found = {}
    for name, lines in instructions(cubin).items():
        kinds = Counter(line.split(".")[0] for line in lines)
        assert not kinds["LDL"], f"{name} reads local memory"
        assert not kinds["STL"], f"{name} writes local memory"
        layout = re.search(r"fast_kernel.*Li(\d+)ELi(\d+)ELb(\d)", name)
        if not layout:
            continue
        d, levels, fused = map(int, layout.groups())
        samples = levels * POINTS
        assert sum(line.startswith("LDG.E.128") for line in lines) == 4 * samples  # one for each corner
        assert sum(line.startswith("STG.E.128") for line in lines) >= 1
        # An address is one instruction: see Corners in cuda_fast.cuh.
        assert sum(line.startswith("IMAD.WIDE.U32") for line in lines) >= 4 * samples
        if d == 32:
            found[levels, fused] = len(lines) / (samples * CHANNELS)
    assert set(found) == {(1, 0), (1, 1), (3, 0), (3, 1)}
    for (levels, _), count in found.items():
        assert count <= MAX_INSTRUCTIONS[levels], found


def configure(folder: Path, **environment: str) -> str:
    """What CMake prints for a project that includes cuda.cmake alone."""
    (folder / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.24)\nproject(alone LANGUAGES CXX)\n"
        'set(ADAPTER_CUDA_ARCHITECTURES "90" CACHE STRING "")\n'
        f'include("{KERNELS}/cuda.cmake")\nmessage(STATUS "why: ${{MSDA_CUDA_WHY}}.")\n'
        "if(TARGET msda_cuda_objects)\n  get_target_property(targets msda_cuda_objects CUDA_ARCHITECTURES)\n"
        '  message(STATUS "targets: ${targets}.")\nendif()\n'
    )
    cmake = shutil.which("cmake") or str(Path(sys.executable).parent / "cmake")
    if not Path(cmake).is_file():
        pytest.skip("needs cmake")
    architectures = environment.pop("architectures", "90")
    command = [cmake, "-S", folder, "-B", folder / "build", f"-DADAPTER_CUDA_ARCHITECTURES={architectures}"]
    command += [f"-DCMAKE_CXX_COMPILER={shutil.which(compiler())}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)
    return done.stdout + done.stderr if done.returncode else done.stdout


def test_a_machine_without_nvcc_configures_and_says_why(tmp_path):
    said = configure(tmp_path, CUDACXX="/nowhere/nvcc")
    assert "why: no working nvcc was found; put it on PATH or set CUDACXX." in said
    assert "targets:" not in said


@pytest.mark.parametrize(
    ("architectures", "words"),
    [
        ("80;90", "targets: 80-real;90-real;90-virtual."),
        ("75;90", "leave 75 out"),
        ("9.0", "9.0 is no compute capability"),
        ("90;990", "does not know compute capability 990; take a newer CUDA toolkit"),
    ],
)
def test_architectures_are_built_or_refused_by_name(tmp_path, architectures, words):
    the_nvcc()
    said = configure(tmp_path, architectures=architectures)
    assert words in " ".join(said.split())
    assert ("targets:" in said) == words.startswith("targets")

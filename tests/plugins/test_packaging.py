"""A wheel built from this checkout works outside it, in an environment that has never seen the checkout."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import adapter_plugins

ROOT = Path(__file__).resolve().parents[2]
USE = """
import sys, numpy, onnxruntime, adapter_bench, adapter_engines, adapter_export, adapter_infer.heads, adapter_plugins
path = adapter_plugins.library("msda_ort_cpu")
options = onnxruntime.SessionOptions()
options.register_custom_ops_library(str(path))
from onnx import TensorProto, helper
ins = [helper.make_tensor_value_info(n, t, None) for n, t in (("v", 1), ("s", 7), ("r", 1), ("x", 1))]
node = helper.make_node("MSDeformAttn", ["v", "s", "r", "x"], ["y"], domain="adapter_infer")
graph = helper.make_graph([node], "op", ins, [helper.make_tensor_value_info("y", 1, None)])
opsets = [helper.make_opsetid("", 18), helper.make_opsetid("adapter_infer", 1)]
model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
feeds = {"v": numpy.full((1, 1, 1, 1), 7, "f4"), "s": numpy.array([[1, 1]]), "r": numpy.full((1, 1, 1, 2), 0.5, "f4")}
(y,) = session.run(None, feeds | {"x": numpy.zeros((1, 1, 1, 3), "f4")})
print(path, adapter_plugins.__file__, y.item())
"""


def run(*command: object, cwd: Path, **environment: str) -> str:
    arguments, variables = [str(part) for part in command], os.environ | environment
    done = subprocess.run(arguments, cwd=cwd, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.xdist_group("native build")
def test_the_wheel_carries_the_libraries_and_runs_outside_the_checkout(tmp_path):
    for module in ("build", "setuptools", "wheel"):
        pytest.importorskip(module)
    if not (shutil.which("c++") or shutil.which("g++")):
        pytest.skip("needs a C++ compiler")
    checkout, dist, home = tmp_path / "checkout", tmp_path / "dist", tmp_path / "home"
    leave = shutil.ignore_patterns(
        ".*", "build", "dist", "lib", "demo", "__pycache__", "*.egg-info", "tests", "*.onnx*"
    )
    shutil.copytree(ROOT, checkout, ignore=leave)
    for name in ("plugins/adapter_plugins/lib", "build"):
        assert not (checkout / name).exists()
    # CPU only: what is packed does not depend on it, and nvcc would take minutes
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", dist)
    run(*build, cwd=checkout, ADAPTER_PLUGINS="cpu")

    (wheel,) = dist.glob("*.whl")
    assert wheel.name.split("-", 2)[2] == f"py3-none-{sysconfig.get_platform().replace('-', '_')}.whl"
    inside = zipfile.ZipFile(wheel).namelist()
    assert {"adapter_plugins/lib/libmsda_ort_cpu.so", "adapter_plugins/lib/build_info.json"} <= set(inside)
    rooms = {name.split("/")[0] for name in inside if ".dist-info" not in name}
    assert rooms == {"adapter_infer", "adapter_plugins", "adapter_export", "adapter_engines", "adapter_bench"}
    sources = {
        path.relative_to(ROOT / room).as_posix()
        for room in (".", "plugins", "export", "engines", "bench")
        for path in (ROOT / room).glob("adapter_*/**/*.py")
    }
    assert sources <= set(inside)

    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    # the dependencies, without the path files by which an editable installation of the checkout would come along
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    path, package, seven = run(python, "-c", USE, cwd=tmp_path).split()
    assert Path(path).is_relative_to(home)
    assert Path(package).is_relative_to(home)
    assert float(seven) == 7
    assert "code path" in run(python, "-m", "adapter_plugins", cwd=tmp_path)


def configure(folder: Path, wanted: str, path: str) -> subprocess.CompletedProcess[str]:
    """CMake's first step over plugins/, with `path` as PATH."""
    cmake = shutil.which("cmake") or Path(sys.executable).parent / "cmake"
    compiler = shutil.which("c++") or shutil.which("g++")
    if not Path(cmake).is_file() or not compiler:
        pytest.skip("needs cmake and a C++ compiler")
    command = [str(cmake), "-S", str(ROOT / "plugins"), "-B", str(folder), f"-DCMAKE_CXX_COMPILER={compiler}"]
    if ninja := shutil.which("ninja", path=f"{os.environ['PATH']}:{Path(sys.executable).parent}"):
        command += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    hidden = ("CUDACXX", "CUDA_PATH", "CUDA_HOME", "CUDAToolkit_ROOT")
    environment = {name: value for name, value in os.environ.items() if name not in hidden} | {"PATH": path}
    command.append(f"-DADAPTER_PLUGINS={wanted}")
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_an_unknown_choice_is_refused_by_name(tmp_path):
    done = configure(tmp_path, "gpu", os.environ["PATH"])
    assert done.returncode != 0
    assert "ADAPTER_PLUGINS=gpu is unknown" in done.stderr


@pytest.fixture
def no_nvcc() -> str:
    """A PATH with compilers and without nvcc."""
    path = "/usr/bin:/bin"
    if shutil.which("nvcc", path=path):
        pytest.skip("nvcc cannot be hidden on this machine: it lies beside the other compilers")
    return path


def test_cuda_without_nvcc_is_refused_with_the_way_out(tmp_path, no_nvcc):
    done = configure(tmp_path, "cuda", no_nvcc)
    assert done.returncode != 0
    said = " ".join(done.stderr.split())
    assert "ADAPTER_PLUGINS=cuda: " in said
    assert "nvcc" in said
    assert "Use auto" in said


def test_without_nvcc_every_library_for_gpus_has_its_reason(tmp_path, no_nvcc):
    done = configure(tmp_path, "auto", no_nvcc)
    assert done.returncode == 0, done.stderr
    info = json.loads((tmp_path / "build_info.json").read_text())
    assert set(info) == set(adapter_plugins.LIBRARIES)
    assert info.pop("msda_ort_cpu").startswith("built with ")
    assert all("nvcc" in reason for reason in info.values())


def test_cpu_never_looks_for_nvcc(tmp_path):
    done = configure(tmp_path, "cpu", os.environ["PATH"])
    assert done.returncode == 0, done.stderr
    assert "CUDA_COMPILER" not in (tmp_path / "CMakeCache.txt").read_text()
    info = json.loads((tmp_path / "build_info.json").read_text())
    assert info["msda_cuda"] == info["msda_trt10"] == "ADAPTER_PLUGINS=cpu leaves it out"


def test_settings_of_the_environment_reach_cmake(tmp_path):
    """A made-up cmake writes down what it is asked."""
    fake, copy = tmp_path / "bin" / "cmake", tmp_path / "checkout"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {tmp_path}/asked\n')
    fake.chmod(0o755)
    (copy / "plugins").mkdir(parents=True)
    shutil.copy(ROOT / "setup.py", copy)
    settings = {"ADAPTER_PLUGINS": "cuda", "ADAPTER_CUDA_ARCHITECTURES": "80;90", "ADAPTER_TENSORRT_INCLUDE": "/a:/b"}
    path = f"{fake.parent}:{os.environ['PATH']}"
    run(sys.executable, "setup.py", "--quiet", "build_plugins", cwd=copy, PATH=path, **settings)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert {f"-D{name}={value}" for name, value in settings.items()} <= set(asked)


def test_every_source_of_the_native_build_is_packed():
    """An sdist without one of them builds nowhere."""
    manifest = (ROOT / "MANIFEST.in").read_text().splitlines()
    assert "graft plugins" in manifest
    kinds = {path.suffix for path in (ROOT / "plugins").rglob("*") if path.is_file()} - {".py", ".pyc", ".so", ".json"}
    listed = set(re.findall(r'"(\.\w+)"', re.search(r"SOURCES = \{.*\}", (ROOT / "setup.py").read_text()).group()))
    assert kinds <= listed

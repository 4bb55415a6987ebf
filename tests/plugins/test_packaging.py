"""A wheel built from this checkout works outside it, in an environment that has never seen the checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

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


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
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
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", dist, cwd=checkout)

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


@pytest.mark.parametrize("wanted", ["cuda", "gpu"])
def test_what_cannot_be_built_is_refused_by_name(tmp_path, monkeypatch, wanted):
    cmake = shutil.which("cmake") or Path(sys.executable).parent / "cmake"
    if not Path(cmake).is_file():
        pytest.skip("needs cmake")
    command = [str(cmake), "-S", str(ROOT / "plugins"), "-B", str(tmp_path), f"-DADAPTER_PLUGINS={wanted}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"ADAPTER_PLUGINS={wanted}" in done.stderr
    assert "Use auto" in done.stderr

"""What the TensorRT libraries show to others; opening the self-registering one enters the ops, or does nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import rtx_rig
import trt_face
from adapter_infer.errors import EnvironmentMissing
from adapter_plugins import library

#: What a library may ask of the system: the C library in its parts.
SYSTEM = {"libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "ld-linux-x86-64.so.2"}
SYSTEM |= {"ld-linux-aarch64.so.1"}
EXPORTS = {False: {"getCreators", "setLoggerFinder"}, True: set()}
HINT = "this process has not loaded TensorRT {major} yet, so its plugin was not registered"


def built(major: int, self_registering: bool) -> list[Path]:
    """The library of this checkout with the CPU kernel, and the installed one where there is one."""
    found = []
    if trt_face.why_not(major) is None:
        found.append(trt_face.library(major, self_registering))
    try:
        found.append(library(f"msda_trt{major}{'_static' * self_registering}"))
    except (EnvironmentMissing, KeyError) as error:
        if not found:
            pytest.skip(f"{trt_face.why_not(major)}; and {error}")
    return found


def said_by(tool: str, *arguments: object) -> str:
    if not shutil.which(tool):
        pytest.skip(f"needs {tool} (binutils)")
    return subprocess.run([tool, *map(str, arguments)], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("self_registering", [False, True])
@pytest.mark.parametrize("major", trt_face.SUPPORTED)
def test_nothing_but_the_two_doors_is_exported_and_nothing_but_the_c_library_needed(major, self_registering):
    for path in built(major, self_registering):
        exports = {line.split()[-1] for line in said_by("nm", "-D", "--defined-only", path).splitlines()}
        assert exports == EXPORTS[self_registering], path
        dynamic = said_by("readelf", "-d", path)
        assert set(re.findall(r"NEEDED.*\[(.+)\]", dynamic)) <= SYSTEM, path
        assert re.search(r"SONAME.*\[(.+)\]", dynamic)[1] == path.name
        # its creators lie in TensorRT's registry, so unloading it would leave them dangling
        assert ("NODELETE" in dynamic) == self_registering


def alone(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    done = rtx_rig.in_a_fresh_process(script, *arguments)
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout}\n{done.stderr[-3000:]}"
    return done


@pytest.mark.parametrize("major", trt_face.MAJORS)
def test_without_tensorrt_the_self_registering_library_only_says_so(major):
    for path in built(major, True):
        done = alone("import ctypes, sys; ctypes.CDLL(sys.argv[1]); print('opened')", path)
        assert done.stdout == "opened\n"
        assert HINT.format(major=major) in done.stderr
        assert len(done.stderr.splitlines()) == 1


def fake_tensorrt(major: int) -> Path:
    name = f"libnvinfer.so.{major}"
    options = [*trt_face.includes(major), "-shared", f"-Wl,-soname,{name}", "-Wno-deprecated-declarations"]
    return trt_face.compiled(name, [trt_face.TESTS / "trt" / "fake_tensorrt.cpp"], options)


OPEN = """
import ctypes, sys
fake = ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)
if sys.argv[3]:
    fake.refuse(sys.argv[3].encode())
ctypes.CDLL(sys.argv[2])
if sys.argv[4]:
    ctypes.CDLL(sys.argv[4])
fake.use_them()
"""


@pytest.mark.parametrize("major", trt_face.MAJORS)
def test_opening_the_self_registering_library_enters_both_ops_once(major, tmp_path):
    trt_face.require(major)
    for path in built(major, True):
        second = shutil.copy(path, tmp_path)  # another library with the same ops: the first ones serve
        done = alone(OPEN, fake_tensorrt(major), path, "", second)
        said = done.stdout.splitlines()
        assert done.stderr == ""
        assert said[:2] == [
            "register MSDeformAttn 1 adapter_infer in adapter_infer",
            "register MultiScaleDeformableAttention 1 adapter_infer in adapter_infer",
        ]
        # and the plugins speak through the logger of the TensorRT they were entered in: 1 is an error, 2 a warning
        assert said[2:] == [
            "log 2 adapter_infer MSDeformAttn 'used': value is int8; it must be fp32, fp16 or bf16: cast it",
            "log 1 adapter_infer MSDeformAttn 'used': the node has 5 inputs and 1 outputs; it must have 4 and 1",
            "log 1 adapter_infer MultiScaleDeformableAttention 'used': the node has 4 inputs and 1 outputs; "
            "it must have 5 and 1",
            "log 2 adapter_infer MultiScaleDeformableAttention 'used': value is int8; it must be fp32, fp16 or bf16: "
            "cast it",
        ]


@pytest.mark.parametrize("major", trt_face.MAJORS)
def test_a_registry_that_refuses_is_reported(major):
    trt_face.require(major)
    done = alone(OPEN, fake_tensorrt(major), built(major, True)[0], "MSDeformAttn", "")
    assert "log 1 adapter_infer MSDeformAttn: TensorRT refused to register the op" in done.stdout
    assert "register MultiScaleDeformableAttention" in done.stdout


@pytest.mark.parametrize(("major", "other"), [(10, 11), (11, 10)])
def test_another_major_is_left_alone(major, other):
    """Its registry has other function tables: a call would end anywhere."""
    trt_face.require(other)
    done = alone(OPEN, fake_tensorrt(other), built(major, True)[0], "", "")
    assert done.stdout == ""
    assert HINT.format(major=major) in done.stderr


IN_RTX = """
import ctypes, sys
import rtx_rig as rtx
registry = rtx.module().get_plugin_registry()
if sys.argv[2]:
    assert registry.load_library(sys.argv[2])
library = ctypes.CDLL(sys.argv[1])
names = [c.name for c in registry.all_creators if c.plugin_namespace == "adapter_infer"]
print(*names)
"""


@pytest.mark.parametrize("plain_too", [False, True])
def test_tensorrt_rtx_knows_the_ops_after_the_library_for_11_was_opened(plain_too):
    rtx_rig.require()
    plain = built(11, False)[0] if plain_too else ""
    for path in built(11, True):
        done = alone(IN_RTX, path, plain)
        assert done.stdout.split() == ["MSDeformAttn", "MultiScaleDeformableAttention"]
        assert done.stderr == ""


def test_tensorrt_rtx_is_left_alone_by_the_library_for_10():
    rtx_rig.require()
    for path in built(10, True):
        done = alone(IN_RTX, path, "")
        assert done.stdout.split() == []
        assert HINT.format(major=10) in done.stderr

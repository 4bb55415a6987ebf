"""examples/cpp: configured, compiled and linked against a stand-in libnvinfer; what it says without a GPU and files.

Needs the headers of TensorRT (kernel_lens carries those of 10.14, ADAPTER_TENSORRT_INCLUDE names others) and CUDA's
headers and static runtime. Nothing of it has run a plan here: that needs a GPU.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from adapter_engines import device

SOURCE = Path(__file__).parents[2] / "examples" / "cpp"
# Every symbol the program takes from libnvinfer; all else it calls is virtual or inline. The first may never run here.
STAND_IN = """
extern "C" {
void* createInferRuntime_INTERNAL(void*, int) noexcept { return nullptr; }
}
"""


def tensorrt_headers() -> Path | None:
    named = [Path(name) for name in re.split("[:;]", os.environ.get("ADAPTER_TENSORRT_INCLUDE", "")) if name]
    spec = importlib.util.find_spec("kernel_lens")
    if spec is not None and spec.submodule_search_locations:
        named.append(Path(spec.submodule_search_locations[0], "include", "tensorrt"))
    return next((folder for folder in named if (folder / "NvInferRuntime.h").is_file()), None)


def run(*command, check=True):
    words = [str(word) for word in command]
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert not check or result.returncode == 0, result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    headers, nvcc = tensorrt_headers(), shutil.which("nvcc")
    missing = [
        what
        for what, there in (
            ("TensorRT's headers (pip download kernel-lens)", headers),
            ("the CUDA toolkit (nvcc)", nvcc),
            ("cmake", shutil.which("cmake")),
            ("a C++ compiler", shutil.which("c++")),
        )
        if there is None
    ]
    if missing:
        pytest.skip(f"not here: {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("cpp")
    (folder / "stand_in.cpp").write_text(STAND_IN)
    library = folder / "libnvinfer.so"
    run("c++", "-shared", "-fPIC", "-Wl,-soname,libnvinfer.so", "-o", library, folder / "stand_in.cpp")
    configure = ["-DCMAKE_BUILD_TYPE=Debug", f"-DTENSORRT_INCLUDE={headers}", f"-DTENSORRT_LIBRARY={library}"]
    run("cmake", "-S", SOURCE, "-B", folder / "build", *configure, "--no-warn-unused-cli")
    run("cmake", "--build", folder / "build", "--parallel", "2")
    return folder / "build" / "segment"


def test_it_links_all_it_needs_and_nothing_of_this_project(program):
    needed = re.findall(r"NEEDED.*\[(.*)\]", run("readelf", "-d", program).stdout)
    assert "libnvinfer.so" in needed
    assert not [name for name in needed if "cudart" in name or "msda" in name]
    undefined = run("nm", "-D", "-u", "--format=just-symbols", program).stdout
    assert "createInferRuntime_INTERNAL" in undefined


def test_without_a_gpu_it_says_so_before_it_touches_tensorrt(program, tmp_path):
    if device.unusable() is None:
        pytest.skip("there is a GPU here, and the program would go on to the stand-in library")
    result = run(program, tmp_path / "none.plan", tmp_path / "none.ppm", check=False)
    assert result.returncode == 5
    assert result.stderr.startswith("segment: no CUDA device can be used (")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a plan and a picture"),
        (["a.plan"], "name a plan and a picture"),
        (["a.plan", "b.ppm", "c.ppm"], "there is also c.ppm"),
        (["a.plan", "b.ppm", "--fast"], "there is no option --fast"),
        (["a.plan", "b.ppm", "--runs", "x"], "--runs x is not a number"),
        (["a.plan", "b.ppm", "--runs", "0"], "--runs needs at least 1"),
        (["a.plan", "b.ppm", "--plugin"], "--plugin needs a value"),
        (["a.plan", "b.ppm", "--mean", "1", "2"], "--mean needs a value"),
        (["a.plan", "b.ppm", "--std", "1", "0", "1"], "--std needs numbers above 0"),
    ],
)
def test_a_wrong_command_line_is_one_line(program, arguments, message):
    result = run(program, *arguments, check=False)
    assert result.returncode == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_help_tells_the_arguments(program):
    assert "PLAN PICTURE" in run(program, "--help").stdout


def test_pictures_become_the_tensor_that_the_python_side_makes(program, tmp_path, picture):
    """The same numbers as adapter_engines.preprocessing, from the example's own source in a small program."""
    import numpy as np

    from adapter_engines.preprocessing import normalized
    from adapter_infer.spec import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

    (tmp_path / "dump.cpp").write_text("""
#include <fstream>
#include <iostream>
#include "failure.h"
#include "picture.h"
int main(int argc, char** argv) {
  try {
    const segment::Arguments arguments = segment::parse(argc, argv);
    segment::Size size = segment::size_of(arguments.picture);
    if (size.height == 0) size = {4, 6};
    const auto tensor = segment::read_input(arguments, size.height, size.width);
    std::cout.write(reinterpret_cast<const char*>(tensor.data()), tensor.size() * sizeof(float));
  } catch (const segment::Failure& error) {
    std::cerr << error.what();
    return 1;
  }
}
""")
    includes = [f"-I{SOURCE}", "-isystem", Path(shutil.which("nvcc")).resolve().parents[1] / "include"]
    cuda = [line for line in (program.parent / "CMakeCache.txt").read_text().splitlines() if "CUDAToolkit_BIN" in line]
    if cuda:
        includes += ["-isystem", Path(cuda[0].partition("=")[2]).parent / "include"]
    sources = [tmp_path / "dump.cpp", SOURCE / "picture.cpp", SOURCE / "arguments.cpp"]
    run("c++", "-std=c++17", "-fsanitize=address,undefined", *includes, "-o", tmp_path / "dump", *sources)

    def dumped(path, *options):
        words = [str(word) for word in (tmp_path / "dump", "a.plan", path, *options)]
        return subprocess.run(words, capture_output=True, check=False)

    pixels, ppm = picture(4, 6), tmp_path / "x.ppm"
    ppm.write_bytes(b"P6 # a comment\n6 4\n255\n" + pixels.tobytes())
    for bgr in (False, True):
        described = Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD, to_rgb=not bgr)
        values = np.frombuffer(dumped(ppm, *["--bgr"][: int(bgr)]).stdout, np.float32).reshape(3, 4, 6)
        np.testing.assert_allclose(values, normalized(pixels, described), atol=1e-5)
    raw = np.arange(72, dtype=np.float32)
    raw.tofile(tmp_path / "x.bin")
    assert dumped(tmp_path / "x.bin").stdout == raw.tobytes()
    for content, message in (
        (b"P5 6 4 255\n", b"is not a binary PPM"),
        (b"P6 6 4 65535\n", b"not 255 levels"),
        (b"P6 6 -4 255\n", b"damaged PPM header"),
        (b"P6 99999999 99999999 255\n", b"too many pixels"),
        (b"P6 6 4 255\nabc", b"ends too early: 72 bytes"),
        (b"", b"is not a binary PPM"),
    ):
        ppm.write_bytes(content)
        result = dumped(ppm)
        assert result.returncode == 1
        assert message in result.stderr

"""Packs the rooms into one distribution and builds plugins/ with CMake.

ADAPTER_PLUGINS says what to build: auto (what this machine can), cpu, cuda (refused where nvcc is missing), none.
ADAPTER_CUDA_ARCHITECTURES ("80;90") and ADAPTER_TENSORRT_INCLUDE (folders, separated by ':') are handed on to CMake.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Command, Distribution, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build

ROOMS = {
    "plugins": "adapter_plugins",
    "export": "adapter_export",
    "engines": "adapter_engines",
    "bench": "adapter_bench",
}
PLUGINS = Path(__file__).parent.resolve() / "plugins"
CHOICES = ("auto", "cpu", "cuda", "none")
WANTED = os.environ.get("ADAPTER_PLUGINS") or "auto"
SETTINGS = ("ADAPTER_CUDA_ARCHITECTURES", "ADAPTER_TENSORRT_INCLUDE")
SOURCES = {".cpp", ".h", ".cu", ".cuh", ".cmake", ".map", ".txt", ".md"}

NO_COMPILER = """adapter-infer: no C++ compiler was found, and plugins/ needs one.
  Debian, Ubuntu   apt-get install g++
  elsewhere        CXX=/path/to/g++ pip install .
  do without       ADAPTER_PLUGINS=none pip install .   (models then run through their ONNX function bodies, slower)"""


class build_plugins(Command):
    """Runs CMake on plugins/ and leaves the shared libraries beside adapter_plugins."""

    description = "build the shared libraries of plugins/"
    user_options = [  # noqa: RUF012
        ("build-lib=", "b", "where the packages are being assembled"),
        ("build-temp=", "t", "where CMake may write"),
    ]
    editable_mode = False

    def initialize_options(self) -> None:
        self.build_lib: str | None = None
        self.build_temp: str | None = None

    def finalize_options(self) -> None:
        self.set_undefined_options("build", ("build_lib", "build_lib"), ("build_temp", "build_temp"))

    def run(self) -> None:
        if WANTED not in CHOICES:
            raise SystemExit(f"adapter-infer: ADAPTER_PLUGINS={WANTED} is unknown; choose one of {', '.join(CHOICES)}.")
        assert self.build_lib and self.build_temp
        target = PLUGINS if self.editable_mode else Path(self.build_lib).resolve()
        shutil.rmtree(target / "adapter_plugins" / "lib", ignore_errors=True)  # nothing of an earlier, wider build
        if WANTED == "none":
            return
        if not any(map(shutil.which, filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++")))):
            raise SystemExit(NO_COMPILER)
        tree = Path(self.build_temp).resolve() / "plugins"
        # pip's build environment moves between runs: CMake must not remember the paths of an earlier one.
        (tree / "CMakeCache.txt").unlink(missing_ok=True)
        options = [f"-DADAPTER_PLUGINS={WANTED}", f"-DCMAKE_INSTALL_PREFIX={target}", "--no-warn-unused-cli"]
        options.append(f"-DADAPTER_PYTHON={sys.executable}")  # whose packages may bring TensorRT's headers
        options += [f"-D{name}={os.environ[name]}" for name in SETTINGS if os.environ.get(name)]
        if ninja := find_tool("ninja"):
            options += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        cmake("-S", str(PLUGINS), "-B", str(tree), *options)
        cmake("--build", str(tree), "--parallel", str(os.cpu_count() or 1))
        cmake("--install", str(tree))

    def get_source_files(self) -> list[str]:
        return [str(path.relative_to(PLUGINS.parent)) for path in PLUGINS.rglob("*") if path.suffix in SOURCES]

    def get_outputs(self) -> list[str]:
        assert self.build_lib
        return [str(path) for path in Path(self.build_lib, "adapter_plugins", "lib").glob("*")]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


def find_tool(name: str) -> str | None:
    """A program on PATH, or beside the running Python: a virtual environment need not be activated."""
    beside = Path(sys.executable).parent / name
    return shutil.which(name) or (str(beside) if beside.is_file() else None)


def cmake(*arguments: str) -> None:
    program = find_tool("cmake")
    if not program:
        raise SystemExit("adapter-infer: cmake was not found, and plugins/ needs it; pip install cmake ninja.")
    if subprocess.run([program, *arguments], check=False).returncode:
        raise SystemExit(f"adapter-infer: `cmake {arguments[0]}` failed on plugins/; its own message stands above.")


class build_with_plugins(build):
    """The usual build, then the native libraries."""

    sub_commands = [*build.sub_commands, ("build_plugins", None)]  # noqa: RUF012


class PlatformDistribution(Distribution):
    """Files land in platlib although no extension module is listed."""

    def has_ext_modules(self) -> bool:
        return WANTED != "none"


class wheel_for_any_python(bdist_wheel):
    """The libraries link no Python, so one wheel for a platform serves every Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


packages = find_packages(".", include=["adapter_infer", "adapter_infer.*"])
for room, package in ROOMS.items():
    packages += find_packages(room, include=[package, f"{package}.*"])

setup(
    packages=packages,
    package_dir={package: f"{room}/{package}" for room, package in ROOMS.items()},
    distclass=PlatformDistribution,
    cmdclass={"build": build_with_plugins, "build_plugins": build_plugins, "bdist_wheel": wheel_for_any_python},
)

"""Opens TensorRT, or TensorRT-RTX where it is asked for, and says what to install where it is missing."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from adapter_infer.errors import EnvironmentMissing, UsageError

TENSORRT, RTX = "tensorrt", "tensorrt_rtx"
TITLES = {TENSORRT: "TensorRT", RTX: "TensorRT-RTX"}
MAJORS = (10, 11)  # of TensorRT, for which this project has a plugin
POLYGRAPHY = "pip install polygraphy"
INSTALL = {
    TENSORRT: "pip install tensorrt-cu13 (or tensorrt-cu12, for the CUDA of your driver) polygraphy",
    RTX: "pip install --no-deps tensorrt_rtx_cu13_libs tensorrt_rtx_cu13_bindings, and pip install polygraphy",
}
ENGINE_LIBRARY, PARSER_LIBRARY = "libtensorrt_rtx.so.1", "libtensorrt_onnxparser_rtx.so.1"
PARSER_ASKS_FOR = "libtensorrt_rtx.so"

_links: list[tempfile.TemporaryDirectory[str]] = []  # removed when the process ends


@dataclass(frozen=True)
class Toolkit:
    """`module` with TensorRT's Python interface, `name` "tensorrt" or "tensorrt_rtx", its `version` and `major`."""

    module: Any
    name: str
    version: str
    major: int

    @property
    def title(self) -> str:
        """For messages: "TensorRT-RTX 1.7.1.116"."""
        return f"{TITLES[self.name]} {self.version}"

    @property
    def plugin_majors(self) -> tuple[int, ...]:
        """The TensorRT majors whose plugin library fits, the best first."""
        # TensorRT-RTX 1 has the interfaces of TensorRT 11; a plugin for 10 loads too, but its messages are lost.
        return (11, 10) if self.name == RTX else (self.major,)


def toolkit(name: str = TENSORRT) -> Toolkit:
    """TensorRT, or TensorRT-RTX with `name` "tensorrt_rtx". One process can use one of them.

    Errors: UsageError on another name, EnvironmentMissing where it or polygraphy is missing or too old.
    """
    if name not in TITLES:
        raise UsageError(f"there is no toolkit {name!r}; choose {' or '.join(TITLES)}")
    module = _rtx() if name == RTX else _module(TENSORRT)
    if module is None:
        raise EnvironmentMissing(f"{TITLES[name]} is not installed here; {INSTALL[name]}")
    version = str(module.__version__)
    major = int(version.partition(".")[0])
    if name == TENSORRT and major not in MAJORS:
        raise EnvironmentMissing(
            f"TensorRT {version} is not supported; install 10 or 11: pip install 'tensorrt-cu13>=10,<12'"
        )
    return Toolkit(module, name, version, major)


def prepare_polygraphy(tools: Toolkit) -> None:
    """Points polygraphy, which decides once in a process, at this toolkit. Errors: EnvironmentMissing."""
    try:
        from polygraphy import config
    except ImportError as error:
        raise EnvironmentMissing(f"polygraphy, which builds plans, is not installed here; {POLYGRAPHY}") from error
    if not hasattr(config, "USE_TENSORRT_RTX"):
        raise EnvironmentMissing(f"polygraphy here is older than 0.53; upgrade it: {POLYGRAPHY} --upgrade")
    wanted = tools.name == RTX
    if "polygraphy.backend.trt" in sys.modules and wanted != config.USE_TENSORRT_RTX:
        raise EnvironmentMissing(
            f"this process has used the other of TensorRT and TensorRT-RTX; use {tools.title} in a process of its own"
        )
    config.USE_TENSORRT_RTX = wanted


def _module(name: str) -> ModuleType | None:
    """The module, None where it is not installed; one that is installed and does not load says why."""
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        return None
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise EnvironmentMissing(f"{name} is installed but cannot be loaded ({error}); reinstall it") from error


def _rtx() -> ModuleType | None:
    """TensorRT-RTX by the name `tensorrt_rtx`, under which polygraphy looks for it."""
    _help_parser()
    module = _module(RTX) or _module("tensorrt_rtx_bindings")
    if module is not None:
        # The package of that name on PyPI is a source archive that only re-exports the bindings.
        sys.modules.setdefault(RTX, module)
    return module


def _help_parser() -> None:
    """Lets the parser find TensorRT-RTX, which it opens by a name that the wheel does not have.

    Without this it ends the process at the first plugin. The parser looks into the folder it was loaded from, so it is
    loaded through a temporary folder of links that has both names; the dynamic loader knows a library by its inode
    and gives the wheel's own package the same one.
    """
    if _opens(PARSER_ASKS_FOR):
        return
    spec = importlib.util.find_spec("tensorrt_rtx_libs")
    if spec is None or spec.origin is None:
        return
    folder = Path(spec.origin).parent
    if not all((folder / name).is_file() for name in (ENGINE_LIBRARY, PARSER_LIBRARY)):
        return
    if _links:
        return
    if "tensorrt_rtx_bindings" in sys.modules:
        raise EnvironmentMissing(
            "tensorrt_rtx_bindings was imported before its parser could be helped to find the library; "
            "call adapter_engines.plans.toolkit.toolkit('tensorrt_rtx') first"
        )
    links = tempfile.TemporaryDirectory(prefix="adapter-rtx-")
    _links.append(links)
    for name, target in (
        (ENGINE_LIBRARY, ENGINE_LIBRARY),
        (PARSER_ASKS_FOR, ENGINE_LIBRARY),
        (PARSER_LIBRARY, PARSER_LIBRARY),
    ):
        Path(links.name, name).symlink_to(folder / target)
    try:
        for name in (ENGINE_LIBRARY, PARSER_LIBRARY):
            ctypes.CDLL(str(Path(links.name, name)), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise EnvironmentMissing(f"TensorRT-RTX is installed but cannot be loaded ({error})") from error


def _opens(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True

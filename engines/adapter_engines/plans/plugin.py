"""Loads this project's TensorRT plugin once per process, and checks that TensorRT has taken it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapter_engines.plans.toolkit import Toolkit
from adapter_infer.errors import EnvironmentMissing
from adapter_infer.metadata import FUSED_OP, OP_DOMAIN, STANDARD_OP

VERSION = "1"
OPERATORS = (FUSED_OP, STANDARD_OP)
LIBRARY_PREFIX = "libmsda_trt"


@dataclass(frozen=True)
class _Loaded:
    path: Path
    handle: Any


_loaded: dict[str, _Loaded] = {}  # by toolkit


def libraries(toolkit: Toolkit) -> list[Path]:
    """The installed plugin libraries that fit the toolkit, the best first. Errors: EnvironmentMissing without any."""
    import adapter_plugins

    found, reasons = [], []
    for major in toolkit.plugin_majors:
        try:
            found.append(Path(adapter_plugins.tensorrt_plugin(major)))
        except EnvironmentMissing as error:
            reasons.append(str(error))
    if not found:
        raise EnvironmentMissing(reasons[0])
    return found


def load(toolkit: Toolkit, path: Path | None = None) -> Path:
    """Registers the plugin library (`path`, or the one that fits) with the toolkit, and returns its path.

    Errors: EnvironmentMissing if there is none, TensorRT does not take it, or another one is already registered.
    """
    known = _loaded.get(toolkit.name)
    if known is not None:
        if path is not None and path.resolve() != known.path.resolve():
            raise EnvironmentMissing(
                f"the plugin {known.path} is already loaded in this process; load {path} in another one"
            )
        return known.path
    registry = toolkit.module.get_plugin_registry()
    if registered(toolkit):
        # A second registration would be refused and the library unloaded under the first one's creators.
        return _mapped()
    chosen = (path or libraries(toolkit)[0]).resolve()
    if not chosen.is_file():
        raise EnvironmentMissing(
            f"there is no plugin library {chosen}; `python -m adapter_plugins` lists what was built"
        )
    handle = registry.load_library(str(chosen))
    missing = [name for name in OPERATORS if not _has(registry, name)]
    if handle is None or missing:
        lacks = f"registers no {' and no '.join(missing)}" if missing else "was not taken"
        raise EnvironmentMissing(
            f"{toolkit.title} cannot use the plugin {chosen} ({lacks}); build it against this TensorRT's headers "
            "(ADAPTER_TENSORRT_INCLUDE), `python -m adapter_plugins` shows what was built"
        )
    _loaded[toolkit.name] = _Loaded(chosen, handle)
    return chosen


def registered(toolkit: Toolkit) -> bool:
    """Whether TensorRT in this process knows one of our operators, whoever has loaded them."""
    registry = toolkit.module.get_plugin_registry()
    return any(_has(registry, name) for name in OPERATORS)


def _has(registry: Any, name: str) -> bool:
    return any(
        (creator.name, creator.plugin_version, creator.plugin_namespace) == (name, VERSION, OP_DOMAIN)
        for creator in registry.all_creators
    )


def _mapped() -> Path:
    """The plugin library that this process has open (a self-registering one, or one that the caller loaded)."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text(encoding="utf-8", errors="surrogateescape").splitlines() if maps.exists() else []
    for line in lines:
        path = Path(line.partition("/")[1] + line.partition("/")[2])
        if path.name.startswith(LIBRARY_PREFIX):
            return path
    raise EnvironmentMissing(
        "another library has registered this project's plugin in this process; "
        "run adapter-engine without it (LD_PRELOAD, a library loaded by your program)"
    )

"""What a build may be asked for, and what is refused before TensorRT starts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapter_engines.plans.toolkit import RTX, TENSORRT, Toolkit
from adapter_infer.errors import EnvironmentMissing, UsageError

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
LEVELS = range(6)


@dataclass(frozen=True)
class BuildOptions:
    """`workspace` in bytes, `builder_level` 0 to 5 (None: TensorRT's own); `timing_cache` a file kept between builds.

    `with_plugin` False builds through the function bodies; `plugin` names a library in place of the installed one.
    `detailed` keeps the layers' details in the plan, from which the precision found is read. `compute_capability`
    ("8.9") is what TensorRT-RTX builds for. `check` False skips the comparison of the plan with ONNX Runtime.
    """

    workspace: int | None = None
    builder_level: int | None = None
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    strip_weights: bool = False
    weight_streaming: bool = False
    detailed: bool = True
    with_plugin: bool = True
    plugin: Path | None = None
    embed_plugin: bool = False
    compute_capability: str | None = None
    check: bool = True
    seed: int = 0

    def asked(self) -> dict[str, Any]:
        """For the sidecar: what shapes the plan, without files and checks."""
        names = ("workspace", "builder_level", "weight_streaming", "detailed", "with_plugin", "compute_capability")
        return {name: getattr(self, name) for name in names}


def size(text: str) -> int:
    """Bytes of "4G", "512M" or "1.5GiB". Errors: UsageError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    number = float(match[1]) * UNITS[match[2].upper()] if match else 0
    if number < 1:
        raise UsageError(f"size {text!r} is not understood; give bytes, or a number with K, M, G or T, as 4G")
    return int(number)


def check(options: BuildOptions) -> None:
    """What needs no TensorRT to be refused. Errors: UsageError."""
    if options.builder_level is not None and options.builder_level not in LEVELS:
        raise UsageError(f"builder level {options.builder_level} does not exist; choose {LEVELS[0]} to {LEVELS[-1]}")
    if not options.with_plugin and options.embed_plugin:
        raise UsageError("--embed-plugin and --without-plugin exclude each other; pass one of them")
    if not options.with_plugin and options.plugin is not None:
        raise UsageError(f"--plugin {options.plugin} and --without-plugin exclude each other; pass one of them")
    if options.timing_cache is not None and options.timing_cache.is_dir():
        raise UsageError(f"--timing-cache {options.timing_cache} is a folder; name a file in it")
    if options.timing_cache is not None and not options.timing_cache.parent.is_dir():
        raise UsageError(f"--timing-cache: the folder {options.timing_cache.parent} does not exist; make it first")


def check_toolkit(options: BuildOptions, toolkit: Toolkit) -> None:
    """What this toolkit does not have. Errors: UsageError, EnvironmentMissing."""
    trt = toolkit.module
    if toolkit.name == TENSORRT and options.embed_plugin and not options.version_compatible:
        raise UsageError("TensorRT embeds plugins in version compatible plans only; add --version-compatible")
    if toolkit.name == TENSORRT and options.compute_capability is not None:
        raise UsageError(
            "TensorRT builds for the GPU it runs on; --compute-capability goes with --toolkit tensorrt_rtx"
        )
    if toolkit.name == RTX and options.hardware_compatible:
        raise UsageError(
            "--hardware-compatible is TensorRT's; a TensorRT-RTX plan names its GPUs by --compute-capability"
        )
    if toolkit.name == RTX and options.version_compatible:
        raise UsageError("--version-compatible is TensorRT's; TensorRT-RTX has no lean runtime to put into a plan")
    if options.compute_capability is not None:
        _check_capability(options.compute_capability, trt)
    for asked, flag in (
        (options.version_compatible, "VERSION_COMPATIBLE"),
        (options.strip_weights, "STRIP_PLAN"),
        (options.strip_weights, "REFIT_IDENTICAL"),
        (options.weight_streaming, "WEIGHT_STREAMING"),
    ):
        if asked and not hasattr(trt.BuilderFlag, flag):
            raise EnvironmentMissing(f"{toolkit.title} has no {flag}; leave that option out, or upgrade TensorRT")


def _check_capability(text: str, trt: Any) -> None:
    known = [
        f"{name[2:-1]}.{name[-1]}" for name in trt.ComputeCapability.__members__ if re.fullmatch(r"SM\d{2,3}", name)
    ]
    if text in known:
        return
    raise UsageError(
        f"TensorRT-RTX {trt.__version__} does not build for compute capability {text}; "
        f"choose {', '.join(known)}, or build with TensorRT on that GPU"
    )

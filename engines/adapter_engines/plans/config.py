"""The builder's configuration: what polygraphy sets, and what it lacks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adapter_engines.plans.options import BuildOptions
from adapter_engines.plans.sidecar import Shapes
from adapter_engines.plans.toolkit import RTX, Toolkit


def create(toolkit: Toolkit, options: BuildOptions, profiles: Sequence[Shapes], embedded: Path | None) -> Any:
    """What polygraphy calls with builder and network to get TensorRT's IBuilderConfig.

    `embedded` is the plugin library that goes into the plan, None for none. Needs toolkit.prepare_polygraphy.
    """
    from polygraphy.backend.trt import CreateConfig, PostprocessConfig, Profile

    trt = toolkit.module
    wanted: dict[str, Any] = {
        "profiles": [_profile(Profile(), shapes) for shapes in profiles] or [Profile()],
        "builder_optimization_level": options.builder_level,
        "version_compatible": options.version_compatible or None,
        "strip_plan": options.strip_weights,
        "weight_streaming": options.weight_streaming,
        "profiling_verbosity": getattr(trt.ProfilingVerbosity, "DETAILED" if options.detailed else "LAYER_NAMES_ONLY"),
    }
    if options.workspace is not None:
        wanted["memory_pool_limits"] = {trt.MemoryPoolType.WORKSPACE: options.workspace}
    if options.timing_cache is not None and options.timing_cache.exists():
        wanted["load_timing_cache"] = str(options.timing_cache)
    if options.hardware_compatible:
        wanted["hardware_compatibility_level"] = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if toolkit.name == RTX:
        from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

        if options.compute_capability is not None:
            major, _, minor = options.compute_capability.partition(".")
            wanted["compute_capabilities"] = [(int(major), int(minor))]
        made = CreateConfigRTX(**wanted)
    else:
        made = CreateConfig(**wanted)

    def complete(_builder: Any, _network: Any, config: Any) -> None:
        if options.strip_weights:
            # A full REFIT may drop the bias of a matrix product; the same weights come back, so this one suffices.
            config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)
        if embedded is not None:
            config.plugins_to_serialize = [str(embedded)]

    return PostprocessConfig(made, complete)


def _profile(profile: Any, shapes: Shapes) -> Any:
    for name, shape in shapes.items():
        profile.add(name, *(tuple(shape[kind]) for kind in ("min", "opt", "max")))
    return profile

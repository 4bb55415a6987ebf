"""The build itself: parse, build, look at what came out, compare, describe, publish."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adapter_engines import device
from adapter_engines.plan_tensors import DTYPES
from adapter_engines.plans import config, inspect, layers, network, parity, plugin, profiles, sidecar, source
from adapter_engines.plans import options as build_options
from adapter_engines.plans.options import BuildOptions
from adapter_engines.plans.profiles import Range
from adapter_engines.plans.sidecar import Shapes, Sidecar
from adapter_engines.plans.source import Source
from adapter_engines.plans.toolkit import RTX, TENSORRT, Toolkit, prepare_polygraphy, toolkit
from adapter_infer.command_line import step
from adapter_infer.errors import AdapterError, EnvironmentMissing, UnsupportedModel, UsageError
from adapter_infer.files import check_writable, sha256

REFIT_FIRST = "the plan holds no weights; `adapter-engine refit` fills them in and compares"


@dataclass(frozen=True)
class BuildReport:
    """A finished build: `path` of the plan, its size, what its sidecar says, and the seconds of each step."""

    path: Path
    file_bytes: int
    sidecar: Sidecar
    seconds: dict[str, float]


def build(
    onnx: str | Path,
    plan: str | Path,
    ranges: Sequence[Range] = (Range(),),
    options: BuildOptions = BuildOptions(),  # noqa: B008, it is frozen
    *,
    toolkit_name: str = TENSORRT,
) -> BuildReport:
    """Builds the plan of an ONNX file, compares it with ONNX Runtime where there is a GPU, and describes it beside it.

    Each of `ranges` becomes an optimization profile. Errors: UsageError for what cannot be asked of this file,
    UnsupportedModel if TensorRT does not take it, ParityError if the plan computes something else, EnvironmentMissing
    without TensorRT, its GPU or the plugin. After an error nothing stands under the asked names that was not there.
    """
    onnx, plan = Path(onnx), Path(plan)
    _check_files(onnx, plan)
    build_options.check(options)
    timer = Timer()
    with timer.step("read", "reading the ONNX file"):
        model = source.read(onnx)
    wanted = profiles.shapes(model.metadata, ranges)
    tools = toolkit(toolkit_name)
    build_options.check_toolkit(options, tools)
    prepare_polygraphy(tools)
    gpu = _gpu(tools)
    library = _library(tools, model, options)
    with timer.step("parse", "parsing the model"):
        parsed = network.parse(tools, model, library is not None)
    _check_inputs(parsed, wanted)
    inputs, outputs = _tensors(parsed.definition)
    found = layers.in_network(parsed.definition)
    plugin_layers = parsed.plugin_layers
    with staging(plan) as staged:
        with timer.step("build", f"building the plan with {tools.title}"):
            _write(tools, parsed, options, wanted, library, staged)
        del parsed  # the weights it holds are in the plan now
        if gpu is not None and tools.name == TENSORRT and not options.strip_weights:
            with timer.step("inspect", "inspecting the engine"):
                found = inspect.layers_of(staged) or found
        described = Sidecar(
            plan_sha256=sha256(staged),
            onnx_sha256=model.sha256,
            checkpoint_sha256=model.metadata.checkpoint_sha256 if model.metadata else None,
            plugin_sha256=sha256(library) if library is not None and plugin_layers else None,
            plugin_embedded=options.embed_plugin,
            toolkit=tools.name,
            toolkit_version=tools.version,
            gpu=gpu,
            precision=found.precision,
            precision_source=found.source,
            profiles=wanted,
            parity=None,
            hardware_compatible=options.hardware_compatible,
            version_compatible=options.version_compatible,
            weights_stripped=options.strip_weights,
            props=model.file.props,
            layers=found.summary(),
            inputs=inputs,
            outputs=outputs,
            options=options.asked(),
            plugin_layers=plugin_layers,
        )
        with timer.step("parity", "comparing with ONNX Runtime"):
            described = replace(described, parity=_parity(model, staged, described, options))
        publish(staged, plan, described)
    return BuildReport(plan, plan.stat().st_size, described, timer.seconds)


def _check_files(onnx: Path, plan: Path) -> None:
    check_writable(plan, "--plan")
    for path in (plan, sidecar.path_of(plan)):
        if path.resolve() == onnx.resolve():
            raise UsageError(f"{path} would overwrite the file that is read; choose another name")
    if sidecar.path_of(plan).is_dir():
        raise UsageError(f"{sidecar.path_of(plan)}, which describes the plan, is a folder; choose another name")


def _gpu(tools: Toolkit) -> dict[str, str] | None:
    """Name and compute capability of the GPU here. Errors: EnvironmentMissing where TensorRT has none to build on."""
    reason = device.unusable()
    if reason is None:
        info = device.Device().info()
        return {"name": info.name, "compute_capability": info.compute_capability}
    if tools.name == TENSORRT:
        raise EnvironmentMissing(f"TensorRT builds a plan on the GPU that is to run it; {reason}")
    return None


def _library(tools: Toolkit, model: Source, options: BuildOptions) -> Path | None:
    """The plugin library that the parser will use, None where none is wanted or needed."""
    if not model.ours:
        return None
    if options.with_plugin:
        return plugin.load(tools, options.plugin)
    bodiless = sorted(name for _, name in model.ours - model.bodies)
    if bodiless:
        raise UnsupportedModel(
            f"{model.path} has no function body for {', '.join(bodiless)}; build it with the plugin, or export it again"
        )
    if plugin.registered(tools):
        raise EnvironmentMissing(
            "the plugin is loaded in this process, and TensorRT would use it; build without it in another process"
        )
    return None


def _check_inputs(parsed: network.Network, wanted: Sequence[Shapes]) -> None:
    """Every dynamic input has its profiles, and each profile fits the parsed network."""
    definition = parsed.definition
    covered = wanted[0] if wanted else {}
    for i in range(definition.num_inputs):
        tensor = definition.get_input(i)
        if tensor.name not in covered:
            profiles.check_static(tensor.name, tensor.shape)
            continue
        for shape in (each for profile in wanted for each in profile[tensor.name].values()):
            fits = len(shape) == len(tensor.shape) and all(
                known in (-1, size) for known, size in zip(tensor.shape, shape, strict=True)
            )
            if not fits:
                raise UnsupportedModel(
                    f"input {tensor.name} {tuple(tensor.shape)} is not what the file's metadata says ({tuple(shape)}); "
                    "export it again"
                )


def _tensors(definition: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    def described(tensor: Any) -> dict[str, Any]:
        dtype = DTYPES.get(tensor.dtype.name, tensor.dtype.name.lower())
        return {"name": tensor.name, "dtype": dtype, "shape": list(tensor.shape)}

    return (
        [described(definition.get_input(i)) for i in range(definition.num_inputs)],
        [described(definition.get_output(i)) for i in range(definition.num_outputs)],
    )


def _write(
    tools: Toolkit,
    parsed: network.Network,
    options: BuildOptions,
    wanted: Sequence[Shapes],
    library: Path | None,
    target: Path,
) -> None:
    """Builds the network and writes the plan. Errors: AdapterError with TensorRT's last words."""
    from polygraphy.backend.trt import EngineBytesFromNetwork
    from polygraphy.exception import PolygraphyException
    from polygraphy.logger import G_LOGGER

    made = config.create(tools, options, wanted, library if options.embed_plugin else None)
    cache = None if options.timing_cache is None else str(options.timing_cache)
    try:
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL + 1):  # what goes wrong is raised, and need not be printed as well
            plan = EngineBytesFromNetwork(
                (parsed.builder, parsed.definition, parsed.parser), config=made, save_timing_cache=cache
            )()
    except PolygraphyException as error:
        raise AdapterError(f"{tools.title} cannot build {target.name}: {network.complaint(parsed.logger)}") from error
    with target.open("wb") as stream:
        stream.write(memoryview(plan))


def _parity(model: Source, staged: Path, described: Sidecar, options: BuildOptions) -> dict[str, Any]:
    """The comparison, or why there is none. Errors: ParityError."""
    if not options.check:
        return parity.undone("it was not asked for (--no-check)")
    if described.toolkit == RTX:
        return parity.undone("a TensorRT-RTX plan is only built here, not run")
    if described.weights_stripped:
        return parity.undone(REFIT_FIRST)
    reason = parity.impossible(model)
    if reason is not None:
        return parity.undone(reason)
    sidecar.write(staged, described)
    return parity.check(model, staged, described, options.seed)


@contextmanager
def staging(plan: Path) -> Iterator[Path]:
    """A place beside the plan for a file of its name, which is gone afterwards with all that lies beside it.

    Errors: AdapterError if the folder or the disk does not take what is written.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{plan.name}.", suffix=".part", dir=plan.parent))
        try:
            yield folder / plan.name
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise AdapterError(f"cannot write {plan}: {error.strerror or error}") from error


def publish(staged: Path, plan: Path, described: Sidecar) -> None:
    """Gives a finished plan its name, then its sidecar. Between the two an old sidecar refuses the new plan."""
    sidecar.write(staged, described)
    staged.replace(plan)
    sidecar.path_of(staged).replace(sidecar.path_of(plan))


class Timer:
    """Seconds of each step; the step is shown while it runs."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str, text: str) -> Iterator[None]:
        """Times the block under `name` and shows `text` on a terminal."""
        start = time.perf_counter()
        with step(text):
            yield
        self.seconds[name] = time.perf_counter() - start

"""Fills the weights of its ONNX file into a plan that was built without them."""

from __future__ import annotations

import mmap
from dataclasses import replace
from pathlib import Path
from typing import Any

from adapter_engines import device
from adapter_engines.plans import network, parity, plugin, sidecar, source
from adapter_engines.plans.build import BuildReport, Timer, publish, staging
from adapter_engines.plans.sidecar import Sidecar
from adapter_engines.plans.source import Source
from adapter_engines.plans.toolkit import TENSORRT, Toolkit, toolkit
from adapter_infer.errors import AdapterError, UnsupportedModel, UsageError
from adapter_infer.files import check_writable, sha256


def refit(
    stripped: str | Path,
    onnx: str | Path,
    plan: str | Path,
    *,
    allow_embedded_code: bool = False,
    check: bool = True,
    seed: int = 0,
) -> BuildReport:
    """Writes at `plan` the plan `stripped` with the weights of `onnx`, the very file it was built from; compares it.

    Errors: UsageError where the files do not belong together, ParityError if the result computes something else,
    EnvironmentMissing without TensorRT and a GPU. After an error nothing stands at `plan` that was not there.
    """
    stripped, onnx, plan = Path(stripped), Path(onnx), Path(plan)
    check_writable(plan, "--plan")
    described = _description(stripped)
    if plan.resolve() in (stripped.resolve(), onnx.resolve()):
        raise UsageError(f"--plan {plan} would overwrite a file that is read; choose another name")
    timer = Timer()
    with timer.step("read", "reading the ONNX file"):
        model = source.read(onnx)
    if model.sha256 != described.onnx_sha256:
        raise UsageError(
            f"{stripped} was built from an ONNX file with the SHA-256 {described.onnx_sha256[:16]}..., but {onnx} has "
            f"{model.sha256[:16]}...; give the file it was built from"
        )
    if described.version_compatible and not allow_embedded_code:
        raise UsageError(f"{stripped} holds code that loading it runs; if you trust it, pass --allow-embedded-code")
    tools = toolkit(TENSORRT)
    gpu = device.Device().info()
    library = None
    if described.plugin_sha256 is not None and not described.plugin_embedded:
        library = plugin.load(tools)
    reason = sidecar.content_mismatch(stripped, described) or sidecar.environment_mismatch(
        stripped, described, tools, library, {"name": gpu.name, "compute_capability": gpu.compute_capability}
    )
    if reason is not None:
        raise UsageError(reason)
    with staging(plan) as staged:
        with timer.step("refit", "filling in the weights"):
            staged.write_bytes(_refitted(tools, stripped, model, described))
        described = replace(described, weights_stripped=False, plan_sha256=sha256(staged))
        with timer.step("parity", "comparing with ONNX Runtime"):
            sidecar.write(staged, described)
            reason = parity.impossible(model) if check else "it was not asked for (--no-check)"
            figures = parity.undone(reason) if reason else parity.check(model, staged, described, seed)
        described = replace(described, parity=figures)
        publish(staged, plan, described)
    return BuildReport(plan, plan.stat().st_size, described, timer.seconds)


def _description(stripped: Path) -> Sidecar:
    if not stripped.is_file():
        raise UsageError(f"there is no file {stripped}; give a plan that was built with --strip-weights")
    described = sidecar.read(stripped)
    if described is None:
        raise UsageError(f"{stripped} has no {sidecar.path_of(stripped).name} beside it; copy that file too")
    if not described.weights_stripped:
        raise UsageError(f"{stripped} holds its weights already; only plans built with --strip-weights are refitted")
    if described.toolkit != TENSORRT:
        raise UsageError(
            f"{stripped} was built with {described.toolkit}, and is only built here; refit it with TensorRT"
        )
    return described


def _refitted(tools: Toolkit, stripped: Path, model: Source, described: Sidecar) -> Any:
    """The plan with weights, as bytes. Errors: UnsupportedModel, AdapterError."""
    trt = tools.module
    log = network.logger(tools)
    runtime = trt.Runtime(log)
    runtime.engine_host_code_allowed = described.version_compatible
    with stripped.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise UnsupportedModel(f"{tools.title} does not load {stripped}: {network.complaint(log)}")
    refitter = trt.Refitter(engine, log)
    hidden = model.bodies if described.plugin_sha256 is not None else frozenset()
    with source.content(model.path, without=hidden) as data:
        read = trt.OnnxParserRefitter(refitter, log).refit_from_bytes(data, str(model.path))
        if not read or not refitter.refit_cuda_engine():
            raise AdapterError(f"{tools.title} cannot refit {stripped} from {model.path}: {network.complaint(log)}")
    settings = engine.create_serialization_config()
    settings.clear_flag(trt.SerializationFlag.EXCLUDE_WEIGHTS)
    return engine.serialize_with_config(settings)

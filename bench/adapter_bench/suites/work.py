"""What rows do: build a model with random weights, export it, measure it beside its plain ViT, count another one."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from adapter_bench import child, memory, session
from adapter_bench.measure import Rules
from adapter_bench.session import Plan
from adapter_infer import spec as model_spec
from adapter_infer.errors import EnvironmentMissing
from adapter_infer.spec import ModelSpec

Data = dict[str, Any]
MEBI = 2**20
SEED = 0
MEASURE = f"{__name__}:measure"


def measure(
    folder: str,
    rules: Data,
    threads: int | None,
    spec: Data | None = None,
    size: list[int] | None = None,
    batch: int = 1,
    runtime: str = "onnxruntime",
    op: str = "fused",
    baseline: bool = False,
    flops: bool = False,
    counted: Data | None = None,
    counted_size: list[int] | None = None,
    needed_bytes: int | None = None,
    provider: str = "cpu",
    precision: str = "fp32",
) -> Data:
    """A row: `spec` (a ModelSpec as JSON data) is timed and its memory measured at `size` (pixels) and `batch`, on
    ONNX Runtime (on a GPU with `provider` "cuda") or in PyTorch eager; parameters and the paper's multiply-adds are
    those of `counted`.

    `needed_bytes` is a lower bound of the memory it takes: without that much the row is not tried. Errors:
    EnvironmentMissing there, and those of exporting and measuring.
    """
    values: Data = {}
    results: list[Data] = []
    if counted is not None and counted_size is not None:
        values |= counts(parse(counted), (counted_size[0], counted_size[1]))
    if spec is not None and size is not None:
        check_memory(needed_bytes)
        subject = _subject(parse(spec), (size[0], size[1]), batch, runtime, op, threads, folder, provider, precision)
        result = _timed(subject, (size[0], size[1]), batch, provider, baseline, flops, rules, folder)
        values |= figures(result)
        results.append(result)
    return {"values": values, "results": results}


def _subject(
    spec: ModelSpec,
    size: tuple[int, int],
    batch: int,
    runtime: str,
    op: str,
    threads: int | None,
    folder: str,
    provider: str,
    precision: str,
) -> Any:
    from adapter_bench.engine_subject import EngineSubject
    from adapter_bench.torch_subject import TorchSubject

    if runtime == "onnxruntime":
        path = exported(spec, folder, size=size, batch=batch, op=op, precision=precision)
        return EngineSubject(str(path), provider, threads)
    return TorchSubject({"spec": model_spec.to_json(spec)}, threads)


def _timed(
    subject: Any,
    size: tuple[int, int],
    batch: int,
    provider: str,
    baseline: bool,
    flops: bool,
    rules: Data,
    folder: str,
) -> Data:
    selected = {"fps"} | ({"baseline"} if baseline else set()) | ({"flops"} if flops else set())
    if memory.unusable() is None:
        selected.add("memory")
    plan = Plan(
        selected=frozenset(selected),
        implied=frozenset(selected - {"fps"}),
        rules=Rules.of(**rules),
        size=size,
        batches=[batch],
        provider=provider,
        threads=subject.threads,
        cache=Path(folder) / "baselines",
    )
    (result,) = session.run(subject, plan, [])
    return result


def figures(result: Data) -> Data:
    """The values of a result that suites show; None for what was not measured."""
    peak, described = result["memory"] or {}, result["engine"]
    external = sum(part["bytes"] for part in described.get("external_data", ()))
    found = {
        "latency_ms": result["latency_ms"]["median"],
        "fps": result["fps"],
        "peak_memory": _mebibytes(peak.get("peak_bytes")),
        "run_memory": _mebibytes(peak.get("run_peak_bytes")),
        "activations": _mebibytes(peak.get("activations_bytes")),
        "batch": result["batch"],
        "side": math.sqrt(result["height"] * result["width"]),
        "file": _mebibytes(described["bytes"] + external) if "bytes" in described else None,
        "ratio_fps": result.get("ratio_fps"),
    }
    if result.get("baseline") is not None and result["baseline"]["memory"] is not None:
        found["ratio_memory"] = peak["peak_bytes"] / result["baseline"]["memory"]["peak_bytes"]
    if result["macs"] is not None:
        found["macs"] = result["macs"] / 1e9
    return found


def _mebibytes(value: float | None) -> float | None:
    return None if value is None else value / MEBI


def counts(spec: ModelSpec, size: tuple[int, int]) -> Data:
    """Parameters in millions, auxiliary heads included as in the published tables, and the paper's multiply-adds in
    billions at `size`; no weights, no arithmetic.

    The paper's rule counts the products of global, CSwin and Pale attention, as it does self-attention's.
    """
    from adapter_bench import macs_torch
    from adapter_infer import models
    from adapter_infer.auxiliary import auxiliary_parameters

    parameters = models.count_parameters(models.build_model(spec, "meta")) + auxiliary_parameters(spec)
    paper = macs_torch.count_paper(spec, size)
    macs = None if paper is None else (paper + attention_macs(spec, size)) / 1e9
    return {"params": parameters / 1e6, "macs_paper": macs}


def attention_macs(spec: ModelSpec, size: tuple[int, int]) -> int:
    """Products of the injectors' and extractors' attention at `size`, 0 where it is deformable."""
    from adapter_infer import models
    from adapter_infer.attention import CrossAttention, core_macs
    from adapter_infer.geometry import AdapterGeometry
    from adapter_infer.interaction import Extractor, Injector

    geometry, total = AdapterGeometry.of(size[0], size[1], "meta"), 0
    ends = (geometry.vit.shapes, geometry.pyramid.shapes)
    for module in models.build_model(spec, "meta").modules():
        if isinstance(module, (Injector, Extractor)) and isinstance(module.attn, CrossAttention):
            queries, keys = ends if isinstance(module, Injector) else ends[::-1]
            total += core_macs(module.attn.kind, queries, keys, module.attn.query_proj.out_features)
    return total


# --- models ---


def parse(spec: Data) -> ModelSpec:
    return model_spec.from_json(json.dumps(spec))


def data(spec: ModelSpec) -> Data:
    """A ModelSpec as JSON data."""
    found: Data = json.loads(model_spec.to_json(spec))
    return found


def changed(spec: ModelSpec, **backbone: Any) -> ModelSpec:
    """With other settings of the backbone."""
    return replace(spec, backbone=spec.backbone | backbone)


def backbone_alone(spec: ModelSpec) -> ModelSpec:
    return replace(spec, neck=None, decode_head=None, detector=None, auxiliary_heads=())


def exported(
    spec: ModelSpec,
    folder: str,
    *,
    size: tuple[int, int] | None,
    batch: int | str = 1,
    op: str = "fused",
    precision: str = "fp32",
) -> Path:
    """`spec` with random weights as an ONNX file in `folder`; one that is there already is taken. `size` None and
    `batch` "dynamic" leave them open. The export runs in a process of its own, whose memory is none of the row's."""
    request = {"spec": data(spec), "size": size, "batch": batch, "op": op, "precision": precision}
    name = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:24]
    path = Path(folder) / f"{name}.onnx"
    if not path.exists():
        Path(folder).mkdir(parents=True, exist_ok=True)
        child.call(f"{__name__}:export_here", request=request, path=str(path))
    return path


def export_here(request: Data, path: str) -> None:
    """Without the parity check: the weights are random, and the suite `precision` compares for itself."""
    from adapter_export import export
    from adapter_infer import models

    spec = parse(request["spec"])
    model = models.build_model(spec)
    models.random_weights(model, SEED)
    size = request["size"]
    export(
        model,
        spec,
        path,
        size=None if size is None else (size[0], size[1]),
        dynamic_size=size is None,
        batch=request["batch"],
        op=request["op"],
        precision=request["precision"],
        check=False,
    )


# --- the machine ---


def check_memory(needed: int | None) -> None:
    """Errors: EnvironmentMissing where the machine has less than `needed` bytes free."""
    available = available_bytes()
    if needed is None or available is None or needed <= available:
        return
    raise EnvironmentMissing(
        f"needs at least {needed / 2**30:.1f} GiB of memory, of which {available / 2**30:.1f} GiB are free here"
    )


def available_bytes() -> int | None:
    """Memory that can be had without swapping, None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None

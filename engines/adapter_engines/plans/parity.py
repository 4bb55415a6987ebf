"""The gate after the build: the plan on the GPU against the ONNX file on ONNX Runtime's CPU, on seeded pictures.

Two figures are compared with their limits. The largest difference is measured in standard deviations of the reference
output, the root mean square of the differences as well; one finds a wrong corner, the other a plan that is a little
wrong everywhere. Limits go by the coarsest type in the file: for half types about three times what rounding torch's own
operators moves the golden models (in root mean square up to 3.4e-3 in fp16, 2.1e-2 in bf16). Detections are compared as
sets, with limits of their own (parity_detections).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapter_engines.plans import parity_detections
from adapter_engines.plans.sidecar import Sidecar
from adapter_engines.plans.source import Source
from adapter_engines.plans.widen import widened
from adapter_infer.errors import ParityError
from adapter_infer.metadata import DETECTION_NAMES, IMAGE, IMAGE_SIZE
from adapter_infer.spec import Preprocessing


@dataclass(frozen=True)
class Limits:
    """Of the largest difference and of the root mean square, in standard deviations; `labels`: share of pixels."""

    largest: float
    rms: float
    labels: float


LIMITS = {"fp32": Limits(1e-3, 1e-4, 1e-3), "fp16": Limits(6e-2, 1e-2, 1e-2), "bf16": Limits(0.4, 6e-2, 6e-2)}
FIGURES = ("largest", "rms", "differing", "missing", "boxes", "scores", "masks")
COARSEST = ("bf16", "fp16", "fp32")


def undone(reason: str) -> dict[str, Any]:
    """What the sidecar says where nothing was compared."""
    return {"done": False, "reason": reason}


def impossible(source: Source) -> str | None:
    """Why a plan of this file cannot be compared, None if it can."""
    if source.metadata is None:
        return "the file has no metadata of adapter-export that says what it takes"
    if source.metadata.op == "tensorrt":
        return "ONNX Runtime does not have TensorRT's own operator; a plan of the --op fused export can be compared"
    return None


def check(source: Source, plan: Path, described: Sidecar, seed: int) -> dict[str, Any]:
    """Compares `plan` at the least, best and largest shapes of every profile; the figures for the sidecar.

    Errors: ParityError beyond the limits, EnvironmentMissing where the plan cannot be run.
    """
    from adapter_engines.engine import Engine

    precision = coarsest(source)
    rows: list[dict[str, Any]] = []
    reference = widened(source.path, plan.parent)
    with Engine.load(reference, provider="cpu") as exact:
        for profile, shapes in cases(described):
            with Engine.load(plan, allow_embedded_code=True, profile=profile) as engine:
                for shape in shapes:
                    fed = feeds(source, shape, described, seed)
                    got = engine.infer(fed)
                    wide = fed | ({} if fed[IMAGE].dtype == np.uint8 else {IMAGE: fed[IMAGE].astype(np.float32)})
                    compared = rows_of(got, exact.infer(wide), precision)
                    rows += [{"profile": profile, "shape": list(shape), **row} for row in compared]
    judge(rows, plan)
    worst = max(rows, key=lambda row: row["share"])
    return {"done": True, "reference": "ONNX Runtime, CPU, fp32", "precision": precision, "worst": worst, "rows": rows}


def cases(described: Sidecar) -> Iterator[tuple[int, list[tuple[int, ...]]]]:
    """(profile, different shapes of `image`): a file without dynamic axes has one of each."""
    if not described.profiles:
        yield 0, [tuple(_image_of(described)["shape"])]
        return
    for number, profile in enumerate(described.profiles):
        yield number, list(dict.fromkeys(tuple(profile[IMAGE][kind]) for kind in ("min", "opt", "max")))


def coarsest(source: Source) -> str:
    """The type that the limits go by."""
    if source.metadata is None:
        return "fp32"
    named = {source.metadata.precision, source.metadata.io_precision}
    return next(name for name in COARSEST if name in named)


def feeds(source: Source, shape: Sequence[int], described: Sidecar, seed: int) -> dict[str, np.ndarray]:
    """What is fed at a `shape` of `image`; a detector's pictures fill it, but for an eighth of one edge."""
    fed = {IMAGE: image(source, shape, _image_of(described)["dtype"], seed)}
    if any(tensor["name"] == IMAGE_SIZE for tensor in described.inputs):
        height, width = shape[1:3] if fed[IMAGE].dtype == np.uint8 else shape[2:4]
        sizes = [(height - height // 8, width) if n % 2 else (height, width - width // 8) for n in range(shape[0])]
        fed[IMAGE_SIZE] = np.array(sizes, np.int64)
    return fed


def _image_of(described: Sidecar) -> dict[str, Any]:
    """The entry of `image` among the inputs; the first of a file that has none of this name."""
    return next((tensor for tensor in described.inputs if tensor["name"] == IMAGE), described.inputs[0])


def image(source: Source, shape: Sequence[int], dtype: str, seed: int) -> np.ndarray:
    """A seeded picture of `shape`: uint8 (N, H, W, 3), or (N, 3, H, W) normalised as the metadata says.

    Half of it is noise, half large areas with edges, so that both small and large features are fed.
    """
    from adapter_engines.device.arrays import numpy_dtype

    rng = np.random.default_rng(seed)
    pixels_last = dtype == "uint8"
    n, h, w = (shape[0], *shape[1:3]) if pixels_last else (shape[0], *shape[2:4])
    coarse = rng.integers(0, 256, (n, -(-h // 16), -(-w // 16), 3), dtype=np.uint8)
    pixels = coarse.repeat(16, axis=1).repeat(16, axis=2)[:, :h, :w].copy()
    pixels[:, :, w // 2 :] = rng.integers(0, 256, (n, h, w - w // 2, 3), dtype=np.uint8)
    if pixels_last:
        return pixels
    settings = (source.metadata.model.preprocessing if source.metadata else None) or Preprocessing()
    scaled = (pixels.astype(np.float64) - np.array(settings.mean)) / np.array(settings.std)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)).astype(numpy_dtype(dtype))


def rows_of(got: Mapping[str, Any], wanted: Mapping[str, Any], precision: str) -> list[dict[str, Any]]:
    """The rows of one run: of detections one, else one an output."""
    if set(DETECTION_NAMES[:4]) <= wanted.keys():
        return [parity_detections.compare(got, wanted, parity_detections.LIMITS[precision])]
    return list(compare(got, wanted, LIMITS[precision]))


def compare(got: Mapping[str, Any], wanted: Mapping[str, Any], limits: Limits) -> Iterator[dict[str, Any]]:
    """One row an output; `share` is the worse of its figures in units of its limit, above 1 is a failure."""
    for name, exact in wanted.items():
        answer = np.asarray(got[name])
        row: dict[str, Any] = {"output": name}
        if answer.shape != exact.shape:
            yield row | {"share": float("inf"), "what": f"shape {answer.shape} in place of {exact.shape}"}
        elif not np.issubdtype(exact.dtype, np.floating):
            differing = float(np.mean(answer != exact))
            yield row | {"differing": differing, "share": differing / limits.labels}
        else:
            yield row | _distance(answer.astype(np.float64), exact.astype(np.float64), limits)


def _distance(answer: np.ndarray, exact: np.ndarray, limits: Limits) -> dict[str, float]:
    gap = np.abs(answer - exact)
    spread = max(float(exact.std()), 1e-5 * float(np.abs(exact).max(initial=0.0)), float(np.finfo(np.float32).tiny))
    largest, rms = float(gap.max(initial=0.0)) / spread, float(np.sqrt(np.mean(gap**2))) / spread
    share = max(largest / limits.largest, rms / limits.rms)
    return {"largest": largest, "rms": rms, "share": share if np.isfinite(share) else float("inf")}


def judge(rows: Sequence[Mapping[str, Any]], plan: Path) -> None:
    """Errors: ParityError that names the worst output where it is beyond its limit."""
    worst = max(rows, key=lambda row: row["share"])
    if worst["share"] <= 1.0:
        return
    figures = ", ".join(f"{key} {worst[key]:.3g}" for key in FIGURES if key in worst)
    raise ParityError(
        f"parity failed: output {worst['output']} of {plan.name} at input {'x'.join(map(str, worst['shape']))} differs "
        f"from ONNX Runtime by {worst.get('what') or figures}, {worst['share']:.3g} times what is allowed; no plan was "
        "kept"
    )

"""Detections of two runs compared as sets: a rounding changes their order, and which of two boxes suppresses the other.

Each object of the reference is matched with the plan's best overlapping one of its class. An object counts by how far
its score is above the lowest that either side gives: what barely passed the threshold may be missing on the other side.
The limits are judgement, not measurement: in half types detectors were not run on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

MATCH = 0.5  # least overlap of two boxes that are the same object


@dataclass(frozen=True)
class Limits:
    """`missing`: share of what counts that has no match; `boxes`: 1 - IoU of matches; `scores`, `masks`: differences.

    All but the first are means over the matches, weighted as they count.
    """

    missing: float
    boxes: float
    scores: float
    masks: float


LIMITS = {
    "fp32": Limits(1e-2, 1e-3, 1e-3, 1e-3),
    "fp16": Limits(0.1, 2e-2, 2e-2, 2e-2),
    "bf16": Limits(0.3, 0.1, 0.1, 0.1),
}


def compare(got: Mapping[str, Any], wanted: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """One row over all pictures; `share` is the worst of its figures in units of its limit, above 1 is a failure."""
    row: dict[str, Any] = {"output": "detections"}
    for name, exact in wanted.items():
        if np.shape(got[name]) != exact.shape:
            return row | {"share": float("inf"), "what": f"{name} {np.shape(got[name])} in place of {exact.shape}"}
    total = 0.0
    weights: list[float] = []
    gaps: list[tuple[float, float, float]] = []
    for n in range(len(wanted["count"])):
        ours, theirs = _picture(got, n), _picture(wanted, n)
        if any(not np.isfinite(part).all() for part in ours.values()):
            return row | {"share": float("inf"), "what": "a number that is none"}
        lowest = min((float(each["scores"].min()) for each in (ours, theirs) if len(each["scores"])), default=0.0)
        total += float((ours["scores"] - lowest).sum() + (theirs["scores"] - lowest).sum())
        pairs = _pairs(ours, theirs)
        for i, k, overlap in pairs:
            weights.append(float(ours["scores"][i] + theirs["scores"][k]) - 2 * lowest)
            masks = float(np.abs(ours["masks"][i] - theirs["masks"][k]).mean()) if "masks" in ours else 0.0
            gaps.append((1 - overlap, abs(float(ours["scores"][i] - theirs["scores"][k])), masks))
    matched = sum(weights)
    means = np.average(gaps, axis=0, weights=weights) if matched > 0 else np.mean(gaps or [(0.0, 0.0, 0.0)], axis=0)
    figures = {"missing": max(0.0, 1 - matched / total) if total > 0 else 0.0}
    figures |= dict(zip(("boxes", "scores", "masks"), means.tolist(), strict=True))
    share = max(value / getattr(limits, name) for name, value in figures.items())
    return row | {"objects": int(wanted["count"].sum()), **figures, "share": share}


def _picture(outputs: Mapping[str, Any], n: int) -> dict[str, np.ndarray]:
    """The objects of one picture, in float64, without the count."""
    count = int(outputs["count"][n])
    return {name: np.asarray(array[n][:count], np.float64) for name, array in outputs.items() if name != "count"}


def _pairs(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> list[tuple[int, int, float]]:
    """(ours, theirs, overlap): for each of theirs, the best score first, the free one of ours that overlaps it most."""
    overlaps = _iou(ours["boxes"], theirs["boxes"])
    overlaps[ours["labels"][:, None] != theirs["labels"][None]] = 0
    pairs = []
    for k in np.argsort(-theirs["scores"], kind="stable"):
        if not len(overlaps):
            break
        i = int(overlaps[:, k].argmax())
        if overlaps[i, k] >= MATCH:
            pairs.append((i, int(k), float(overlaps[i, k])))
            overlaps[i] = 0
    return pairs


def _iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Overlap over union of all pairs of boxes (A, 4) and (B, 4), (A, B)."""
    low, high = np.maximum(one[:, None, :2], other[None, :, :2]), np.minimum(one[:, None, 2:], other[None, :, 2:])
    common = (high - low).clip(0).prod(-1)
    areas = [(each[:, 2:] - each[:, :2]).clip(0).prod(-1) for each in (one, other)]
    return common / np.maximum(areas[0][:, None] + areas[1][None] - common, 1e-12)

"""Is a list of detections what greedy selection makes of its candidates? Decided by replaying the choices one by one.

Comparing two lists cries wolf: where two scores, or an overlap and its threshold, are equal but for rounding, two right
programs choose differently, and one choice changes all later ones. Here the list under test makes the choices, and each
is checked against the candidates: it is one of them, it was not suppressed by an earlier choice, and none that was
surely better is left; in the end none that should be there is missing. A candidate whose fate is within rounding may
stay or go, and only such a one. The same replay serves NMS, soft-NMS and a plain choice of the best.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adapter_export.tolerance import Gap, largest

Array = NDArray[Any]

OF_EXTENT = 1e-5
"""Pixels that two right decodings of a box may differ by, as a share of its largest coordinate and side."""
OF_SCORE = 1e-4
"""Share of a score that two right softmaxes or sigmoids may differ by."""
OF_OVERLAP = 1e-4
"""By how much two right overlaps may differ, beside what the coordinates' own rounding costs a small box."""


@dataclass(frozen=True)
class Rule:
    """How candidates are chosen: at most `slots`; a chosen one drops (or, `soft`, weakens) those of its group that
    overlap it beyond `iou_threshold`, None for no such thing. Scores below `min_score` are dropped when weakened.

    `shifted`: groups are told apart by moving their boxes, as the official batched_nms does, which costs digits.
    """

    slots: int
    iou_threshold: float | None
    soft: bool = False
    min_score: float = 0.0
    shifted: bool = False


@dataclass(frozen=True)
class Candidates:
    """Of one picture: boxes (B, 4), scores and groups (B,), and which of them surely take part (B,) bool.

    The others may: their score is within rounding of a threshold, or of the last that was let in.
    """

    boxes: Array
    scores: Array
    groups: Array
    surely: Array

    def kept(self, mask: Array) -> Candidates:
        """Those of a mask (B,)."""
        return Candidates(self.boxes[mask], self.scores[mask], self.groups[mask], self.surely[mask])


class _Wrong(Exception):
    """A choice that greedy selection would not make; says which."""


def check(
    boxes: Array, candidates: Candidates, rule: Rule, scores: Array | None = None, labels: Array | None = None
) -> tuple[Gap, Gap]:
    """How far the chosen boxes (K, 4), best first, are from their candidates in pixels, and their scores (K,).

    Without `scores` or `labels` (K,) those of the candidates count. Both gaps are infinite, with the reason, where the
    list is not what the rule makes of the candidates.
    """
    work = Candidates(
        candidates.boxes.astype(np.float64),
        candidates.scores.astype(np.float64),
        candidates.groups,
        candidates.surely,
    )
    worst_box, worst_score = Gap(0.0, 1.0), Gap(0.0, 1.0)
    replay = _Replay(work, rule)
    try:
        if len(boxes) > rule.slots:
            raise _Wrong(f"{len(boxes)} are chosen where {rule.slots} may be")
        for k, box in enumerate(boxes.astype(np.float64)):
            score = None if scores is None else float(scores[k])
            found = replay.find(k, box, score, None if labels is None else int(labels[k]))
            worst_box = max(worst_box, found[0], key=_share)
            worst_score = max(worst_score, found[1], key=_share)
        if len(boxes) < rule.slots:
            replay.check_passed_over(0.0, len(boxes))
    except _Wrong as wrong:
        return Gap(np.inf, worst_box.limit, reason=str(wrong)), Gap(np.inf, worst_score.limit, reason=str(wrong))
    return worst_box, worst_score


def _share(gap: Gap) -> float:
    return gap.largest / gap.limit


class _Replay:
    """The candidates' scores as choices are made: `low` and `high` bound what rounding leaves open."""

    def __init__(self, candidates: Candidates, rule: Rule) -> None:
        self.all, self.rule = candidates, rule
        self.high, self.low = candidates.scores.copy(), candidates.scores.copy()
        sides = candidates.boxes[:, 2:] - candidates.boxes[:, :2]
        self.areas, self.shortest = sides.prod(1), sides.min(1, initial=np.inf)
        extent = float(np.abs(candidates.boxes).max(initial=0.0))
        groups = int(candidates.groups.max(initial=0)) if rule.shifted else 0
        self.pixel = float(np.spacing(np.float32((groups + 1) * (extent + 1))))
        self.tolerances = OF_EXTENT * (np.abs(candidates.boxes).max(1, initial=0.0) + np.abs(sides).max(1, initial=0.0))

    def find(self, k: int, box: Array, score: float | None, label: int | None) -> tuple[Gap, Gap]:
        """Makes choice number k; how far its box and its score are from the candidate's."""
        what = (
            f"number {k}"
            + ("" if label is None else f" (label {label})")
            + ("" if score is None else f", {score:.4g},")
        )
        if not np.isfinite(box).all() or (score is not None and not np.isfinite(score)):
            raise _Wrong(f"{what} is not finite")
        places = np.arange(len(self.high)) if label is None else np.flatnonzero(self.all.groups == label)
        distances = np.abs(self.all.boxes[places] - box).max(1, initial=0.0)
        near = distances <= self.tolerances[places]
        if not near.any():
            closest = f"; the nearest is {distances.min():.3g} pixels off" if len(places) else ""
            raise _Wrong(f"{what} is no candidate{closest}")
        places, distances = places[near], distances[near]
        open_ = self.high[places] > 0
        if score is not None:
            slack = OF_SCORE * np.maximum(self.high[places], score)
            open_ &= (score >= self.low[places] - slack) & (score <= self.high[places] + slack)
        if not open_.any():
            left = float(self.high[places].max())
            raise _Wrong(f"{what} is suppressed by an earlier one" if left <= 0 else f"{what} should score {left:.4g}")
        places, distances = places[open_], distances[open_]
        best = int(self.high[places].argmax() if score is None else distances.argmin())
        chosen, distance = int(places[best]), float(distances[best])
        told = self.high[chosen] if score is None else score
        within = max(self.low[chosen] - told, told - self.high[chosen], 0.0)
        self.high[chosen] = self.low[chosen] = 0.0
        self.check_passed_over(float(told), k)
        self._weaken(chosen)
        return Gap(distance, float(self.tolerances[chosen])), Gap(within, OF_SCORE * float(told))

    def check_passed_over(self, score: float, k: int) -> None:
        """No candidate may be left that surely beats `score`."""
        left = np.where(self.all.surely, self.low, 0.0)
        if left.max(initial=0.0) > score * (1 + OF_SCORE):
            i = int(left.argmax())
            raise _Wrong(
                f"a candidate of group {self.all.groups[i]} with {self.low[i]:.4g} is missing before number {k}"
            )

    def _weaken(self, chosen: int) -> None:
        threshold = self.rule.iou_threshold
        if threshold is None:
            return
        others = np.flatnonzero((self.all.groups == self.all.groups[chosen]) & (self.high > 0))
        box, boxes = self.all.boxes[chosen], self.all.boxes[others]
        shared = (np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])).clip(0).prod(1)
        union = self.areas[chosen] + self.areas[others] - shared
        overlap = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
        shortest = np.minimum(self.shortest[others], self.shortest[chosen]).clip(1e-12)
        slack = OF_OVERLAP + 4 * self.pixel / shortest
        surely, maybe = overlap > threshold + slack, overlap > threshold - slack
        if not self.rule.soft:
            self.high[others[surely]] = 0.0
            self.low[others[maybe]] = 0.0
            return
        weaker, stronger = (1 - overlap - slack).clip(0), (1 - overlap + slack).clip(0, 1)
        self.high[others] *= np.where(surely, stronger, 1.0)
        self.low[others] *= np.where(maybe, weaker, 1.0)
        self.high[others[self.high[others] < self.rule.min_score * (1 - OF_SCORE)]] = 0.0
        self.low[others[self.low[others] < self.rule.min_score * (1 + OF_SCORE)]] = 0.0


def unused(count: int, arrays: dict[str, Array], empty: dict[str, float]) -> str:
    """What is wrong with the slots of one picture from `count` on, empty where nothing is."""
    for name, array in arrays.items():
        if not (array[count:] == empty.get(name, 0)).all():
            return f"unused slots of {name} are not empty"
    return ""


def boxes_gap(got: Array, expected: Array) -> Gap:
    """Two sets of boxes (..., 4) slot by slot, in pixels, at the worst one for its size."""
    if got.shape != expected.shape:
        return Gap(np.inf, 1.0, reason=f"shape {got.shape} in place of {expected.shape}")
    sides = np.abs(expected[..., 2:] - expected[..., :2]).max(-1)
    limits = np.maximum(OF_EXTENT * (np.abs(expected).max(-1) + sides), np.finfo(np.float32).tiny)
    distances = np.abs(got - expected).max(-1)
    if not distances.size:
        return Gap(0.0, 1.0)
    worst = int(np.nan_to_num(distances / limits, nan=np.inf).argmax())
    return Gap(largest(distances.ravel()[worst : worst + 1]), float(limits.ravel()[worst]))

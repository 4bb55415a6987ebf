"""The replay of choices: it accepts what greedy selection may make of rounded numbers, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from adapter_export.replay import Candidates, Rule, boxes_gap, check, unused
from adapter_infer.detectors.nms import grouped_nms
from adapter_infer.detectors.soft_nms import soft_nms

RULE = Rule(slots=40, iou_threshold=0.5, shifted=True)
SOFT = Rule(slots=40, iou_threshold=0.5, soft=True, min_score=1e-3)


def some(count: int = 300, seed: int = 0) -> Candidates:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 90, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(10, 60, (count, 2))], 1).astype(np.float32)
    scores = rng.uniform(0.06, 1, count).astype(np.float32)
    return Candidates(boxes, scores, rng.integers(0, 3, count), np.ones(count, bool))


def chosen(every: Candidates, iou: float = 0.5, agnostic: bool = False, slots: int = 40) -> tuple[np.ndarray, ...]:
    """Boxes, scores and labels that NMS leaves."""
    boxes, scores, groups = (torch.from_numpy(each)[None] for each in (every.boxes, every.scores, every.groups))
    index, count = grouped_nms(boxes, scores, groups * (not agnostic), iou, slots)
    kept = index[0, : int(count)].numpy()
    return every.boxes[kept], every.scores[kept], every.groups[kept]


def softly_chosen(every: Candidates, slots: int = 40) -> tuple[np.ndarray, ...]:
    boxes, scores, groups = (torch.from_numpy(each)[None] for each in (every.boxes, every.scores, every.groups))
    index, final, count = soft_nms(boxes, scores, groups, 0.5, 1e-3, slots)
    kept = index[0, : int(count)].numpy()
    return every.boxes[kept], final[0, : int(count)].numpy(), every.groups[kept]


def reason(found: tuple[np.ndarray, ...], every: Candidates, rule: Rule = RULE) -> str:
    boxes, scores, labels = found
    gaps = check(boxes, every, rule, scores, labels)
    return gaps[0].reason or ("" if max(gap.largest / gap.limit for gap in gaps) <= 1 else "beyond its limit")


@pytest.mark.parametrize("slots", [5, 40, 200])
def test_what_nms_leaves_is_accepted(slots: int) -> None:
    for seed in range(5):
        every = some(seed=seed)
        assert reason(chosen(every, slots=slots), every, replace(RULE, slots=slots)) == ""


@pytest.mark.parametrize("slots", [5, 40, 400])
def test_what_soft_nms_leaves_is_accepted(slots: int) -> None:
    for seed in range(5):
        every = some(seed=seed)
        assert reason(softly_chosen(every, slots), every, replace(SOFT, slots=slots)) == ""


def test_another_threshold_is_noticed_both_ways() -> None:
    every = some()
    assert "is suppressed by an earlier one" in reason(chosen(every, iou=0.6), every)
    assert "is missing before number" in reason(chosen(every, iou=0.4), every)


def test_suppression_across_classes_is_noticed() -> None:
    every = some()
    assert "is missing" in reason(chosen(every, agnostic=True), every)


def test_hard_in_place_of_soft_suppression_is_noticed_and_the_reverse() -> None:
    every = some()
    assert "is missing" in reason(chosen(every, slots=200), every, replace(SOFT, slots=200))
    assert reason(softly_chosen(every, slots=200), every, replace(RULE, slots=200)) != ""


def test_moved_boxes_other_scores_and_shifted_labels_are_noticed() -> None:
    every = some()
    boxes, scores, labels = chosen(every)
    assert "is no candidate; the nearest is 0.0" in reason((boxes + np.float32(0.05), scores, labels), every)
    assert "should score" in reason((boxes, scores * np.float32(1.01), labels), every)
    assert "is no candidate" in reason((boxes, scores, (labels + 1) % 3), every)
    assert "is not finite" in reason((boxes * np.nan, scores, labels), every)


def test_a_list_that_ends_early_or_is_out_of_order_or_repeats_is_noticed() -> None:
    every = some()
    boxes, scores, labels = chosen(every, slots=200)
    rule = replace(RULE, slots=200)
    assert "is missing before number" in reason((boxes[:-1], scores[:-1], labels[:-1]), every, rule)
    order = np.arange(len(boxes))
    order[[3, 9]] = order[[9, 3]]
    assert "is missing before number 3" in reason((boxes[order], scores[order], labels[order]), every, rule)
    twice = np.r_[0, order[:-1]]
    assert reason((boxes[twice], scores[twice], labels[twice]), every, rule) != ""
    assert "are chosen where 5 may be" in reason((boxes, scores, labels), every, replace(RULE, slots=5))


def test_a_pair_at_the_threshold_may_go_either_way_and_one_beside_it_may_not() -> None:
    boxes = np.array([[0, 0, 100, 100], [0, 0, 100, 50], [0, 0, 100, 49]], np.float32)  # overlaps 0.5 and 0.49
    labels = np.zeros(3, np.int64)
    for second, excused in ((1, True), (2, False)):
        pair = [0, second]
        every = Candidates(boxes[pair], np.array([0.9, 0.8], np.float32), labels[pair], np.ones(2, bool))
        both = (every.boxes, every.scores, every.groups)
        first = tuple(each[:1] for each in both)
        assert reason(both, every) == ""
        assert (reason(first, every) == "") == excused


def test_equal_scores_may_come_in_either_order() -> None:
    boxes = np.array([[0, 0, 10, 10], [50, 50, 60, 60]], np.float32)
    every = Candidates(boxes, np.array([0.5, 0.5], np.float32), np.zeros(2, np.int64), np.ones(2, bool))
    for order in ([0, 1], [1, 0]):
        assert reason((boxes[order], every.scores, every.groups), every) == ""


def test_who_is_not_sure_to_take_part_may_stay_away() -> None:
    every = some()
    boxes, scores, labels = chosen(every, slots=200)
    last = np.flatnonzero(every.scores == scores[-1])[0]
    unsure = replace(every, surely=np.arange(len(every.scores)) != last)
    rule = replace(RULE, slots=200)
    assert reason((boxes, scores, labels), unsure, rule) == ""
    # What it suppressed is below the last of the list, so that only its own absence is left to excuse.
    assert reason((boxes[:-1], scores[:-1], labels[:-1]), every, rule) != ""


def test_boxes_are_measured_by_their_size_and_unused_slots_must_be_empty() -> None:
    boxes = np.array([[[0, 0, 1000, 1000], [0, 0, 10, 10]]], np.float32)
    small = boxes.copy()
    small[0, 1, 2] += 0.01
    assert boxes_gap(small, boxes).largest == pytest.approx(0.01, rel=1e-3)
    assert boxes_gap(small, boxes).limit == pytest.approx(2e-4)
    large = boxes.copy()
    large[0, 0, 2] += 0.01
    gap = boxes_gap(large, boxes)
    assert gap.largest < gap.limit == pytest.approx(0.02)
    assert boxes_gap(boxes[:, :1], boxes).largest == np.inf
    assert unused(1, {"scores": np.array([0.5, 0.1])}, {}) == "unused slots of scores are not empty"
    assert unused(1, {"labels": np.array([3, -1])}, {"labels": -1}) == ""

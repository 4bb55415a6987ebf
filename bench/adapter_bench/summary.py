"""Latency samples as figures: order statistics, nothing clipped, no percentile that the samples are too few for."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

PERCENTILES = (90, 95, 99)
CONFIDENCE = 0.99
STEADY_CV = 0.025  # above this coefficient of variation a median is not repeatable to the third digit


def samples_wanted(percentile: int) -> int:
    """How many samples a percentile wants before it may be stated: 64 for p90, 130 for p95, 662 for p99.

    MLPerf's early-stopping rule: the smallest n for which, with 99 % confidence, at least two of n independent samples
    lie above the true percentile, so that the order statistic is not merely the largest value that happened to be seen.
    """
    tail = 1 - percentile / 100
    n = 2
    while (1 - tail) ** n + n * tail * (1 - tail) ** (n - 1) > 1 - CONFIDENCE:
        n += 1
    return n


def nearest_rank(ordered: Sequence[float], percentile: float) -> float:
    """The smallest sample that at least `percentile` percent of the sorted samples do not exceed; no interpolation."""
    return ordered[max(math.ceil(percentile / 100 * len(ordered)), 1) - 1]


@dataclass(frozen=True)
class Summary:
    """Figures of latency samples, in the samples' unit. `std` divides by n - 1 and is None for one sample.

    `percentiles` maps 90, 95, 99 to the order statistic, or to None where the samples are too few to state it.
    """

    count: int
    median: float
    mean: float
    min: float
    max: float
    std: float | None
    percentiles: dict[int, float | None]

    @staticmethod
    def of(samples: Sequence[float]) -> Summary:
        """Errors: ValueError without a sample."""
        if not samples:
            raise ValueError("no samples to summarise")
        ordered = sorted(samples)
        count = len(ordered)
        return Summary(
            count=count,
            median=statistics.median(ordered),
            mean=statistics.fmean(ordered),
            min=ordered[0],
            max=ordered[-1],
            std=statistics.stdev(ordered) if count > 1 else None,
            percentiles={p: nearest_rank(ordered, p) if count >= samples_wanted(p) else None for p in PERCENTILES},
        )

    @property
    def variation(self) -> float | None:
        """Coefficient of variation, std / mean; None where it is not defined."""
        return None if self.std is None or self.mean == 0 else self.std / self.mean

    def remarks(self) -> list[str]:
        """What a reader must know of these figures: percentiles left out and why, an unsteady machine."""
        result = []
        if absent := [p for p, value in self.percentiles.items() if value is None]:
            names, wanted = (
                ", ".join(map(str, items)) for items in (map("p{}".format, absent), map(samples_wanted, absent))
            )
            result.append(
                f"{names} left out: {self.count} samples, wanted are {wanted} (99 % confidence of two in the tail)"
            )
        if self.variation is not None and self.variation > STEADY_CV:
            result.append(
                f"coefficient of variation {self.variation:.1%} is above {STEADY_CV:.1%}: the machine was not steady"
            )
        return result

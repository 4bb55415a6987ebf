"""The figures stated of latency samples: which value a percentile is, and when none may be stated."""

from __future__ import annotations

import random
import statistics

import pytest

from adapter_bench.summary import Summary, nearest_rank, samples_wanted


def test_a_percentile_is_one_of_the_samples_and_never_an_interpolation() -> None:
    ordered = [15.0, 20.0, 35.0, 40.0, 50.0]
    assert [nearest_rank(ordered, p) for p in (5, 20, 30, 40, 50, 90, 100)] == [15, 15, 20, 20, 35, 50, 50]
    assert nearest_rank([float(i) for i in range(1, 101)], 90) == 90.0
    assert nearest_rank([float(i) for i in range(1, 1001)], 99) == 990.0


def test_samples_wanted_are_those_of_the_early_stopping_rule() -> None:
    assert [samples_wanted(p) for p in (90, 95, 99)] == [64, 130, 662]


def test_figures_of_known_samples() -> None:
    summary = Summary.of([4.0, 1.0, 2.0, 3.0])
    assert (summary.count, summary.median, summary.mean, summary.min, summary.max) == (4, 2.5, 2.5, 1.0, 4.0)
    assert summary.std == pytest.approx(1.2909944487358056)
    assert summary.variation == pytest.approx(1.2909944487358056 / 2.5)


def test_a_tail_from_too_few_samples_is_left_out_and_the_report_says_why() -> None:
    summary = Summary.of([10.0] * 63)
    assert summary.percentiles == {90: None, 95: None, 99: None}
    assert summary.remarks() == [
        "p90, p95, p99 left out: 63 samples, wanted are 64, 130, 662 (99 % confidence of two in the tail)"
    ]
    assert Summary.of([10.0] * 200).remarks() == [
        "p99 left out: 200 samples, wanted are 662 (99 % confidence of two in the tail)"
    ]
    assert Summary.of([10.0] * 64).percentiles == {90: 10.0, 95: None, 99: None}
    assert Summary.of([10.0] * 661).percentiles == {90: 10.0, 95: 10.0, 99: None}
    assert Summary.of([10.0] * 662).percentiles == {90: 10.0, 95: 10.0, 99: 10.0}


def test_an_outlier_stays_in_every_figure() -> None:
    samples = [10.0] * 999 + [1000.0]
    random.Random(0).shuffle(samples)
    summary = Summary.of(samples)
    assert summary.max == 1000.0
    assert summary.mean == pytest.approx(10.99)
    assert summary.median == 10.0
    assert summary.percentiles[99] == 10.0


def test_an_unsteady_machine_is_reported_above_two_and_a_half_percent() -> None:
    def spread(deviation: float) -> Summary:
        half = 500
        return Summary.of([100.0 - deviation] * half + [100.0 + deviation] * half)

    assert not spread(2.4).remarks()
    assert spread(2.6).remarks() == ["coefficient of variation 2.6% is above 2.5%: the machine was not steady"]


def test_one_sample_has_no_spread() -> None:
    summary = Summary.of([7.0])
    assert summary.std is None
    assert summary.variation is None
    assert summary.median == 7.0


def test_no_samples_have_no_figures() -> None:
    with pytest.raises(ValueError, match="no samples"):
        Summary.of([])


def test_median_and_std_agree_with_the_standard_library() -> None:
    samples = [random.Random(1).lognormvariate(3, 0.2) for _ in range(101)]
    summary = Summary.of(samples)
    assert summary.median == statistics.median(samples)
    assert summary.std == statistics.stdev(samples)

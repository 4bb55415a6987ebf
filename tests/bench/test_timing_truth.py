"""The whole path from a subject to the report, held against a subject that knows how long each of its runs took."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from adapter_bench import session
from adapter_bench.measure import Rules
from adapter_bench.session import Plan
from adapter_bench.subject import Count, Prepare, Size
from adapter_bench.summary import nearest_rank
from adapter_infer.errors import UnsupportedModel


class Sleeper:
    """A subject that sleeps `base` seconds and a seeded jitter with a long tail, and notes how long it really slept.

    The notes are taken inside the run, so what a busy machine adds to a sleep is in both accounts.
    """

    spec = None

    def __init__(self, name: str, base: float, rival: Sleeper | None = None) -> None:
        self.name, self.base, self.rival = name, base, rival
        self.slept: list[float] = []
        self.asked: list[float] = []
        self._random = random.Random(7)

    def resolve(self, size: Size | None, batches: list[int] | None) -> tuple[Size, list[int]]:
        return size or (32, 32), batches or [1]

    @contextmanager
    def open(self) -> Iterator[Prepare]:
        def run() -> None:
            begin = time.perf_counter()
            self.asked.append(self.base * self._random.lognormvariate(0, 0.3))
            time.sleep(self.asked[-1])
            self.slept.append(time.perf_counter() - begin)

        yield lambda batch, size: run

    def facts(self) -> dict[str, Any]:
        return {"engine": {"model": self.name}, "weights_bytes": 0}

    def details(self, batch: int, size: Size, rules: Rules) -> dict[str, Any]:
        return {}

    def peak_memory(self, batch: int, size: Size) -> dict[str, Any]:
        raise NotImplementedError

    def baseline(self, cache: Path) -> Sleeper:
        if self.rival is None:
            raise UnsupportedModel("nobody sleeps beside it")
        return self.rival

    def count(self, batch: int, size: Size) -> Count:
        raise NotImplementedError


def measured(subject: Sleeper, rules: Rules, *selected: str, batch: int = 1) -> dict[str, Any]:
    plan = Plan(frozenset({"fps", *selected}), frozenset(), rules, None, [batch], "cpu", None, Path())
    (result,) = session.run(subject, plan, [])
    return result


@pytest.fixture(scope="module")
def long_run() -> tuple[Sleeper, dict[str, Any]]:
    """Enough runs for every percentile to be stated."""
    subject = Sleeper("sleeper", 0.002)
    return subject, measured(subject, Rules(warmup=0.0, warmup_runs=10, duration=0.0, iterations=700))


def test_every_figure_is_within_three_percent_of_what_was_slept(long_run: tuple[Sleeper, dict[str, Any]]) -> None:
    subject, result = long_run
    found = result["latency_ms"]
    truth = [1e3 * seconds for seconds in subject.slept[found["warmup_runs"] :]]
    assert found["count"] == len(truth) >= 700
    assert found["median"] == pytest.approx(statistics.median(truth), rel=0.03)
    assert found["mean"] == pytest.approx(statistics.fmean(truth), rel=0.03)
    for percentile in (90, 95, 99):
        assert found[f"p{percentile}"] == pytest.approx(nearest_rank(sorted(truth), percentile), rel=0.03)
    assert result["fps"] == pytest.approx(1e3 / statistics.fmean(truth), rel=0.03)


def test_no_sample_is_shorter_than_the_sleep_that_it_timed(long_run: tuple[Sleeper, dict[str, Any]]) -> None:
    """Sample by sample, in the order of the runs: none is lost, none moved to another place."""
    subject, result = long_run
    samples, warmup = result["latency_ms"]["samples"], result["latency_ms"]["warmup_runs"]
    pairs = list(zip(samples, subject.slept[warmup:], subject.asked[warmup:], strict=True))
    assert all(sample >= 1e3 * slept >= 0.999e3 * asked for sample, slept, asked in pairs)


def test_the_jitter_is_reported_as_unsteadiness(long_run: tuple[Sleeper, dict[str, Any]]) -> None:
    subject, result = long_run
    truth = subject.slept[result["latency_ms"]["warmup_runs"] :]
    variation = statistics.stdev(truth) / statistics.fmean(truth)
    assert result["latency_ms"]["variation"] == pytest.approx(variation, rel=0.1)
    assert any("the machine was not steady" in remark for remark in result["remarks"])


def test_the_ratio_of_two_sleepers_is_that_of_their_sleeps() -> None:
    slow, fast = Sleeper("slow", 0.004), Sleeper("fast", 0.002)
    slow.rival = fast
    result = measured(slow, Rules(warmup=0.0, warmup_runs=2, duration=0.0, iterations=60), "baseline")
    blocks = result["latency_ms"]["runs_per_turn"]
    assert len(blocks) == len(result["baseline"]["latency_ms"]["runs_per_turn"])
    truth = _measured(fast, result["baseline"]), _measured(slow, result)
    medians, means = ([take(times) for times in truth] for take in (statistics.median, statistics.fmean))
    assert result["ratio"]["medians"] == pytest.approx(medians[0] / medians[1], rel=0.03)
    assert result["ratio_fps"] == pytest.approx(means[0] / means[1], rel=0.03)


def _measured(subject: Sleeper, result: dict[str, Any]) -> list[float]:
    """The sleeps that were measured: without the warm-up, and without the run that opens each turn."""
    left, times = iter(subject.slept[result["latency_ms"]["warmup_runs"] :]), []
    for runs in result["latency_ms"]["runs_per_turn"]:
        next(left)
        times += [next(left) for _ in range(runs)]
    assert next(left, None) is None
    return times


def test_images_per_second_count_the_whole_batch() -> None:
    subject = Sleeper("sleeper", 0.002)
    rules = Rules(warmup=0.0, warmup_runs=0, duration=0.0, iterations=20)
    result = measured(subject, rules, batch=8)
    assert result["fps"] == pytest.approx(8 / statistics.fmean(subject.slept), rel=0.03)


def test_a_clock_that_is_off_would_be_noticed(long_run: tuple[Sleeper, dict[str, Any]]) -> None:
    """The comparison can fail: five percent on every sample leave the tolerance."""
    subject, result = long_run
    truth = statistics.median(subject.slept[result["latency_ms"]["warmup_runs"] :])
    assert 1.05 * result["latency_ms"]["median"] != pytest.approx(1e3 * truth, rel=0.03)

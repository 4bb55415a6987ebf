"""How measuring runs its subjects, seen by a clock that only moves when a subject runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from adapter_bench.measure import BLOCKS, Ratio, Rules, Trial, measure
from adapter_infer.errors import UsageError


class FakeClock:
    """Seconds that pass only where a test lets them; `log` says who ran."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log = ""

    def __call__(self) -> float:
        return self.now

    def subject(self, name: str, *seconds: float) -> Callable[[], None]:
        """Takes the given seconds run after run, the last of them from then on."""
        runs = iter(seconds)
        last = seconds[-1]

        def run() -> None:
            self.now += next(runs, last)
            self.log += name

        return run


def test_a_slow_subject_gets_ten_runs_to_warm_up_and_ten_to_measure() -> None:
    clock = FakeClock()
    trial = measure({"model": (1, clock.subject("a", 1.0))}, Rules(), clock)["model"]
    assert trial.warmup_runs == 10
    assert trial.samples == [1.0] * 10
    assert len(clock.log) == 20


def test_a_fast_subject_warms_up_a_fifth_of_a_second_and_is_measured_three() -> None:
    clock = FakeClock()
    trial = measure({"model": (1, clock.subject("a", 1 / 1024))}, Rules(), clock)["model"]
    assert trial.warmup_runs == 205  # the first count of 1/1024 s at or above 0.2 s
    assert trial.wall == 3.0
    assert len(trial.samples) == 3072


def test_warm_up_runs_are_in_no_sample() -> None:
    clock = FakeClock()
    slow_start = [5.0] * 10
    trial = measure({"model": (1, clock.subject("a", *slow_start, 0.5))}, Rules(), clock)["model"]
    assert set(trial.samples) == {0.5}


def test_two_subjects_take_turns_and_each_turn_opens_with_an_unmeasured_run() -> None:
    clock = FakeClock()
    rules = Rules(warmup=0.0, warmup_runs=0, duration=3.0, iterations=10)
    subjects = {"model": (1, clock.subject("a", 0.25)), "baseline": (1, clock.subject("b", 0.125))}
    trials = measure(subjects, rules, clock)
    assert clock.log == ("a" + "aa" + "b" + "bbbb") * BLOCKS
    assert [len(block) for block in trials["model"].blocks] == [2] * BLOCKS
    assert [len(block) for block in trials["baseline"].blocks] == [4] * BLOCKS


def test_all_subjects_get_as_many_turns_as_the_slowest_needs() -> None:
    clock = FakeClock()
    rules = Rules(warmup=0.0, warmup_runs=0, duration=0.75, iterations=20)
    trials = measure({"slow": (1, clock.subject("a", 1.0)), "fast": (1, clock.subject("b", 1 / 64))}, rules, clock)
    assert len(trials["slow"].blocks) == len(trials["fast"].blocks) == 10
    assert len(trials["slow"].samples) == 20
    assert len(trials["fast"].samples) == 80


def test_the_ratio_comes_with_the_spread_of_its_turns() -> None:
    model = Trial(images=1, blocks=[[0.2, 0.2], [0.1, 0.1]], walls=[0.4, 0.2])
    baseline = Trial(images=1, blocks=[[0.1, 0.1], [0.1, 0.1]], walls=[0.2, 0.2])
    ratio = Ratio.of(model, baseline)
    assert ratio.fps == pytest.approx((4 / 0.6) / (4 / 0.4))
    assert ratio.medians == pytest.approx(0.1 / 0.15)
    assert ratio.blocks == pytest.approx((0.5, 1.0))


def test_ratio_of_medians_is_per_image() -> None:
    model = Trial(images=4, blocks=[[0.4]], walls=[0.4])
    baseline = Trial(images=1, blocks=[[0.1]], walls=[0.1])
    assert Ratio.of(model, baseline).medians == pytest.approx(1.0)


def test_throughput_is_over_the_wall_and_counts_images() -> None:
    trial = Trial(images=4, blocks=[[0.2, 0.2], [0.2]], walls=[0.5, 0.25])
    assert trial.fps == pytest.approx(12 / 0.75)
    assert trial.summary().median == pytest.approx(200.0)


def test_what_was_asked_replaces_the_rule_and_the_report_says_so() -> None:
    rules = Rules.of(warmup=0.5, duration=1.0, iterations=3)
    assert (rules.warmup, rules.warmup_runs, rules.duration, rules.iterations) == (0.5, 0, 1.0, 3)
    assert rules.overridden == ("--warmup 0.5", "--duration 1", "--iterations 3")
    assert "rules overridden: --warmup 0.5, --duration 1, --iterations 3" in rules.describe()
    assert Rules.of().describe() == ("warm-up at least 0.2 s and 10 runs, measured at least 3 s and 10 runs")


def test_no_warm_up_can_be_asked_for() -> None:
    clock = FakeClock()
    rules = Rules.of(warmup=0.0, duration=0.0, iterations=1)
    trial = measure({"model": (1, clock.subject("a", 1.0))}, rules, clock)["model"]
    assert trial.warmup_runs == 0
    assert trial.samples == [1.0, 1.0]


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"iterations": 0}, "--iterations 0"),
        ({"duration": -1.0}, "--duration -1.0"),
        ({"warmup": float("nan")}, "--warmup nan"),
        ({"duration": float("inf")}, "--duration inf"),
    ],
)
def test_rules_that_measure_nothing_are_refused(asked: dict, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        Rules.of(**asked)

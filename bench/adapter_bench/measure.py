"""Runs what is to be measured, warmed up and interleaved, and keeps every sample. Rules of trtexec, in short."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from adapter_bench.summary import Summary
from adapter_infer.errors import UsageError

Clock = Callable[[], float]


class OnDevice(NamedTuple):
    """What a run on a GPU tells of itself, in milliseconds: the GPU's time by its own clock, from the first to the last
    of the work, and the host's time to hand the work over."""

    gpu_ms: float
    enqueue_ms: float


@dataclass(frozen=True)
class Rules:
    """How long to warm up and to measure. Every figure is a lower bound: a run that has begun is finished.

    warm-up: at least `warmup` seconds and `warmup_runs` runs. Measured: at least `duration` seconds and `iterations`
    runs of each subject. `overridden` names the options that replaced a default.
    """

    warmup: float = 0.2
    warmup_runs: int = 10
    duration: float = 3.0
    iterations: int = 10
    overridden: tuple[str, ...] = ()

    @staticmethod
    def of(*, warmup: float | None = None, duration: float | None = None, iterations: int | None = None) -> Rules:
        """The default rules with what the user asked instead; a `warmup` of one's own lifts the ten runs as well."""
        if iterations is not None and iterations < 1:
            raise UsageError(f"--iterations {iterations} measures nothing; ask for at least 1")
        for name, seconds in (("--warmup", warmup), ("--duration", duration)):
            if seconds is not None and not 0 <= seconds < float("inf"):
                raise UsageError(f"{name} {seconds} is not a number of seconds from 0 up")
        asked = {"--warmup": warmup, "--duration": duration, "--iterations": iterations}
        default = Rules()
        return Rules(
            warmup=default.warmup if warmup is None else warmup,
            warmup_runs=default.warmup_runs if warmup is None else 0,
            duration=default.duration if duration is None else duration,
            iterations=default.iterations if iterations is None else iterations,
            overridden=tuple(f"{name} {value:g}" for name, value in asked.items() if value is not None),
        )

    def describe(self) -> str:
        """One line for a report."""
        runs = f" and {self.warmup_runs} runs" if self.warmup_runs else ""
        warmup = f"warm-up at least {self.warmup:g} s{runs}"
        changed = f" (rules overridden: {', '.join(self.overridden)})" if self.overridden else ""
        return f"{warmup}, measured at least {self.duration:g} s and {self.iterations} runs{changed}"


# A subject is measured in turns ("blocks"), so that a drift of the machine meets all subjects alike.
BLOCKS = 6
RUNS_PER_BLOCK = 2


@dataclass
class Trial:
    """What was measured of one subject. Times in seconds; `images` per run.

    `blocks` holds the run times of each turn, `walls` the wall time of each turn, first run to end of the last.
    `on_device` holds what the measured runs returned of that kind: one entry for each, or none.
    """

    images: int
    warmup_runs: int = 0
    blocks: list[list[float]] = field(default_factory=list)
    walls: list[float] = field(default_factory=list)
    on_device: list[OnDevice] = field(default_factory=list)

    @property
    def samples(self) -> list[float]:
        return [sample for block in self.blocks for sample in block]

    @property
    def wall(self) -> float:
        return sum(self.walls)

    @property
    def fps(self) -> float:
        """Throughput: images per second over the wall, what lies between the runs included."""
        return self.images * len(self.samples) / self.wall

    def summary(self) -> Summary:
        """Figures of the latency of one batch, in milliseconds."""
        return Summary.of([1e3 * sample for sample in self.samples])


@dataclass(frozen=True)
class Ratio:
    """Subject against baseline, from the same run; above 1 the subject is the faster.

    `fps`: ratio of the throughputs. `medians`: baseline's median latency over the subject's, per image.
    `blocks`: ratio of the throughputs turn by turn, whose spread says how far the first two can be trusted.
    """

    fps: float
    medians: float
    blocks: tuple[float, ...]

    @staticmethod
    def of(subject: Trial, baseline: Trial) -> Ratio:
        def per_second(trial: Trial, block: int) -> float:
            return trial.images * len(trial.blocks[block]) / trial.walls[block]

        pairs = range(min(len(subject.blocks), len(baseline.blocks)))
        per_image = [trial.summary().median / trial.images for trial in (baseline, subject)]
        return Ratio(
            fps=subject.fps / baseline.fps,
            medians=per_image[0] / per_image[1],
            blocks=tuple(per_second(subject, i) / per_second(baseline, i) for i in pairs),
        )


def measure(
    subjects: Mapping[str, tuple[int, Callable[[], object]]], rules: Rules, clock: Clock = time.perf_counter
) -> dict[str, Trial]:
    """Measures the subjects (name -> images per run, run) in turns A B A B .., all in this process.

    With several subjects each turn opens with one run that is not measured: it pays for the caches and the spinning
    threads that the other subject left behind. All subjects get the same number of turns.
    """
    trials = {name: Trial(images) for name, (images, _) in subjects.items()}
    for name, (_, run) in subjects.items():
        trials[name].warmup_runs = _warm_up(run, rules, clock)
    while any(_wants_more(trial, rules) for trial in trials.values()):
        for name, (_, run) in subjects.items():
            if len(subjects) > 1:
                run()
            _block(trials[name], run, rules, clock)
    return trials


def _warm_up(run: Callable[[], object], rules: Rules, clock: Clock) -> int:
    runs, begin = 0, clock()
    while runs < rules.warmup_runs or clock() - begin < rules.warmup:
        run()
        runs += 1
    return runs


def _wants_more(trial: Trial, rules: Rules) -> bool:
    return trial.wall < rules.duration or len(trial.samples) < rules.iterations


def _block(trial: Trial, run: Callable[[], object], rules: Rules, clock: Clock) -> None:
    block: list[float] = []
    begin = end = clock()
    while len(block) < RUNS_PER_BLOCK or end - begin < rules.duration / BLOCKS:
        before = clock()
        told = run()
        end = clock()
        block.append(end - before)
        if isinstance(told, OnDevice):
            trial.on_device.append(told)
    trial.blocks.append(block)
    trial.walls.append(end - begin)

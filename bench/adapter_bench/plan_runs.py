"""Runs of a TensorRT plan between two events of its stream, and the ways in which such a run can be made."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from adapter_bench import report
from adapter_bench.measure import OnDevice, Rules, measure

if TYPE_CHECKING:
    from adapter_engines.plan_context import PlanContext
    from adapter_engines.plan_engine import PlanEngine

GRAPH, NO_GRAPH, WITH_COPIES = "CUDA graph", "no CUDA graph", "arrays on the host in and out"


class Mark(Protocol):
    """A point in a stream's work, as adapter_engines.device.Event is one."""

    def record(self, stream: Any) -> None: ...

    def synchronize(self) -> None: ...

    def elapsed_ms(self, end: Any) -> float: ...


@dataclass(frozen=True)
class Ready:
    """An execution context with its inputs on the GPU; `run` runs it once and waits for it."""

    context: PlanContext
    run: Callable[[], OnDevice]
    begin: Mark
    end: Mark

    @property
    def graph(self) -> dict[str, Any]:
        """Whether runs are launched as a CUDA graph, and if that was refused, why."""
        return {"in_use": self.context.graph_in_use, "refusal": self.context.graph_refusal}


@contextmanager
def ready(engine: PlanEngine, feeds: Mapping[str, Any], cuda_graph: bool) -> Iterator[Ready]:
    """Errors: as of `PlanContext.set_inputs`."""
    from adapter_engines.device import Event

    with engine.context() as context, Event() as begin, Event() as end:
        context.use_graph(cuda_graph)
        context.set_inputs(feeds)
        yield Ready(context, timed(context, begin, end), begin, end)


def timed(
    context: Any, begin: Mark, end: Mark, clock: Callable[[], float] = time.perf_counter
) -> Callable[[], OnDevice]:
    """What runs `context` once, waits, and tells the GPU's time between the events and the host's in `enqueue`."""

    def run() -> OnDevice:
        begin.record(context.stream)
        before = clock()
        context.enqueue()
        after = clock()
        end.record(context.stream)
        end.synchronize()
        return OnDevice(begin.elapsed_ms(end), 1e3 * (after - before))

    return run


def other_ways(
    engine: PlanEngine, main: Ready, feeds: Mapping[str, Any], cuda_graph: bool, batch: int, rules: Rules
) -> list[dict[str, Any]]:
    """The run with a CUDA graph and without one, and whole runs from and to numpy arrays, all in turns.

    Each with its latency, the GPU's time and the time to enqueue; the last with its copies in and out, host side
    included.
    """
    copies = Copies(main, feeds)
    with ready(engine, feeds, not cuda_graph) as other:
        with_graph, without = (main, other) if cuda_graph else (other, main)
        ways: dict[str, tuple[int, Callable[[], object]]] = {
            GRAPH: (batch, with_graph.run),
            NO_GRAPH: (batch, without.run),
            WITH_COPIES: (batch, copies.run),
        }
        trials = measure(ways, rules)
        refusal = with_graph.context.graph_refusal
    rows = []
    for name, trial in trials.items():
        gpu = [run.gpu_ms for run in trial.on_device]
        row: dict[str, Any] = {"name": name, "fps": trial.fps, "latency_ms": report.latency(trial)}
        row["gpu_ms"] = report.figures(gpu)
        row["enqueue_ms"] = report.figures([run.enqueue_ms for run in trial.on_device])
        row["refusal"] = refusal if name == GRAPH else None
        row["copy_in_ms"] = report.figures(copies.copy_in_ms) if name == WITH_COPIES else None
        row["copy_out_ms"] = report.figures(copies.copy_out_ms) if name == WITH_COPIES else None
        rows.append(row)
    return rows


class Copies:
    """Whole runs as a caller with numpy arrays makes them. Milliseconds of each copy are kept, warm-up included."""

    def __init__(self, main: Ready, feeds: Mapping[str, Any], clock: Callable[[], float] = time.perf_counter) -> None:
        self._main, self._feeds, self._clock = main, feeds, clock
        self.copy_in_ms: list[float] = []
        self.copy_out_ms: list[float] = []

    def run(self) -> OnDevice:
        begin = self._clock()
        self._main.context.set_inputs(self._feeds)
        self._main.context.stream.synchronize()
        there = self._clock()
        told = self._main.run()
        done = self._clock()
        self._main.context.outputs()
        self.copy_out_ms.append(1e3 * (self._clock() - done))
        self.copy_in_ms.append(1e3 * (there - begin))
        return told

"""Times calls in turns: on a GPU by CUDA events around replays of a CUDA graph, on the CPU by the wall clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapter_bench.summary import Summary


@dataclass(frozen=True)
class Replay:
    """Several calls that run as one. `form` is "CUDA graph", or "one by one" with `why`.

    It keeps the calls: a graph holds bare addresses of their inputs and outputs, and would write to memory that has
    long been somebody else's.
    """

    run: Callable[[], object]
    calls: tuple[Callable[[], object], ...]
    form: str
    why: str | None = None


@dataclass
class Timing:
    """Milliseconds of one call, a sample for each replay; `turns` says how many samples each turn took."""

    samples: list[float] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """As JSON data, the samples included."""
        summary = Summary.of(self.samples)
        return {
            "median": summary.median,
            "min": summary.min,
            "max": summary.max,
            "variation": summary.variation,
            "count": summary.count,
            "samples": [round(sample, 6) for sample in self.samples],
            "turns": self.turns,
        }


def replay(calls: Sequence[Callable[[], object]], device: str) -> Replay:
    """All `calls` one after the other: captured in a CUDA graph where that works, else enqueued one by one."""

    def one_by_one() -> None:
        for call in calls:
            call()

    if device == "cpu":
        return Replay(one_by_one, tuple(calls), "one by one", "no GPU")
    import torch

    stream = torch.cuda.current_stream()
    try:
        return Replay(_captured(one_by_one), tuple(calls), "CUDA graph")
    except Exception as error:  # whatever a rival does that no graph can hold; it is timed all the same
        torch.cuda.set_stream(stream)  # a capture that failed to end leaves its own behind
        torch.cuda.synchronize()
        one_by_one()
        return Replay(one_by_one, tuple(calls), "one by one", f"not captured: {' '.join(str(error).split())[:160]}")


def _captured(run: Callable[[], None]) -> Callable[[], None]:
    """`run` as a CUDA graph. It runs twice before, on the same stream: kernels are loaded and tuned then."""
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
        run()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        run()
    return graph.replay


def stopwatch(device: str) -> Callable[[Callable[[], object]], float]:
    """A function that runs something once and says how many milliseconds it took on the device."""
    if device == "cpu":

        def by_wall(run: Callable[[], object]) -> float:
            begin = time.perf_counter()
            run()
            return 1e3 * (time.perf_counter() - begin)

        return by_wall
    import torch

    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def by_events(run: Callable[[], object]) -> float:
        begin.record()
        run()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end))

    return by_events


def take_turns(
    replays: Mapping[str, Replay],
    watch: Callable[[Callable[[], object]], float],
    rounds: int = 5,
    turn_ms: float = 20.0,
    least: int = 3,
) -> dict[str, Timing]:
    """Milliseconds of a call of each, A B C A B C ..: a turn is one replay that is not counted, then at least `least`
    replays and `turn_ms` milliseconds of them."""
    timings = {name: Timing() for name in replays}
    for _ in range(rounds):
        for name, one in replays.items():
            watch(one.run)
            spent, count = 0.0, 0
            while count < least or spent < turn_ms:
                took = watch(one.run)
                timings[name].samples.append(took / len(one.calls))
                spent, count = spent + took, count + 1
            timings[name].turns.append(count)
    return timings

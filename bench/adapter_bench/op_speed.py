"""Times the MSDeformAttn op against the same thing made of ONNX's GridSample and against torch-ms-deform-attn.

    python -m adapter_bench.op_speed [--threads 1,2] [--json FILE]

ViT-Adapter-B at 512x512: the injector asks 1024 queries of three levels, the extractor 5376 queries of one. All rivals
run in one process, take turns, get the same inputs, each in memory of its own runtime, and must agree before a time is
taken. Each is timed twice: from offsets and logits ("softmax and locations included", what a network has at hand) and
from finished locations and weights. How busy other programs kept the processor meanwhile is printed with the times.
torch-ms-deform-attn is optional: `pip install --no-deps torch-ms-deform-attn==0.1.1`.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from adapter_bench import machine, op_roof
from adapter_bench.op_rivals import GRID_SAMPLE, OURS, TORCH_OP, WORKLOADS, Workload, rivals
from adapter_infer import command_line
from adapter_infer.errors import EnvironmentMissing, UsageError

PROG = "python -m adapter_bench.op_speed"
# ONNX Runtime's threads go on spinning for tens of milliseconds; while a rival's do, a worker of the next one waits for
# its core, four milliseconds at a time.
PAUSE = 0.1  # seconds
WARMUP = 3  # calls: inside a model threads are awake and caches filled


@dataclass
class Timing:
    """Times of one rival on one workload in milliseconds of wall clock."""

    workload: str
    rival: str
    included: bool
    threads: int
    samples_ms: list[float]

    @property
    def least(self) -> float:
        return min(self.samples_ms)

    @property
    def median(self) -> float:
        return statistics.median(self.samples_ms)


def measure(work: Workload, included: bool, threads: int, rounds: int) -> list[Timing]:
    """Rivals take turns: calls to warm up, three that count, and a pause in which idle threads stop spinning."""
    calls = rivals(work, included, threads)
    timings = {name: Timing(work.name, name, included, threads, []) for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            for _ in range(WARMUP):
                call()
            for _ in range(3):
                start = time.perf_counter()
                call()
                timings[name].samples_ms.append((time.perf_counter() - start) * 1e3)
            time.sleep(PAUSE)
    return list(timings.values())


def circumstances() -> dict[str, str]:
    """What the numbers were taken on and with."""
    from adapter_plugins import ORT_CPU, build_info, instruction_set

    cpu = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    found = {
        "cpu": f"{cpu}, {os.cpu_count()} cores",
        "load": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
    }
    for name in ("onnxruntime", "torch", "torch-ms-deform-attn"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found | {"library": build_info().get(ORT_CPU, "?"), "code path": instruction_set()}


def show(timings: list[Timing], rounds: int, found: dict[str, str]) -> None:
    """The table: times, and how many times slower than this op each rival is."""
    from rich.console import Console
    from rich.table import Table

    title = f"MSDeformAttn, ViT-Adapter-B 512x512, fp32, batch 1, {3 * rounds} timed calls each; ms as min / median"
    table = Table(title=title, title_justify="left")
    table.add_column("")
    table.add_column("threads", justify="right")
    table.add_column("softmax and locations")
    names = [name for name in (OURS, GRID_SAMPLE, TORCH_OP) if any(t.rival == name for t in timings)]
    for name in names:
        table.add_column(name, justify="right")
        if name != OURS:
            table.add_column("ratio of min (median)", justify="right", style="bold")
    rows: dict[tuple[str, int, bool], dict[str, Timing]] = {}
    for timing in timings:
        rows.setdefault((timing.workload, timing.threads, timing.included), {})[timing.rival] = timing
    for (workload, threads, included), row in rows.items():
        ours = row[OURS]
        cells = [workload, str(threads), "included" if included else "finished"]
        for name in names:
            cells.append(f"{row[name].least:.2f} / {row[name].median:.2f}")
            if name != OURS:
                cells.append(f"{row[name].least / ours.least:.1f}x ({row[name].median / ours.median:.1f}x)")
        table.add_row(*cells)
    console = Console()
    for name, value in found.items():
        console.print(f"{name:20} {value}", highlight=False)
    console.print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = command_line.parser(PROG, (__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", default="1,2", metavar="N[,N]", help="numbers of threads (default: %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=40, help="turns of each rival, three timed calls each (default: 40)"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="workloads whose name holds this text")
    parser.add_argument("--json", metavar="FILE", help="write every sample and the circumstances here")
    options = parser.parse_args(argv)
    try:
        threads = [int(part) for part in options.threads.split(",")]
    except ValueError:
        raise UsageError(
            f"--threads {options.threads} is not a list of numbers; give for example --threads 1,2"
        ) from None
    if min(threads) < 1 or options.rounds < 1:
        raise UsageError("--threads and --rounds must be at least 1")
    chosen = [work for work in WORKLOADS if options.only in work.name]
    if not chosen:
        raise UsageError(f"--only {options.only} matches none of: {', '.join(work.name for work in WORKLOADS)}")
    timings: list[Timing] = []
    roofs: dict[str, dict[str, float]] = {}
    others = machine.OtherPrograms()
    for count in threads:
        _set_torch_threads(count)
        if options.json:
            with command_line.step(f"measuring what memory and arithmetic reach, {count} threads"):
                roofs[f"{count} thread{'s' if count != 1 else ''}"] = op_roof.roof()
        for work in chosen:
            for included in (True, False):
                with command_line.step(f"{work.name}, {count} threads"):
                    timings += measure(work, included, count, options.rounds)
    busy = others.cores()
    found = circumstances() | {"other programs": "unknown" if busy is None else f"{busy:.2f} cores busy meanwhile"}
    show(timings, options.rounds, found)
    if options.json:
        told = {one.name: op_roof.work(one) for one in chosen}
        report = {
            "circumstances": found,
            "timings": [asdict(timing) for timing in timings],
            "work": told,
            "roof": roofs,
        }
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    return 0


def _set_torch_threads(count: int) -> None:
    try:
        import torch
    except (
        ImportError
    ) as error:  # a base dependency of the distribution; without it nothing here was installed properly
        raise EnvironmentMissing(
            f"torch cannot be imported ({error}); install adapter-infer with its dependencies"
        ) from None
    torch.set_num_threads(count)


if __name__ == "__main__":
    raise SystemExit(command_line.run(PROG, main))

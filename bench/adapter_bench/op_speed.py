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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_infer import command_line
from adapter_infer.errors import EnvironmentMissing, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnx import ModelProto

PROG = "python -m adapter_bench.op_speed"
OURS, GRID_SAMPLE, TORCH_OP = "this op", "ORT GridSample", "torch-ms-deform-attn"
Shapes = tuple[tuple[int, int], ...]
GRIDS: Shapes = ((64, 64), (32, 32), (16, 16))  # strides 8, 16, 32 of a 512x512 image


@dataclass(frozen=True)
class Workload:
    """One call: M heads of D channels, Q queries on `query_shapes`, P points in each level of `shapes`, batch 1."""

    name: str
    shapes: Shapes
    query_shapes: Shapes
    d: int
    m: int = 12
    p: int = 4

    @property
    def s(self) -> int:
        return sum(h * w for h, w in self.shapes)

    @property
    def q(self) -> int:
        return sum(h * w for h, w in self.query_shapes)


WORKLOADS = [
    Workload("injector D=32", GRIDS, GRIDS[1:2], 32),
    Workload("injector D=64", GRIDS, GRIDS[1:2], 64),
    Workload("extractor D=32", GRIDS[1:2], GRIDS, 32),
    Workload("extractor D=64", GRIDS[1:2], GRIDS, 64),
]


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


def inputs(work: Workload) -> dict[str, NDArray[np.float32]]:
    """value, reference, offsets, logits, and what follows from them: locations, weights. Seeded.

    Offsets are the module's initial ones (head m looks at angle 2*pi*m/M, point p is p+1 cells away) plus normal noise
    of 2 cells, independent from query to query: trained offsets vary less from one query to the next.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    levels, rows = len(work.shapes), (1, work.q, work.m)
    centres = [
        np.stack(np.meshgrid((np.arange(w) + 0.5) / w, (np.arange(h) + 0.5) / h), -1).reshape(-1, 2)
        for h, w in work.query_shapes
    ]
    reference = np.concatenate(centres).astype(np.float32)[None, :, None]
    angle = np.arange(work.m) * 2 * np.pi / work.m
    direction = np.stack([np.cos(angle), np.sin(angle)], -1)
    direction /= np.abs(direction).max(-1, keepdims=True)
    distance = np.arange(1, work.p + 1)[:, None]
    offsets = rng.standard_normal((*rows, levels, work.p, 2)) * 2 + direction[:, None, None] * distance
    logits = rng.standard_normal((*rows, levels * work.p)).astype(np.float32)
    size = np.array([(w, h) for h, w in work.shapes], np.float32)[:, None]
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    offsets = offsets.astype(np.float32)
    return {
        "value": rng.standard_normal((1, work.s, work.m, work.d)).astype(np.float32),
        "reference": reference,
        "offsets": offsets,
        "logits": logits,
        "locations": reference[:, :, None, :, None] + offsets / size,
        "weights": powers / powers.sum(-1, keepdims=True),
    }


def our_model(work: Workload, included: bool) -> ModelProto:
    """The one node: fused from `value`, `reference`, `samples`, or standard from `value`, `locations`, `weights`."""
    import numpy as np
    from onnx import helper, numpy_helper

    levels = len(work.shapes)
    shapes = np.array(work.shapes, np.int64)
    constants = {"shapes": shapes, "starts": np.cumsum(shapes.prod(1)) - shapes.prod(1)}
    row = [1, work.q, work.m]
    sizes = {"value": [1, work.s, work.m, work.d]}
    if included:
        sizes |= {"reference": [1, work.q, 1, 2], "samples": [*row, 3 * levels * work.p]}
        node = helper.make_node("MSDeformAttn", ["value", "shapes", "reference", "samples"], ["output"])
        del constants["starts"]
    else:
        sizes |= {"locations": [*row, levels, work.p, 2], "weights": [*row, levels, work.p]}
        names = ["value", "shapes", "starts", "locations", "weights"]
        node = helper.make_node("MultiScaleDeformableAttention", names, ["output"])
    node.domain = "adapter_infer"
    return _model([node], sizes, work, [numpy_helper.from_array(array, name) for name, array in constants.items()])


def grid_sample_model(work: Workload, included: bool) -> ModelProto:
    """The usual decomposition: one GridSample a level over (M, D, H, W), then the weighted sum."""
    import numpy as np
    from onnx import helper, numpy_helper

    levels, points = len(work.shapes), len(work.shapes) * work.p
    constants: dict[str, NDArray[Any]] = {
        "one": np.ones((), np.float32),
        "two": np.full((), 2, np.float32),
        "cells": np.array([h * w for h, w in work.shapes], np.int64),
        "last": np.array([-1], np.int64),
        "weights_shape": np.array([work.m, 1, work.q, points], np.int64),
        "output_shape": np.array([1, work.m * work.d, work.q], np.int64),
        "grid_shape": np.array([work.m, work.q, work.p, 2], np.int64),
        "size": np.array([(w, h) for h, w in work.shapes], np.float32).reshape(1, 1, 1, levels, 1, 2),
    }
    nodes = []

    def add(op: str, names: str, **attributes: Any) -> None:
        sources, _, results = names.partition(" -> ")
        nodes.append(helper.make_node(op, sources.split(), results.split(), **attributes))

    row = [1, work.q, work.m]
    sizes = {"value": [1, work.s, work.m, work.d]}
    if included:
        sizes |= {"reference": [1, work.q, 1, 1, 1, 2], "offsets": [*row, levels, work.p, 2], "logits": [*row, points]}
        add("Div", "offsets size -> shifts")
        add("Add", "reference shifts -> locations")
        add("Softmax", "logits -> weights", axis=-1)
    else:
        sizes |= {"locations": [*row, levels, work.p, 2], "weights": [*row, points]}
        del constants["size"]
    add("Mul", "locations two -> doubled")
    add("Sub", "doubled one -> grid")
    add("Split", "value cells -> " + " ".join(f"value{level}" for level in range(levels)), axis=1)
    for level, (h, w) in enumerate(work.shapes):
        constants |= {f"map_shape{level}": np.array([work.m, work.d, h, w], np.int64), f"level{level}": np.array(level)}
        add("Transpose", f"value{level} -> channels{level}", perm=[0, 2, 3, 1])
        add("Reshape", f"channels{level} map_shape{level} -> map{level}")
        add("Gather", f"grid level{level} -> grid_of{level}", axis=3)
        add("Transpose", f"grid_of{level} -> heads{level}", perm=[0, 2, 1, 3, 4])
        add("Reshape", f"heads{level} grid_shape -> grid{level}")
        add("GridSample", f"map{level} grid{level} -> sampled{level}", mode="bilinear", padding_mode="zeros")
    add("Concat", " ".join(f"sampled{level}" for level in range(levels)) + " -> sampled", axis=-1)
    add("Transpose", "weights -> weights_of_heads", perm=[0, 2, 1, 3])
    add("Reshape", "weights_of_heads weights_shape -> factors")
    add("Mul", "sampled factors -> weighted")
    add("ReduceSum", "weighted last -> summed", keepdims=0)
    add("Reshape", "summed output_shape -> columns")
    add("Transpose", "columns -> output", perm=[0, 2, 1])
    return _model(nodes, sizes, work, [numpy_helper.from_array(array, name) for name, array in constants.items()])


def _model(nodes: list[Any], sizes: dict[str, list[int]], work: Workload, constants: list[Any]) -> ModelProto:
    from onnx import TensorProto, helper

    ins = [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in sizes.items()]
    out = [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, work.q, work.m * work.d])]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("adapter_infer", 1)]
    return helper.make_model(helper.make_graph(nodes, "op", ins, out, constants), opset_imports=opsets, ir_version=10)


def ort_rival(model: ModelProto, feeds: dict[str, NDArray[Any]], threads: int) -> Callable[[], NDArray[Any]]:
    """A call that runs `model` with everything bound beforehand, and returns its (reused) output."""
    import numpy as np
    import onnxruntime

    from adapter_plugins import library

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(str(library("msda_ort_cpu")))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for item in session.get_inputs():
        array = np.ascontiguousarray(feeds[item.name].reshape(item.shape))
        # ONNX Runtime's own memory, aligned as between two nodes of a model; numpy's is aligned to 16 bytes only.
        value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(item.shape, np.float32)
        value.update_inplace(array)
        binding.bind_ortvalue_input(item.name, value)
    output = onnxruntime.OrtValue.ortvalue_from_shape_and_type(session.get_outputs()[0].shape, np.float32)
    binding.bind_ortvalue_output("output", output)

    def call() -> NDArray[Any]:
        session.run_with_iobinding(binding)
        return output

    return call


def torch_rival(work: Workload, feeds: dict[str, NDArray[Any]], included: bool) -> Callable[[], Any]:
    """torch-ms-deform-attn; raises ImportError where it is not installed."""
    import torch
    from torch_ms_deform_attn import ms_deform_attn

    tensors = {name: torch.from_numpy(array).clone() for name, array in feeds.items()}  # in torch's own memory
    shapes = torch.tensor(work.shapes)
    starts = shapes.prod(1).cumsum(0) - shapes.prod(1)
    size = shapes.flip(1).float()[:, None]
    rows = (1, work.q, work.m, len(work.shapes), work.p)

    def call() -> Any:
        locations, weights = tensors["locations"], tensors["weights"]
        if included:
            locations = tensors["reference"][:, :, None, :, None] + tensors["offsets"] / size
            weights = tensors["logits"].softmax(-1)
        return ms_deform_attn(tensors["value"], shapes, starts, locations, weights.reshape(rows))

    return call


def rivals(work: Workload, included: bool, threads: int) -> dict[str, Callable[[], Any]]:
    """Calls by name, each checked against ours."""
    import numpy as np

    feeds = inputs(work)
    rows = (1, work.q, work.m)
    ours = feeds | {
        "samples": np.concatenate([feeds["offsets"].reshape(*rows, -1), feeds["logits"]], -1),
    }
    calls: dict[str, Callable[[], Any]] = {
        OURS: ort_rival(our_model(work, included), ours, threads),
        GRID_SAMPLE: ort_rival(grid_sample_model(work, included), feeds, threads),
    }
    try:
        calls[TORCH_OP] = torch_rival(work, feeds, included)
    except ImportError as error:
        print(f"{TORCH_OP} is left out: {error}") if work is WORKLOADS[0] and included else None
    truth = np.array(calls[OURS]().numpy())
    for name, call in calls.items():
        difference = float(np.abs(call().numpy().reshape(truth.shape) - truth).max())
        if not difference < 1e-4:
            raise UsageError(
                f"{name} differs from {OURS} by {difference:.1e} on {work.name}: there is nothing to compare"
            )
    return calls


def measure(work: Workload, included: bool, threads: int, rounds: int) -> list[Timing]:
    """Rivals take turns: one call to warm up, three that count, and a pause in which idle threads stop spinning."""
    calls = rivals(work, included, threads)
    timings = {name: Timing(work.name, name, included, threads, []) for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            call()
            for _ in range(3):
                start = time.perf_counter()
                call()
                timings[name].samples_ms.append((time.perf_counter() - start) * 1e3)
            time.sleep(0.005)
    return list(timings.values())


def circumstances() -> dict[str, str]:
    """What the numbers were taken on and with."""
    from adapter_plugins import build_info, instruction_set

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
    return found | {"library": build_info().get("msda_ort_cpu", "?"), "code path": instruction_set()}


class Neighbours:
    """How many cores other programs kept busy since this was made; Linux only, None elsewhere."""

    def __init__(self) -> None:
        self.start = self._used()

    def cores(self) -> float | None:
        end = self._used()
        if self.start is None or end is None or end[0] <= self.start[0]:
            return None
        return max(0.0, (end[1] - self.start[1]) / (end[0] - self.start[0]))

    @staticmethod
    def _used() -> tuple[float, float] | None:
        """Wall clock, and processor seconds of everything but this process."""
        stat = Path("/proc/stat")
        if not stat.is_file():
            return None
        user, nice, system, _idle, _wait, irq, softirq, steal, *_ = map(
            int, stat.read_text().split("\n")[0].split()[1:]
        )
        own = os.times()
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return time.monotonic(), busy - own.user - own.system


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
    neighbours = Neighbours()
    for count in threads:
        _set_torch_threads(count)
        for work in chosen:
            for included in (True, False):
                with command_line.step(f"{work.name}, {count} threads"):
                    timings += measure(work, included, count, options.rounds)
    busy = neighbours.cores()
    found = circumstances() | {"other programs": "unknown" if busy is None else f"{busy:.2f} cores busy meanwhile"}
    show(timings, options.rounds, found)
    if options.json:
        report = {"circumstances": found, "timings": [asdict(timing) for timing in timings]}
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

"""ONNX Runtime measured on a GPU: inputs and outputs in its memory, with a CUDA graph and without, copies apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adapter_bench import bare, child, report
from adapter_bench.measure import Rules, measure
from adapter_bench.plan_runs import GRAPH, NO_GRAPH, WITH_COPIES
from adapter_engines import Engine
from adapter_infer.errors import UnsupportedModel

if TYPE_CHECKING:
    from adapter_engines.ort_device import BoundRun
    from adapter_engines.ort_engine import OrtEngine

CONTENT = ("count", "scores")  # of a detector's outputs: how much work it found
MEMORY_METHOD = (
    "GPU memory: what its used memory grew by while the model was loaded and run, in a process that does nothing else; "
    "kernels and the runtime's pool included, the bare CUDA context not"
)
RUNS = 3


class DeviceTimes:
    """An engine on the GPU with one batch in place. `graph` tells whether runs are launched as a CUDA graph, and if
    the model refused that, why."""

    def __init__(self, path: Path, threads: int | None, cuda_graph: bool | None, held: ExitStack) -> None:
        self._path, self._threads, self._asked = path, threads, cuda_graph
        self.graph: dict[str, Any] = {"in_use": False, "refusal": None}
        self.engine = self._loaded(cuda_graph is not False)
        held.callback(self._close)
        self.found: dict[str, np.ndarray] = {}  # a detector's CONTENT in the last run
        self._feeds: Mapping[str, np.ndarray] = {}
        self._bound: BoundRun | None = None
        self._held = ExitStack()  # the batch at hand
        held.callback(self.release)

    def prepared(self, feeds: Mapping[str, np.ndarray]) -> Callable[[], object]:
        """Puts a batch into place of the one before; what runs it once and waits."""
        self.release()
        self._feeds = feeds
        try:
            self._bound = self._held.enter_context(self.engine.bound(feeds))
        except UnsupportedModel as error:  # what cannot be recorded shows at the first run only
            if self._asked:
                raise
            self.engine.close()
            self.graph["refusal"] = str(error)
            self.engine = self._loaded(False)
            self._bound = self._held.enter_context(self.engine.bound(feeds))
        return self._bound.run

    def ways(self, batch: int, rules: Rules) -> list[dict[str, Any]]:
        """The ways of running the batch at hand, in turns: each with its latency and images per second."""
        assert self._bound is not None
        feeds, main = self._feeds, self._bound
        with ExitStack() as held:
            runs: dict[str, Callable[[], object]] = {NO_GRAPH: main.run}
            if self.engine.cuda_graph:
                plain = held.enter_context(self.engine.bound(feeds, graph=False))
                runs = {GRAPH: main.run, NO_GRAPH: plain.run}
            trials = measure({name: (batch, run) for name, run in runs.items()}, rules)
        self.release()  # a run from and to numpy takes the places itself
        copied = measure({WITH_COPIES: (batch, lambda: self.engine.infer(feeds))}, rules)
        none = dict.fromkeys(("gpu_ms", "enqueue_ms", "copy_in_ms", "copy_out_ms", "refusal"))
        return [
            none | {"name": name, "fps": trial.fps, "latency_ms": report.latency(trial)}
            for name, trial in (trials | copied).items()
        ]

    def release(self) -> None:
        """Takes the batch at hand out of its place."""
        bound, self._bound = self._bound, None
        try:
            if bound is not None and set(CONTENT) <= {tensor.name for tensor in self.engine.outputs}:
                outputs = bound.outputs()
                self.found = {name: outputs[name].numpy() for name in CONTENT}
        finally:
            self._held.close()

    def _close(self) -> None:
        self.engine.close()

    def _loaded(self, cuda_graph: bool) -> OrtEngine:
        engine: Any
        try:
            engine = Engine.load(self._path, provider="cuda", threads=self._threads, cuda_graph=cuda_graph)
        except UnsupportedModel as error:
            if self._asked or not cuda_graph:
                raise
            self.graph["refusal"] = str(error)
            engine = Engine.load(self._path, provider="cuda", threads=self._threads)
        self.graph["in_use"] = engine.cuda_graph
        return engine


def opened(path: Path, threads: int | None, cuda_graph: bool | None, held: ExitStack) -> DeviceTimes:
    """The ONNX file at `path` on the GPU until `held` ends. `cuda_graph` None takes one where the model lets itself be.

    Errors: those of `Engine.load`; EnvironmentMissing without cuda-bindings.
    """
    from adapter_engines import device

    device.Device()  # refuses here what would fail at the first run
    return DeviceTimes(path, threads, cuda_graph, held)


def memory(path: Path, threads: int | None, cuda_graph: bool | None, feed: dict[str, Any]) -> dict[str, Any]:
    """GPU memory in bytes, in a process of its own; `feed` is what `bare.feeds` takes. Errors: as of `opened`."""
    return child.call(f"{__name__}:memory_here", path=str(path), threads=threads, cuda_graph=cuda_graph, feed=feed)


def memory_here(path: str, threads: int | None, cuda_graph: bool | None, feed: dict[str, Any]) -> dict[str, Any]:
    """`memory` without the child process."""
    from adapter_engines.device import Device

    gpu = Device()
    before = _used(gpu)
    with ExitStack() as held:
        times = opened(Path(path), threads, cuda_graph, held)
        loaded = _used(gpu)
        run = times.prepared(bare.feeds(**feed))
        for _ in range(RUNS):
            run()
        peak = _used(gpu)
    return {
        "method": MEMORY_METHOD,
        "runs": RUNS,
        "peak_bytes": max(peak, loaded) - before,
        "load_peak_bytes": None,
        "run_peak_bytes": None,
        "loaded_bytes": loaded - before,
        "activations_bytes": max(peak - loaded, 0),
    }


def _used(gpu: Any) -> int:
    info = gpu.info()
    return int(info.total_memory - info.free_memory)

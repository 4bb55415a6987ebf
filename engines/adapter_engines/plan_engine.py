"""A TensorRT plan as an Engine: one ICudaEngine for all threads, an execution context for each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_engines import device
from adapter_engines.engine import PLAN_PROVIDER, Engine
from adapter_engines.feeds import checked
from adapter_engines.plan_context import PlanContext
from adapter_engines.plan_file import OpenPlan, open_plan
from adapter_engines.plan_pool import ContextPool
from adapter_engines.plan_tensors import described
from adapter_infer.errors import UsageError

if TYPE_CHECKING:
    from adapter_engines.plans.sidecar import Sidecar

CONTEXTS = 4  # at most, where nothing is said: each holds the activations of its own run on the GPU
BATCH = 4


class PlanEngine(Engine):
    """A plan behind the face of Engine, and what only a plan can do. Open it with `Engine.load` or `open`.

    `sidecar` is the description beside the plan, None without one; `device` the GPU, the thread's current one when it
    was opened; `profiles` tells the shapes that the plan takes.
    """

    threads = None

    def __init__(self, plan: OpenPlan, *, profile: int | None, contexts: int | None, cuda_graph: bool) -> None:
        self._plan = plan
        self._profile = profile
        self._cuda_graph = cuda_graph
        self.path = plan.path
        self.metadata = plan.metadata
        self.provider = PLAN_PROVIDER
        self.runtime = ("tensorrt", plan.toolkit.version)
        self.library = plan.plugin
        self.sidecar: Sidecar | None = plan.sidecar
        self.device = plan.device
        self.inputs = tuple(tensor.info for tensor in plan.inputs)
        self.outputs = tuple(tensor.info for tensor in plan.outputs)
        self.profiles = described(plan.inputs)
        self.best_batch = min([BATCH, *(self._largest_batch(profile))])
        self._pool = ContextPool(
            str(plan.path), CONTEXTS if contexts is None else contexts, self._new_context, plan.close
        )

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        allow_embedded_code: bool = False,
        profile: int | None = None,
        contexts: int | None = None,
        cuda_graph: bool = False,
    ) -> PlanEngine:
        """The plan at `path`; arguments and errors as in `Engine.load`."""
        plan = open_plan(Path(path), allow_embedded_code=allow_embedded_code)
        try:
            count = len(plan.inputs[0].ranges) if plan.inputs else 1
            if profile is not None and (isinstance(profile, bool) or profile not in range(count)):
                raise UsageError(
                    f"there is no profile {profile!r}; {path} has {described(plan.inputs)}; give one of their numbers"
                )
            return cls(plan, profile=profile, contexts=contexts, cuda_graph=cuda_graph)
        except BaseException:
            plan.close()
            raise

    def infer(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        on_device = isinstance(feeds, Mapping) and any(device.is_device_array(value) for value in feeds.values())
        with self.context() as context:
            context.set_inputs(feeds)
            context.enqueue()
            return context.take_outputs() if on_device else context.outputs()

    @contextmanager
    def context(self) -> Iterator[PlanContext]:
        """An execution context for the calling thread, for as long as the block lasts; waits while all are lent.

        Errors: UsageError after `close`, or if this thread holds them all; AdapterError if one cannot be made.
        """
        with self.device.current(), self._pool.lend() as context:
            context.use_graph(self._cuda_graph)
            yield context

    def memory(self) -> dict[str, int | None]:
        """Bytes of device memory by what they are for.

        `weights` of the engine (None where this TensorRT does not tell), `context` the activations one context holds,
        `contexts` how many there are now, `buffers` their inputs and outputs, `driver` what else the GPU's used memory
        has grown by since the plan was opened (kernels, TensorRT's own; other programs on the GPU distort it), `used`
        all that is in use on the GPU now. Errors: UsageError after `close`.
        """
        engine = self._engine()
        stats = getattr(self._plan.toolkit.module, "EngineStat", None)
        weights = engine.get_engine_stat(stats.TOTAL_WEIGHTS_SIZE) if stats is not None else None
        info = self.device.info()
        used = info.total_memory - info.free_memory
        per_context = int(engine.device_memory_size_v2)
        buffers = self._pool.buffer_bytes()
        known = (weights or 0) + per_context * self._pool.made + buffers
        return {
            "weights": weights,
            "context": per_context,
            "contexts": self._pool.made,
            "buffers": buffers,
            "driver": max(0, used - self._plan.used_before - known),
            "used": used,
        }

    def layer_times(self, feeds: Mapping[str, Any], runs: int = 10) -> list[tuple[str, float]]:
        """(layer, mean milliseconds on the GPU) in the engine's order, over `runs` after one to warm up.

        In a context of its own, without a graph: TensorRT measures between layers, which takes time itself.
        Errors: as `infer`; UsageError unless `runs` is at least 1.
        """
        if runs < 1:
            raise UsageError(f"runs is {runs}; give at least 1")
        self._engine()
        profiler = _profiler(self._plan.toolkit.module)
        with self.device.current():
            context = self._new_context()
            try:
                context.set_inputs(feeds)
                context.enqueue()
                context.stream.synchronize()
                context.profiled(profiler)
                for _ in range(runs):
                    context.enqueue()
                    context.stream.synchronize()
            finally:
                context.close()
        return [(name, total / runs) for name, total in profiler.total.items()]

    def close(self) -> None:
        with self.device.current():
            self._pool.close()

    def _engine(self) -> Any:
        engine = self._plan.engine
        if engine is None or self._pool.closed:
            raise UsageError(f"the engine of {self.path} is closed; load it again")
        return engine

    def _new_context(self) -> PlanContext:
        return PlanContext(self._plan, self._checked, self._profile)

    def _checked(self, feeds: Mapping[str, Any], adopt: Callable[[str, Any], Any]) -> dict[str, Any]:
        return checked(feeds, self.inputs, self.metadata, adopt)

    def _largest_batch(self, profile: int | None) -> list[int]:
        """The largest first size of the first input, per profile that may be used."""
        if not self._plan.inputs or not self._plan.inputs[0].shape:
            return []
        ranges = self._plan.inputs[0].ranges
        largest = [high[0] for _, _, high in (ranges if profile is None else ranges[profile : profile + 1])]
        return [max(largest)] if largest else []


def _profiler(module: Any) -> Any:
    class Profiler(module.IProfiler):  # type: ignore[misc, name-defined]
        """Adds up what TensorRT reports, by layer."""

        def __init__(self) -> None:
            module.IProfiler.__init__(self)
            self.total: defaultdict[str, float] = defaultdict(float)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            """One layer's time in one run."""
            self.total[layer_name] += ms

    return Profiler()

"""A TensorRT plan as a subject to measure: by the GPU's own clock, with CUDA graphs and without, copies apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adapter_bench import bare, child, files, plan_runs, smi
from adapter_bench.measure import Rules
from adapter_bench.subject import Count, Prepare, Size, default_size
from adapter_engines import Engine
from adapter_infer.errors import UnsupportedModel, UsageError
from adapter_infer.metadata import IMAGE_SIZE, Metadata
from adapter_infer.spec import ModelSpec

if TYPE_CHECKING:
    from adapter_bench.engine_subject import EngineSubject
    from adapter_engines.plan_engine import PlanEngine
    from adapter_engines.plans.sidecar import Sidecar

MEMORY_METHOD = (
    "GPU memory, in a process that only loads and runs the plan: weights and activations by TensorRT's account, "
    "driver and kernels as what else the used memory grew by"
)
PICTURES = ("float32", "float16", "uint8")


class PlanSubject:
    """The plan at `path`. `cuda_graph` is the mode whose figures are the result's; the other's stand beside it.

    `onnx` is the file it was built from, for counting; `baseline_plan` what it is compared with; `profile` asks for the
    time of every layer. Errors: those of `Engine.load`, UnsupportedModel where its input is not one picture.
    """

    threads = None

    def __init__(
        self,
        path: str,
        *,
        cuda_graph: bool = True,
        allow_embedded_code: bool = False,
        onnx: str | None = None,
        baseline_plan: str | None = None,
        profile: bool = False,
    ) -> None:
        self.path, self.cuda_graph, self.allow_embedded_code = Path(path), cuda_graph, allow_embedded_code
        self.baseline_plan, self.profile = baseline_plan, profile
        self._built_from = None if onnx is None else _counted(onnx)
        self._held = ExitStack()  # the execution contexts of the batch at hand
        self._ready: dict[tuple[int, Size], plan_runs.Ready] = {}
        self._clocks: dict[str, Any] = {"before": smi.query()}
        engine = self._load()
        self._engine: PlanEngine | None = engine
        try:
            self._facts = self._describe(engine)
            self._picture, self._sizes = _inputs(engine)
            self._check_built_from()
        except BaseException:
            engine.close()
            raise
        self.metadata: Metadata | None = engine.metadata
        self.name = (self.spec.name if self.spec is not None else "") or self.path.stem

    @property
    def spec(self) -> ModelSpec | None:
        return None if self.metadata is None else self.metadata.model

    def resolve(self, size: Size | None, batches: list[int] | None) -> tuple[Size, list[int]]:
        """What no profile holds is refused when the inputs are set, by a message that lists the profiles."""
        try:
            return self._resolved(size, batches)
        except UsageError:
            self._close_unopened()
            raise

    def _resolved(self, size: Size | None, batches: list[int] | None) -> tuple[Size, list[int]]:
        fixed_batch, *fixed_size = self._fixed()
        batches = batches or [fixed_batch or 1]
        if fixed_batch is not None and any(batch != fixed_batch for batch in batches):
            raise UsageError(
                f"--batch {' '.join(map(str, batches))}: {self.path} takes batches of {fixed_batch} only; "
                "build it with --max-batch"
            )
        if size is None:
            usual = default_size(self.spec) or (0, 0)
            height, width = (known or usual[i] for i, known in enumerate(fixed_size))
            if not height or not width:
                raise UsageError(f"{self.path} takes several sizes and names none; give --size H W")
            size = (height, width)
        if any(fixed is not None and fixed != asked for fixed, asked in zip(fixed_size, size, strict=True)):
            raise UsageError(
                f"--size {size[0]} {size[1]}: {self.path} takes {fixed_size[0]}x{fixed_size[1]} only; build one for it"
            )
        return size, batches

    @contextmanager
    def open(self) -> Iterator[Prepare]:
        engine = self._engine or self._load()
        self._engine = engine

        def prepare(batch: int, size: Size) -> Callable[[], object]:
            self._release()  # an earlier batch's contexts: a plan has few
            feeds = self._feeds(batch, size)
            ready = self._held.enter_context(plan_runs.ready(engine, feeds, self.cuda_graph))
            self._ready[batch, size] = ready
            return ready.run

        try:
            yield prepare
        finally:
            self._release()
            self._engine = None
            engine.close()
            self._clocks["after"] = smi.query()

    def facts(self) -> dict[str, Any]:
        self._close_unopened()
        return self._facts | {"gpu_state": dict(self._clocks)}

    def details(self, batch: int, size: Size, rules: Rules) -> dict[str, Any]:
        """`ways`: the other graph mode, and whole runs with numpy arrays in and out; `layers` where asked for."""
        assert self._engine is not None
        ready, feeds = self._ready[batch, size], self._feeds(batch, size)
        found: dict[str, Any] = {"cuda_graph": ready.graph}
        found["ways"] = plan_runs.other_ways(self._engine, ready, feeds, self.cuda_graph, batch, rules)
        if self.profile:
            found["layers"] = [{"name": name, "ms": ms} for name, ms in self._engine.layer_times(feeds)]
        return found

    def peak_memory(self, batch: int, size: Size) -> dict[str, Any]:
        self._close_unopened()
        return child.call(
            f"{__name__}:memory_here",
            path=str(self.path),
            allow_embedded_code=self.allow_embedded_code,
            shape=self._shape(batch, size),
            cuda_graph=self.cuda_graph,
        )

    def baseline(self, cache: Path) -> PlanSubject:
        if self.baseline_plan is None:
            raise UnsupportedModel(
                f"no plan is built here to compare {self.path} with; name one with --baseline FILE.plan"
            )
        return PlanSubject(self.baseline_plan, cuda_graph=self.cuda_graph, allow_embedded_code=self.allow_embedded_code)

    def count(self, batch: int, size: Size) -> Count:
        if self._built_from is None:
            raise UnsupportedModel(
                "a plan does not tell its multiply-adds; give the file it was built from with --onnx to count them"
            )
        return self._built_from.count(batch, size)

    def _check_built_from(self) -> None:
        known, given = self._facts["engine"]["onnx_sha256"], self._built_from
        if known is not None and given is not None and files.describe(given.path)["sha256"] != known:
            raise UsageError(f"--onnx {given.path} is not the file that {self.path} was built from; give that one")

    def _load(self) -> PlanEngine:
        from adapter_engines.plan_engine import PlanEngine

        engine = Engine.load(self.path, allow_embedded_code=self.allow_embedded_code)
        assert isinstance(engine, PlanEngine)
        return engine

    def _release(self) -> None:
        self._ready.clear()
        self._held.close()

    def _close_unopened(self) -> None:
        """Frees the engine that was loaded to look at, where nothing was timed."""
        if self._engine is not None and not self._ready:
            self._engine.close()
            self._engine = None

    def _describe(self, engine: PlanEngine) -> dict[str, Any]:
        sidecar, metadata = engine.sidecar, engine.metadata
        name, version = engine.runtime
        described = files.describe(self.path) | {"model": self.path.stem}
        described["onnx_sha256"] = None if sidecar is None else sidecar.onnx_sha256
        described["checkpoint_sha256"] = None if sidecar is None else sidecar.checkpoint_sha256
        described["parity"] = None if sidecar is None else sidecar.parity
        if metadata is not None:
            described["model"] = metadata.model.name or self.path.stem
        remarks = [] if sidecar is not None else [f"{self.path.name} has no sidecar: its precision is not known"]
        return {
            "engine": described,
            "runtime": {
                "name": name,
                "version": version,
                "provider": engine.provider,
                "custom_op_library": None if engine.library is None else files.describe(Path(engine.library)),
            },
            "device": engine.device.info().name,
            "threads": None,
            "precision": _precision(sidecar),
            "params": None if metadata is None else metadata.params,
            "params_of": "the model, without auxiliary heads",
            "weights_bytes": engine.memory()["weights"],
            "msda_nodes": 0 if sidecar is None else sidecar.plugin_layers,
            "remarks": remarks,
        }

    # --- the input ---

    @property
    def _channels_last(self) -> bool:
        if self.metadata is not None:
            return self.metadata.input.embed_preprocess
        return self._picture.shape[3] == 3 and self._picture.shape[1] != 3

    def _fixed(self) -> tuple[int | None, int | None, int | None]:
        """Batch, height and width where the plan fixes them."""
        n, first, second, third = (side if isinstance(side, int) else None for side in self._picture.shape)
        return (n, first, second) if self._channels_last else (n, second, third)

    def _shape(self, batch: int, size: Size) -> tuple[int, int, int, int]:
        return (batch, *size, 3) if self._channels_last else (batch, 3, *size)

    def _feeds(self, batch: int, size: Size) -> dict[str, np.ndarray]:
        return bare.feeds(self._picture.name, self._shape(batch, size), self._picture.dtype, self._sizes)


def memory_here(path: str, allow_embedded_code: bool, shape: list[int], cuda_graph: bool) -> dict[str, Any]:
    """Device memory after two runs, bytes; to be called in a process of its own."""
    from adapter_engines.plan_engine import PlanEngine

    with Engine.load(path, allow_embedded_code=allow_embedded_code) as engine:
        assert isinstance(engine, PlanEngine)
        picture, sizes = _inputs(engine)
        with plan_runs.ready(engine, bare.feeds(picture.name, shape, picture.dtype, sizes), cuda_graph) as ready:
            ready.run()
            ready.run()
            found = engine.memory()
    parts = [found["weights"] or 0, found["context"] or 0, found["buffers"] or 0, found["driver"] or 0]
    return {
        "method": MEMORY_METHOD,
        "peak_bytes": sum(parts),
        "run_peak_bytes": None,
        "load_peak_bytes": None,
        "activations_bytes": found["context"],
        "buffers_bytes": found["buffers"],
        "driver_bytes": found["driver"],
    }


def _counted(onnx: str) -> EngineSubject:
    from adapter_bench.engine_subject import EngineSubject

    return EngineSubject(onnx)


def _inputs(engine: Engine) -> tuple[Any, str | None]:
    """The plan's picture, and the name of a detector's other input, the pictures' sizes. Errors: UnsupportedModel."""
    pictures = [one for one in engine.inputs if one.name != IMAGE_SIZE]
    if len(pictures) != 1 or len(pictures[0].shape) != 4 or pictures[0].dtype not in PICTURES:
        found = ", ".join(f"{one.name} {one.dtype}{list(one.shape)}" for one in engine.inputs)
        raise UnsupportedModel(
            f"{engine.path} takes {found}; only plans with one picture of {', '.join(PICTURES)} are measured, "
            f"and detectors that take its {IMAGE_SIZE} too"
        )
    return pictures[0], IMAGE_SIZE if len(engine.inputs) > 1 else None


def _precision(sidecar: Sidecar | None) -> str:
    """ "fp16 in 97 % of the layers", as found in the plan and not as asked for."""
    if sidecar is None or not sidecar.precision:
        return "precision not known"
    name, share = max(sidecar.precision.items(), key=lambda entry: entry[1])
    return name if share == 1 else f"{name} in {share:.0%} of the layers"

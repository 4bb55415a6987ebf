"""Opens a plan: is there a device, is it the plan, the plugin and the GPU it was built for; then TensorRT's engine."""

from __future__ import annotations

import logging
import mmap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_engines import device
from adapter_engines.plan_tensors import PlanTensor, tensors
from adapter_infer import metadata as file_metadata
from adapter_infer.errors import EnvironmentMissing, UnsupportedModel, UsageError
from adapter_infer.metadata import Metadata

if TYPE_CHECKING:
    from adapter_engines.plans.sidecar import Sidecar
    from adapter_engines.plans.toolkit import Toolkit

LOG = logging.getLogger("adapter_engines.tensorrt")
TENSORRT = "tensorrt"
MOST_WORDS = 600  # letters of TensorRT's messages that an error quotes


class Words:
    """What TensorRT said in a stretch of work: errors and warnings, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def told(self) -> str:
        """The messages in brackets behind a blank, "" without any."""
        text = "; ".join(dict.fromkeys(self.lines))
        return f" ({text[:MOST_WORDS]})" if text else ""


@dataclass
class OpenPlan:
    """A deserialized plan and what it needs to stay alive; `close` lets all of it go, contexts first being the
    caller's business. `used_before` is the GPU's used memory in bytes before it was opened."""

    path: Path
    toolkit: Toolkit
    device: device.Device
    sidecar: Sidecar | None
    metadata: Metadata | None
    plugin: Path | None
    logger: Any
    runtime: Any
    engine: Any
    used_before: int
    inputs: tuple[PlanTensor, ...] = field(default=())
    outputs: tuple[PlanTensor, ...] = field(default=())

    def words(self) -> Any:
        """A block whose TensorRT messages, of this thread, are collected: `with plan.words() as words`."""
        return self.logger.collecting()

    def close(self) -> None:
        """Frees the engine, then the runtime."""
        self.engine = None
        self.runtime = None


def open_plan(path: Path, *, allow_embedded_code: bool) -> OpenPlan:
    """The plan at `path`, ready for execution contexts.

    Errors: EnvironmentMissing without a GPU, TensorRT or the plugin (checked in this order, before any TensorRT
    object exists: without a GPU its runtime crashes); UsageError if there is no such file, it holds code that was not
    allowed, or what its sidecar says does not fit; UnsupportedModel if TensorRT does not take it.
    """
    from adapter_engines.plans import plugin as plugin_library
    from adapter_engines.plans import sidecar as sidecars
    from adapter_engines.plans.toolkit import toolkit

    gpu, kit = _needed(path, toolkit)
    if path.is_dir() or not path.is_file():
        raise UsageError(f"{path} is a folder; name the plan in it" if path.is_dir() else f"there is no file {path}")
    if not path.stat().st_size:
        raise UnsupportedModel(f"{path} is empty; build the plan again")
    described = sidecars.read(path)
    if described is not None:
        _check_code(path, described, allow_embedded_code)
    plugin = None
    if described is None or (described.plugin_layers and not described.plugin_embedded):
        try:
            plugin = plugin_library.load(kit)
        except EnvironmentMissing:
            if described is not None:  # without a description, the plan may well need none
                raise
    if described is not None:
        info = gpu.info()
        found = {"name": info.name, "compute_capability": info.compute_capability}
        reason = sidecars.mismatch(path, described, kit, plugin, found)
        if reason is not None:
            raise UsageError(reason)
    metadata = None if described is None else file_metadata.from_props(described.props)
    with gpu.current():
        info = gpu.info()
        used = info.total_memory - info.free_memory
        logger = _logger(kit.module)
        runtime, engine = _deserialized(path, kit.module, logger, allow_embedded_code)
    plan = OpenPlan(path, kit, gpu, described, metadata, plugin, logger, runtime, engine, used)
    del runtime, engine
    try:
        all_tensors = tensors(plan)
    except BaseException:
        plan.close()
        raise
    plan.inputs = tuple(tensor for tensor in all_tensors if tensor.is_input)
    plan.outputs = tuple(tensor for tensor in all_tensors if not tensor.is_input)
    return plan


def _needed(path: Path, toolkit: Any) -> tuple[device.Device, Toolkit]:
    try:
        return device.Device(), toolkit(TENSORRT)
    except EnvironmentMissing as error:
        raise EnvironmentMissing(
            f"{path} is a TensorRT plan, and this machine does not support TensorRT plans: {error}"
        ) from error


def _check_code(path: Path, described: Sidecar, allow_embedded_code: bool) -> None:
    if allow_embedded_code:
        return
    for holds, what in ((described.plugin_embedded, "the plugin"), (described.version_compatible, "a lean runtime")):
        if holds:
            raise UsageError(
                f"{path} holds {what} as code that loading it would run; if you trust where it comes from, load it "
                "with allow_embedded_code=True (adapter-run --allow-embedded-code)"
            )


def _deserialized(path: Path, module: Any, logger: Any, allow_embedded_code: bool) -> tuple[Any, Any]:
    with logger.collecting() as words:
        runtime = module.Runtime(logger)
        runtime.engine_host_code_allowed = allow_embedded_code
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        code = "" if allow_embedded_code else ", or holds code (trust it first: allow_embedded_code=True then loads it)"
        raise UnsupportedModel(
            f"TensorRT {module.__version__} does not load {path}{words.told()}; it is damaged, or was built by another "
            f"version, for another GPU or with a plugin that is not loaded{code}; build it again here"
        )
    return runtime, engine


_loggers: dict[Any, Any] = {}  # one for the process: TensorRT keeps the first it is given
_loggers_lock = threading.Lock()


def _logger(module: Any) -> Any:
    with _loggers_lock:
        if module not in _loggers:
            _loggers[module] = _make_logger(module)
        return _loggers[module]


def _make_logger(module: Any) -> Any:
    """TensorRT's ILogger that hands messages to `logging` and, per thread, to whoever collects them."""
    severity = module.ILogger.Severity
    levels = {
        severity.INTERNAL_ERROR: logging.ERROR,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.WARNING,
        severity.INFO: logging.DEBUG,
        severity.VERBOSE: logging.DEBUG,
    }

    class Logger(module.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self._local = threading.local()

        def log(self, severity: Any, msg: str) -> None:
            level = levels.get(severity, logging.DEBUG)
            collected = getattr(self._local, "words", None)
            if collected is not None and level >= logging.WARNING:
                collected.lines.append(" ".join(msg.split()))
                level = logging.DEBUG  # whoever collects tells it, or has no need to
            LOG.log(level, "%s", msg)

        @contextmanager
        def collecting(self) -> Iterator[Words]:
            before = getattr(self._local, "words", None)
            self._local.words = words = Words()
            try:
                yield words
            finally:
                self._local.words = before

    return Logger()

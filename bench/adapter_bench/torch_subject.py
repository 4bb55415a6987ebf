"""A model in eager PyTorch on the CPU, as a subject to measure: a checkpoint, or a preset with random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adapter_bench import bare, files, machine, macs_torch, memory
from adapter_bench.measure import Rules
from adapter_bench.subject import Count, Prepare, Size, content_remarks, default_size
from adapter_engines.threads import chosen
from adapter_infer import models
from adapter_infer import spec as model_spec
from adapter_infer.detectors.detections import Detections
from adapter_infer.errors import UsageError
from adapter_infer.msda import MSDeformAttn
from adapter_infer.spec import ModelSpec

SEED = 0


def build(
    checkpoint: str | None = None,
    config: str | None = None,
    preset: str | None = None,
    spec: str | None = None,
    attention: str | None = None,
) -> tuple[nn.Module, ModelSpec]:
    """The model of a checkpoint (`config` or `preset` say what it is where it does not), or, without one, of a preset
    or of a spec in JSON with seeded random weights, which may have another `attention`. Errors: those of
    `checkpoints.load_model`, `presets.spec` and `spec.with_attention`."""
    if checkpoint is not None:
        from adapter_infer import checkpoints

        model, known, _ = checkpoints.load_model(checkpoint, config=config, preset=preset)
        return model, known
    if spec is not None:
        known = model_spec.from_json(spec)
    else:
        from adapter_infer import presets

        known = presets.spec(str(preset))
    if attention is not None:
        known = model_spec.with_attention(known, attention)
    model = models.build_model(known)
    models.random_weights(model, SEED)
    return model, known


class TorchSubject:
    """`source` holds `build`'s arguments. Errors: those of `build`."""

    def __init__(self, source: dict[str, Any], threads: int | None = None) -> None:
        self._source, self.threads = source, chosen(threads)
        self._model, self._spec = build(**source)
        self._found: object = None  # what the last run gave
        self.name = self.spec.name or Path(str(source.get("checkpoint") or "model")).stem
        self.precision = str(next(self._model.parameters()).dtype).removeprefix("torch.").replace("float", "fp")

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    def resolve(self, size: Size | None, batches: list[int] | None) -> tuple[Size, list[int]]:
        size = size or default_size(self.spec)
        if size is None:
            raise UsageError(f"{self.name} names no crop; give --size H W")
        with torch.no_grad():  # the model itself knows best what it does not take
            models.build_model(self.spec, "meta")(*macs_torch.meta_inputs(self.spec, size))
        return size, batches or [1]

    @contextmanager
    def open(self) -> Iterator[Prepare]:
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)

        def prepare(batch: int, size: Size) -> Callable[[], object]:
            infer = bare.inference(self._model, (batch, 3, *size), detector=self._is_detector)

            def run() -> object:
                self._found = infer()
                return self._found

            return run

        try:
            yield prepare
        finally:
            torch.set_num_threads(before)

    def facts(self) -> dict[str, Any]:
        tensors = [*self._model.parameters(), *self._model.buffers()]
        return {
            "engine": self._engine(),
            "runtime": {"name": "pytorch", "version": torch.__version__, "provider": "cpu", "custom_op_library": None},
            "device": machine.device(),
            "threads": self.threads,
            "precision": self.precision,
            "params": models.count_parameters(self._model),
            "params_of": "the model, without auxiliary heads",
            "weights_bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
            "msda_nodes": sum(isinstance(module, MSDeformAttn) for module in self._model.modules()),
            "remarks": self._remarks(),
        }

    @property
    def _is_detector(self) -> bool:
        return self.spec.task == "detection"

    def _remarks(self) -> list[str]:
        found = self._found
        if not isinstance(found, Detections):
            return []
        return content_remarks(found.count.tolist(), found.scores.shape[1])

    def details(self, batch: int, size: Size, rules: Rules) -> dict[str, Any]:
        return {}

    def peak_memory(self, batch: int, size: Size) -> dict[str, Any]:
        return memory.measure(self.alone(batch, size))

    def alone(self, batch: int, size: Size) -> dict[str, Any]:
        """JSON data with which `bare.load` opens the model, ready to run, in a process of its own."""
        return {"kind": "torch", "source": self._source, "threads": self.threads, "shape": (batch, 3, *size)}

    def count(self, batch: int, size: Size) -> Count:
        by_operator = macs_torch.count(self.spec, size, batch)
        return Count(sum(by_operator.values()), by_operator, macs_torch.count_paper(self.spec, size), {})

    def baseline(self, cache: Path) -> TorchSubject:
        return TorchSubject({"spec": model_spec.to_json(models.baseline_spec(self.spec))}, self.threads)

    def _engine(self) -> dict[str, Any]:
        checkpoint = self._source.get("checkpoint")
        if checkpoint is not None:
            return files.describe(Path(checkpoint)) | {"model": self.name}
        return {"path": None, "sha256": None, "model": self.name, "weights": f"random, seed {SEED}"}

"""Whole models in PyTorch fp16: ViT-Adapter with the kernel and without it, beside the plain ViT, all in turns."""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adapter_bench.gpu_check import clock
from adapter_bench.gpu_check.goals import ADAPTER, PLAIN
from adapter_infer import models, presets, vit, vit_adapter
from adapter_infer.geometry import Shape
from adapter_infer.msda import MSDeformAttn
from adapter_infer.spec import ModelSpec

WITHOUT_KERNEL = "ViT-Adapter, torch grid_sample"


@dataclass(frozen=True)
class Pair:
    """An adapter model by its preset. `paper` is the share of the plain ViT's FPS that it keeps in the paper (with
    Semantic FPN, in PyTorch)."""

    name: str
    preset: str
    paper: float | None = None


PAIRS = (
    Pair("B", "upernet_augreg_adapter_base_512_160k_ade20k", 26.7 / 29.7),
    Pair("L", "upernet_augreg_adapter_large_512_160k_ade20k", 12.9 / 15.5),
)
REHEARSAL = (Pair("T", "upernet_augreg_adapter_tiny_512_160k_ade20k"),)


@dataclass(frozen=True)
class Settings:
    """What is run: where, in which type, pictures of size x size, and how long a turn is."""

    device: str
    dtype: torch.dtype
    size: int = 512
    batches: tuple[int, ...] = (1, 8)
    rounds: int = 5
    turn_ms: float = 150.0


def measure(pairs: tuple[Pair, ...], settings: Settings, say: Callable[[str], None], limit_s: float) -> dict[str, Any]:
    """Latency, images per second and memory of every pair and batch; what no longer fits in `limit_s` is left out."""
    rows: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    deadline, heard = time.monotonic() + 0.7 * limit_s, Heard()
    logging.getLogger("adapter_infer").addHandler(heard)
    torch.backends.cudnn.benchmark = True  # the fastest convolution for each size, for all models alike
    for pair in pairs:
        if time.monotonic() > deadline:
            left_out[pair.name] = "the step's time was spent"
            continue
        say(f"building {pair.preset} and its plain ViT")
        spec = presets.spec(pair.preset)
        adapter, plain = build(spec, settings), build(models.baseline_spec(spec), settings)
        for batch in settings.batches:
            say(f"{pair.name}, batch {batch}")
            if time.monotonic() > deadline:
                left_out[f"{pair.name}, batch {batch}"] = "the step's time was spent"
                continue
            rows += _one_batch(pair, adapter, plain, batch, settings)
        del adapter, plain
        if settings.device == "cuda":
            torch.cuda.empty_cache()
    return {
        "rows": rows,
        "left_out": left_out,
        "warnings": heard.warnings,
        "dtype": str(settings.dtype).removeprefix("torch."),
        "size": settings.size,
    }


class Heard(logging.Handler):
    """Keeps what adapter_infer warns of: that it does without the kernel, for one."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.warnings: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.warnings.append(record.getMessage())


def build(spec: ModelSpec, settings: Settings) -> nn.Module:
    """With random weights, which cost the time of trained ones."""
    model = models.build_model(spec)
    models.random_weights(model)
    return model.to(device=settings.device, dtype=settings.dtype).eval()


def _one_batch(
    pair: Pair, adapter: nn.Module, plain: nn.Module, batch: int, settings: Settings
) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn((batch, 3, settings.size, settings.size), generator=generator)
    image = image.to(device=settings.device, dtype=settings.dtype)
    runs: dict[str, Callable[[], Tensor]] = {
        PLAIN: lambda: plain(image),
        ADAPTER: lambda: _with_core(adapter, "fused", image),
        WITHOUT_KERNEL: lambda: _with_core(adapter, "onnx", image),
    }
    with torch.inference_mode(), sizes_kept():
        outputs = {name: run() for name, run in runs.items()}
        difference = _difference(outputs[ADAPTER], outputs[WITHOUT_KERNEL])
        del outputs
        memory = {name: _peak(run, settings.device) for name, run in runs.items()}
        replays = {name: clock.replay([run], settings.device) for name, run in runs.items()}
        timings = clock.take_turns(
            replays, clock.stopwatch(settings.device), rounds=settings.rounds, turn_ms=settings.turn_ms
        )
    rows = []
    for name, timing in timings.items():
        figures = timing.figures()
        rows.append(
            {
                "model": pair.name,
                "variant": name,
                "batch": batch,
                "ms": figures,
                "fps": 1e3 * batch / figures["median"],
                "form": replays[name].form,
                "why": replays[name].why,
                "weights_bytes": sum(
                    p.numel() * p.element_size() for p in (plain if name == PLAIN else adapter).parameters()
                ),
                "peak_bytes": memory[name],
                "paper_ratio": pair.paper,
                "kernel_against_torch": difference,
            }
        )
    return rows


def _with_core(model: nn.Module, core: str, image: Tensor) -> Tensor:
    for module in model.modules():
        if isinstance(module, MSDeformAttn):
            module.core = core
    output: Tensor = model(image)
    return output


def _difference(one: Tensor, other: Tensor) -> float | None:
    """Relative difference ||one - other|| / ||other||; None where it is no number."""
    share = float(((one.float() - other.float()).norm() / other.float().norm()).item())
    return share if math.isfinite(share) else None


def _peak(run: Callable[[], object], device: str) -> int | None:
    """Bytes that one run adds at most to what lies in the allocator, by torch's own account."""
    if device == "cpu":
        return None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


@contextmanager
def sizes_kept() -> Iterator[None]:
    """What the size of the picture alone decides is made once, as an export of fixed size has it: level sizes and
    reference points, whose copies to the device forbid a CUDA graph, and the resized position embedding, whose bicubic
    kernel took 4.7 ms of a ViT-B's 7.1 ms on an H100."""
    made, resize = vit_adapter.AdapterGeometry.of, vit.resize_position
    keep = functools.lru_cache(maxsize=8)(made)
    positions: dict[object, Tensor] = {}

    def resized(position: Tensor, grid: int, shape: Shape) -> Tensor:
        key = (position.data_ptr(), position.dtype, shape)
        if key not in positions:
            positions[key] = resize(position, grid, shape)
        return positions[key]

    vit_adapter.AdapterGeometry.of = staticmethod(keep)  # type: ignore[method-assign]
    vit.resize_position = resized
    try:
        yield
    finally:
        vit_adapter.AdapterGeometry.of = staticmethod(made)  # type: ignore[method-assign]
        vit.resize_position = resize


def use_library(path: Path) -> None:
    """Has adapter_infer's CUDA face load this library instead of an installed one."""
    import adapter_plugins

    adapter_plugins.library = lambda name: path  # type: ignore[assignment]

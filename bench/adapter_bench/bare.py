"""Opens a model with nothing around it, ready to run: what a process needs that measures its own memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import nn

Run = Callable[[], object]


def load(kind: str, **arguments: Any) -> AbstractContextManager[Run]:
    """What `Subject.alone` describes; leaving the context frees the model."""
    return _engine(**arguments) if kind == "engine" else _torch(**arguments)


def import_libraries(kind: str) -> None:
    """Imports the runtime alone, so that what it takes can be told from what the model takes."""
    import_module("onnxruntime" if kind == "engine" else "torch")


def noise(shape: Sequence[int], dtype: str) -> np.ndarray:
    """A seeded picture: what it shows changes no figure, but a constant one would flatter the caches."""
    generator = np.random.default_rng(0)
    if dtype == "uint8":
        return generator.integers(0, 256, shape, np.uint8)
    return generator.standard_normal(shape, np.float32).astype(dtype)


@contextmanager
def _engine(
    path: str, provider: str, threads: int | None, name: str, shape: Sequence[int], dtype: str
) -> Iterator[Run]:
    from adapter_engines import Engine

    feeds = {name: noise(shape, dtype)}
    with Engine.load(path, provider=provider, threads=threads) as engine:
        yield lambda: engine.infer(feeds)


@contextmanager
def _torch(source: dict[str, Any], threads: int, shape: Sequence[int]) -> Iterator[Run]:
    import torch

    from adapter_bench.torch_subject import build

    torch.set_num_threads(threads)
    yield inference(build(**source)[0], shape)


def inference(model: nn.Module, shape: Sequence[int]) -> Run:
    """Runs a PyTorch model on noise, without autograd's bookkeeping."""
    import torch

    image = torch.from_numpy(noise(shape, "float32"))

    @torch.inference_mode()
    def run() -> object:
        return model(image)

    return run

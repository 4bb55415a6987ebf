"""Opens a model with nothing around it, ready to run: what a process needs that measures its own memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from adapter_infer.spec import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from torch import nn

Run = Callable[[], object]
SHAPES = 40  # in a scene


def load(kind: str, **arguments: Any) -> AbstractContextManager[Run]:
    """What `Subject.alone` describes; leaving the context frees the model."""
    return _engine(**arguments) if kind == "engine" else _torch(**arguments)


def import_libraries(kind: str) -> None:
    """Imports the runtime alone, so that what it takes can be told from what the model takes."""
    import_module("onnxruntime" if kind == "engine" else "torch")


def feeds(name: str, shape: Sequence[int], dtype: str, sizes: str | None = None) -> dict[str, np.ndarray]:
    """What a model takes: pictures under `name`; for a detector, whose input of that kind is called `sizes`, also
    their heights and widths, each picture filling its place."""
    if sizes is None:
        return {name: noise(shape, dtype)}
    size = shape[2:] if shape[1] == 3 else shape[1:3]
    return {name: scenes(shape, dtype), sizes: np.array([size] * shape[0], np.int64)}


def noise(shape: Sequence[int], dtype: str) -> np.ndarray:
    """A seeded picture: what it shows changes no figure, but a constant one would flatter the caches."""
    generator = np.random.default_rng(0)
    if dtype == "uint8":
        return generator.integers(0, 256, shape, np.uint8)
    return generator.standard_normal(shape, np.float32).astype(dtype)


def scenes(shape: Sequence[int], dtype: str) -> np.ndarray:
    """Seeded pictures of discs and bricks of many sizes before a shaded ground: what they show decides how much work
    a detector's NMS and RoIAlign have. uint8 in 0..255, otherwise normalised with ImageNet's mean and deviation."""
    n, height, width = shape[0], *(shape[2:] if shape[1] == 3 else shape[1:3])
    generator = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    pictures = np.empty((n, height, width, 3), np.float32)
    for i in range(n):
        picture, slope = pictures[i], generator.uniform(-0.5, 0.5, 2)
        picture[:] = (120 + 80 * (slope[0] * y / height + slope[1] * x / width))[..., None]
        for _ in range(SHAPES):
            radius = float(min(height, width)) * 2.0 ** generator.uniform(-5, -1.5)
            dy, dx = np.abs(y - generator.uniform(0, height)), np.abs(x - generator.uniform(0, width))
            inside = np.maximum(dy, dx / 1.5) < radius if generator.random() < 0.5 else dy**2 + dx**2 < radius**2
            picture[inside] = generator.uniform(0, 255, 3)
        pictures[i] += generator.normal(0, 4, picture.shape)
    pictures.clip(0, 255, out=pictures).round(out=pictures)
    if dtype != "uint8":
        pictures -= np.array(IMAGENET_MEAN, np.float32)
        pictures /= np.array(IMAGENET_STD, np.float32)
    ordered = np.moveaxis(pictures, 3, 1) if shape[1] == 3 else pictures
    return np.ascontiguousarray(ordered.astype(dtype))


@contextmanager
def _engine(
    path: str,
    provider: str,
    threads: int | None,
    name: str,
    shape: Sequence[int],
    dtype: str,
    sizes: str | None = None,
) -> Iterator[Run]:
    from adapter_engines import Engine

    fed = feeds(name, shape, dtype, sizes)
    with Engine.load(path, provider=provider, threads=threads) as engine:
        yield lambda: engine.infer(fed)


@contextmanager
def _torch(source: dict[str, Any], threads: int, shape: Sequence[int]) -> Iterator[Run]:
    import torch

    from adapter_bench.torch_subject import build

    torch.set_num_threads(threads)
    model, spec = build(**source)
    yield inference(model, shape, detector=spec.task == "detection")


def inference(model: nn.Module, shape: Sequence[int], detector: bool = False) -> Run:
    """Runs a PyTorch model on noise, a detector on scenes and their sizes, without autograd's bookkeeping."""
    import torch

    inputs = [torch.from_numpy(array) for array in feeds("", shape, "float32", "sizes" if detector else None).values()]

    @torch.inference_mode()
    def run() -> object:
        return model(*inputs)

    return run

"""Where feature maps come from: a PyTorch model, its plain ViT, or an exported file with output "features"."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adapter_infer.errors import UnsupportedModel, UsageError
from adapter_infer.spec import ModelSpec, Preprocessing

if TYPE_CHECKING:
    from torch import nn

    from adapter_engines.engine import Engine

Size = tuple[int, int]
STRIDES = (8, 16, 32)  # the paper's; the stride-4 map is an upsampled one
Maps = dict[int, np.ndarray]  # stride -> (1, C, H / stride, W / stride) float32


@dataclass(frozen=True)
class Source:
    """One model. `facts` is JSON data that says what it is; `run` takes a picture (H, W, 3) uint8 RGB.

    `size` is (height, width) where only one will do.
    """

    name: str
    facts: dict[str, Any]
    size: Size | None
    default_size: Size | None
    run: Callable[[np.ndarray], Maps]


def pytorch(
    checkpoint: str | None = None, config: str | None = None, preset: str | None = None, threads: int | None = None
) -> tuple[Source, ModelSpec]:
    """The backbone of a checkpoint, or of a preset with the random weights that `adapter-export --random-weights
    --output features` gives it. Errors: those of `checkpoints.load_model` and `checkpoints.identify`."""
    from adapter_infer import checkpoints

    if checkpoint is not None:
        model, spec, _ = checkpoints.load_model(checkpoint, config, preset, features_only=True)
        return _running(model, spec, checkpoint, threads), spec
    spec = checkpoints.identify(None, None, preset, features_only=True)
    return _random(spec, threads), spec


def plain_vit(spec: ModelSpec, threads: int | None = None) -> Source:
    """The plain ViT of an adapter, with random weights. Errors: UnsupportedModel where it is plain already."""
    from adapter_infer import models

    return replace(_random(models.baseline_spec(spec), threads), name=f"plain ViT of {spec.name or 'the model'}")


def _random(spec: ModelSpec, threads: int | None) -> Source:
    from adapter_bench.torch_subject import SEED
    from adapter_infer import models

    model = models.build_model(spec)
    models.random_weights(model, SEED)
    return _running(model, spec, None, threads)


def _running(model: nn.Module, spec: ModelSpec, path: str | None, threads: int | None) -> Source:
    import torch

    from adapter_bench.torch_subject import SEED
    from adapter_engines.threads import chosen

    count = chosen(threads)
    form, known = _preprocessing(spec)

    @torch.inference_mode()
    def run(picture: np.ndarray) -> Maps:
        torch.set_num_threads(count)
        maps = model(torch.from_numpy(_normalized(picture, form))[None])
        return _chosen([found.float().numpy() for found in maps])

    facts = {
        "engine": {"path": path} if path else {"path": None, "weights": f"random, seed {SEED}"},
        "runtime": {"name": "pytorch", "version": torch.__version__},
        "precision": "fp32",
        "preprocessing": known,
    }
    return Source(spec.name or Path(path or "model").stem, facts, None, spec.inference.crop, run)


@contextmanager
def exported(path: Path, threads: int | None = None) -> Iterator[Source]:
    """An exported file. Errors: those of `Engine.load`; UsageError where its outputs are not the four maps."""
    from adapter_bench.engine_subject import DTYPES
    from adapter_engines.engine import PLAN_SUFFIXES, Engine
    from adapter_infer.metadata import FEATURE_NAMES

    plan = path.suffix.lower() in PLAN_SUFFIXES
    with Engine.load(path, threads=None if plan else threads) as engine:
        names = [output.name for output in engine.outputs]
        if engine.metadata is None or set(names) != set(FEATURE_NAMES):
            raise UsageError(
                f"{path} answers {', '.join(names)}, and feature maps are looked at here; export the model again with "
                "--output features"
            )
        form, known = _preprocessing(engine.metadata.model)
        embedded = engine.metadata.input.embed_preprocess
        (image,) = engine.inputs
        if image.dtype not in DTYPES.values():
            raise UsageError(f"{path} takes {image.dtype}, which is not fed here; export it with --io-precision fp32")

        def run(picture: np.ndarray) -> Maps:
            values = picture if embedded else _normalized(picture, form).astype(image.dtype)
            answer = engine.infer({image.name: np.ascontiguousarray(np.broadcast_to(values, _shape(engine, values)))})
            return _chosen([np.asarray(answer[name], np.float32)[:1] for name in FEATURE_NAMES])

        entry = engine.metadata.input
        size = None if entry.height is None or entry.width is None else (entry.height, entry.width)
        facts = {
            "engine": {"path": str(path)},
            "runtime": {"name": engine.runtime[0], "version": engine.runtime[1]},
            "precision": engine.metadata.precision,
            "preprocessing": known,
        }
        name = f"{engine.metadata.model.name or path.stem}, exported, {engine.metadata.precision}"
        yield Source(name, facts, size, size or engine.metadata.model.inference.crop, run)


def _shape(engine: Engine, values: np.ndarray) -> tuple[int, ...]:
    """A file of a fixed batch gets the picture that many times."""
    assert engine.metadata is not None
    return (engine.metadata.input.batch or 1, *values.shape)


def _chosen(maps: Sequence[np.ndarray]) -> Maps:
    """Of the maps at strides 4, 8, 16 and 32, those of STRIDES."""
    if len(maps) != 4:
        raise UnsupportedModel(f"the backbone gives {len(maps)} maps, and four are looked at (strides 4, 8, 16, 32)")
    return {stride: np.asarray(maps[(4, 8, 16, 32).index(stride)]) for stride in STRIDES}


def _preprocessing(spec: ModelSpec) -> tuple[Preprocessing, str]:
    """How pictures are normalised, and where that is known from."""
    if spec.preprocessing is not None:
        return spec.preprocessing, "the model's own"
    return Preprocessing(), "ImageNet's mean and deviation, since the model names none"


def _normalized(picture: np.ndarray, form: Preprocessing) -> np.ndarray:
    from adapter_engines.preprocessing import normalized

    return normalized(picture, form)


def fitted(picture: np.ndarray, size: Size) -> np.ndarray:
    """The middle of `picture` (h, w, 3) uint8, scaled to `size` (height, width) without bending its proportions."""
    from adapter_engines.resize import resize

    height, width = size
    factor = max(height / picture.shape[0], width / picture.shape[1])
    scaled = resize(
        picture, max(height, round(picture.shape[0] * factor)), max(width, round(picture.shape[1] * factor))
    )
    top, left = (scaled.shape[0] - height) // 2, (scaled.shape[1] - width) // 2
    return np.ascontiguousarray(scaled[top : top + height, left : left + width])

"""How one file takes pictures: what its metadata and its graph say of the input, and one run over prepared images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adapter_engines.device.arrays import numpy_dtype
from adapter_engines.engine import Engine
from adapter_engines.preprocessing import Prepared, Size, network_size, padded
from adapter_infer.errors import AdapterError, UnsupportedModel, UsageError
from adapter_infer.metadata import DETECTION_NAMES, IMAGE, IMAGE_SIZE, QUERY_NAMES, TOKEN_NAMES, Metadata
from adapter_infer.spec import Preprocessing

FLOATS = ("float32", "float16", "bfloat16")  # of the network's input
OUTPUTS = {"queries": QUERY_NAMES, "detections": DETECTION_NAMES[:-1]}  # those that must be there; others have one


@dataclass(frozen=True)
class Feeding:
    """What a file takes: `batch` and `size` (height, width) None where dynamic; `embedded` uint8 that the graph
    normalises; `sized` whether it takes `image_size` beside the image."""

    engine: Engine
    metadata: Metadata
    preprocessing: Preprocessing
    batch: int | None
    size: Size | None
    embedded: bool
    sized: bool

    @classmethod
    def of(cls, engine: Engine) -> Feeding:
        """How `engine` is fed. Errors: UnsupportedModel if it does not say so, or is not as it says."""
        metadata = engine.metadata
        if metadata is None:
            raise UnsupportedModel(
                f"{engine.path} does not say how pictures are to be fed; make it with adapter-export, which does"
            )
        preprocessing = metadata.model.preprocessing
        if preprocessing is None:
            raise UnsupportedModel(
                f"{engine.path} does not say how pictures were normalised; export it with --config or --preset, which "
                "do"
            )
        if len(preprocessing.mean) != 3 or len(preprocessing.std) != 3:
            raise UnsupportedModel(
                f"{engine.path} gives no three means and deviations; export it again with its configuration"
            )
        embedded, sized = metadata.input.embed_preprocess, metadata.output == "detections"
        batch, size = _image_form(engine, embedded, sized)
        _check_outputs(engine, metadata.output)
        return cls(engine, metadata, preprocessing, batch, size, embedded, sized)

    @property
    def num_classes(self) -> int:
        """Classes that the model tells apart. Errors: UnsupportedModel if the metadata does not say."""
        count = self.metadata.model.num_classes
        if count is None:
            raise UnsupportedModel(f"{self.engine.path} does not say how many classes it has; export it again")
        return count

    def class_names(self, count: int) -> tuple[str, ...]:
        """`count` names; "class 7" where the file gives none."""
        known = self.metadata.model.classes or ()
        return tuple(str(known[i]) if i < len(known) else f"class {i}" for i in range(count))

    def padded(self, picture: np.ndarray, fit: bool) -> Prepared:
        """`picture` as mmdet prepares it: resized with its proportions kept, normalised, padded to what the file takes.

        A file of fixed size gets its padding up to that size; a picture that is larger is refused, or with `fit` scaled
        down into it. Errors: UsageError if `picture` is none, AdapterError if it does not fit.
        """
        check_picture(picture)
        height, width = picture.shape[:2]
        scaled, aligned = network_size(height, width, self.preprocessing, self.size if fit else None)
        if self.size is not None and (scaled[0] > self.size[0] or scaled[1] > self.size[1]):
            raise AdapterError(
                f"it is {text(scaled)} at the model's test scale, but the file takes {text(self.size)} only; export "
                "with --dynamic-size, or accept a smaller scale (--fit)"
            )
        return padded(picture, self.preprocessing, scaled, self.size or aligned, embedded=self.embedded)

    def run(self, images: np.ndarray, inside: Sequence[Size] = ()) -> dict[str, np.ndarray]:
        """All outputs for images (B, 3, h, w); a fixed batch is filled up by repeating the last image.

        `inside` (height, width) of each picture, for a file that takes it. Float outputs come as float32.
        """
        count = len(images)
        if self.batch is not None and count < self.batch:
            missing = self.batch - count
            images = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])
            inside = [*inside, *(list(inside[-1:]) * missing)]
        if self.embedded:
            images = images.transpose(0, 2, 3, 1)
        dtypes = {tensor.name: numpy_dtype(tensor.dtype) for tensor in self.engine.inputs}
        feeds = {IMAGE: images.astype(dtypes[IMAGE], copy=False)}
        if self.sized:
            feeds[IMAGE_SIZE] = np.asarray(inside, dtypes[IMAGE_SIZE])
        outputs = self.engine.infer(feeds)
        return {
            name: array[:count]
            if np.issubdtype(array.dtype, np.integer)
            else array[:count].astype(np.float32, copy=False)
            for name, array in outputs.items()
        }


def check_picture(picture: np.ndarray) -> None:
    """Errors: UsageError unless `picture` is (height, width, 3) uint8 with at least one pixel."""
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.shape[2:] != (3,):
        found = f"{picture.dtype} {picture.shape}" if isinstance(picture, np.ndarray) else type(picture).__name__
        raise UsageError(f"the picture is {found}; give a numpy array (height, width, 3) of uint8 in RGB order")
    if 0 in picture.shape:
        raise UsageError(f"the picture {picture.shape} is empty")


def text(size: Size) -> str:
    """A size as messages show it: height x width."""
    return f"{size[0]}x{size[1]}"


def _image_form(engine: Engine, embedded: bool, sized: bool) -> tuple[int | None, Size | None]:
    """(batch, (height, width)) of the graph itself, None where dynamic. Errors: UnsupportedModel."""
    tensors = {tensor.name: tensor for tensor in engine.inputs}
    dtypes, height, width, channels = (("uint8",), 1, 2, 3) if embedded else (FLOATS, 2, 3, 1)
    image, size = tensors.get(IMAGE), tensors.get(IMAGE_SIZE)
    if tokens := [name for name in TOKEN_NAMES if name in tensors]:
        raise UnsupportedModel(
            f"{engine.path} is the head of a split model and takes {', '.join(tokens)} beside the image; give "
            "the file of its backbone too (adapter-run --backbone, Engine.load(backbone=)), or export without --split"
        )
    if (
        image is None
        or set(tensors) != ({IMAGE, IMAGE_SIZE} if sized else {IMAGE})
        or len(image.shape) != 4
        or image.dtype not in dtypes
        or image.shape[channels] != 3
        or isinstance(image.shape[height], int) != isinstance(image.shape[width], int)
        or (size is not None and (size.dtype != "int64" or size.shape[1:] != (2,)))
    ):
        found = ", ".join(f"{tensor.name} {tensor.dtype} {tensor.shape}" for tensor in engine.inputs)
        raise UnsupportedModel(f"{engine.path} takes {found}, which is not what its metadata says; export it again")
    batch, rows, columns = (image.shape[axis] for axis in (0, height, width))
    fixed = (rows, columns) if isinstance(rows, int) and isinstance(columns, int) else None
    return batch if isinstance(batch, int) else None, fixed


def _check_outputs(engine: Engine, output: str) -> None:
    names = [tensor.name for tensor in engine.outputs]
    if (output in ("logits", "labels") and len(names) != 1) or set(OUTPUTS.get(output, ())) - set(names):
        raise UnsupportedModel(
            f"{engine.path} gives {', '.join(names)}, which is not what its metadata says ({output}); export it again"
        )

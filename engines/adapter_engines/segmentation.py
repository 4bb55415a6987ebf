"""Segments pictures with an exported model, whole or by sliding windows, as the model's own test configuration says.

`segment(engine, picture)` is all a service needs; `Segmenter` keeps the choices for many pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import numpy as np

from adapter_engines.engine import Engine
from adapter_engines.feeding import Feeding, check_picture, text
from adapter_engines.interpolation import bilinear
from adapter_engines.label_maps import label_dtype, labels_of_bands, nearest
from adapter_engines.preprocessing import Size, prepare
from adapter_engines.queries import semantic_scores
from adapter_engines.sliding import Bands, Run, slide_bands, whole_bands
from adapter_infer.errors import AdapterError, UnsupportedModel, UsageError
from adapter_infer.metadata import QUERY_NAMES
from adapter_infer.sliding import starts

MODES = ("auto", "whole", "slide")
OUTPUTS = ("logits", "labels", "queries")


@dataclass(frozen=True)
class Segmentation:
    """`labels` (H, W) class indices, uint8 up to 256 classes, else uint16, at the picture's own size.

    `network_size` (height, width) of the preprocessed picture, `windows` how many crops of it the network saw,
    `seconds` spent by stage: preprocess, network, postprocess.
    """

    labels: np.ndarray
    network_size: Size
    windows: int
    seconds: dict[str, float]


def segment(engine: Engine, picture: np.ndarray, **options: object) -> np.ndarray:
    """The label map (H, W) of `picture` (H, W, 3) uint8 RGB; `options` as for `Segmenter`. Errors: as `Segmenter`."""
    return Segmenter(engine, **options)(picture).labels  # type: ignore[arg-type]


class Segmenter:
    """How one engine is run over pictures. `mode` "auto" takes the file's test configuration: "whole" or "slide".

    `crop` and `stride` (height, width) replace the configuration's; `batch` is the number of windows per run where the
    file leaves it open; `stretch` resizes pictures to the fixed size of a file run whole, whatever their proportions.
    A labels file run whole gives the network's label map, resized to the picture by nearest neighbour. Of a queries
    file the class scores are summed here, as the graph of a logits file does it.

    Errors: UnsupportedModel if the file does not say how to be fed or gives no segmentation, UsageError if what is
    asked cannot be done with it; and for a picture of unfit size AdapterError.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        mode: str = "auto",
        crop: Size | None = None,
        stride: Size | None = None,
        batch: int | None = None,
        stretch: bool = False,
    ) -> None:
        self.engine = engine
        self.feeding = _feeding(engine)
        self.metadata, self.fixed_size = self.feeding.metadata, self.feeding.size
        self.stretch = stretch
        self.batch = self._batch(batch)
        self.mode = self._mode(mode)
        self.crop: Size | None = None
        self.stride: Size | None = None
        if self.mode == "slide":
            self.crop, self.stride = self._windows(crop, stride)
        elif crop or stride:
            raise UsageError("a crop and a stride belong to sliding windows; pass mode slide with them")
        if stretch and (self.mode != "whole" or self.fixed_size is None):
            raise UsageError("stretch is for a file of fixed size that is run whole; leave it out, or pass mode whole")

    @property
    def num_classes(self) -> int:
        """Classes the labels count, from the graph or, for a file of labels, from the metadata."""
        if self.metadata.output == "logits":
            size = self.engine.outputs[0].shape[1]
            if isinstance(size, int):
                return size
        return self.feeding.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class; "class 7" where the file gives none."""
        return self.feeding.class_names(self.num_classes)

    def __call__(self, picture: np.ndarray) -> Segmentation:
        """Segments `picture` (H, W, 3) uint8 RGB. Errors: UsageError on other arrays, AdapterError on an unfit size."""
        check_picture(picture)
        began = perf_counter()
        image = prepare(
            picture,
            self.feeding.preprocessing,
            embedded=self.feeding.embedded,
            stretch_to=self.fixed_size if self.stretch else None,
        )
        self._check_size(image)
        prepared = perf_counter()
        network = 0.0

        def run(images: np.ndarray) -> np.ndarray:
            nonlocal network
            start = perf_counter()
            result = self._run(images)
            network += perf_counter() - start
            return result

        size = picture.shape[:2]
        if self.metadata.output == "labels":
            labels = nearest(self._checked_labels(run(image[None])[0], image), size)
        else:
            head = self.metadata.model.decode_head or {}
            aligned = bool(head.get("align_corners", False))
            labels = labels_of_bands(self._bands(run, image), image.shape[1:], size, aligned)
        seconds = {
            "preprocess": prepared - began,
            "network": network,
            "postprocess": perf_counter() - prepared - network,
        }
        return Segmentation(labels, image.shape[1:], self._count(image), seconds)

    def _run(self, images: np.ndarray) -> np.ndarray:
        """Logits or labels for images (B, 3, h, w)."""
        outputs = self.feeding.run(images)
        if self.metadata.output != "queries":
            return outputs[self.engine.outputs[0].name]
        size = images.shape[2:]
        return np.stack(
            [
                bilinear(semantic_scores(*of_picture), size)
                for of_picture in zip(*(outputs[name] for name in QUERY_NAMES), strict=True)
            ]
        )

    def _bands(self, run: Run, image: np.ndarray) -> Bands:
        if self.crop is None or self.stride is None:
            return whole_bands(run, image)
        return slide_bands(run, image, self.crop, self.stride, self.batch)

    def _count(self, image: np.ndarray) -> int:
        if self.crop is None or self.stride is None:
            return 1
        rows, columns = (starts(*edge) for edge in zip(image.shape[1:], self.crop, self.stride, strict=True))
        return len(rows) * len(columns)

    def _checked_labels(self, labels: np.ndarray, image: np.ndarray) -> np.ndarray:
        if labels.shape != image.shape[1:] or labels.min() < 0 or labels.max() >= self.num_classes:
            raise AdapterError(
                f"the network answered an image of {image.shape[1:]} with labels {labels.shape} from {labels.min()} to "
                f"{labels.max()}, but there are {self.num_classes} classes; export the file again"
            )
        return labels.astype(label_dtype(self.num_classes))

    def _batch(self, asked: int | None) -> int:
        if asked is not None and asked < 1:
            raise UsageError(f"batch is {asked}; give at least 1")
        if self.feeding.batch is None:
            return asked or self.engine.best_batch
        if asked not in (None, self.feeding.batch):
            raise UsageError(
                f"batch {asked} was asked, but {self.engine.path} was exported for batch {self.feeding.batch}; leave "
                "the batch out, or export with --batch dynamic"
            )
        return self.feeding.batch

    def _mode(self, asked: str) -> str:
        if asked not in MODES:
            raise UsageError(f"there is no mode {asked!r}; choose {', '.join(MODES)}")
        mode = self.metadata.model.inference.mode if asked == "auto" else asked
        if mode not in MODES[1:]:
            raise UnsupportedModel(
                f"{self.engine.path} is to be run in mode {mode!r}, which is unknown; pass whole or slide"
            )
        if mode == "slide" and self.metadata.output == "labels":
            raise UsageError(
                f"sliding windows are averaged as logits, but {self.engine.path} gives labels; export it with --output "
                "logits, or pass mode whole"
            )
        return mode

    def _windows(self, crop: Size | None, stride: Size | None) -> tuple[Size, Size]:
        """Crop and stride of the sliding windows, checked against what the file can take."""
        configured = self.metadata.model.inference
        crop = crop or configured.crop or self.fixed_size
        stride = stride or configured.stride
        if crop is None or stride is None:
            raise UsageError(
                f"{self.engine.path} does not say which {'crop' if crop is None else 'stride'} to slide with; pass it"
            )
        for edge in zip(crop, stride, strict=True):
            starts(edge[0], *edge)  # refuses a stride that does not fit the crop
        divisor = self.metadata.input.size_divisor
        if self.fixed_size is not None and crop != self.fixed_size:
            raise UsageError(
                f"{self.engine.path} takes {text(self.fixed_size)} only, but the windows are {text(crop)}; export it "
                f"with --size {crop[0]} {crop[1]} or --dynamic-size, or pass crop {text(self.fixed_size)} and a stride"
            )
        if crop[0] % divisor or crop[1] % divisor:
            raise UsageError(
                f"the crop {text(crop)} is not a multiple of {divisor}, which the model's coarsest level needs"
            )
        return crop, stride

    def _check_size(self, image: np.ndarray) -> None:
        """Errors: AdapterError if a file of fixed size cannot take the preprocessed picture."""
        if self.fixed_size is None:
            return
        size = image.shape[1:]
        if self.mode == "whole" and size != self.fixed_size:
            raise AdapterError(
                f"it is {text(size)} after preprocessing, but the file takes {text(self.fixed_size)} only; export "
                "with --dynamic-size, slide windows over it (--mode slide), or accept other proportions (--stretch)"
            )
        if self.mode == "slide" and (size[0] < self.fixed_size[0] or size[1] < self.fixed_size[1]):
            raise AdapterError(
                f"it is {text(size)} after preprocessing, smaller than the file's {text(self.fixed_size)} windows; "
                "the official code then takes a smaller window, so export with --dynamic-size"
            )


def _feeding(engine: Engine) -> Feeding:
    """How a file that segments pictures is fed. Errors: UnsupportedModel if it does something else."""
    metadata = engine.metadata
    if metadata is not None and metadata.output not in OUTPUTS:
        raise UnsupportedModel(
            f"{engine.path} gives {metadata.output}, not a segmentation; export it with --output logits"
        )
    if metadata is not None and metadata.model.task == "panoptic":
        raise UnsupportedModel(f"{engine.path} is a panoptic model; adapter_engines.panoptic runs it")
    feeding = Feeding.of(engine)
    if feeding.preprocessing.pad:
        raise UnsupportedModel(
            f"{engine.path} pads its pictures as mmdet does, which no semantic segmentation of the official code does; "
            "export it again with its own configuration"
        )
    return feeding

"""From a model to the module that is traced: shared weights, merged projections, preprocessing and the asked output."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from adapter_export import detector_steps, query_steps
from adapter_infer.beit import BEiT
from adapter_infer.detectors.detector import Detector
from adapter_infer.msda import MSDeformAttn
from adapter_infer.spec import Preprocessing


class Preprocess(nn.Module):
    """uint8 (N, H, W, 3) RGB pixels to the network's normalised float32 (N, 3, H, W).

    Where an image_size (N, 2) is given, zero outside of it, as the official padding is.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, settings: Preprocessing) -> None:
        super().__init__()
        self.to_rgb = settings.to_rgb
        self.register_buffer("mean", torch.tensor(settings.mean).reshape(3, 1, 1), persistent=False)
        # In float64 first: the official pipeline multiplies by 1/std too.
        scale = 1.0 / torch.tensor(settings.std, dtype=torch.float64)
        self.register_buffer("scale", scale.to(torch.float32).reshape(3, 1, 1), persistent=False)

    def forward(self, image: Tensor, image_size: Tensor | None = None) -> Tensor:
        pixels = image.permute(0, 3, 1, 2)
        if not self.to_rgb:  # the network wants BGR
            pixels = torch.cat([pixels[:, 2:], pixels[:, 1:2], pixels[:, :1]], 1)
        normalised = (pixels.to(torch.float32) - self.mean) * self.scale
        if image_size is None:
            return normalised
        height, width = image_size[:, :1, None, None], image_size[:, 1:, None, None]
        rows = torch.arange(image.shape[1], device=image.device)[:, None] < height
        columns = torch.arange(image.shape[2], device=image.device) < width
        return torch.where(rows & columns, normalised, 0.0)


def outputs(model: nn.Module, output: str, image: Tensor, image_size: Tensor | None = None) -> tuple[Tensor, ...]:
    """The tensors of one kind of output, for a normalised `image` (N, 3, H, W).

    The steps on the way follow behind, of a detector's "detections" and of what Mask2Former's queries make; the
    arithmetic of kinds other than "detections" knows no image_size.
    """
    if output == "detections":
        assert isinstance(model, Detector) and image_size is not None
        return tuple(detector_steps.detect(model, image, image_size).values())
    if output == "dense":
        assert isinstance(model, Detector)
        return tuple(detector_steps.dense(model, image).values())
    made: Any
    if output == "features":
        backbone: Any = model.backbone if isinstance(model, Detector) else getattr(model, "features", model)
        made = backbone(image)
        return tuple(made)
    with query_steps.watched(model) as steps:
        if output == "queries":
            queries: Any = getattr(model, "queries", model)
            made = queries(image)
        else:
            logits = model(image)
            made = (logits.argmax(1) if output == "labels" else logits,)
    return (*made, *steps)


class Graph(nn.Module):
    """What is traced: `image`, and of "detections" `image_size`, in; the tensors of the asked output out."""

    def __init__(self, model: nn.Module, output: str, preprocessing: Preprocessing | None) -> None:
        super().__init__()
        self.model, self.output = model, output
        self.preprocess = None if preprocessing is None else Preprocess(preprocessing)

    def forward(self, image: Tensor, image_size: Tensor | None = None) -> tuple[Tensor, ...]:
        image = image if self.preprocess is None else self.preprocess(image, image_size)
        return outputs(self.model, self.output, image, image_size)


def traceable(model: nn.Module, core: str, output: str, preprocessing: Preprocessing | None) -> Graph:
    """The module to trace. `model` stays as it is; its weights are shared, not copied, but for the merged projections.

    `core` is what MSDeformAttn traces ("fused", "standard", "onnx"); `preprocessing` is embedded where given.
    """
    tensors = [*model.parameters(), *model.buffers()]
    model = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors}).eval()
    for module in model.modules():
        if isinstance(module, MSDeformAttn):
            module.merge_projections()
            module.core = core
        elif isinstance(module, BEiT):
            _store_position_indexes(module)
    return Graph(model, output, preprocessing)


def _store_position_indexes(backbone: BEiT) -> None:
    """Makes the relative position index of each window size one int32 buffer that all blocks share.

    Computed inside the graph it would be tens of megabytes of arithmetic at every run.
    """
    names = {}
    for size, index in backbone.position_indexes("cpu").items():
        names[size] = f"relative_position_index_{size}"
        backbone.register_buffer(names[size], index.to(torch.int32), persistent=False)
    backbone.position_indexes = lambda device: {  # type: ignore[method-assign]
        size: getattr(backbone, name) for size, name in names.items()
    }

"""Hierarchical backbones of the paper's tables, from Hugging Face transformers, with our Semantic FPN."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from adapter_bench import bare, child, memory
from adapter_bench.measure import Rules, measure
from adapter_bench.suites.layout import Data
from adapter_bench.suites.work import MEBI, SEED
from adapter_engines.threads import chosen
from adapter_infer import models
from adapter_infer.errors import EnvironmentMissing
from adapter_infer.geometry import to_map
from adapter_infer.heads.semantic_fpn import FPN, FPNHead
from adapter_infer.segmentor import Segmentor

CLASSES = 150


@dataclass(frozen=True)
class Family:
    """A backbone: names of its classes in transformers, what its configuration is given, and how wide its maps are."""

    config: str
    model: str
    widths: tuple[int, ...]
    settings: dict[str, Any] = field(default_factory=dict)


_STAGES = ["stage1", "stage2", "stage3", "stage4"]


def _swin(width: int, depths: list[int], heads: list[int]) -> Family:
    settings = {"embed_dim": width, "depths": depths, "num_heads": heads, "window_size": 7, "image_size": 512}
    widths = tuple(width * 2**i for i in range(4))
    return Family("SwinConfig", "SwinBackbone", widths, settings | {"out_features": _STAGES})


def _pvt_v2(depths: list[int], mlp_ratios: list[int]) -> Family:
    widths = [64, 128, 320, 512]
    settings: Data = {"hidden_sizes": widths, "depths": depths, "num_attention_heads": [1, 2, 5, 8]}
    settings |= {"sr_ratios": [8, 4, 2, 1], "mlp_ratios": mlp_ratios, "out_features": _STAGES}
    return Family("PvtV2Config", "PvtV2Backbone", tuple(widths), settings)


def _convnext(widths: list[int], depths: list[int]) -> Family:
    settings = {"hidden_sizes": widths, "depths": depths, "out_features": _STAGES}
    return Family("ConvNextConfig", "ConvNextBackbone", tuple(widths), settings)


def _focalnet(width: int, depths: list[int]) -> Family:
    settings = {"embed_dim": width, "depths": depths, "hidden_sizes": [width * 2**i for i in range(4)]}
    settings |= {"focal_levels": [2, 2, 2, 2], "focal_windows": [3, 3, 3, 3], "out_features": _STAGES}
    return Family("FocalNetConfig", "FocalNetBackbone", tuple(width * 2**i for i in range(4)), settings)


FAMILIES = {
    "PVTv2-B1": _pvt_v2([2, 2, 2, 2], [8, 8, 4, 4]),
    "PVTv2-B2": _pvt_v2([3, 4, 6, 3], [8, 8, 4, 4]),
    "PVTv2-B5": _pvt_v2([3, 6, 40, 3], [4, 4, 4, 4]),
    "Swin-T": _swin(96, [2, 2, 6, 2], [3, 6, 12, 24]),
    "Swin-B": _swin(128, [2, 2, 18, 2], [4, 8, 16, 32]),
    "ConvNeXt-T": _convnext([96, 192, 384, 768], [3, 3, 9, 3]),
    "FocalNet-T": _focalnet(96, [2, 2, 6, 2]),
}
# Of the paper's tables, what no row can be made of.
MISSING = {
    "PVT-Tiny": "transformers has PVT (v1) as a classifier alone, without its four maps",
    "PVT-Small": "transformers has PVT (v1) as a classifier alone, without its four maps",
    "Focal-T": "transformers has FocalNet, its successor, but not Focal Transformer",
    "Twins-SVT-S": "timm has Twins, but imports torchvision, which this project does without",
    "Twins-SVT-L": "timm has Twins, but imports torchvision, which this project does without",
    "Shuffle-T": "no well-kept library has Shuffle Transformer",
}


class _Maps(nn.Module):
    """A backbone of transformers behind the face of ours: (N, 3, H, W) -> its four maps."""

    size_divisor = 32

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, image: Tensor) -> list[Tensor]:
        return list(self.backbone(image).feature_maps)


class _FocalMaps(_Maps):
    """FocalNet's own backbone class returns each stage's map after it was halved; the stages tell the one before."""

    def forward(self, image: Tensor) -> list[Tensor]:
        maps: list[Tensor] = []

        def keep(stage: nn.Module, inputs: Any, output: Any) -> None:
            (_, (h, w)), tokens = inputs, output[1]
            maps.append(to_map(tokens, (int(h), int(w))))

        hooks = [stage.register_forward_hook(keep) for stage in self.backbone.focalnet.encoder.stages]  # type: ignore
        try:
            self.backbone(image)
        finally:
            for hook in hooks:
                hook.remove()
        return maps


def build(name: str) -> Segmentor:
    """In eval mode with random weights. Errors: EnvironmentMissing without transformers, or without this backbone."""
    if importlib.util.find_spec("transformers") is None:
        raise EnvironmentMissing("the package transformers is not installed; pip install transformers")
    import transformers

    family = FAMILIES[name]
    for cls in (family.config, family.model):
        if not hasattr(transformers, cls):
            raise EnvironmentMissing(f"transformers {transformers.__version__} has no {cls}")
    torch.manual_seed(SEED)
    backbone = getattr(transformers, family.model)(getattr(transformers, family.config)(**family.settings))
    neck = FPN(list(family.widths), 256, 4)
    head = FPNHead([256] * 4, 128, CLASSES, norm=True)
    maps = _FocalMaps if family.model == "FocalNetBackbone" else _Maps
    return Segmentor(maps(backbone), neck, head).eval()


def measured(folder: str, rules: Data, threads: int | None, name: str, size: list[int]) -> Data:
    """A row in PyTorch eager: parameters, latency, memory, and multiply-adds by torch's counter."""
    model = build(name)
    torch.set_num_threads(chosen(threads))
    shape = (1, 3, *size)
    trial = measure({name: (1, bare.inference(model, shape))}, Rules.of(**rules))[name]
    values: Data = {"params": models.count_parameters(model) / 1e6, "macs": count(model, shape) / 1e9}
    values |= {"latency_ms": trial.summary().median, "fps": trial.fps}
    if memory.unusable() is None:
        peak = child.call(f"{__name__}:memory_here", name=name, size=size, threads=threads)
        values["peak_memory"] = peak["peak_bytes"] / MEBI
    return {"values": values, "results": []}


def memory_here(name: str, size: list[int], threads: int | None) -> Data:
    return memory.record(lambda: _Loaded(name, size, threads))


class _Loaded:
    def __init__(self, name: str, size: list[int], threads: int | None) -> None:
        self._name, self._size, self._threads = name, size, threads

    def __enter__(self) -> Callable[[], object]:
        torch.set_num_threads(chosen(self._threads))
        return bare.inference(build(self._name), (1, 3, *self._size))

    def __exit__(self, *_: object) -> None:
        return None


def count(model: nn.Module, shape: tuple[int, ...]) -> int:
    """MACs by the convention of `macs_torch.count`: products that are summed, on the meta device."""
    from copy import deepcopy

    from torch.utils.flop_counter import FlopCounterMode

    light = deepcopy(model).to("meta").requires_grad_(False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        light(torch.empty(shape, device="meta"))
    return counter.get_total_flops() // 2


def unavailable(folder: str, rules: Data, threads: int | None, reason: str) -> Data:
    """A row that cannot be had, said instead of left out. Errors: EnvironmentMissing, always."""
    raise EnvironmentMissing(reason)

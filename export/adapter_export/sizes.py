"""Which image sizes a model takes, and the size an export is made at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from adapter_infer.beit import BEiT
from adapter_infer.dinov3.adapter import DINOv3Adapter
from adapter_infer.errors import UsageError
from adapter_infer.geometry import check_image_size
from adapter_infer.spec import ModelSpec

Size = tuple[int, int]

# A dynamic export is traced at one size and compared at others, in units of the divisor. None is square, and seven or
# more units of 32 hold whole and padded attention windows.
TRACED = (4, 6)
TRACED_DETECTOR = (6, 10)  # a side of 1 would be specialised, and a detector's coarsest map has a stride of 128
UNSEEN = ((2, 3), (7, 5), (5, 9))
# On a coarsest map of one cell GroupNorm has only a group's channels, 2 to 8 numbers, and multiplies rounding where
# these happen to be alike.
UNSEEN_DETECTOR = ((5, 6), (9, 7), (7, 11))


@dataclass(frozen=True)
class SizeRule:
    """Heights and widths must be multiples of `divisor`, or exactly `fixed` where the model knows one size only."""

    divisor: int
    fixed: int | None = None


def rule(model: nn.Module) -> SizeRule:
    """The rule of a Segmentor or a backbone."""
    # A DINOv3 adapter is a backbone that has a ViT of its own inside.
    backbone: Any = model if isinstance(model, DINOv3Adapter) else getattr(model, "backbone", model)
    fixed = None
    if isinstance(backbone, BEiT):
        fixed = backbone.fixed_size
        whole = [block.attn.window is None for block in backbone.blocks]  # type: ignore[union-attr]
        if fixed is None and backbone.biased and any(whole):
            fixed = 16 * backbone.sizes[whole.index(True)]
    return SizeRule(int(backbone.size_divisor), fixed)


def choose(model: nn.Module, spec: ModelSpec, size: Size | None, dynamic: bool) -> Size | None:
    """(height, width) of a static export, None for a dynamic one. Errors: UsageError says what the model takes."""
    limits = rule(model)
    name = spec.backbone.get("type", "model")
    if dynamic:
        if size is not None:
            raise UsageError(f"size {size[0]}x{size[1]} and a dynamic size exclude each other; pass one of them")
        if limits.fixed is not None:
            raise UsageError(
                f"this {name} cannot have a dynamic size: its position bias was trained for "
                f"{limits.fixed}x{limits.fixed} pixels; leave out --dynamic-size and slide windows over larger pictures"
            )
        return None
    if size is None:
        size = spec.inference.crop or spec.padded_size
    if size is None and limits.fixed is not None:
        size = (limits.fixed, limits.fixed)
    if size is None:
        raise UsageError("the model's configuration names no crop size; pass --size HEIGHT WIDTH or --dynamic-size")
    h, w = size
    if limits.fixed is not None and (h, w) != (limits.fixed, limits.fixed):
        raise UsageError(
            f"image size {h}x{w} does not fit this {name}, whose position bias was trained for "
            f"{limits.fixed}x{limits.fixed}; pass --size {limits.fixed} {limits.fixed}"
        )
    check_image_size(h, w, limits.divisor)
    return h, w

"""DINOv3's two checkpoint files as one model: the frozen ViT, and the adapter with its head. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from adapter_infer.dinov3.tensors import ADAPTER, SEGMENTOR, VIT
from adapter_infer.errors import UnsupportedModel, UsageError
from adapter_infer.findings import HasShape

Tensor = TypeVar("Tensor", bound=HasShape)

OPTION = "--backbone-checkpoint"
SIGNS = ("cls_token", "rope_embed.periods")  # of the official ViT
FOREIGN = ("embeddings.", "model.embeddings.", "layer.0.", "model.layer.0.")  # Hugging Face's names for the same ViT


def is_segmentor(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether these are weights of DINOv3's adapter and head, with the ViT inside or without."""
    return f"{ADAPTER}level_embed" in state_dict


def is_vit(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether these are weights of DINOv3's ViT alone."""
    return _bare(state_dict) is not None


def join(
    head: Mapping[str, Tensor], vit: Mapping[str, Tensor] | None, head_file: str, vit_file: str | None = None
) -> dict[str, Tensor]:
    """The whole segmentor's weights from its head's file and the ViT's.

    `vit` is None where only one file was given; that file must then hold everything. Errors: UsageError where the files
    were swapped or one is too many, UnsupportedModel where one is missing, is something else or does not fit.
    """
    if not is_segmentor(head):
        if is_vit(head):
            raise lone_vit(head_file, vit_file if vit is not None and is_segmentor(vit) else None)
        raise UnsupportedModel(
            f"{head_file} holds no DINOv3 adapter with its head (tensors named {SEGMENTOR}*), which {OPTION} goes with"
        )
    inside = any(name.startswith(VIT) for name in head)
    if vit is None:
        if inside:
            return dict(head)
        raise UnsupportedModel(
            f"{head_file} holds DINOv3's adapter and head without the frozen ViT, which is released as a file of its "
            f"own; pass that file with {OPTION}"
        )
    if inside:
        raise UsageError(f"{head_file} holds the frozen ViT already; leave out {OPTION} {vit_file}")
    found = _bare(vit)
    if found is None:
        kind = "has Hugging Face's names" if any(name.startswith(FOREIGN) for name in vit) else "is no DINOv3 ViT"
        raise UnsupportedModel(
            f"{OPTION} {vit_file} {kind}: it lacks {' and '.join(SIGNS)}; pass the official dinov3_*_pretrain_*.pth"
        )
    _check_width(head, found, head_file, vit_file)
    return dict(head) | {f"{VIT}{name}": tensor for name, tensor in found.items()}


def adapter_part(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The adapter with its ViT, under the names that a model without a head has."""
    return {name.removeprefix(ADAPTER): tensor for name, tensor in state_dict.items() if name.startswith(ADAPTER)}


def lone_vit(vit_file: str, head_file: str | None = None) -> UsageError:
    """What to say where the ViT stands in place of the head; `head_file` is the head if the two are swapped."""
    if head_file is not None:
        return UsageError(
            f"the two files are swapped: {head_file} holds the adapter and head; pass it first, and {OPTION} {vit_file}"
        )
    return UsageError(
        f"{vit_file} is DINOv3's frozen ViT alone; pass the file of the adapter and head as the checkpoint, and this "
        f"one with {OPTION}"
    )


def _bare(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The ViT's weights by their own names, None where it is not there alone."""
    if is_segmentor(state_dict):
        return None
    for prefix in ("", "backbone."):
        if all(f"{prefix}{sign}" in state_dict for sign in SIGNS):
            found = {name: tensor for name, tensor in state_dict.items() if name.startswith(prefix)}
            return {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return None


def _check_width(head: Mapping[str, Tensor], vit: Mapping[str, Tensor], head_file: str, vit_file: str | None) -> None:
    needed, given = (tuple(tensor.shape)[-1:] for tensor in (head[f"{ADAPTER}level_embed"], vit["cls_token"]))
    if needed != given:
        raise UnsupportedModel(
            f"the ViT in {vit_file} is {_width(given)} wide, but the adapter in {head_file} was made for one of "
            f"{_width(needed)}; they belong to different models"
        )


def _width(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} channels" if shape else "no channels"

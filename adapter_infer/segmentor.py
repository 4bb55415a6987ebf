"""A segmentor: backbone, optional neck, decode head; whole-image and sliding-window inference.

The arithmetic follows mmseg's EncoderDecoder test path, so that label maps equal the official ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from adapter_infer.errors import UnsupportedModel
from adapter_infer.heads.layers import resize
from adapter_infer.sliding import starts


class Segmentor(nn.Module):
    """(N, 3, H, W) -> logits (N, num_classes, H, W). State-dict keys are the official checkpoints'."""

    def __init__(self, backbone: nn.Module, neck: nn.Module | None, decode_head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.neck, self.decode_head = backbone, neck, decode_head

    @property
    def size_divisor(self) -> int:
        """Image heights and widths must be multiples of this."""
        return int(self.backbone.size_divisor)  # type: ignore[arg-type]

    def features(self, image: Tensor) -> list[Tensor]:
        """The backbone's four maps (N, C, H/s, W/s), s = 4, 8, 16, 32."""
        return self.backbone(image)

    def _maps(self, image: Tensor) -> list[Tensor]:
        maps = self.features(image)
        return maps if self.neck is None else self.neck(maps)

    def queries(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """class_logits (N, Q, num_classes + 1), the last one "no object", and mask_logits (N, Q, H/4, W/4).

        Errors: UnsupportedModel where the decode head has no queries.
        """
        predict = getattr(self.decode_head, "predict", None)
        if predict is None:
            raise UnsupportedModel(f"{type(self.decode_head).__name__} has no queries; Mask2Former's heads have")
        return predict(self._maps(image))

    def forward(self, image: Tensor) -> Tensor:
        return resize(self.decode_head(self._maps(image)), image.shape[2:], bool(self.decode_head.align_corners))


def windows(h: int, w: int, crop: tuple[int, int], stride: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Windows (top, bottom, left, right) over h x w pixels, row by row; the last of a row or column is shifted back."""
    for top in starts(h, crop[0], stride[0]):
        for left in starts(w, crop[1], stride[1]):
            yield top, min(top + crop[0], h), left, min(left + crop[1], w)


def slide_inference(
    run: Callable[[Tensor], Tensor], image: Tensor, crop: tuple[int, int], stride: tuple[int, int], num_classes: int
) -> Tensor:
    """Logits (N, num_classes, H, W) averaged over overlapping windows, `run` applied to each (N, 3, h, w) crop.

    An image smaller than the crop is passed as it is, as in the official code.
    """
    n, _, h, w = image.shape
    total = image.new_zeros((n, num_classes, h, w))
    count = image.new_zeros((1, 1, h, w))
    for top, bottom, left, right in windows(h, w, crop, stride):
        total[:, :, top:bottom, left:right] += run(image[:, :, top:bottom, left:right])
        count[:, :, top:bottom, left:right] += 1
    return total / count


def labels(logits: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Label maps (N, height, width) int64: logits resized to the original picture, then the first maximum.

    The official code takes the softmax in between, which changes no maximum.
    """
    return torch.argmax(resize(logits, size, align_corners), 1)

"""Cutting a map into square windows and putting it together again, by reshape and transpose alone.

Windows that stick out at the right and bottom are padded with zeros. What a caller pads, features or their projections,
is the caller's choice and differs between the plain backbones (see vit, beit, uniperceiver); nobody masks the padding.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from adapter_infer.geometry import Shape


def partition(tokens: Tensor, shape: Shape, window: int) -> Tensor:
    """(N, H*W, C) tokens to (N * windows, window*window, C), row by row, zero-padded to whole windows."""
    n, _, c = tokens.shape
    h, w = shape
    rows, columns = _count(h, window), _count(w, window)
    padded = F.pad(tokens.reshape(n, h, w, c), (0, 0, 0, columns * window - w, 0, rows * window - h))
    windows = padded.reshape(n, rows, window, columns, window, c).transpose(2, 3)
    return windows.reshape(n * rows * columns, window * window, c)


def merge(windows: Tensor, shape: Shape, window: int) -> Tensor:
    """The inverse of `partition`: (N * windows, window*window, C) to (N, H*W, C) tokens, padding cut off."""
    h, w = shape
    c = windows.shape[-1]
    rows, columns = _count(h, window), _count(w, window)
    grid = windows.reshape(-1, rows, columns, window, window, c).transpose(2, 3)
    padded = grid.reshape(-1, rows * window, columns * window, c)
    return padded[:, :h, :w].reshape(-1, h * w, c)


def _count(size: int, window: int) -> int:
    """Windows that cover `size`. Not -(-size // window): ONNX rounds a division of negatives towards zero."""
    return (size + window - 1) // window

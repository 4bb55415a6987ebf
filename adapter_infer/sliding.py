"""Where the windows of sliding-window inference lie, for PyTorch and the engines alike. Imports no torch."""

from __future__ import annotations

from adapter_infer.errors import UsageError


def starts(size: int, crop: int, stride: int) -> list[int]:
    """Where the windows begin along one edge of `size` pixels, `stride` apart; the last one ends at the border.

    An edge shorter than the crop has one window, from 0. Errors: UsageError unless 1 <= stride <= crop.
    """
    if not 1 <= stride <= crop:
        raise UsageError(f"windows of {crop} pixels cannot be {stride} apart; give a stride from 1 to the crop's size")
    count = max(size - crop + stride - 1, 0) // stride + 1
    return [max(min(index * stride + crop, size) - crop, 0) for index in range(count)]

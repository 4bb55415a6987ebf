"""PyTorch's multiply-adds, each total worked out on paper, and which operators a result depends on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapter_bench import macs_torch, operations
from adapter_infer.detectors.nms import nms
from adapter_infer.detectors.roi_align import RoIExtractor
from adapter_infer.geometry import Levels
from adapter_infer.msda import MSDeformAttn


def meta(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta")


def recorded(model: Callable[..., Any], *inputs: Tensor) -> list[operations.Operation]:
    """The operations that the model's output depends on."""
    with torch.no_grad(), operations.Recorder(inputs) as recorder:
        outputs = model(*inputs)
    return recorder.live(outputs)


def macs(model: Callable[..., Any], *inputs: Tensor) -> int:
    return sum(operations.total(recorded(model, *inputs)).values())


N, C, H, W = 2, 8, 10, 14


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Conv2d(C, 6, 3, stride=2, padding=1, groups=2), N * 6 * 5 * 7 * 9 * 4),
        (nn.ConvTranspose2d(C, 6, 2, stride=2), N * C * H * W * 6 * 4),
        (nn.GroupNorm(2, C), 0),
        (nn.MaxPool2d(2), 0),
        (nn.Upsample(scale_factor=2, mode="bilinear"), 0),
    ],
)
def test_layers_over_maps(layer: nn.Module, expected: int) -> None:
    assert macs(layer.to("meta"), meta(N, C, H, W)) == expected


def test_linear_layers_and_products_with_a_vector() -> None:
    assert macs(nn.Linear(C, 5).to("meta"), meta(N, 7, C)) == N * 7 * C * 5
    assert macs(lambda x, v: x @ v, meta(N, 7, C), meta(C)) == N * 7 * C
    assert macs(lambda x, v: x @ v, meta(C), meta(C)) == C


def test_attention_counts_both_products_and_no_softmax() -> None:
    q, k, v = meta(N, 3, 10, C), meta(N, 3, 14, C), meta(N, 3, 14, C)
    assert macs(F.scaled_dot_product_attention, q, k, v) == 2 * N * 3 * 10 * 14 * C


def test_msda_counts_four_projections_and_its_core() -> None:
    """5 per sample and channel: four corners of the map and the weight."""
    dim, heads, levels, points, queries = 24, 3, 3, 4, 84
    module = MSDeformAttn(dim, heads, levels, points, ratio=0.5).to("meta")
    shapes, width = Levels.of([(8, 8), (4, 4), (2, 2)], "meta"), dim // 2
    tokens, total = meta(N, queries, dim), 0

    def run(query: Tensor, value: Tensor) -> Tensor:
        return module(query, meta(1, queries, 1, 2), value, shapes)

    total += N * queries * dim * width  # value
    total += N * queries * dim * heads * levels * points * (2 + 1)  # offsets, weights
    total += N * queries * width * dim  # output
    core = 5 * N * queries * heads * levels * points * (width // heads)
    found = operations.total(recorded(run, tokens, tokens))
    assert found["adapter_infer.ms_deform_attn"] == core
    assert sum(found.values()) == total + core


def test_what_a_detector_selects_with_counts_nothing() -> None:
    """RoIAlign interpolates, as a resize does; NMS compares."""
    extract = RoIExtractor(7, 0, [4, 8])
    maps = [meta(1, C, 16, 24), meta(1, C, 8, 12)]
    assert macs(lambda a, b, boxes: extract([a, b], boxes), *maps, meta(1, 30, 4)) == 0
    assert macs(lambda boxes, scores: nms(boxes, scores, 0.5, 9), meta(1, 30, 4), meta(1, 30)) == 0


class Chooser(nn.Module):
    """`score` decides which rows `value` is asked for; nothing reads `idle`, and `table` has not seen the input."""

    def __init__(self) -> None:
        super().__init__()
        self.score, self.value, self.idle = nn.Linear(C, 1), nn.Linear(C, 5), nn.Linear(C, 3)
        self.table, self.query = nn.Linear(C, C), nn.Parameter(torch.empty(4, C))

    def forward(self, x: Tensor) -> Tensor:
        self.idle(x)
        index = self.score(x)[:, 0].topk(4).indices
        return self.value(x[index]) + self.table(self.query).sum()


def test_what_decides_by_an_index_alone_is_not_idle() -> None:
    """No gradient passes an index: a detector's objectness would look idle to autograd."""
    model, x = Chooser().to("meta"), meta(10, C)
    assert macs_torch.idle_modules(model, x) == ["idle"]
    assert macs(model, x) == 10 * C * 1 + 4 * C * 5 + 4 * C * C
    constant = [operation.macs for operation in recorded(model, x) if not operation.depends]
    assert sum(constant) == 4 * C * C


def test_what_was_written_in_place_or_through_a_view_is_followed() -> None:
    first, second = nn.Linear(C, C).to("meta"), nn.Linear(C, C).to("meta")

    def added(x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        total += first(x)
        total[:, :3] = second(x)[:, :3]
        return total

    assert macs(added, meta(10, C)) == 2 * 10 * C * C


def test_nothing_is_counted_that_the_output_does_not_need() -> None:
    first, second = nn.Linear(C, C).to("meta"), nn.Linear(C, C).to("meta")

    def both(x: Tensor) -> tuple[Tensor, None]:
        second(x)
        return first(x), None

    assert macs(both, meta(10, C)) == 10 * C * C

"""Detectors at the official limits, which the golden models do not reach: 1000 proposals, 80 classes, 800x1344."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

from adapter_export import detector_steps, export, probes
from adapter_infer import presets
from adapter_infer.detectors.detector import TwoStageDetector
from adapter_infer.detectors.roi_align import map_of_box
from export import detector_cases
from small_detectors import RELEASED, Backbone

SIZE = (800, 1344)
WIDTH = 8


def limit_case(kind: str) -> tuple[Any, Any]:
    """A released head with all its numbers but the width of its maps, over a backbone of four convolutions."""
    config = narrowed(deepcopy(presets.spec(RELEASED[kind]).detector))
    if kind == "gfl":
        config["bbox_head"]["norm_cfg"] = {"type": "GN", "num_groups": 4}
    model, spec = detector_cases.with_weights(Backbone(WIDTH), config, kind)
    if isinstance(model, TwoStageDetector):
        with torch.no_grad():
            model.rpn_head.rpn_reg.weight.mul_(0.05)  # proposals about as large as their anchors, up to 512 pixels
            model.rpn_head.rpn_reg.bias.mul_(0.05)
            model.neck.fpn_convs[3].conv.weight.mul_(3)  # type: ignore[union-attr, index]  # large anchors score well too
    return model, spec


def narrowed(config: Any, key: str = "") -> Any:
    widths = {"out_channels", "feat_channels", "conv_out_channels", "fc_out_channels"}
    if isinstance(config, dict):
        return {name: narrowed(value, name) for name, value in config.items()}
    if isinstance(config, list):
        return [WIDTH] * len(config) if key == "in_channels" else [narrowed(value, key) for value in config]
    return WIDTH if key in widths or key == "in_channels" else config


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mask_rcnn", "gfl"])
def test_torch_and_onnx_agree_at_the_official_limits(kind: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    model, spec = limit_case(kind)
    path = tmp_path / "o.onnx"
    report = export(model, spec, path, size=SIZE)
    assert report.parity is not None
    worst = report.parity.worst()
    assert worst is not None and worst.share < 0.5
    assert {"plain", "drawn"} == set(report.parity.paths())
    if not isinstance(model, TwoStageDetector):
        return
    assert isinstance(model.rpn_head, nn.Module)
    assert (model.rpn_head.settings.before, model.rpn_head.settings.after) == (1000, 1000)
    names = detector_steps.stage_names(model)
    session = ort.InferenceSession(str(probes.show(path, names)), providers=["CPUExecutionProvider"])
    image = torch.randn((1, 3, *SIZE), generator=torch.Generator().manual_seed(1)).numpy()
    boxes, logits, _ = session.run(names, {"image": image, "image_size": np.array([[800, 1333]])})
    assert boxes.shape == (1, 1000, 4) and logits.shape == (1000, 81)
    assert (boxes != 0).any(-1).sum() > 900
    assert set(map_of_box(torch.from_numpy(boxes), 4).flatten().tolist()) == {0, 1, 2, 3}

"""The golden detectors: their models, and how their tensors and final results are compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import golden
from adapter_infer.detectors import build_detector
from adapter_infer.detectors.detector import Detector
from adapter_infer.models import build_backbone

NAMES = golden.names("models", "mask_rcnn_", "cascade_", "htc_", "atss_", "gfl_", "sparse_rcnn_")
TOLERANCE = 1e-4  # of raw tensors and scores; two correct float32 programs differ by some 1e-5 here


def require() -> None:
    """Skips a module where there is none of them."""
    if not NAMES:
        why = "no golden detector in tests/data/golden/models or where ADAPTER_GOLDEN says"
        pytest.skip(why, allow_module_level=True)


def build(name: str) -> Detector:
    """The detector with its weights."""
    config = golden.config("models", name)["model"]
    model = build_detector(build_backbone(config["backbone"], "detection"), config)
    weights = torch.load(golden.folder("models", name) / "checkpoint.pth", weights_only=True)["state_dict"]
    kept = {key: value for key, value in weights.items() if not key.endswith("relative_position_index")}
    model.load_state_dict(kept, strict=True)
    return model


def check(output: Any, name: str, tensor: str) -> None:
    """Within TOLERANCE, or five times what float32 itself cost the official code where that is more."""
    entry = golden.config("models", name)["tensors"][tensor]
    truth = golden.array("models", name, entry["file"])
    found = np.asarray(output)
    found = found[..., ::2, ::2] if entry["every_2nd_pixel"] else found
    assert found.shape == truth.shape, tensor
    difference = float(np.abs(found - truth).max())
    assert difference < max(TOLERANCE, 5 * entry["fp32_vs_fp64_maxabs"]), f"{tensor} {difference}"


def check_result(name: str, boxes: Any, scores: Any, labels: Any, masks: Any) -> None:
    """Detections (D,) of the original picture in any order; masks (D, H, W) bool, None where there are none."""
    config = golden.config("models", name)
    truth, official = (golden.array("models", name, config["result"][key]["file"]) for key in ("boxes", "labels"))
    boxes, scores, labels = (np.asarray(each) for each in (boxes, scores, labels))
    ours, theirs = np.lexsort((-scores, labels)), np.lexsort((-truth[:, 4], official))
    assert labels[ours].tolist() == official[theirs].tolist()
    pixels = 0.05 if name.startswith("sparse") else 0.01
    assert np.abs(boxes[ours] - truth[theirs, :4]).max() < pixels
    assert np.abs(scores[ours] - truth[theirs, 4]).max() < TOLERANCE
    if "masks" not in config["result"]:
        assert masks is None
        return
    count, h, w = config["result"]["masks"]["shape"]
    packed = golden.array("models", name, config["result"]["masks"]["file"])
    expected = np.unpackbits(packed).reshape(count, -1)[:, : h * w].reshape(count, h, w)[theirs].astype(bool)
    assert masks is not None
    assert (np.asarray(masks)[ours] != expected).sum((1, 2)).max() <= 3  # pixels of a border
    assert expected.any((1, 2)).sum() > count // 3

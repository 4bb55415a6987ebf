"""What the detectors answer becomes the official results on the original picture: boxes, scores, classes, masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import golden
import golden_detectors
from adapter_engines.detection import Detector
from adapter_infer.spec import ModelSpec, Preprocessing
from engines.detector_files import Answers
from golden_detectors import NAMES


def test_there_are_golden_detectors_with_and_without_masks() -> None:
    assert {golden.config("models", name)["model"]["type"] for name in NAMES} >= {"MaskRCNN", "SparseRCNN", "ATSS"}


@torch.inference_mode()
def answers(name: str) -> dict[str, np.ndarray]:
    """What our PyTorch gives for the golden input."""
    torch.set_num_threads(1)
    model, settings = golden_detectors.build(name), golden.config("models", name)
    size = torch.tensor([settings["img_meta"]["img_shape"][:2]])
    found = model(torch.from_numpy(golden.array("models", name, "input.npy")), size)
    return {key: value.numpy() for key, value in found._asdict().items() if value is not None}


@pytest.mark.parametrize("name", NAMES)
def test_official_results_come_out_on_the_original_picture(name: str) -> None:
    settings = golden.config("models", name)
    original, inside, network = (
        tuple(settings["img_meta"][key][:2]) for key in ("ori_shape", "img_shape", "pad_shape")
    )
    dictionary = {key: value for key, value in settings["model"].items() if key != "backbone"}
    preprocessing = Preprocessing(scale=(max(inside), min(inside)), pad=True)
    spec = ModelSpec({"type": "Toy"}, detector=dictionary, preprocessing=preprocessing, half="detection")
    result = Detector(Answers(spec, answers(name), network))(np.zeros((*original, 3), np.uint8))
    assert (result.inside, result.network_size) == (inside, network)

    masks = None if result.masks is None else result.masks.stack()
    golden_detectors.check_result(name, result.boxes, result.scores, result.labels, masks)

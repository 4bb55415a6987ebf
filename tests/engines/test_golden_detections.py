"""What the detectors answer becomes the official results on the original picture: boxes, scores, classes, masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import golden
from adapter_engines.detection import Detector
from adapter_infer.detectors import build_detector
from adapter_infer.models import build_backbone
from adapter_infer.spec import ModelSpec, Preprocessing
from engines.detector_files import Answers

NAMES = golden.names("models", "mask_rcnn_", "cascade_", "htc_", "atss_", "gfl_", "sparse_rcnn_")


def test_there_are_golden_detectors_with_and_without_masks() -> None:
    assert {golden.config("models", name)["model"]["type"] for name in NAMES} >= {"MaskRCNN", "SparseRCNN", "ATSS"}


@torch.inference_mode()
def answers(name: str) -> dict[str, np.ndarray]:
    """What our PyTorch gives for the golden input."""
    torch.set_num_threads(1)
    settings = golden.config("models", name)
    model = build_detector(build_backbone(settings["model"]["backbone"], "detection"), settings["model"])
    weights = torch.load(golden.folder("models", name) / "checkpoint.pth", weights_only=True)["state_dict"]
    model.load_state_dict({key: value for key, value in weights.items() if not key.endswith("position_index")})
    size = torch.tensor([settings["img_meta"]["img_shape"][:2]])
    found = model(torch.from_numpy(golden.array("models", name, "input.npy")), size)
    return {key: value.numpy() for key, value in found._asdict().items() if value is not None}


@pytest.mark.parametrize("name", NAMES)
def test_official_results_come_out_on_the_original_picture(name: str) -> None:
    settings, folder = golden.config("models", name), golden.folder("models", name)
    original, inside, network = (
        tuple(settings["img_meta"][key][:2]) for key in ("ori_shape", "img_shape", "pad_shape")
    )
    dictionary = {key: value for key, value in settings["model"].items() if key != "backbone"}
    preprocessing = Preprocessing(scale=(max(inside), min(inside)), pad=True)
    spec = ModelSpec({"type": "Toy"}, detector=dictionary, preprocessing=preprocessing, half="detection")
    result = Detector(Answers(spec, answers(name), network))(np.zeros((*original, 3), np.uint8))
    assert (result.inside, result.network_size) == (inside, network)

    boxes, labels = np.load(folder / "det_boxes.npy"), np.load(folder / "det_labels.npy")
    order, official = (np.lexsort((-s, c)) for s, c in ((result.scores, result.labels), (boxes[:, 4], labels)))
    np.testing.assert_array_equal(result.labels[order], labels[official])
    np.testing.assert_allclose(result.scores[order], boxes[official, 4], rtol=0, atol=1e-4)
    limit = 0.05 if "sparse" in name else 0.01
    np.testing.assert_allclose(result.boxes[order], boxes[official, :4], rtol=0, atol=limit)
    if not (folder / "det_masks_packed.npy").is_file():
        assert result.masks is None
        return
    height, width = original
    packed = np.load(folder / "det_masks_packed.npy")
    expected = np.unpackbits(packed, axis=1)[:, : height * width].reshape(-1, height, width)[official]
    assert result.masks is not None and expected.sum() > 1000
    # A logit at the threshold falls to either side; so does a pixel of the border where a box moved by a rounding.
    differing = np.count_nonzero(result.masks.stack()[order] != expected)
    assert differing <= 5, f"{differing} of {expected.size} pixels"

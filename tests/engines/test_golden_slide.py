"""Exported golden segmentors in sliding windows through ONNX Runtime: label maps equal the official code's."""

from __future__ import annotations

import numpy as np
import pytest

import golden
from adapter_engines import Engine
from adapter_engines.label_maps import labels_of_bands
from adapter_engines.sliding import slide, slide_bands

pytest.importorskip("torch")

NAMES = [
    name
    for name in golden.names("models", *golden.SEGMENTORS)
    if any(case["mode"] == "slide" for case in golden.config("models", name)["cases"])
]


@pytest.mark.parametrize("library", ["auto", None], ids=["library", "function body"])
@pytest.mark.parametrize("name", NAMES)
def test_sliding_windows_through_onnx_give_the_official_label_map(name, library, tmp_path):
    from adapter_export import export
    from adapter_infer.checkpoints import load_model

    case = next(case for case in golden.config("models", name)["cases"] if case["mode"] == "slide")
    crop, stride = tuple(case["crop_size"]), tuple(case["stride"])
    model, spec, _ = load_model(golden.folder("models", name) / "checkpoint.pth")
    export(model, spec, tmp_path / "model.onnx", size=crop, check=False)
    image = golden.array("models", name, case["input"]["file"])[0]
    with Engine.load(tmp_path / "model.onnx", library=library) as engine:

        def run(windows: np.ndarray) -> np.ndarray:
            return engine.infer({"image": windows})["logits"]

        logits = slide(run, image, crop, stride)
        labels = labels_of_bands(slide_bands(run, image, crop, stride), image.shape[1:], tuple(case["ori_shape"]))
    truth = golden.array("models", name, case["logits_every_2nd_pixel"]["file"])[0]
    assert np.abs(logits[:, ::2, ::2] - truth).max() < 2e-4
    sure = golden.array("models", name, case["margin"]["file"]) > 1e-3
    assert np.array_equal(labels[sure], golden.array("models", name, case["argmax"]["file"])[sure])

"""Every golden detector through its ONNX file, from the official input to the official detections."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from filelock import FileLock

import golden
import golden_detectors
from adapter_export import detector_steps, export, probes
from adapter_infer.detectors.detections import Detections
from adapter_infer.detectors.picture import PictureDetections, on_picture
from adapter_infer.metadata import DETECTION_NAMES
from adapter_plugins import library
from export import detector_cases
from golden_detectors import check
from sweeps import sweep

golden_detectors.require()
FORMS: dict[str, dict[str, Any]] = {"static": {}, "dynamic": {"batch": "dynamic", "dynamic_size": True}}
# One travels with the project; the others, where they are, take a minute each.
QUICK = "mask_rcnn_vitdet_baseline"
OTHERS = [name for name in golden_detectors.NAMES if name != QUICK]
NAMES = sweep([(QUICK, form) for form in FORMS], [(name, form) for name in OTHERS for form in FORMS])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Callable[[str, str], Path]:
    """The path of a golden detector's file, made by the first who asks."""
    base = tmp_path_factory.getbasetemp()
    root = (base if worker_id == "master" else base.parent) / "detectors"
    root.mkdir(exist_ok=True)
    torch.set_num_threads(1)

    def written(name: str, form: str) -> Path:
        path = root / f"{name}-{form}.onnx"
        with FileLock(f"{path}.lock"):
            if not path.exists():
                model, spec = detector_cases.from_golden(name)
                options = FORMS[form] or {"size": golden.array("models", name, "input.npy").shape[2:]}
                report = export(model, spec, path, **options)
                assert report.parity is not None
                assert {match.unmatched for match in report.parity.matches} == {0}
        return path

    return written


def run(path: Path, name: str, names: tuple[str, ...], *, with_library: bool = True) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    if with_library:
        options.register_custom_ops_library(str(library("msda_ort_cpu")))
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    size = golden.config("models", name)["img_meta"]["img_shape"][:2]
    feeds = {"image": golden.array("models", name, "input.npy"), "image_size": np.array([size], np.int64)}
    return dict(zip(names, session.run(names, feeds), strict=True))


@pytest.mark.parametrize(("name", "form"), NAMES)
def test_raw_tensors_equal_the_official_ones(name: str, form: str, written: Any) -> None:
    if not (golden.folder("models", name) / "neck1.npy").is_file():
        pytest.skip(f"only the results of {name} travel with the project; ADAPTER_GOLDEN names the full set")
    model, _ = detector_cases.from_golden(name)
    names = detector_steps.names(model)
    shown = probes.show(written(name, form), names)
    found = run(shown, name, names)
    shown.unlink()
    tensors = golden.config("models", name)["tensors"]
    kinds = {"neck": "neck", "rpn_scores": "rpn_cls", "rpn_deltas": "rpn_bbox", "class_logits": "head_cls"}
    kinds |= {"box_deltas": "head_bbox", "centerness": "head_centerness"}
    compared = 0
    for step in detector_steps.dense_names(model):
        kind, _, i = step.rpartition("_")
        check(found[step], name, f"{kinds[kind]}{int(i) + 1}")
        compared += 1
    assert compared >= 4
    if name.startswith("sparse"):  # its boxes and vectors follow from no choice, so every stage can be compared
        for k in range(6):
            check(found[f"stage_deltas_{k}"], name, f"stage{k + 1}_reg")
        check(found["stage_logits_5"], name, "stage6_cls")
    elif "proposals" in tensors:
        truth = golden.array("models", name, tensors["proposals"]["file"])
        count = int((found["stage_boxes_0"][0] != 0).any(1).sum())
        assert count == len(truth)
        assert np.abs(found["stage_boxes_0"][0, :count] - truth[:, :4]).max() < 0.01


def result(found: dict[str, np.ndarray], name: str) -> PictureDetections:
    meta = golden.config("models", name)["img_meta"]
    detections = Detections(*(torch.from_numpy(found[key]) for key in DETECTION_NAMES if key in found))
    return on_picture(detections, 0, tuple(meta["ori_shape"][:2]), tuple(meta["scale_factor"][:2]))


@pytest.mark.parametrize(("name", "form"), NAMES)
def test_detections_equal_the_official_ones(name: str, form: str, written: Any) -> None:
    path = written(name, form)
    names = tuple(output.name for output in onnx.load(path).graph.output)
    for with_library in (True, False):
        found = result(run(path, name, names, with_library=with_library), name)
        golden_detectors.check_result(name, found.boxes, found.scores, found.labels, found.masks)

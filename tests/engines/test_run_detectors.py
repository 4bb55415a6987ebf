"""adapter-run on detectors and panoptic models: pictures, COCO files, tables, and refusals of what does not apply."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from adapter_engines import coco, rle
from adapter_engines.cli import main
from adapter_engines.inputs import Task
from adapter_infer import datasets
from engines import detector_files
from engines.test_panoptic import colourful


@pytest.fixture
def detector(tmp_path):
    return detector_files.detector(tmp_path / "detector.onnx")


@pytest.fixture
def mask2former(tmp_path):
    return detector_files.mask2former(tmp_path / "panoptic.onnx")


@pytest.fixture
def save(tmp_path):
    def write(name, height=90, width=120):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(colourful(height, width)).save(path)
        return path

    return write


def run(*arguments) -> int:
    return main([str(argument) for argument in arguments])


def names_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_detections_are_written_as_coco_reads_them(detector, save, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert run(detector, save("000042.png"), save("000007.png", 60, 90), "--out", out) == 0
    assert names_in(out) == ["000007_overlay.png", "000042_overlay.png", "detections.json"]
    results = json.loads((out / "detections.json").read_text())
    assert [entry["image_id"] for entry in results] == [42] * 3 + [7] * 3
    assert [entry["category_id"] for entry in results[:3]] == [3, 1, 2]  # class index + 1
    first = results[0]
    assert first["file_name"] == "000042.png" and first["bbox"] == pytest.approx([12, 18, 48, 63], abs=0.01)
    assert first["score"] == pytest.approx(0.9, abs=0.02)
    assert first["segmentation"]["size"] == [90, 120]
    mask = rle.decode(rle.RLE(rle.from_string(first["segmentation"]["counts"]), (90, 120)))
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert abs(rows[0] - 21) <= 1 and abs(columns[-1] - 57) <= 1  # nine tenths of the box
    table = capsys.readouterr().out
    assert "objects" in table and "ball 0.9" in table and "drawn from score 0.3" in table and "network" in table


def test_pictures_without_numbers_are_counted_and_broken_ones_keep_theirs(detector, save, tmp_path, capsys) -> None:
    (tmp_path / "broken.png").write_bytes(b"")
    out = tmp_path / "out"
    code = run(detector, save("a.png"), tmp_path / "broken.png", save("c.png"), "--out", out, "--no-overlay")
    assert code == 1 and names_in(out) == ["detections.json"]
    assert {entry["image_id"] for entry in json.loads((out / "detections.json").read_text())} == {1, 3}
    assert capsys.readouterr().err.count("\n") == 1


def test_a_run_without_any_result_leaves_earlier_results_alone(detector, save, tmp_path) -> None:
    out = tmp_path / "out"
    assert run(detector, save("a.png"), "--out", out, "--no-overlay") == 0
    before = (out / "detections.json").read_bytes()
    (tmp_path / "broken.png").write_bytes(b"")
    assert run(detector, tmp_path / "broken.png", "--out", out) == 1
    assert (out / "detections.json").read_bytes() == before


def test_a_score_threshold_holds_for_files_and_table(detector, save, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert run(detector, save("a.png"), "--out", out, "--score-threshold", 0.5, "--json", out / "r.json") == 0
    assert len(json.loads((out / "detections.json").read_text())) == 2
    report = json.loads((out / "r.json").read_text())
    assert (report["task"], report["score_threshold"], report["drawn_score"]) == ("detection", 0.5, 0.5)
    assert report["results"] == str(out / "detections.json")
    assert report["categories"] == [{"id": i + 1, "name": name} for i, name in enumerate(detector_files.NAMES)]
    (picture,) = report["pictures"]
    assert [entry["name"] for entry in picture["detections"]] == ["ball", "cat"]
    assert picture["inside"] == [96, 128] and picture["scale"] == pytest.approx([96 / 90, 128 / 120])
    assert set(picture["time_ms"]) == {"read", "preprocess", "network", "postprocess", "write", "total"}
    assert "scores from 0.5" in capsys.readouterr().out


def test_fitting_into_a_fixed_file_is_recorded(save, tmp_path, capsys) -> None:
    path = detector_files.detector(tmp_path / "fixed.onnx", size=(96, 160))
    portrait, out = save("portrait.png", 120, 90), tmp_path / "out"
    assert run(path, portrait, "--out", out) == 1
    assert "accept a smaller scale (--fit)" in capsys.readouterr().err
    assert run(path, portrait, "--out", out, "--fit", "--json", out / "r.json") == 0
    report = json.loads((out / "r.json").read_text())
    assert report["fit"] is True and report["pictures"][0]["inside"] == [96, 72]
    assert report["pictures"][0]["scale"] == pytest.approx([0.8, 0.8])
    assert "detection, fit" in capsys.readouterr().out


def test_the_report_does_not_overwrite_the_results(detector, save, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert run(detector, save("a.png"), "--out", out, "--json", out / "detections.json") == 2
    assert "is the file that COCO's results go to" in capsys.readouterr().err and names_in(out) == []


def test_a_detector_without_masks_writes_boxes_only(save, tmp_path) -> None:
    path = detector_files.detector(tmp_path / "boxes.onnx", masks=False)
    assert run(path, save("a.png"), "--out", tmp_path / "out") == 0
    assert all("segmentation" not in entry for entry in json.loads((tmp_path / "out/detections.json").read_text()))


def test_panoptic_maps_are_written_as_coco_reads_them(mask2former, save, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    assert run(mask2former, save("in/a.png", 60, 90), tmp_path / "in", save("b.png", 48, 72), "--out", out) == 0
    assert names_in(out) == ["a_overlay.png", "a_panoptic.png", "b_overlay.png", "b_panoptic.png", "panoptic.json"]
    document = json.loads((out / "panoptic.json").read_text())
    assert [image["file_name"] for image in document["images"]] == ["a.png", "b.png"]
    assert document["images"][0] == {"id": 1, "file_name": "a.png", "height": 60, "width": 90}
    assert [(each["id"], each["isthing"]) for each in document["categories"]] == [(1, 1), (2, 1), (3, 0), (4, 0)]
    annotation = document["annotations"][0]
    assert annotation["file_name"] == "a_panoptic.png" and annotation["image_id"] == 1
    with Image.open(out / "a_panoptic.png") as image:
        rgb = np.array(image).astype(int)
    ids = rgb @ [1, 256, 65536]
    assert ids.shape == (60, 90)
    for segment in annotation["segments_info"]:
        mask = ids == segment["id"]
        assert mask.sum() == segment["area"] > 0
        x, y, width, height = segment["bbox"]
        assert mask[y : y + height, x : x + width].sum() == mask.sum()
        assert mask[y].any() and mask[:, x].any()
    by_category = {segment["category_id"]: segment["id"] for segment in annotation["segments_info"]}
    assert [ids[20, 10], ids[20, 45], ids[20, 80]] == [by_category[1], by_category[2], by_category[3]]
    assert "segments" in capsys.readouterr().out


def test_a_panoptic_picture_without_segments_is_all_void(save, tmp_path) -> None:
    path = detector_files.mask2former(tmp_path / "none.onnx", certainty=0.0)
    assert run(path, save("a.png"), "--out", tmp_path / "out") == 0
    assert json.loads((tmp_path / "out/panoptic.json").read_text())["annotations"][0]["segments_info"] == []
    with Image.open(tmp_path / "out/a_panoptic.png") as image:
        assert not np.array(image).any()


def test_semantic_queries_are_run_as_a_segmentation(save, tmp_path, capsys) -> None:
    path = detector_files.mask2former(tmp_path / "semantic.onnx", semantic=True)
    assert run(path, save("a.png"), "--out", tmp_path / "out") == 0
    assert names_in(tmp_path / "out") == ["a_labels.png", "a_overlay.png"]
    assert "red thing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("engine", "options", "message"),
    [
        ("detector", ["--mode", "slide"], "--mode does not apply to"),
        ("detector", ["--crop", 64, 64], "--crop does not apply to"),
        ("detector", ["--stretch"], "which is a detector; leave it out; there is --fit for it"),
        ("detector", ["--batch", 2], "--batch does not apply to"),
        ("detector", ["--fit"], "fit is for a file of fixed size"),
        ("detector", ["--score-threshold", 7], "the score threshold is 7.0; scores are from 0 to 1"),
        ("panoptic", ["--score-threshold", 0.5], "which is a panoptic model; leave it out"),
        ("panoptic", ["--stride", 9, 9], "--stride does not apply to"),
        ("semantic", ["--score-threshold", 0.5], "which is a semantic segmentation; leave it out"),
        ("semantic", ["--fit"], "there is --stretch for it"),
    ],
)
def test_what_does_not_apply_is_refused_in_one_line(tmp_path, save, capsys, engine, options, message) -> None:
    makers = {"detector": detector_files.detector, "panoptic": detector_files.mask2former}
    if engine in makers:
        path = makers[engine](tmp_path / "model.onnx")
    else:
        path = detector_files.mask2former(tmp_path / "model.onnx", semantic=True)
    assert run(path, save("a.png"), "--out", tmp_path / "out", *options) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("output", ["dense", "features"])
def test_a_part_of_a_detector_is_refused_with_the_way_out(tmp_path, save, capsys, output) -> None:
    path = detector_files.detector(tmp_path / "part.onnx", output=output)
    assert run(path, save("a.png"), "--out", tmp_path / "out") == 3
    assert "export it with --output detections" in capsys.readouterr().err


# --- COCO's numbering ---


def test_categories_are_cocos_own_where_the_classes_are() -> None:
    names = datasets.of_type("CocoDataset", 80)[0]
    numbers = dict(zip(names, coco.category_ids(names, 80), strict=True))
    # As in instances_val2017.json.
    assert [numbers[name] for name in ("person", "stop sign", "cell phone", "toothbrush")] == [1, 13, 77, 90]
    names = datasets.of_type("CocoPanopticDataset", 133)[0]
    numbers = dict(zip(names, coco.category_ids(names, 133), strict=True))
    # As in panoptic_val2017.json.
    assert [numbers[name] for name in ("toothbrush", "banner", "tree-merged", "rug-merged")] == [90, 92, 184, 200]
    assert len(set(numbers.values())) == 133


@pytest.mark.parametrize(("names", "count"), [(None, 80), (("a", "b"), 2), (("person",) * 80, 80)])
def test_other_classes_are_numbered_from_one(names, count) -> None:
    assert coco.category_ids(names, count) == tuple(range(1, count + 1))


@pytest.mark.parametrize(
    ("stems", "ids"),
    [
        (["000000397133", "000000000139"], [397133, 139]),
        (["1", "01"], [1, 2]),  # the same number twice
        (["7", "street"], [1, 2]),
        (["٣", "4"], [1, 2]),
    ],
)
def test_pictures_are_numbered_by_their_names_where_all_have_one(tmp_path, stems, ids) -> None:
    assert coco.image_ids([Task(tmp_path / f"{stem}.jpg", tmp_path / stem) for stem in stems]) == ids

"""Plans of detectors: two inputs in the profiles, in the build and in the comparison, which is of sets of objects."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from adapter_engines.engine import Engine
from adapter_engines.plans import parity, profiles, source
from adapter_engines.plans.parity_detections import LIMITS, compare
from adapter_engines.plans.profiles import Range
from adapter_infer.errors import UsageError
from engines import detector_files, plan_files
from engines.plan_files import built

needs_rtx = pytest.mark.skipif(bool(plan_files.missing()), reason=plan_files.missing() or "-")


def test_a_dynamic_batch_is_that_of_both_inputs(tmp_path: Path) -> None:
    model = source.read(detector_files.detector(tmp_path / "d.onnx", batch=None, size=(96, 160)))
    (made,) = profiles.shapes(model.metadata, [Range(max_batch=4, opt_batch=2)])
    assert made["image"] == {"min": [1, 3, 96, 160], "opt": [2, 3, 96, 160], "max": [4, 3, 96, 160]}
    assert made["image_size"] == {"min": [1, 2], "opt": [2, 2], "max": [4, 2]}
    model = source.read(detector_files.detector(tmp_path / "f.onnx"))
    (made,) = profiles.shapes(model.metadata, [Range(opt_size=(96, 160))])
    assert list(made) == ["image"], "its shape is fixed"
    model = source.read(detector_files.mask2former(tmp_path / "p.onnx", batch=None))
    assert list(profiles.shapes(model.metadata, [Range(max_batch=4, opt_size=(96, 160))])[0]) == ["image"]


@needs_rtx
@pytest.mark.parametrize(
    ("batch", "size", "options"),
    [
        (1, (96, 160), ()),
        (None, (96, 160), ("--max-batch", 4)),
        (None, None, ("--max-batch", 2, "--opt-size", 96, 160, "--max-size", 128, 192)),
    ],
)
def test_a_detector_with_two_inputs_builds(tmp_path: Path, batch, size, options) -> None:
    onnx = detector_files.detector(tmp_path / "d.onnx", batch=batch, size=size)
    described = built(onnx, tmp_path / "d.plan", *options)
    assert [tensor["name"] for tensor in described["inputs"]] == ["image", "image_size"]
    assert described["inputs"][1]["dtype"] == "int64"
    assert {tensor["name"] for tensor in described["outputs"]} == {"boxes", "scores", "labels", "count", "masks"}
    if options:
        most = described["profiles"][0]
        assert most["image"]["max"][0] == most["image_size"]["max"][0] == options[1]


@pytest.mark.parametrize("embed", [False, True])
def test_pictures_are_fed_with_sizes_within_them(tmp_path: Path, embed: bool) -> None:
    path = detector_files.detector(tmp_path / "d.onnx", batch=None, embed=embed)
    shape = (3, 96, 160, 3) if embed else (3, 3, 96, 160)
    inputs = [{"name": "image_size", "dtype": "int64", "shape": [-1, 2]}]
    inputs += [{"name": "image", "dtype": "uint8" if embed else "float32", "shape": [-1, 3, -1, -1]}]
    fed = parity.feeds(source.read(path), shape, SimpleNamespace(inputs=inputs), seed=0)  # type: ignore[arg-type]
    assert fed["image"].shape == shape and fed["image_size"].tolist() == [[96, 140], [84, 160], [96, 140]]
    with Engine.load(path, threads=1) as engine:
        (row,) = parity.rows_of(engine.infer(fed), engine.infer(fed), "fp32")
    assert (row["output"], row["objects"], row["share"]) == ("detections", 9, 0.0)


def objects(count: int = 40, seed: int = 0) -> dict[str, np.ndarray]:
    """Two pictures with objects of different places and classes."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 500, (2, count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(20, 90, (2, count, 2))], 2).astype(np.float32)
    found = {"boxes": boxes, "scores": np.sort(rng.uniform(0.05, 1, (2, count)).astype(np.float32))[:, ::-1].copy()}
    found |= {"labels": rng.integers(0, 9, (2, count)), "count": np.array([count, count - 8])}
    return found | {"masks": rng.random((2, count, 28, 28), dtype=np.float32)}


def changed(name: str, change) -> dict[str, np.ndarray]:
    found = objects()
    found[name] = change(found[name].copy())
    return found


def test_the_order_does_not_matter_and_what_lies_behind_the_count_neither() -> None:
    found, order = objects(), np.random.default_rng(1).permutation(32)
    for name in ("boxes", "scores", "labels", "masks"):
        found[name][1, :32] = found[name][1, order]
        found[name][1, 32:] = 7
    row = compare(found, objects(), LIMITS["fp32"])
    assert row["share"] == pytest.approx(0, abs=1e-6) and row["objects"] == 72


def test_an_object_that_barely_passed_may_be_missing() -> None:
    found = objects()
    found["count"] = found["count"] - 1  # the last ones, with the lowest scores
    assert compare(found, objects(), LIMITS["fp32"])["share"] < 1


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("labels", lambda x: (x + 1) % 9),
        ("boxes", lambda x: x + 5),
        ("boxes", lambda x: x * 1.01),
        ("scores", lambda x: x * 0.99),
        ("masks", lambda x: x * 0.99),
        ("count", lambda x: x // 2),
        ("count", lambda x: x * 0),
    ],
)
def test_what_differs_fails(name, change) -> None:
    assert compare(changed(name, change), objects(), LIMITS["fp32"])["share"] > 1
    assert compare(objects(), changed(name, change), LIMITS["fp32"])["share"] > 1


def test_objects_where_there_should_be_none_fail() -> None:
    none = objects() | {"count": np.zeros(2, np.int64)}
    assert compare(objects(), none, LIMITS["bf16"])["share"] > 1
    assert compare(none, none, LIMITS["fp32"])["share"] == 0


def test_roundings_of_half_types_pass_as_such_only() -> None:
    rng = np.random.default_rng(3)
    found = objects()
    found["boxes"] += rng.normal(0, 0.15, found["boxes"].shape).astype(np.float32)
    found["scores"] += rng.normal(0, 3e-3, found["scores"].shape).astype(np.float32)
    assert compare(found, objects(), LIMITS["fp32"])["share"] > 1
    assert compare(found, objects(), LIMITS["fp16"])["share"] < 1


def test_shapes_and_numbers_that_are_none_fail() -> None:
    row = compare(objects(41), objects(), LIMITS["fp32"])
    assert row["share"] == np.inf and "boxes (2, 41, 4) in place of (2, 40, 4)" in row["what"]
    row = compare(changed("scores", lambda x: x * np.nan), objects(), LIMITS["fp32"])
    assert row["share"] == np.inf and row["what"] == "a number that is none"


def test_sizes_of_a_fixed_file_are_refused_as_before(tmp_path: Path) -> None:
    model = source.read(detector_files.detector(tmp_path / "d.onnx", size=(96, 160)))
    assert profiles.shapes(model.metadata, [Range()]) == []
    with pytest.raises(UsageError, match="the file's batch is fixed at 1"):
        profiles.shapes(model.metadata, [Range(max_batch=2)])

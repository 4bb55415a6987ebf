"""The gate after the build: what it compares, what it lets pass, and that a plan that fails it is never kept.

The plan is run by stand-ins for TensorRT and CUDA; the builder, which needs the real ones, is replaced by a function
that writes the stand-in's plan.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from adapter_engines.engine import Engine
from adapter_engines.plans import build as builds
from adapter_engines.plans import layers, network, parity, sidecar
from adapter_engines.plans.build import build
from adapter_engines.plans.options import BuildOptions
from adapter_engines.plans.parity import LIMITS
from adapter_engines.plans.refit import refit
from adapter_engines.plans.widen import widened
from adapter_infer.errors import EnvironmentMissing, ParityError, UsageError
from engines import fake_tensorrt

FOUND = layers.Found("engine", 4, {"Conv": 4}, {"fp32": 1.0}, 0)


@pytest.fixture
def world(monkeypatch, tmp_path):
    with fake_tensorrt.installed(monkeypatch) as made:
        yield made


def toy_plan(toy, error: float = 0.0) -> str:
    shape = [1, 3, 64, 64]
    tensors = {
        "inputs": [{"name": "image", "dtype": "FLOAT", "shape": shape, "ranges": [[shape] * 3]}],
        "outputs": [{"name": "logits", "dtype": "FLOAT", "shape": [1, 5, 64, 64]}],
    }
    weights = {key: getattr(toy, key).tolist() for key in ("weight", "context")}
    return json.dumps({"function": "toy", "profiles": 1, "bias": (toy.bias + error).tolist(), **weights, **tensors})


@pytest.fixture
def pretended_builder(monkeypatch, world):
    """A function that says what the next build writes."""
    image = SimpleNamespace(name="image", shape=(1, 3, 64, 64), dtype=SimpleNamespace(name="FLOAT"))
    logits = SimpleNamespace(name="logits", shape=(1, 5, 64, 64), dtype=SimpleNamespace(name="FLOAT"))
    definition = SimpleNamespace(
        num_inputs=1, num_outputs=1, num_layers=0, get_input=lambda i: image, get_output=lambda i: logits
    )
    parsed = network.Network(None, definition, None, None, Counter(), 0)
    monkeypatch.setattr(network, "parse", lambda *_: parsed)
    monkeypatch.setattr(builds.inspect, "layers_of", lambda plan: FOUND)
    monkeypatch.setattr(builds.layers, "in_network", lambda definition: layers.Found("network", 0, {}, {}, 0))
    monkeypatch.setattr(builds, "prepare_polygraphy", lambda tools: None)

    def next_plan(text: str) -> None:
        monkeypatch.setattr(builds, "_write", lambda *arguments: arguments[-1].write_text(text))

    return next_plan


def test_a_good_plan_is_published_with_its_figures(make_toy, tmp_path: Path, pretended_builder) -> None:
    toy = make_toy()
    pretended_builder(toy_plan(toy))
    report = build(toy.path, tmp_path / "toy.plan")
    assert report.sidecar == sidecar.read(tmp_path / "toy.plan")
    figures = report.sidecar.parity
    assert figures is not None and figures["done"] and figures["worst"]["output"] == "logits"
    assert 0 < figures["worst"]["largest"] < 1e-4 and figures["precision"] == "fp32"
    assert report.sidecar.precision_source == "engine" and report.sidecar.precision == {"fp32": 1.0}
    assert report.sidecar.gpu == {"name": "Pretended GPU", "compute_capability": "9.0"}
    assert not list(tmp_path.glob(".*"))


def test_a_plan_that_computes_something_else_is_not_kept(make_toy, tmp_path: Path, pretended_builder) -> None:
    toy = make_toy()
    (tmp_path / "toy.plan").write_bytes(b"older")
    pretended_builder(toy_plan(toy, error=0.1))
    with pytest.raises(
        ParityError, match=r"output logits of toy\.plan at input 1x3x64x64 .* no plan was kept"
    ) as caught:
        build(toy.path, tmp_path / "toy.plan")
    assert caught.value.exit_code == 4
    assert (tmp_path / "toy.plan").read_bytes() == b"older"
    assert not (tmp_path / "toy.plan.json").exists() and not list(tmp_path.glob(".*"))


def test_without_the_check_the_sidecar_says_so(make_toy, tmp_path: Path, pretended_builder) -> None:
    toy = make_toy()
    pretended_builder(toy_plan(toy, error=0.1))
    report = build(toy.path, tmp_path / "toy.plan", options=BuildOptions(check=False))
    assert report.sidecar.parity == {"done": False, "reason": "it was not asked for (--no-check)"}


def test_a_stripped_plan_is_compared_once_it_is_refitted(
    make_toy, tmp_path: Path, pretended_builder, monkeypatch
) -> None:
    toy = make_toy()
    pretended_builder("no weights")
    monkeypatch.setattr(builds.build_options, "check_toolkit", lambda *_: None)
    stripped = build(toy.path, tmp_path / "stripped.plan", options=BuildOptions(strip_weights=True)).sidecar
    assert stripped.weights_stripped and stripped.parity is not None and "refit" in stripped.parity["reason"]

    monkeypatch.setattr("adapter_engines.plans.refit._refitted", lambda *_: toy_plan(toy, error=0.1).encode())
    with pytest.raises(ParityError):
        refit(tmp_path / "stripped.plan", toy.path, tmp_path / "full.plan")
    assert not (tmp_path / "full.plan").exists()
    monkeypatch.setattr("adapter_engines.plans.refit._refitted", lambda *_: toy_plan(toy).encode())
    full = refit(tmp_path / "stripped.plan", toy.path, tmp_path / "full.plan").sidecar
    assert not full.weights_stripped and full.parity is not None and full.parity["done"]
    assert full == sidecar.read(tmp_path / "full.plan") and full.plan_sha256 != stripped.plan_sha256

    other = make_toy("other.onnx", classes=7)
    with pytest.raises(UsageError, match="give the file it was built from"):
        refit(tmp_path / "stripped.plan", other.path, tmp_path / "x.plan")
    with pytest.raises(UsageError, match="holds its weights already"):
        refit(tmp_path / "full.plan", toy.path, tmp_path / "x.plan")


@pytest.mark.parametrize(("error", "passes"), [(0.0, True), (0.0005, False)])
def test_both_figures_have_limits(error: float, passes: bool) -> None:
    """A small difference everywhere is below the limit of the largest one, and still too much."""
    exact = np.random.default_rng(0).normal(size=(1, 5, 32, 32)).astype(np.float32)
    (row,) = parity.compare({"logits": exact + np.float32(error)}, {"logits": exact}, LIMITS["fp32"])
    assert row["largest"] < LIMITS["fp32"].largest
    assert (row["share"] <= 1) == passes
    one_pixel = exact.copy()
    one_pixel[0, 0, 0, 0] += 0.005
    (row,) = parity.compare({"logits": one_pixel}, {"logits": exact}, LIMITS["fp32"])
    assert row["rms"] < LIMITS["fp32"].rms and row["share"] > 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_none_fails(bad: float) -> None:
    exact = np.ones((1, 2, 4, 4), np.float32)
    got = exact.copy()
    got[0, 0, 0, 0] = bad
    (row,) = parity.compare({"logits": got}, {"logits": exact}, LIMITS["bf16"])
    assert row["share"] == np.inf


def test_shapes_and_labels_are_compared() -> None:
    (row,) = parity.compare({"y": np.zeros((1, 2))}, {"y": np.zeros((1, 3))}, LIMITS["fp32"])
    assert row["share"] == np.inf and "(1, 2) in place of (1, 3)" in row["what"]
    exact = np.zeros((1, 10, 10), np.int64)
    got = exact.copy()
    got[0, 0] = 1
    (row,) = parity.compare({"labels": got}, {"labels": exact}, LIMITS["fp16"])
    assert (row["differing"], row["share"]) == (0.1, pytest.approx(10))


def test_every_profile_is_compared_at_its_different_shapes(tmp_path: Path) -> None:
    small = {"min": [1, 3, 32, 32], "opt": [1, 3, 32, 32], "max": [1, 3, 64, 64]}
    fixed = {kind: [4, 3, 32, 32] for kind in ("min", "opt", "max")}
    described = SimpleNamespace(profiles=[{"image": small}, {"image": fixed}], inputs=[])
    assert list(parity.cases(described)) == [(0, [(1, 3, 32, 32), (1, 3, 64, 64)]), (1, [(4, 3, 32, 32)])]


def test_pictures_are_within_the_normalisation(make_toy) -> None:
    found = builds.source.read(make_toy().path)
    made = parity.image(found, (2, 3, 64, 96), "float32", seed=0)
    assert made.shape == (2, 3, 64, 96) and made.dtype == np.float32
    settings = found.metadata.model.preprocessing
    pixels = made.transpose(0, 2, 3, 1) * np.array(settings.std) + np.array(settings.mean)
    assert -0.01 < pixels.min() < 1 and 254 < pixels.max() < 255.01
    assert np.abs(pixels - np.rint(pixels)).max() < 1e-3
    raw = parity.image(found, (1, 64, 96, 3), "uint8", seed=0)
    assert raw.shape == (1, 64, 96, 3) and raw.dtype == np.uint8
    assert not np.array_equal(made, parity.image(found, (2, 3, 64, 96), "float32", seed=1))


@pytest.mark.parametrize("element", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_half_types_are_widened_for_the_reference(tmp_path: Path, element: int) -> None:
    """Weights keep the values they were rounded to; casts, constants and function bodies follow."""
    weight = helper.make_tensor("w", element, [3], np.array([0.1, 1 / 3, 1000.0]))
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=element),
        helper.make_node("Mul", ["h", "w"], ["m"]),
        helper.make_node("Twice", ["m"], ["t"], domain="local"),
        helper.make_node("Cast", ["t"], ["y"], to=TensorProto.FLOAT),
    ]
    two = helper.make_tensor("two", element, [], np.array([2.0]))
    twice = helper.make_function(
        "local",
        "Twice",
        ["a"],
        ["b"],
        [helper.make_node("Constant", [], ["two"], value=two), helper.make_node("Mul", ["a", "two"], ["b"])],
        [helper.make_opsetid("", 18)],
    )
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    path = tmp_path / "half.onnx"
    onnx.save(helper.make_model(graph, functions=[twice], opset_imports=opsets, ir_version=10), path)
    copy = widened(path, tmp_path)
    x = np.array([1.0, 0.1, 3.0], np.float32)
    got = ort.InferenceSession(str(copy), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    rounded = numpy_helper.to_array(weight).astype(np.float32)
    assert not np.array_equal(rounded, np.float32([0.1, 1 / 3, 1000.0]))
    np.testing.assert_allclose(got, 2 * x * rounded, rtol=1e-6)
    assert widened(copy, tmp_path) == copy, "there is nothing left to widen"


def test_the_widened_copy_of_a_bf16_model_runs_on_a_cpu(make_toy, tmp_path: Path) -> None:
    """The model itself is refused there; its copy must not take that over."""
    path = make_toy().path
    model = onnx.load(path)
    for entry in model.metadata_props:
        if entry.key == "adapter_infer.precision":
            entry.value = "bf16"
    weight = next(each for each in model.graph.initializer if each.data_type == TensorProto.FLOAT)
    stored = helper.make_tensor("stored", TensorProto.BFLOAT16, weight.dims, numpy_helper.to_array(weight).flatten())
    model.graph.node.insert(0, helper.make_node("Cast", ["stored"], [weight.name], to=TensorProto.FLOAT))
    model.graph.initializer.remove(weight)
    model.graph.initializer.append(stored)
    onnx.save(model, path)
    with pytest.raises(EnvironmentMissing, match="bf16"):
        Engine.load(path)
    with Engine.load(widened(path, tmp_path), threads=1) as engine:
        assert engine.metadata is not None
        assert engine.metadata.precision == "fp32"


def test_what_cannot_be_compared_is_said(make_toy, tmp_path: Path, pretended_builder) -> None:
    pretended_builder("not a plan that could be run")
    foreign, stock = make_toy("foreign.onnx", metadata=False), make_toy("stock.onnx", op="tensorrt")
    for toy, says in ((foreign, "no metadata of adapter-export"), (stock, "does not have TensorRT's own operator")):
        figures = build(toy.path, tmp_path / f"{toy.path.stem}.plan").sidecar.parity
        assert figures is not None and not figures["done"] and says in figures["reason"]

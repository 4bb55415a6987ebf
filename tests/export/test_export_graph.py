"""The exported file itself: its nodes, names, metadata, and that nothing of the machine it was made on is in it."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime as ort
import pytest

from adapter_export import schema
from adapter_infer import metadata
from adapter_infer.errors import UsageError

NAME = "upernet_vit_adapter"


@pytest.fixture(scope="module")
def path(exported: Callable[..., Path]) -> Path:
    return exported("models", NAME)


@pytest.fixture(scope="module")
def model(path: Path) -> onnx.ModelProto:
    return onnx.load(path)


def kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def props(model: onnx.ModelProto) -> dict[str, str]:
    assert len({entry.key for entry in model.metadata_props}) == len(model.metadata_props)
    return {entry.key: entry.value for entry in model.metadata_props}


def test_every_msda_is_one_node_with_plugin_attributes_and_a_body(model: onnx.ModelProto) -> None:
    nodes = [node for node in model.graph.node if node.op_type == metadata.FUSED_OP]
    assert len(nodes) == 10
    for node in nodes:
        attributes = {attribute.name: attribute.s.decode() for attribute in node.attribute}
        assert attributes == {"plugin_namespace": "adapter_infer", "plugin_version": "1"}
        assert node.domain == metadata.OP_DOMAIN
    assert [(function.domain, function.name) for function in model.functions] == [("adapter_infer", "MSDeformAttn")]


def test_a_plain_vit_has_no_msda_node_and_no_body(exported: Callable[..., Path]) -> None:
    model = onnx.load(exported("models", "semfpn_vit_baseline"))
    assert kinds(model)[metadata.FUSED_OP] == 0
    assert not model.functions
    assert [opset.domain for opset in model.opset_import] == [""]


@pytest.mark.parametrize("name", ["det_vit_adapter_win", "det_beit_adapter_win", "det_uniperceiver_adapter_win"])
def test_windows_are_reshapes_and_transposes(exported: Callable[..., Path], name: str) -> None:
    found = kinds(onnx.load(exported("backbones", name)))
    assert not {"Col2Im", "Unfold", "ScatterND", "ScatterElements", "Loop", "If", "GridSample"} & set(found)


def test_interface_names_and_shapes(model: onnx.ModelProto) -> None:
    def form(value: onnx.ValueInfoProto) -> tuple[str, int, list[int]]:
        tensor = value.type.tensor_type
        return value.name, tensor.elem_type, [dim.dim_value for dim in tensor.shape.dim]

    assert [form(value) for value in model.graph.input] == [("image", onnx.TensorProto.FLOAT, [1, 3, 64, 96])]
    assert [form(value) for value in model.graph.output] == [("logits", onnx.TensorProto.FLOAT, [1, 7, 64, 96])]
    assert {opset.domain: opset.version for opset in model.opset_import} == {"": 18, "adapter_infer": 1}


def test_no_dead_node_and_no_unused_weight(model: onnx.ModelProto) -> None:
    used = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    assert [node.name for node in model.graph.node if not used & set(node.output)] == []
    assert {initializer.name for initializer in model.graph.initializer} <= used


def test_shapes_of_all_values_are_known_and_strict_inference_agrees(path: Path) -> None:
    schema.register()
    onnx.checker.check_model(str(path), full_check=True)
    inferred = onnx.shape_inference.infer_shapes(onnx.load(path), check_type=True, strict_mode=True)
    infos = {value.name: value for value in (*inferred.graph.value_info, *inferred.graph.output)}
    for node in inferred.graph.node:
        for name in node.output:
            assert all(dim.HasField("dim_value") for dim in infos[name].type.tensor_type.shape.dim), name


def test_no_level_is_transposed_after_the_split_and_then_added(model: onnx.ModelProto) -> None:
    """OpenVINO's CPU plugin loses the transposition in Split -> Transpose -> Reshape -> Add."""
    made = {name: node for node in model.graph.node for name in node.output}

    def chain(name: str, length: int) -> list[str]:
        return [made[name].op_type, *chain(made[name].input[0], length - 1)] if length and name in made else []

    sums = [chain(name, 3) for node in model.graph.node if node.op_type == "Add" for name in node.input]
    assert sums.count(["Reshape", "Split", "Transpose"]) == 3
    assert ["Reshape", "Transpose", "Split"] not in sums


def test_a_stranger_needs_no_schema_of_ours(path: Path) -> None:
    code = f"""
import onnx, onnx.inliner
onnx.checker.check_model({str(path)!r}, full_check=True)
onnx.shape_inference.infer_shapes(onnx.load({str(path)!r}), check_type=True, strict_mode=True)
assert not onnx.inliner.inline_local_functions(onnx.load({str(path)!r})).functions
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nodes_and_weights_are_named_after_modules(model: onnx.ModelProto, load: Any) -> None:
    nodes = [node.name for node in model.graph.node]
    assert len(set(nodes)) == len(nodes)
    assert "backbone.interactions.0.injector.attn/MSDeformAttn" in nodes
    weights = {initializer.name for initializer in model.graph.initializer}
    torch_model, _ = load("models", NAME)
    lost = []
    for name, parameter in torch_model.named_parameters():
        if parameter.dim() > 1 and parameter.numel() > 64 and not {name, f"{name}_transposed"} & weights:
            lost.append(name)
    # Those that an export changes: merged projections, the resized position embedding, convolutions with folded norms.
    changed = ("sampling_offsets.weight", "attention_weights.weight", "pos_embed", "level_embed")
    assert [name for name in lost if not name.endswith(changed)] == []


def test_nothing_of_this_machine_is_in_the_file(path: Path) -> None:
    data = path.read_bytes()
    for text in (b'File "', b"stack_trace", b"/adapter_infer/", str(Path.home()).encode() + b"/", b".py"):
        assert text not in data, text


def test_metadata_says_what_the_model_is_and_how_it_was_checked(model: onnx.ModelProto, load: Any) -> None:
    _, spec = load("models", NAME)
    found = metadata.from_props(props(model))
    assert found is not None
    assert (model.producer_name, model.producer_version) == ("adapter-infer", found.version)
    assert found.model == spec
    assert found.input == metadata.InputForm(1, 64, 96, 32, False)
    assert (found.op, found.output, found.msda_nodes, found.precision) == ("fused", "logits", 10, "fp32")
    assert found.params == 211223
    assert set(found.parity) == {"library", "body"}
    assert all(0 < largest < 2e-4 for largest in found.parity.values())


def test_inlined_by_the_user_the_model_computes_the_same(model: onnx.ModelProto, path: Path, run: Any) -> None:
    image = np.random.default_rng(0).standard_normal((1, 3, 64, 96)).astype(np.float32)
    inlined = onnx.inliner.inline_local_functions(model)
    session = ort.InferenceSession(inlined.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = run(path, image, with_library=True)["logits"]
    np.testing.assert_allclose(session.run(None, {"image": image})[0], wanted, rtol=0, atol=2e-4)


def test_a_dynamic_graph_declares_its_axes(exported: Callable[..., Path]) -> None:
    model = onnx.load(exported("models", NAME, dynamic_size=True, batch="dynamic"))
    (image,) = model.graph.input
    batch, channels, height, width = image.type.tensor_type.shape.dim
    assert batch.dim_param == "batch"
    assert channels.dim_value == 3
    assert "32" in height.dim_param and "32" in width.dim_param and height.dim_param != width.dim_param
    found = metadata.from_props(props(model))
    assert found is not None and found.input == metadata.InputForm(None, None, None, 32, False)


def test_an_opset_out_of_range_is_refused_with_the_range(load: Any, tmp_path: Path) -> None:
    from adapter_export import export

    model, spec = load("models", NAME)
    for op, opset, limits in (("fused", 17, "18 to 24"), ("fused", 99, "18 to 24"), ("onnx", 20, "18 to 19")):
        with pytest.raises(UsageError, match=f"opset {opset} is not supported with op flavour {op}; choose {limits}"):
            export(model, spec, tmp_path / "out.onnx", size=(64, 96), op=op, opset=opset)
    assert list(tmp_path.iterdir()) == []

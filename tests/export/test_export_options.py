"""The exporter's options: flavours, outputs, embedded preprocessing, second file, batches, and what it refuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import golden
from adapter_export import export, files, pictures
from adapter_infer import metadata
from adapter_infer.errors import UsageError
from adapter_infer.spec import Inference, ModelSpec, Preprocessing

NAME = "upernet_vit_adapter"
LIMIT = 2e-4


def logits_of(run: Any, path: Path, with_library: bool = False) -> np.ndarray:
    return run(path, golden.array("models", NAME, "input0.npy"), with_library=with_library)["logits"]


def found(path: Path) -> metadata.Metadata:
    result = metadata.from_props({entry.key: entry.value for entry in onnx.load(path).metadata_props})
    assert result is not None
    return result


def test_standard_flavour(exported: Callable[..., Path], run: Any) -> None:
    path = exported("models", NAME, op="standard")
    model = onnx.load(path)
    nodes = [node for node in model.graph.node if node.op_type == metadata.STANDARD_OP]
    assert len(nodes) == 10 and len(nodes[0].input) == 5
    assert [function.name for function in model.functions] == [metadata.STANDARD_OP]
    for with_library in (True, False):
        wanted = golden.array("models", NAME, "logits0.npy")
        np.testing.assert_allclose(logits_of(run, path, with_library), wanted, rtol=0, atol=LIMIT)


def test_tensorrt_flavour_is_what_the_stock_plugin_takes(exported: Callable[..., Path]) -> None:
    path = exported("models", NAME, op="tensorrt")
    model = onnx.load(path)
    constants = {initializer.name: initializer for initializer in model.graph.initializer}
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in model.graph.value_info
    }
    nodes = [node for node in model.graph.node if node.op_type == "MultiscaleDeformableAttnPlugin_TRT"]
    assert len(nodes) == 10
    for node in nodes:
        attributes = {attribute.name: attribute.s.decode() for attribute in node.attribute}
        assert attributes == {"plugin_namespace": "", "plugin_version": "2"}
        assert [constants[name].data_type for name in node.input[1:3]] == [onnx.TensorProto.INT32] * 2
        assert len(shapes[node.output[0]]) == 4
        (user,) = [each for each in model.graph.node if node.output[0] in each.input]
        assert user.op_type == "Reshape" and len(shapes[user.output[0]]) == 3
    assert not model.functions  # a body would take the plugin's place in TensorRT 10.1
    assert set(found(path).parity) == {"stand_in"}


def test_onnx_flavour_holds_standard_operators_alone(exported: Callable[..., Path], run: Any) -> None:
    path = exported("models", NAME, op="onnx")
    model = onnx.load(path)
    assert {node.domain for node in model.graph.node} == {""}
    assert [opset.domain for opset in model.opset_import] == [""]
    modes = Counter(
        attribute.s.decode()
        for node in model.graph.node
        if node.op_type == "GridSample"
        for attribute in node.attribute
        if attribute.name == "mode"
    )
    assert modes == {"bilinear": 18}  # four injectors over three levels, six extractors over one
    np.testing.assert_allclose(logits_of(run, path), golden.array("models", NAME, "logits0.npy"), rtol=0, atol=LIMIT)
    assert set(found(path).parity) == {"plain"}


def test_labels_are_the_first_maximum_of_the_logits(exported: Callable[..., Path], run: Any) -> None:
    path = exported("models", NAME, output="labels", embed_preprocess=True, opset=20)
    raw = pictures.pixels(1, 64, 96, ("smooth",), seed=7)
    labels = run(path, raw, with_library=True)["labels"]
    spec = found(path).model
    assert spec.preprocessing is not None
    image = pictures.normalise(raw, spec.preprocessing)
    logits = run(exported("models", NAME), image, with_library=True)["logits"]
    margin = np.diff(np.sort(logits, 1)[:, -2:], axis=1)[:, 0]
    assert labels.dtype == np.int64 and labels.shape == (1, 64, 96)
    assert len(np.unique(labels)) > 2
    sure = margin > 1e-3
    assert sure.mean() > 0.98
    assert np.array_equal(labels[sure], logits.argmax(1)[sure])


def test_embedded_preprocessing_takes_rgb_bytes(exported: Callable[..., Path]) -> None:
    path = exported("models", NAME, output="labels", embed_preprocess=True, opset=20)
    (image,) = onnx.load(path).graph.input
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [dim.dim_value for dim in image.type.tensor_type.shape.dim] == [1, 64, 96, 3]
    assert found(path).input.embed_preprocess


@pytest.mark.parametrize("to_rgb", [True, False])
def test_embedded_preprocessing_normalises_in_the_networks_channel_order(to_rgb: bool) -> None:
    from adapter_export.prepare import Preprocess

    settings = Preprocessing((1.0, 2.0, 3.0), (2.0, 4.0, 8.0), to_rgb=to_rgb)
    raw = np.array([[[[10, 20, 30]]]], np.uint8)  # R, G, B
    first, last = (10, 30) if to_rgb else (30, 10)
    wanted = np.array([(first - 1) / 2, (20 - 2) / 4, (last - 3) / 8], np.float32)
    np.testing.assert_array_equal(Preprocess(settings)(torch.from_numpy(raw)).numpy().ravel(), wanted)
    np.testing.assert_array_equal(pictures.normalise(raw, settings).ravel(), wanted)


def test_second_file_holds_the_weights_and_the_graph_the_shapes(exported: Callable[..., Path], run: Any) -> None:
    path = exported("models", NAME, external_data=True, batch=2)
    data = path.with_name(path.name + ".data")
    model = onnx.load(path, load_external_data=False)
    outside = [each for each in model.graph.initializer if each.data_location == onnx.TensorProto.EXTERNAL]
    assert outside and all(each.data_type == onnx.TensorProto.FLOAT for each in outside)
    locations = {entry.value for each in outside for entry in each.external_data if entry.key == "location"}
    assert locations == {data.name}
    assert data.stat().st_size > path.stat().st_size
    image = np.concatenate([golden.array("models", NAME, "input0.npy")] * 2)
    wanted = golden.array("models", NAME, "logits0.npy")
    for logits in run(path, image, with_library=True)["logits"]:
        np.testing.assert_allclose(logits[None], wanted, rtol=0, atol=LIMIT)


def test_the_model_is_left_as_it_was(load: Any, tmp_path: Path) -> None:
    model, spec = load("backbones", "seg_vit_adapter_light")
    keys = list(model.state_dict())
    pointers = {name: tensor.data_ptr() for name, tensor in model.named_parameters()}
    report = export(model, spec, tmp_path / "out.onnx", size=(64, 64), check=False)
    assert list(model.state_dict()) == keys
    assert {name: tensor.data_ptr() for name, tensor in model.named_parameters()} == pointers
    assert report.parity is None and report.output == "features"
    assert found(tmp_path / "out.onnx").parity == {}
    assert [file.name for file in tmp_path.iterdir()] == ["out.onnx"]


REFUSALS: list[tuple[str, dict[str, Any], str]] = [
    (NAME, {"size": (500, 300)}, "500x300 is not a multiple of 32.* 512x320"),
    (NAME, {"size": (0, 32)}, "0x32 is not a multiple of 32"),
    (NAME, {"size": (64, 64), "dynamic_size": True}, "exclude each other"),
    (NAME, {"size": (64, 64), "batch": 0}, "batch 0 is neither a positive number nor 'dynamic'"),
    (NAME, {"size": (64, 64), "op": "cuda"}, "op flavour 'cuda' is unknown; choose one of fused"),
    (NAME, {"size": (64, 64), "output": "masks"}, "output 'masks' is unknown; choose one of features, logits"),
    ("upernet_beit_adapter", {"size": (96, 96)}, "96x96 does not fit this BEiTAdapter.* pass --size 64 64"),
    ("upernet_beit_adapter", {"dynamic_size": True}, "cannot have a dynamic size.* 64x64"),
    ("setr_pup_vit_baseline", {"size": (72, 64)}, "72x64 is not a multiple of 16"),
]


@pytest.mark.parametrize(("name", "options", "message"), REFUSALS)
def test_what_cannot_be_done_is_refused_before_any_work(
    load: Any, tmp_path: Path, name: str, options: dict[str, Any], message: str
) -> None:
    model, spec = load("models", name)
    with pytest.raises(UsageError, match=message):
        export(model, spec, tmp_path / "out.onnx", **options)
    assert list(tmp_path.iterdir()) == []


def test_refusals_that_depend_on_what_is_known_of_the_model(load: Any, tmp_path: Path) -> None:
    model, spec = load("models", NAME)
    target = tmp_path / "out.onnx"
    unknown: ModelSpec = replace(spec, preprocessing=None, inference=Inference())
    with pytest.raises(UsageError, match="does not say how pictures are normalised"):
        export(model, unknown, target, size=(64, 64), embed_preprocess=True)
    with pytest.raises(UsageError, match="names no crop size; pass --size"):
        export(model, unknown, target)
    backbone, backbone_spec = load("backbones", "seg_vit_adapter_light")
    with pytest.raises(UsageError, match="output labels needs a head"):
        export(backbone, backbone_spec, target, size=(64, 64), output="labels")
    with pytest.raises(UsageError, match="training mode"):
        export(load("backbones", "seg_vit_adapter_light")[0].train(), backbone_spec, target, size=(64, 64))
    assert list(tmp_path.iterdir()) == []


def test_weights_beyond_one_file_go_to_a_second_one_unless_that_was_forbidden(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SINGLE_FILE_BYTES", 100_000)
    model, spec = load("backbones", "seg_vit_adapter_light")
    target = tmp_path / "out.onnx"
    with pytest.raises(UsageError, match="but one ONNX file holds 2 GB at most; allow a second file"):
        export(model, spec, target, size=(64, 64), external_data=False)
    report = export(model, spec, target, size=(64, 64), op="onnx", opset=19)
    assert report.data_path == tmp_path / "out.onnx.data"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out.onnx", "out.onnx.data"]
    assert report.file_bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    assert report.parity is not None and report.parity.largest()["plain"] < 2e-4

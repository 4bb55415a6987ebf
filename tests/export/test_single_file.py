"""The file writer that keeps one weight in memory: its files are what the onnx package would have written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from adapter_export import single_file


def model_with(weights: dict[str, np.ndarray]) -> ir.Model:
    image = ir.val("image", ir.DataType.FLOAT, [1])
    values = [
        ir.val(name, const_value=ir.tensor(array, name="another name, which must not be written"))
        for name, array in weights.items()
    ]
    graph = ir.Graph([image], [image], nodes=[], initializers=values, opset_imports={"": 18}, name="graph")
    model = ir.Model(graph, ir_version=10)
    model.metadata_props["key"] = "value"
    return model


@pytest.mark.parametrize("length", [0, 1, 1023, 1024, 1025, 16_384, 3_000_000])
def test_weights_of_every_size_come_back(tmp_path: Path, length: int) -> None:
    rng = np.random.default_rng(length)
    weights = {
        "large": rng.standard_normal((2, length)).astype(np.float32),
        "index": rng.integers(-5, 5, (length, 3)).astype(np.int32),
        "transposed": np.ascontiguousarray(rng.standard_normal((length, 4)).astype(np.float16)).T,
        "scalar": np.array(7, np.int64),
    }
    path = tmp_path / "out.onnx"
    single_file.write(model_with(weights), path)
    loaded = onnx.load(path)
    onnx.checker.check_model(loaded)
    assert {entry.key: entry.value for entry in loaded.metadata_props} == {"key": "value"}
    found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in loaded.graph.initializer}
    assert found.keys() == weights.keys()
    for name, array in weights.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_the_file_holds_what_the_usual_writer_writes(tmp_path: Path) -> None:
    weights = {f"weight{i}": np.full((i, 5000), i, np.float32) for i in range(1, 4)}
    single_file.write(model_with(weights), tmp_path / "ours.onnx")
    ir.save(model_with(weights), tmp_path / "usual.onnx")
    ours, usual = onnx.load(tmp_path / "ours.onnx"), onnx.load(tmp_path / "usual.onnx")
    del usual.graph.value_info[:]  # repeats the shapes of the weights
    assert ours.SerializeToString(deterministic=True) == usual.SerializeToString(deterministic=True)
    assert (tmp_path / "ours.onnx").stat().st_size == ours.ByteSize()

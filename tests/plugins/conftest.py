"""Runs single nodes of the op through ONNX Runtime with the library registered, and says which code paths there are."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from adapter_infer.errors import EnvironmentMissing
from adapter_plugins import instruction_set, library

FLOAT_TYPES = {"fp32": 1, "fp16": 10, "bf16": 16}
INPUTS = {
    "MSDeformAttn": ("value", "spatial_shapes", "reference_points", "samples"),
    "MultiScaleDeformableAttention": (
        "value",
        "spatial_shapes",
        "level_start_index",
        "sampling_locations",
        "attention_weights",
    ),
}


class Node:
    """A session of one node `op`, with values of type `dtype` and samples (or locations) of type `samples`."""

    def __init__(
        self,
        op: str,
        dtype: str = "fp32",
        samples: str = "fp32",
        threads: int = 1,
        dims: dict[str, list[int | str | None]] | None = None,
    ) -> None:
        value, other = FLOAT_TYPES[dtype], FLOAT_TYPES[samples]
        types = {"value": value, "attention_weights": value, "samples": other, "sampling_locations": other}
        types |= {"reference_points": 1, "spatial_shapes": 7, "level_start_index": 7}
        names = INPUTS[op]
        node = helper.make_node(op, names, ["output"], domain="adapter_infer")
        node.attribute.extend(
            [
                helper.make_attribute("plugin_namespace", "adapter_infer"),
                helper.make_attribute("plugin_version", "1"),
            ]
        )
        ins = [helper.make_tensor_value_info(name, types[name], (dims or {}).get(name)) for name in names]
        graph = helper.make_graph([node], "op", ins, [helper.make_tensor_value_info("output", value, None)])
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("adapter_infer", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        options.register_custom_ops_library(str(library("msda_ort_cpu")))
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """The output; bf16 in and out as uint16 bit patterns."""
        feeds = {}
        for name, array in inputs.items():
            if array.dtype == np.uint16:
                value = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, FLOAT_TYPES["bf16"])
            else:
                value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
            feeds[name] = value
        (output,) = self.session.run_with_ort_values(None, feeds)
        if output.data_type() != "tensor(bfloat16)":
            return output.numpy()
        bits = np.empty(output.shape(), np.uint16)
        ctypes.memmove(bits.ctypes.data, output.data_ptr(), bits.nbytes)
        return bits


@pytest.fixture(autouse=True)
def built() -> None:
    """Skips where the libraries were left out of this installation."""
    try:
        library("msda_ort_cpu")
    except EnvironmentMissing as error:
        pytest.skip(str(error))


@pytest.fixture
def node() -> Callable[..., Node]:
    return Node


@pytest.fixture(params=["sse2", "avx2", "avx512"])
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Each code path in turn, forced on sessions made in the test; skips those that this processor lacks."""
    monkeypatch.setenv("ADAPTER_MSDA_ISA", request.param)
    try:
        return instruction_set()
    except EnvironmentMissing as error:
        pytest.skip(str(error))

"""The operators' bodies in standard ONNX operators, over the shared table of cases, in several interpreters."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from adapter_export import bodies, schema
from adapter_export.operators import FUSED, OP_VERSION, STANDARD, TENSORRT, Operator
from msda_cases import CASES, TOLERANCE, Case, expected, expected_standard

TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint16": TensorProto.BFLOAT16}
TYPES |= {"int64": TensorProto.INT64, "int32": TensorProto.INT32}
BY_NAME = {case.name: case for case in CASES}


def inputs_of(operator: Operator, case: Case, *types: str) -> dict[str, np.ndarray]:
    inputs = case.inputs(*types) if operator is FUSED else case.standard_inputs(*types)
    integers = np.int64 if operator.integers == "tensor(int64)" else np.int32
    return {name: array.astype(integers) if array.dtype == np.int64 else array for name, array in inputs.items()}


def one_node(
    operator: Operator, inputs: dict[str, np.ndarray], opset: int = 18, static: bool = False
) -> onnx.ModelProto:
    """A model of one node with its body; every size is symbolic unless `static`."""
    schema.register()
    shapes = {
        name: list(inputs[name].shape) if static else [f"{name}_{axis}" for axis in range(inputs[name].ndim)]
        for name in operator.inputs
    }
    output = ["n", "q", "m", "d"] if operator.per_head else ["n", "q", "c"]
    graph = helper.make_graph(
        [helper.make_node(operator.name, operator.inputs, ["output"], domain=operator.domain, **operator.attributes)],
        "one_node",
        [helper.make_tensor_value_info(name, TYPES[inputs[name].dtype.name], shapes[name]) for name in operator.inputs],
        [helper.make_tensor_value_info("output", TYPES[inputs["value"].dtype.name], output)],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(operator.domain, OP_VERSION)]
    return helper.make_model(graph, opset_imports=opsets, functions=[bodies.body(operator, opset)], ir_version=10)


def session(model: onnx.ModelProto, **settings: Any) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    for key, value in settings.items():
        setattr(options, key, value)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def agree(got: np.ndarray, wanted: np.ndarray, case: Case, dtype: str = "fp32") -> None:
    largest = float(np.abs(case.inputs()["value"].astype(np.float64)).max(initial=0.0))
    np.testing.assert_allclose(
        got.astype(np.float64), wanted.reshape(got.shape), rtol=0, atol=TOLERANCE[dtype] * largest
    )


@pytest.fixture(scope="module")
def symbolic() -> dict[str, ort.InferenceSession]:
    """One session an operator that serves every case: nothing in a body depends on a size."""
    case = CASES[0]
    return {each.name: session(one_node(each, inputs_of(each, case))) for each in (FUSED, STANDARD, TENSORRT)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_fused_body_over_the_shared_cases(symbolic: dict[str, ort.InferenceSession], case: Case) -> None:
    agree(symbolic[FUSED.name].run(None, inputs_of(FUSED, case))[0], expected(case), case)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("operator", [STANDARD, TENSORRT], ids=lambda operator: operator.name)
def test_standard_bodies_over_the_shared_cases(
    symbolic: dict[str, ort.InferenceSession], operator: Operator, case: Case
) -> None:
    agree(symbolic[operator.name].run(None, inputs_of(operator, case))[0], expected_standard(case), case)


@pytest.mark.parametrize("samples", ["fp16", "fp32"])
@pytest.mark.parametrize("name", ["plain", "offsets_wide", "offsets_nonfinite", "logits_masked"])
def test_fused_body_keeps_fp32_arithmetic_for_fp16_values(name: str, samples: str) -> None:
    case = BY_NAME[name]
    inputs = inputs_of(FUSED, case, "fp16", samples)
    got = session(one_node(FUSED, inputs)).run(None, inputs)[0]
    assert got.dtype == np.float16
    agree(got, expected(case, "fp16", samples), case, "fp16")


def test_bf16_values_pass_the_checker_and_load() -> None:
    inputs = inputs_of(FUSED, BY_NAME["plain"], "bf16")
    model = one_node(FUSED, inputs)
    onnx.checker.check_model(model, full_check=True)
    assert session(model).get_outputs()[0].type == "tensor(bfloat16)"


@pytest.mark.parametrize("operator", [FUSED, STANDARD], ids=lambda operator: operator.name)
@pytest.mark.parametrize("opset", [18, 20, 24])
def test_body_is_valid_and_right_at_every_opset(operator: Operator, opset: int) -> None:
    case = BY_NAME["reference_each_and_levels"]
    inputs = inputs_of(operator, case)
    model = one_node(operator, inputs, opset, static=True)
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    dims = inferred.graph.output[0].type.tensor_type.shape.dim
    assert dims[2].dim_value == case.m * case.d or dims[2].dim_param == "c"
    wanted = expected(case) if operator is FUSED else expected_standard(case)
    agree(ReferenceEvaluator(model).run(None, inputs)[0], wanted, case)
    agree(session(onnx.inliner.inline_local_functions(model)).run(None, inputs)[0], wanted, case)
    for level in (ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL):
        agree(session(model, graph_optimization_level=level).run(None, inputs)[0], wanted, case)


def test_a_feature_that_is_not_finite_does_not_leak_to_samples_outside() -> None:
    case = BY_NAME["offsets_wide"]
    inputs = inputs_of(FUSED, case)
    inputs["value"] = np.full_like(inputs["value"], np.inf)
    inputs["samples"][..., : 2 * case.levels * case.p] = 1e6
    assert np.array_equal(
        session(one_node(FUSED, inputs)).run(None, inputs)[0], np.zeros((case.n, case.q, case.m * case.d), np.float32)
    )


def test_schemas_refuse_inputs_of_another_rank() -> None:
    inputs = inputs_of(FUSED, BY_NAME["plain"])
    inputs["value"] = inputs["value"][0]
    with pytest.raises(Exception, match="MSDeformAttn: value has rank 3, not 4"):
        onnx.shape_inference.infer_shapes(one_node(FUSED, inputs, static=True), strict_mode=True)


def test_schemas_infer_the_output_from_symbolic_and_static_sizes() -> None:
    schema.register()
    infos = {"value": ["n", "s", 3, 16], "spatial_shapes": [2, 2], "reference_points": [1, "q", 1, 2]}
    infos["samples"] = ["n", "q", 3, 24]
    types = {"spatial_shapes": TensorProto.INT64}
    graph = helper.make_graph(
        [helper.make_node(FUSED.name, FUSED.inputs, ["hidden"], domain=FUSED.domain, **FUSED.attributes)],
        "inference",
        [helper.make_tensor_value_info(name, types.get(name, TensorProto.FLOAT), infos[name]) for name in FUSED.inputs],
        [],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(FUSED.domain, 1)]
    inferred = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opsets), strict_mode=True)
    (info,) = inferred.graph.value_info
    dims = [dim.dim_param or dim.dim_value for dim in info.type.tensor_type.shape.dim]
    assert dims == ["n", "q", 48]

"""MACs counted on hand-made graphs, each total worked out on paper."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from adapter_bench import macs_onnx, shapes
from adapter_infer.errors import UnsupportedModel

FLOAT = TensorProto.FLOAT


def weight(name: str, *dims: int) -> TensorProto:
    return numpy_helper.from_array(np.zeros(dims, np.float32), name)


def ints(name: str, *values: int) -> TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def model(
    nodes: list[onnx.NodeProto],
    initializers: list[TensorProto],
    inputs: dict[str, list[int | str]],
    functions: list[onnx.FunctionProto] | None = None,
    opset: int = 20,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_value_info(nodes[-1].output[0], helper.make_tensor_type_proto(FLOAT, None))],
        initializers,
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("adapter_infer", 1), helper.make_opsetid("other", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=functions or [], ir_version=10)


def test_convolution_multiplies_kernel_and_channels_of_its_group_per_output() -> None:
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1], group=2)
    graph = model([node], [weight("w", 8, 3, 3, 3), weight("b", 8)], {"x": [2, 6, 10, 14]})
    assert macs_onnx.count(graph, {}).macs == 2 * 8 * 5 * 7 * 3 * 9  # the bias adds nothing


def test_transposed_convolution_multiplies_per_input() -> None:
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])
    graph = model([node], [weight("w", 6, 4, 2, 2)], {"x": [2, 6, 5, 7]})
    assert macs_onnx.count(graph, {}).macs == 2 * 6 * 5 * 7 * 4 * 4


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([3, 5], [5, 7], 3 * 5 * 7),
        ([2, 4, 3, 5], [2, 4, 5, 7], 2 * 4 * 3 * 5 * 7),
        ([2, 4, 3, 5], [5, 7], 2 * 4 * 3 * 5 * 7),
        ([3, 5], [2, 4, 5, 7], 2 * 4 * 3 * 5 * 7),
        ([5], [5, 7], 5 * 7),
        ([3, 5], [5], 3 * 5),
    ],
)
def test_matrix_products_with_every_kind_of_broadcast(a: list, b: list, expected: int) -> None:
    graph = model([helper.make_node("MatMul", ["a", "b"], ["y"])], [], {"a": a, "b": b})
    assert macs_onnx.count(graph, {}).macs == expected


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_reads_its_inner_size_from_the_side_that_is_transposed(transposed: int) -> None:
    a = [5, 3] if transposed else [3, 5]
    node = helper.make_node("Gemm", ["a", "w", "b"], ["y"], transA=transposed, transB=1)
    graph = model([node], [weight("w", 7, 5), weight("b", 7)], {"a": a})
    assert macs_onnx.count(graph, {}).macs == 3 * 5 * 7


def test_attention_counts_both_products() -> None:
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"])
    shapes_4d = {"q": [2, 6, 10, 8], "k": [2, 6, 14, 8], "v": [2, 6, 14, 4]}
    assert macs_onnx.count(model([node], [], shapes_4d, opset=23), {}).macs == 2 * 6 * 10 * 14 * (8 + 4)
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"], q_num_heads=6, kv_num_heads=6)
    shapes_3d = {"q": [2, 10, 48], "k": [2, 14, 48], "v": [2, 14, 24]}
    assert macs_onnx.count(model([node], [], shapes_3d, opset=23), {}).macs == 2 * 6 * 10 * 14 * (8 + 4)


def test_einsum_counts_where_an_index_is_summed() -> None:
    def macs(equation: str, a: list[int], b: list[int]) -> int:
        node = helper.make_node("Einsum", ["a", "b"], ["y"], equation=equation)
        return macs_onnx.count(model([node], [], {"a": a, "b": b}), {}).macs

    assert macs("bqc,bchw->bqhw", [2, 5, 3], [2, 3, 4, 6]) == 2 * 5 * 3 * 4 * 6
    assert macs("i,j->ij", [5], [3]) == 0


N, S, M, D, Q, L, P = 2, 84, 3, 8, 10, 3, 4
CORE = N * Q * M * L * P * D * 5


def test_fused_node_counts_the_core() -> None:
    node = helper.make_node("MSDeformAttn", ["value", "s", "points", "samples"], ["y"], domain="adapter_infer")
    inputs = {"value": [N, S, M, D], "points": [1, Q, 1, 2], "samples": [N, Q, M, 3 * L * P]}
    count = macs_onnx.count(model([node], [ints("s", 8, 8, 4, 4, 2, 2)], inputs), {})
    assert (count.macs, count.msda_nodes, count.by_op) == (CORE, 1, {"MSDeformAttn": CORE})


@pytest.mark.parametrize(
    ("op_type", "domain", "projected"),
    [("MultiScaleDeformableAttention", "adapter_infer", 1), ("MultiscaleDeformableAttnPlugin_TRT", "", 2)],
)
def test_standard_and_tensorrt_nodes_count_the_same_core(op_type: str, domain: str, projected: int) -> None:
    nodes = [
        helper.make_node(op_type, ["value", "s", "starts", "locations", "weights"], ["core"], domain=domain),
        helper.make_node("Reshape", ["core", "flat"], ["tokens"]),
        helper.make_node("MatMul", ["tokens", "w"], ["y"]),
    ]
    inputs = {"value": [N, S, M, D], "locations": [N, Q, M, L, P, 2], "weights": [N, Q, M, L, P]}
    initializers = [
        ints("s", 8, 8, 4, 4, 2, 2),
        ints("starts", 0, 64, 80),
        ints("flat", 0, 0, M * D),
        weight("w", 24, 5),
    ]
    if projected == 2:  # (N, Q, M, D) has to become (N, Q, M*D)
        initializers[2] = ints("flat", N, Q, -1)
    count = macs_onnx.count(model(nodes, initializers, inputs), {})
    assert count.msda_nodes == 1
    assert count.macs == CORE + N * Q * M * D * 5


def test_grid_samples_of_the_plain_form_add_up_to_the_core() -> None:
    nodes = [
        helper.make_node("GridSample", [f"map{level}", f"grid{level}"], [f"y{level}"], mode="linear")
        for level in range(L)
    ]
    inputs: dict[str, list[int | str]] = {}
    for level, size in enumerate((8, 4, 2)):
        inputs[f"map{level}"] = [N * M, D, size, size]
        inputs[f"grid{level}"] = [N * M, Q, P, 2]
    assert macs_onnx.count(model(nodes, [], inputs), {}).macs == CORE


def test_a_function_body_is_not_counted_in_place_of_its_node() -> None:
    body = helper.make_function(
        "adapter_infer",
        "MSDeformAttn",
        ["value", "s", "points", "samples"],
        ["y"],
        [helper.make_node("MatMul", ["samples", "samples"], ["y"])],
        [helper.make_opsetid("", 20)],
    )
    node = helper.make_node("MSDeformAttn", ["value", "s", "points", "samples"], ["y"], domain="adapter_infer")
    inputs = {"value": [N, S, M, D], "points": [1, Q, 1, 2], "samples": [N, Q, M, 3 * L * P]}
    graph = model([node], [ints("s", 8, 8, 4, 4, 2, 2)], inputs, [body])
    assert macs_onnx.count(macs_onnx.inlined(graph), {}).macs == CORE


def test_other_functions_are_counted_by_their_bodies() -> None:
    body = helper.make_function(
        "other",
        "Project",
        ["x", "w"],
        ["y"],
        [helper.make_node("MatMul", ["x", "w"], ["t"]), helper.make_node("Relu", ["t"], ["y"])],
        [helper.make_opsetid("", 20)],
    )
    node = helper.make_node("Project", ["x", "w"], ["y"], domain="other")
    graph = model([node], [weight("w", 5, 7)], {"x": [3, 5]}, [body])
    assert macs_onnx.count(macs_onnx.inlined(graph), {}).macs == 3 * 5 * 7


def test_element_wise_work_counts_nothing() -> None:
    nodes = [
        helper.make_node("LayerNormalization", ["x", "g"], ["a"]),
        helper.make_node("Softmax", ["a"], ["b"]),
        helper.make_node("Mul", ["b", "b"], ["c"]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    count = macs_onnx.count(model(nodes, [weight("g", 5)], {"x": [3, 5]}), {})
    assert (count.macs, count.uncounted) == (0, {})


def test_what_no_rule_covers_is_reported_and_not_passed_over() -> None:
    nodes = [
        helper.make_node("Mystery", ["x"], ["a"], domain="other"),
        helper.make_node("Mystery", ["a"], ["b"], domain="other"),
        helper.make_node("GRU", ["x3", "w", "r"], ["c"], hidden_size=4),
    ]
    initializers = [weight("w", 1, 12, 5), weight("r", 1, 12, 4)]
    count = macs_onnx.count(model(nodes, initializers, {"x": [3, 5], "x3": [2, 3, 5]}), {})
    assert count.uncounted == {"other::Mystery": 2, "GRU": 1}


def test_sizes_that_a_dynamic_graph_computes_for_itself_are_found() -> None:
    """Window partition as an export writes it: padding by Mod, windows by Div, positions by Range."""
    nodes = [
        helper.make_node("Shape", ["x"], ["n"], start=0, end=1),
        helper.make_node("Shape", ["x"], ["h"], start=1, end=2),
        helper.make_node("Neg", ["h"], ["minus_h"]),
        helper.make_node("Mod", ["minus_h", "window"], ["pad"]),
        helper.make_node("Concat", ["zeros3", "zero", "pad", "zero"], ["pads"], axis=0),
        helper.make_node("Pad", ["x", "pads"], ["padded"]),
        helper.make_node("Add", ["h", "pad"], ["tall"]),
        helper.make_node("Div", ["tall", "window"], ["windows"]),
        helper.make_node("Concat", ["n", "windows", "window", "channels"], ["form"], axis=0),
        helper.make_node("Reshape", ["padded", "form"], ["cut"]),
        helper.make_node("Transpose", ["cut"], ["turned"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["cut", "turned"], ["scores"]),
    ]
    # pads of a (N, T, C) tensor: begins 0 0 0, ends 0 pad 0
    initializers = [ints("window", 14), ints("zeros3", 0, 0, 0), ints("zero", 0), ints("channels", 6)]
    graph = model(nodes, initializers, {"x": ["N", "T", 6]})
    assert macs_onnx.count(graph, {"x": (2, 32, 6)}).macs == 2 * 3 * 14 * 14 * 6
    assert macs_onnx.count(graph, {"x": (1, 28, 6)}).macs == 1 * 2 * 14 * 14 * 6


def test_a_size_that_cannot_be_known_is_refused_by_name() -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["where"]),
        helper.make_node("Cast", ["where"], ["floats"], to=FLOAT),
        helper.make_node("MatMul", ["w", "floats"], ["y"], name="product"),
    ]
    graph = model(nodes, [weight("w", 7, 2)], {"x": [3, 5]})
    with pytest.raises(UnsupportedModel, match="the shape of y at MatMul node product"):
        macs_onnx.count(graph, {})


def test_a_dynamic_input_without_a_size_is_refused() -> None:
    graph = model([helper.make_node("MatMul", ["x", "w"], ["y"])], [weight("w", 5, 7)], {"x": ["N", 5]})
    with pytest.raises(UnsupportedModel, match="--size and --batch"):
        macs_onnx.count(graph, {})


def test_an_input_that_contradicts_the_graph_is_refused() -> None:
    graph = model([helper.make_node("MatMul", ["x", "w"], ["y"])], [weight("w", 5, 7)], {"x": [3, 5]})
    with pytest.raises(ValueError, match=r"input x is \[3, 5\] in the graph, not \[4, 5\]"):
        macs_onnx.count(graph, {"x": (4, 5)})


def test_a_msda_node_without_its_inputs_is_refused() -> None:
    node = helper.make_node("MSDeformAttn", ["value"], ["y"], domain="adapter_infer")
    with pytest.raises(UnsupportedModel, match="at MSDeformAttn node y is not known"):
        macs_onnx.count(model([node], [], {"value": [N, S, M, D]}), {})


def test_a_graph_that_contradicts_itself_at_one_size_is_refused_there() -> None:
    """A reshape that was traced at one size fits no other: the export baked it."""
    nodes = [helper.make_node("Reshape", ["x", "form"], ["r"]), helper.make_node("MatMul", ["r", "w"], ["y"])]
    graph = model(nodes, [ints("form", 4, -1), weight("w", 6, 2)], {"x": ["T", 6]})
    assert macs_onnx.count(graph, {"x": (4, 6)}).macs == 4 * 6 * 2
    with pytest.raises(UnsupportedModel, match="contradicts itself at this input size, at MatMul node y"):
        macs_onnx.count(graph, {"x": (8, 6)})


def test_a_damaged_file_or_constant_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x3a\xff\xff\xff\x0fcut short")
    with pytest.raises(UnsupportedModel, match="is not an ONNX file, or is damaged"):
        macs_onnx.load(tmp_path / "model.onnx")
    short = TensorProto(name="w", data_type=FLOAT, dims=[5, 7], raw_data=b"1234")
    graph = model([helper.make_node("MatMul", ["x", "w"], ["y"])], [short], {"x": [3, 5]})
    with pytest.raises(UnsupportedModel, match="constant w is damaged"):
        macs_onnx.count(graph, {})


def test_external_weights_are_counted_without_being_there(tmp_path: Path) -> None:
    graph = model([helper.make_node("MatMul", ["x", "w"], ["y"])], [weight("w", 512, 700)], {"x": [3, 512]})
    path = tmp_path / "model.onnx"
    onnx.save(graph, path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    (tmp_path / "model.onnx.data").unlink()
    assert macs_onnx.count(macs_onnx.load(path), {}).macs == 3 * 512 * 700


def test_nodes_are_named_with_their_share() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        helper.make_node("MatMul", ["a", "v"], ["y"]),
    ]
    count = macs_onnx.count(model(nodes, [weight("w", 5, 7), weight("v", 7, 2)], {"x": [3, 5]}), {})
    assert [(node.name, node.macs) for node in count.nodes] == [("first", 105), ("y", 42)]


def test_large_constants_are_never_worked_out() -> None:
    nodes = [
        helper.make_node("Range", ["zero", "many", "one"], ["indices"]),
        helper.make_node("Cast", ["indices"], ["y"], to=FLOAT),
    ]
    scalars = [numpy_helper.from_array(np.array(v, np.int64), k) for k, v in (("zero", 0), ("many", 10**9), ("one", 1))]
    found = shapes.infer(model(nodes, scalars, {}), {})
    assert found.of("y") == (10**9,)
    assert "indices" not in found.values

"""The protobuf reader agrees with onnx's own on what a file holds."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from adapter_engines import onnx_file


def test_metadata_is_what_onnx_reads(make_toy):
    toy = make_toy(names=("Himmel", "Straße", "木", "", "x" * 300))
    expected = {entry.key: entry.value for entry in onnx.load(toy.path).metadata_props}
    assert onnx_file.read(toy.path).props == expected


def test_operators_and_functions_are_found(make_msda):
    file = onnx_file.read(make_msda())
    assert dict(file.operators) == {("adapter_infer", "MSDeformAttn"): 1}
    assert file.functions == {("adapter_infer", "MSDeformAttn")}
    assert onnx_file.read(make_msda("bare.onnx", body=False)).functions == set()


def test_operators_inside_subgraphs_and_function_bodies_are_found(tmp_path):
    info = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])

    def branch(name):
        return helper.make_graph([helper.make_node(name, ["x"], ["y"], domain="other")], name, [], [info])

    node = helper.make_node("If", ["c"], ["y"], then_branch=branch("Then"), else_branch=branch("Else"))
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("c", TensorProto.BOOL, []), helper.make_tensor_value_info("x", 1, [1])],
        [info],
    )
    body = helper.make_function(
        "mine",
        "F",
        ["x"],
        ["y"],
        [helper.make_node("Inner", ["x"], ["y"], domain="other")],
        [helper.make_opsetid("", 18)],
    )
    onnx.save(helper.make_model(graph, functions=[body]), tmp_path / "if.onnx")
    file = onnx_file.read(tmp_path / "if.onnx")
    assert dict(file.operators) == {("other", "Then"): 1, ("other", "Else"): 1, ("other", "Inner"): 1}
    assert file.functions == {("mine", "F")}

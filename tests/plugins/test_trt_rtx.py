"""NVIDIA's parser and builder take the TensorRT plugin: parsed to its layers, built, embedded, refused with reasons.

TensorRT-RTX does this without a GPU. It cannot run a plan, so nothing here shows that the kernel gives right numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

import rtx_rig
import trt_face
from adapter_export.bodies import body
from adapter_export.operators import FUSED, STANDARD, Operator
from adapter_infer.errors import EnvironmentMissing
from adapter_plugins import library

TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
TYPES |= {"int32": TensorProto.INT32, "int64": TensorProto.INT64, "int8": TensorProto.INT8}
RTX_NAMES = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16"}
LEVELS = [(8, 8), (4, 4)]  # S = 80, L = 2
HEADS, CHANNELS, QUERIES, POINTS = 2, 16, 20, 4
SHAPES: dict[str, list[int | str]] = {
    "value": ["n", 80, HEADS, CHANNELS],
    "spatial_shapes": [2, 2],
    "level_start_index": [2],
    "reference_points": [1, QUERIES, 1, 2],
    "samples": ["n", QUERIES, HEADS, 3 * 2 * POINTS],
    "sampling_locations": ["n", QUERIES, HEADS, 2, POINTS, 2],
    "attention_weights": ["n", QUERIES, HEADS, 2, POINTS],
}


def model(
    operator: Operator, value: str = "fp32", samples: str = "fp32", index: str = "int64", **options
) -> onnx.ModelProto:
    """Two nodes of `operator`, one after a Relu and one before another, with function body.

    `constant`: the level sizes are constants of the graph. `dynamic`: N is. `shapes`, `types`: of single inputs.
    """
    constant, dynamic = options.get("constant", True), options.get("dynamic", True)
    types = {"reference_points": "fp32", "spatial_shapes": index, "level_start_index": index}
    types |= {"samples": samples, "sampling_locations": samples} | options.get("types", {})
    shapes = SHAPES | options.get("shapes", {})
    inputs, constants = [], []
    for name in operator.inputs:
        dims = [size if dynamic or size != "n" else 2 for size in shapes[name]]
        dtype = TYPES[types.get(name, value)]
        if constant and name in {"spatial_shapes", "level_start_index"}:
            numbers = [side for level in LEVELS for side in level] if name == "spatial_shapes" else [0, 64]
            constants.append(helper.make_tensor(name, dtype, dims, numbers))
        else:
            inputs.append(helper.make_tensor_value_info(name, dtype, dims))
    rest = operator.inputs[1:]
    nodes = [
        helper.make_node("Abs", ["value"], ["positive"]),
        helper.make_node(operator.name, ["positive", *rest], ["first"], "one", domain=operator.domain),
        helper.make_node(operator.name, ["value", *rest], ["second"], "two", domain=operator.domain),
        helper.make_node("Add", ["first", "second"], ["output"]),
    ]
    for node in nodes[1:3]:
        node.attribute.extend(helper.make_attribute(name, text) for name, text in operator.attributes.items())
    output = helper.make_tensor_value_info("output", TYPES[value], None)
    graph = helper.make_graph(nodes, "two calls", inputs, [output], constants)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(operator.domain, 1)]
    functions = [] if options.get("bodiless") else [body(operator, 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=functions)


def profile(proto: onnx.ModelProto) -> dict[str, rtx_rig.Bounds] | None:
    """1, 2 and 4 images for every dynamic input."""
    dims = {i.name: [d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in proto.graph.input}
    bounds = {
        name: tuple([n if size == "n" else int(size) for size in shape] for n in (1, 2, 4))
        for name, shape in dims.items()
        if "n" in shape
    }
    return bounds or None


@pytest.fixture(scope="module")
def attempt() -> Iterator[Callable[..., rtx_rig.Outcome]]:
    rtx_rig.require()
    with rtx_rig.process() as run:
        yield run


@pytest.fixture(params=[*map(str, trt_face.MAJORS), "installed"])
def plugin(request: pytest.FixtureRequest) -> Path:
    """The plugin built from the checkout against the headers of each major found, and the installed one."""
    rtx_rig.require()
    if request.param != "installed":
        return trt_face.library(int(request.param))
    for major in (11, 10):
        try:
            return library(f"msda_trt{major}")
        except (EnvironmentMissing, KeyError) as error:
            why = str(error)
    pytest.skip(why)


COMBINATIONS = [
    # value, samples, index, level sizes are constants, N is dynamic
    ("fp32", "fp32", "int64", True, True),
    ("fp32", "fp32", "int32", False, False),
    ("fp16", "fp16", "int64", True, False),
    ("fp16", "fp32", "int32", True, True),
    ("fp16", "fp32", "int64", False, True),
    ("bf16", "bf16", "int32", False, True),
    ("bf16", "fp32", "int64", True, True),
]


@pytest.mark.parametrize("operator", [FUSED, STANDARD], ids=lambda operator: operator.name)
@pytest.mark.parametrize(("value", "samples", "index", "constant", "dynamic"), COMBINATIONS)
def test_every_node_becomes_one_plugin_layer_and_a_strongly_typed_plan(
    attempt, plugin, operator, value, samples, index, constant, dynamic
):
    proto = model(operator, value, samples, index, constant=constant, dynamic=dynamic)
    done = attempt(proto, plugin, profile(proto))
    assert done.error == ""
    assert done.layers["PLUGIN_V3"] == 2  # and not the function body, which stands in the file as well
    assert done.outputs == [("output", (-1 if dynamic else 2, QUERIES, HEADS * CHANNELS), RTX_NAMES[value])]
    assert done.plan > 5000
    assert done.from_plugin() == []  # a good build says nothing at the levels that show


@pytest.mark.parametrize("operator", [FUSED, STANDARD], ids=lambda operator: operator.name)
@pytest.mark.parametrize("value", list(RTX_NAMES))
def test_without_the_plugin_the_function_body_is_taken(attempt, operator, value):
    proto = model(operator, value, value)
    done = attempt(proto, None, profile(proto))
    assert done.error == ""
    assert done.layers["PLUGIN_V3"] == 0
    assert sum(done.layers.values()) > 100
    assert done.outputs == [("output", (-1, QUERIES, HEADS * CHANNELS), RTX_NAMES[value])]


def test_without_plugin_and_body_the_op_is_refused_by_name(attempt):
    done = attempt(model(FUSED, bodiless=True))
    assert "MSDeformAttn" in done.error
    assert done.plan == 0


def test_a_plan_with_the_plugin_embedded_grows_by_the_library(attempt, plugin):
    proto = model(FUSED, "fp16", "fp16")
    plain = attempt(proto, plugin, profile(proto))
    whole = attempt(proto, plugin, profile(proto), embed=[plugin])
    assert (plain.error, whole.error) == ("", "")
    size = plugin.stat().st_size
    assert size <= whole.plan - plain.plan <= size + 64 * 1024


REFUSED = [
    # op, what is spoilt, and what the plugin must say
    (FUSED, {"value": "int8"}, ["value is int8; it must be fp32, fp16 or bf16: cast it"]),
    (
        FUSED,
        {"types": {"reference_points": "fp16"}},
        ["reference_points is fp16; it must be fp32 whatever value is: cast it"],
    ),
    (FUSED, {"samples": "fp16"}, ["samples is fp16; it must be fp32, as value is: cast it"]),
    (
        STANDARD,
        {"value": "fp16", "samples": "bf16"},
        ["sampling_locations is bf16; it must be fp16, as value is, or fp32: cast it"],
    ),
    (
        STANDARD,
        {"types": {"level_start_index": "int32"}, "constant": False},
        ["level_start_index is int32; it must be int64, as spatial_shapes is: cast one of them"],
    ),
    (
        STANDARD,
        {"types": {"attention_weights": "fp16"}},
        ["attention_weights is fp16; it must be fp32, as value is: cast it"],
    ),
    (FUSED, {"shapes": {"samples": [2, QUERIES, 48]}}, ["samples has 3 dimensions; it must be (N, Q, M, 3*L*P)"]),
    (FUSED, {"shapes": {"samples": [2, QUERIES, 2, 25]}}, ["samples has last dimension 25, not a multiple of 3*L = 6"]),
    (FUSED, {"shapes": {"reference_points": [1, 21, 1, 2]}}, ["reference_points has shape 1x21x1x2", "Q=20"]),
    (FUSED, {"shapes": {"value": [3, 80, 2, 16]}}, ["samples has shape 2x20x2x24, but value has N=3"]),
]


@pytest.mark.parametrize(("operator", "spoilt", "says"), REFUSED, ids=[str(spoilt) for _, spoilt, _ in REFUSED])
def test_what_does_not_fit_is_refused_with_the_reason_in_the_log(attempt, plugin, operator, spoilt, says):
    done = attempt(model(operator, dynamic=False, bodiless=True, **spoilt), plugin)
    assert done.plan == 0
    (said,) = {text.replace("'two'", "'one'") for text in done.from_plugin()}  # whichever is asked first
    assert said.startswith(f"{operator.name} 'one': ")
    assert all(text in said for text in says), said
    if "10" not in plugin.name:  # the loggers of TensorRT-RTX are those of 11; to one built for 10, stderr is left
        assert any(text.startswith(("WARNING: adapter_infer", "ERROR: adapter_infer")) for text in done.messages)


def test_a_profile_whose_usual_shapes_do_not_fit_together_is_refused_while_building(attempt, plugin):
    proto = model(FUSED, bodiless=True, shapes={"samples": ["k", QUERIES, HEADS, 24]})
    bounds = {"value": tuple([n, 80, HEADS, CHANNELS] for n in (1, 2, 4))}
    bounds["samples"] = tuple([n, QUERIES, HEADS, 24] for n in (1, 3, 4))
    done = attempt(proto, plugin, bounds)
    assert done.plan == 0
    assert any("samples has shape 3x20x2x24, but value has N=2" in text for text in done.from_plugin()), done.messages

"""Tells the onnx package about the operators we write: types, shape inference, and attributes that runtimes look for.

Only this process learns of them: the exporter, the checker and shape inference need the schemas, a reader of the file
does not, because an exported file carries the bodies of our operators (see `bodies`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
from onnx import defs

from adapter_export.operators import OP_VERSION, OPERATORS, Operator

_RANKS = {"value": 4, "spatial_shapes": 2, "level_start_index": 1, "reference_points": 4, "samples": 4}
_RANKS |= {"sampling_locations": 6, "attention_weights": 5}
_FLOATS = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"]


def register() -> None:
    """Registers the schemas with the onnx package; calling it again changes nothing."""
    for operator in OPERATORS:
        if not defs.has(operator.name, domain=operator.domain):
            defs.register_schema(_schema(operator))


def _schema(operator: Operator) -> defs.OpSchema:
    types = {"spatial_shapes": operator.integers, "level_start_index": operator.integers}
    # Positions may be fp32 beside a value of a half type, and the reference points always are.
    types |= {"reference_points": "tensor(float)", "samples": "TS", "sampling_locations": "TS"}
    schema = defs.OpSchema(
        operator.name,
        operator.domain,
        OP_VERSION,
        doc="Multi-scale deformable attention",
        inputs=[defs.OpSchema.FormalParameter(name, types.get(name, "T")) for name in operator.inputs],
        outputs=[defs.OpSchema.FormalParameter("output", "T")],
        type_constraints=[("T", _FLOATS, "value and output"), ("TS", _FLOATS, "what the positions come from")],
        attributes=[
            defs.OpSchema.Attribute(key, onnx.helper.make_attribute(key, text), "for plugin runtimes")
            for key, text in operator.attributes.items()
        ],
    )
    schema.set_type_and_shape_inference_function(_inference(operator))
    return schema


def _inference(operator: Operator) -> Callable[[Any], None]:
    def infer(context: Any) -> None:
        shapes = {}
        for position, name in enumerate(operator.inputs):
            given = context.get_input_type(position)
            if given is not None and given.tensor_type.HasField("shape"):
                shapes[name] = given.tensor_type.shape.dim
                if len(shapes[name]) != _RANKS[name]:
                    raise ValueError(f"{operator.name}: {name} has rank {len(shapes[name])}, not {_RANKS[name]}")
        output = onnx.TypeProto()
        output.tensor_type.elem_type = context.get_input_type(0).tensor_type.elem_type
        n, q, *heads = (output.tensor_type.shape.dim.add() for _ in range(4 if operator.per_head else 3))
        value, queries = shapes.get("value"), shapes.get(operator.queries_from)
        if queries is not None:
            q.CopyFrom(queries[1])
        if value is not None:
            n.CopyFrom(value[0])
            if operator.per_head:
                heads[0].CopyFrom(value[2])
                heads[1].CopyFrom(value[3])
            elif value[2].HasField("dim_value") and value[3].HasField("dim_value"):
                heads[0].dim_value = value[2].dim_value * value[3].dim_value
        context.set_output_type(0, output)

    return infer

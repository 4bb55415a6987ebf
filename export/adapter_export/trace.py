"""From the module to the graph: torch.export, then the ONNX exporter, both kept quiet."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from adapter_export import detection_ops, schema
from adapter_export.flavours import Flavour, translations
from adapter_infer.errors import AdapterError, ParityError

if TYPE_CHECKING:
    import onnx_ir as ir

_CHATTY = ("torch.onnx", "torch.__trace", "torch.export", "torch._dynamo", "onnxscript", "onnx_ir")


@contextmanager
def quiet() -> Iterator[None]:
    """No log lines and no warnings of the exporters, which are about their own internals."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    loggers += [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.startswith(_CHATTY)]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def trace(
    module: nn.Module,
    examples: Mapping[str, Tensor],
    dynamic_dims: Mapping[str, dict[int, Any]],
    flavour: Flavour,
    opset: int,
    output_names: Sequence[str],
) -> ir.Model:
    """The ONNX graph of `module` for inputs like `examples`, the first of them the image.

    `dynamic_dims` maps the dynamic axes of each input to torch.export.Dim.

    Errors: AdapterError with the exporter's own words where it cannot trace the module.
    """
    schema.register()
    with quiet(), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        # The CPU's flash kernel returns another memory layout than the attention that the exporter writes; tracing with
        # it leaves views in the graph that the exporter then refuses.
        try:
            shapes = {name: dynamic_dims[name] or None for name in examples}
            program = torch.export.export(
                module,
                tuple(examples.values()),
                dynamic_shapes=shapes if any(shapes.values()) else None,
                strict=False,
            )
            converted = torch.onnx.export(
                program,
                (),
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=list(examples),
                output_names=list(output_names),
                custom_translation_table=translations(flavour) | detection_ops.translations(),
            )
        except AdapterError:
            raise
        except Exception as error:
            raise AdapterError(f"the model could not be traced: {_first_words(error)}") from error
    assert converted is not None
    _name_axes(converted.model, dynamic_dims[next(iter(examples))])
    return converted.model


def _name_axes(model: ir.Model, dynamic_dims: dict[int, Any]) -> None:
    """Gives the image's symbolic sizes their Dims' names, in every shape they occur in.

    Errors: ParityError where a size that should be symbolic is a number in the graph.
    """
    import onnx_ir as ir

    shape = model.graph.inputs[0].shape
    assert shape is not None
    names = {}
    for axis, dim in dynamic_dims.items():
        symbol = re.search(r"s\d+", str(shape[axis]))
        if symbol is None:
            raise ParityError(
                f"the traced graph is fixed to {shape[axis]} along axis {axis} of the image, though {_root_name(dim)} "
                "was to be dynamic: the model bakes a size in; export it at a fixed size, or mend the model"
            )
        names[symbol.group()] = _root_name(dim)
    pattern = re.compile("|".join(rf"\b{symbol}\b" for symbol in names) or "(?!)")
    nodes = [value for node in model.graph for value in node.outputs]
    for value in (*model.graph.inputs, *nodes):
        if value.shape is None or value.shape.is_static():
            continue
        dims = (dim if isinstance(dim, int) else dim.value for dim in value.shape)  # None is an unknown size
        value.shape = ir.Shape(
            pattern.sub(lambda found: names[found.group()], dim) if isinstance(dim, str) else dim for dim in dims
        )


def _root_name(dim: Any) -> str:
    """The name of a Dim, or of the one that a derived Dim is a multiple of."""
    return str(getattr(dim, "root", dim).__name__)


def _first_words(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def image_dims(dynamic_batch: bool, dynamic_size: bool, divisor: int, channels_last: bool) -> dict[int, Any]:
    """torch.export's Dims of the image's dynamic axes: any batch, any multiple of `divisor` pixels."""
    dims: dict[int, Any] = {}
    if dynamic_batch:
        dims[0] = torch.export.Dim("batch", min=1)
    if dynamic_size:
        first = 1 if channels_last else 2
        dims[first] = divisor * torch.export.Dim(f"height_{divisor}", min=1)
        dims[first + 1] = divisor * torch.export.Dim(f"width_{divisor}", min=1)
    return dims

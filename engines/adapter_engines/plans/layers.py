"""Which layers a network or an engine has and of which types: what was found, never what was asked for."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from adapter_infer.errors import AdapterError

#: TensorRT's DataType, by its name in Python, as a precision.
PRECISIONS = {"FLOAT": "fp32", "HALF": "fp16"}  # the others are called in small letters what they are in capitals
#: How the engine inspector spells types, in the order in which they are looked for.
SPELLINGS = {
    "bf16": r"BF16|BFloat16",
    "fp8": r"FP8|Float8\w*",
    "fp4": r"FP4|Float4\w*",
    "fp16": r"FP16|Half|Float16",
    "fp32": r"FP32|Float32|Float",
    "int4": r"INT4",
    "uint8": r"UINT8",
    "int8": r"INT8",
    "int64": r"INT64",
    "int32": r"INT32",
    "bool": r"BOOL",
}
UNKNOWN = "unknown"
PLUGIN_TYPES = ("PluginV3", "PluginV2", "Plugin", "PLUGIN_V3")


@dataclass(frozen=True)
class Found:
    """`source` "engine" or "network"; layers in all, by type, and by precision as shares that add up to 1."""

    source: str
    count: int
    by_type: dict[str, int]
    precision: dict[str, float]
    plugin: int

    def summary(self) -> dict[str, Any]:
        """For the sidecar."""
        return {"source": self.source, "count": self.count, "plugin": self.plugin, "by_type": self.by_type}


def of(network: Any) -> Iterator[Any]:
    """The layers of a TensorRT network."""
    return (network.get_layer(i) for i in range(network.num_layers))


def in_network(network: Any) -> Found:
    """What a network consists of; a layer's type is that of its first output. Constants and shapes are not counted.

    The builder fuses layers, so these shares are an estimate of the engine's.
    """
    skipped = ("CONSTANT", "SHAPE")
    rows = [
        (layer.type.name, _named(layer.get_output(0).dtype.name))
        for layer in of(network)
        if layer.type.name not in skipped and layer.num_outputs
    ]
    return _found("network", rows)


def in_engine(information: str) -> Found | None:
    """What the inspector's JSON of a whole engine lists, None where it holds no details (built without them).

    Takes the form of TensorRT 10 ("Format/Datatype" in one text) and that of 11 ("Format" and "Datatype" apart).
    Errors: AdapterError if it is no such JSON.
    """
    try:
        listed = json.loads(information)["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise AdapterError(
            f"the engine inspector's answer cannot be read ({error}); report the TensorRT version"
        ) from error
    if not listed or any(not isinstance(layer, Mapping) for layer in listed):
        return None
    return _found("engine", [(str(layer.get("LayerType", UNKNOWN)), _precision(layer)) for layer in listed])


def _named(dtype: str) -> str:
    return PRECISIONS.get(dtype, dtype.lower())


def _precision(layer: Mapping[str, Any]) -> str:
    """The type of a layer's first output; of its first input where it has none."""
    for tensor in (*layer.get("Outputs", ()), *layer.get("Inputs", ())):
        text = " ".join(
            str(tensor[key]) for key in ("Datatype", "DataType", "Format/Datatype", "Format") if key in tensor
        )
        for name, spelling in SPELLINGS.items():
            if re.search(rf"(?<![A-Za-z])({spelling})(?![A-Za-z0-9])", text, re.IGNORECASE):
                return name
    return UNKNOWN


def _found(source: str, rows: Iterable[tuple[str, str]]) -> Found:
    rows = list(rows)
    kinds, precisions = Counter(kind for kind, _ in rows), Counter(precision for _, precision in rows)
    shares = {name: round(count / len(rows), 6) for name, count in precisions.most_common()}
    plugin = sum(count for kind, count in kinds.items() if kind in PLUGIN_TYPES)
    return Found(source, len(rows), dict(kinds.most_common()), shares, plugin)

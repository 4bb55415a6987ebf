"""What an exported file says of itself: the metadata_props of the ONNX model. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from adapter_infer import spec as model_spec
from adapter_infer.errors import UnsupportedModel
from adapter_infer.spec import ModelSpec

PREFIX = "adapter_infer."
PRODUCER = "adapter-infer"

OP_DOMAIN = "adapter_infer"  # domain of both custom ops and of their function bodies
FUSED_OP = "MSDeformAttn"
STANDARD_OP = "MultiScaleDeformableAttention"

IMAGE = "image"
IMAGE_SIZE = "image_size"  # of a detector: (N, 2) int64, each picture's height and width without the padding

FEATURE_NAMES = ("feature_4", "feature_8", "feature_16", "feature_32")
QUERY_NAMES = ("class_logits", "mask_logits")  # of Mask2Former
TOKEN_NAMES = ("tokens_1", "tokens_2", "tokens_3", "tokens_4")  # of a frozen ViT in a file of its own, to its head
DETECTION_NAMES = ("boxes", "scores", "labels", "count", "masks")  # "masks" only where the detector has them


@dataclass(frozen=True)
class InputForm:
    """The graph's input `image`. None in `batch`, `height` or `width` means dynamic.

    `embed_preprocess` False: float32 (N, 3, H, W), normalised by the caller.
    True: uint8 (N, H, W, 3) in RGB order, normalised in the graph.
    A dynamic height and width are multiples of `size_divisor`.
    """

    batch: int | None
    height: int | None
    width: int | None
    size_divisor: int = 32
    embed_preprocess: bool = False


@dataclass(frozen=True)
class Metadata:
    """One exported model: what it is, how to feed it, how it was checked.

    `op` is the flavour ("fused", "standard", "tensorrt", "onnx"). `output` is "logits", "labels", "queries"
    (QUERY_NAMES: Mask2Former before its queries are mixed), "detections" (DETECTION_NAMES), "dense" (a detector before
    any selection), "features" (FEATURE_NAMES) or "backbone" (TOKEN_NAMES).
    `params` counts the model's parameters without auxiliary heads, `msda_nodes` the MSDA nodes in the graph.
    `precision` is the type of weights and activations, `io_precision` that of float inputs and outputs ("fp32", "fp16",
    "bf16"); `attention_fp32` says that the softmax of attention stayed in fp32.
    `split` says of one file of a model in two which it is ("part", "partner", and what both must share), {} of a whole
    model.
    `parity` holds the largest absolute differences against torch by runtime path, {} where the check was skipped;
    `tolerance` what they were held to.
    """

    model: ModelSpec
    input: InputForm
    op: str
    output: str
    params: int
    msda_nodes: int
    version: str
    checkpoint_sha256: str | None = None
    precision: str = "fp32"
    io_precision: str = "fp32"
    attention_fp32: bool = False
    parity: dict[str, Any] = field(default_factory=dict)
    tolerance: dict[str, Any] = field(default_factory=dict)
    split: dict[str, Any] = field(default_factory=dict)


def to_props(metadata: Metadata) -> dict[str, str]:
    """`metadata` as the string pairs of ONNX's metadata_props.

    `adapter_infer.model` alone rebuilds the ModelSpec; its telling parts are repeated under keys of their own
    (classes, palette, mean, std, crop, stride, preset), so that other programs and people can read them.
    """
    spec = metadata.model
    fields: dict[str, Any] = {key: value for key, value in asdict(metadata).items() if key != "model"}
    fields |= {"name": spec.name, "source": spec.source, "classes": spec.classes, "palette": spec.palette}
    fields |= {"num_classes": spec.num_classes, "mode": spec.inference.mode}
    fields |= {"crop": spec.inference.crop, "stride": spec.inference.stride}
    if spec.preprocessing is not None:
        fields |= {"mean": spec.preprocessing.mean, "std": spec.preprocessing.std}
    fields["checkpoint_sha256"] = metadata.checkpoint_sha256 or ""
    props = {PREFIX + key: value if isinstance(value, str) else json.dumps(value) for key, value in fields.items()}
    props[PREFIX + "model"] = model_spec.to_json(spec)
    return props


def from_props(props: Mapping[str, str]) -> Metadata | None:
    """The Metadata that `to_props` wrote, None where the file is not ours. Errors: UnsupportedModel if damaged."""
    if PREFIX + "model" not in props:
        return None
    try:
        return Metadata(
            model=model_spec.from_json(props[PREFIX + "model"]),
            input=InputForm(**json.loads(props[PREFIX + "input"])),
            op=props[PREFIX + "op"],
            output=props[PREFIX + "output"],
            params=json.loads(props[PREFIX + "params"]),
            msda_nodes=json.loads(props[PREFIX + "msda_nodes"]),
            version=props[PREFIX + "version"],
            checkpoint_sha256=props[PREFIX + "checkpoint_sha256"] or None,
            precision=props[PREFIX + "precision"],
            # Files of the first version have none of these three.
            io_precision=props.get(PREFIX + "io_precision", "fp32"),
            attention_fp32=json.loads(props.get(PREFIX + "attention_fp32", "false")),
            parity=json.loads(props[PREFIX + "parity"]),
            tolerance=json.loads(props.get(PREFIX + "tolerance", "{}")),
            split=json.loads(props.get(PREFIX + "split", "{}")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UnsupportedModel(f"the file's adapter_infer metadata is damaged ({error}); export it again") from error

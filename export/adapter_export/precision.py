"""The types an export may be written in, and how far each may be from torch. Imports no onnx."""

from __future__ import annotations

from dataclasses import dataclass

from adapter_infer.errors import UsageError

PRECISIONS = ("fp32", "fp16", "bf16")  # from the finest to the coarsest rounding


@dataclass(frozen=True)
class Precision:
    """`arithmetic` is the type of weights and activations, `io` that of the graph's float inputs and outputs.

    `attention_fp32` keeps the softmax of attention, and the bias added before it, in fp32.
    """

    arithmetic: str = "fp32"
    io: str = "fp32"
    attention_fp32: bool = False

    @property
    def coarsest(self) -> str:
        """The type that rounds most: what the tolerance goes by."""
        return max(self.arithmetic, self.io, key=PRECISIONS.index)


def choose(arithmetic: str, io: str, attention_fp32: bool) -> Precision:
    """Errors: UsageError on an unknown type, and where fp32 attention is asked of a graph that is fp32 anyway."""
    for option, name in (("precision", arithmetic), ("io-precision", io)):
        if name not in PRECISIONS:
            raise UsageError(f"{option} {name!r} is unknown; choose one of {', '.join(PRECISIONS)}")
    if attention_fp32 and arithmetic == "fp32":
        raise UsageError(
            "fp32 attention was asked for, but with precision fp32 everything is; pass --precision fp16 or bf16, or "
            "leave out --attention-fp32"
        )
    return Precision(arithmetic, io, attention_fp32)

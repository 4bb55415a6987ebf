"""Where Mask2Former's queries look, layer by layer: decisions on its way, which the parity gate takes from the graph.

Each layer of the decoder looks only where the masks drawn before it are positive. That turns on the sign of a logit:
where it is zero but for rounding, two right programs decide differently, and where a mask is small, one cell more
changes all that follows (a model with random weights by its outputs' own size). So torch is run again with the graph's
decisions, and everything is compared number by number, what is decided on included: attention_logits_<k> is what layer
k looks by, (N, Q, h, w) at the size of the map that it looks at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from adapter_infer.heads.mask2former import AttentionMask, Mask2FormerHead


def names(model: nn.Module) -> tuple[str, ...]:
    """The decisions of a model, in order; none where it is no Mask2Former."""
    heads = [module for module in model.modules() if isinstance(module, Mask2FormerHead)]
    return tuple(f"attention_logits_{k}" for head in heads for k in range(len(head.transformer_decoder.layers)))


@contextmanager
def watched(model: nn.Module, decided: Sequence[Tensor] | None = None) -> Iterator[list[Tensor]]:
    """What the model's own decisions are made on inside the block; with `decided`, it goes by that in their place."""
    seen: list[Tensor] = []

    def look(_module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        seen.append(given[0])
        return None if decided is None else (decided[len(seen) - 1],)

    hooks = [module.register_forward_pre_hook(look) for module in model.modules() if isinstance(module, AttentionMask)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()

"""How far a model itself moves in a half type: the same forward pass in torch, in fp32, rounded after each operator.

What a half type costs depends on the model and the picture, so no fixed tolerance fits: one that lets the noisiest
model pass lets a fault pass in all others. The noise measured here is what the parity gate of a half type goes by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from adapter_export.precision import Precision

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
_MARK = "_adapter_rounded"


class Rounding(TorchDispatchMode):
    """Rounds the results of operators, and the weights they take, to a half type; the numbers stay fp32.

    Only what the picture or a weight takes part in: what follows from sizes alone (reference points) is kept in fp32.
    Our own operators compute in fp32 inside, as every one of their kernels does.
    """

    def __init__(self, precision: str, given: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.dtype = DTYPES[precision]
        self.weights = {id(weight) for weight in weights}
        for each in given:
            setattr(each, _MARK, True)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        touched = any(id(each) in self.weights or hasattr(each, _MARK) for each in given)
        if not touched:
            return func(*args, **(kwargs or {}))
        args = tree_map(lambda leaf: self._round(leaf) if id(leaf) in self.weights else leaf, args)
        return tree_map(self._mark, func(*args, **(kwargs or {})))

    def _mark(self, result: Any) -> Any:
        if isinstance(result, Tensor) and result.dtype == torch.float32:
            result = self._round(result)
            setattr(result, _MARK, True)
        return result

    def _round(self, value: Tensor) -> Tensor:
        return value.to(self.dtype).to(torch.float32) if value.dtype == torch.float32 else value


@torch.no_grad()
def run(
    model: nn.Module, call: Callable[..., Sequence[Tensor]], given: Sequence[Tensor], precision: Precision
) -> list[Tensor]:
    """What `call(*given)` makes when `model` computes in `precision`, `given` and results in its io type."""
    given = [_through(_through(each, precision.io), precision.arithmetic) for each in given]
    if precision.arithmetic == "fp32":
        made = call(*given)
    else:
        weights = [*model.parameters(), *model.buffers()]
        with sdpa_kernel(SDPBackend.MATH), Rounding(precision.arithmetic, given, weights):
            made = call(*given)
    return [_through(each, precision.io) for each in made]


def _through(value: Tensor, precision: str) -> Tensor:
    return value if precision == "fp32" else value.to(DTYPES[precision]).to(torch.float32)

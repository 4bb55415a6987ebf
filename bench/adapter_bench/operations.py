"""What a PyTorch model does, operator by operator: multiply-adds, and which results the next one reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten


def _matrix_vector(matrix: Tensor, vector: Tensor, *, out_val: Any = None) -> int:
    return 2 * matrix.numel()


def _dot(left: Tensor, right: Tensor, *, out_val: Any = None) -> int:
    return 2 * left.numel()


# FLOPs of products with vectors, which torch's table lacks.
_VECTORS: Mapping[Any, Callable[..., int]] = {aten.mv: _matrix_vector, aten.dot: _dot}


def formula(packet: Any) -> Callable[..., int] | None:
    """What gives an operator's FLOPs from its arguments: torch's table, where the MSDA operators' entries are too."""
    return flop_registry.get(packet) or _VECTORS.get(packet)


@dataclass
class Operation:
    """One call of an operator. `reads` are the operations whose results it takes, `leaves` the ids of the tensors it
    takes that nothing made; `depends` says whether the model's inputs are among all that led to it."""

    name: str
    macs: int
    reads: set[int] = field(default_factory=set)
    leaves: set[int] = field(default_factory=set)
    depends: bool = False


class Recorder(TorchDispatchMode):
    """Records every operator that runs inside it. `inputs` are the model's: what does not depend on them is constant.

    Everything that decides is followed, also what gradients do not pass: the scores by which boxes are chosen. Meant
    for the meta device, as it keeps every tensor alive; on the CPU fused attention hides from torch's formulas.
    """

    def __init__(self, inputs: Iterable[Tensor]) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self._inputs = list(inputs)
        self._input_ids = {id(tensor) for tensor in self._inputs}
        self._makers: dict[int, int] = {}  # id of a tensor: the operation that made it
        self._writers: dict[int, list[int]] = {}  # a storage: operations that wrote into it in place
        self._alive: list[Tensor] = []  # so that no id is given twice

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        flops = formula(packet)
        if flops is None:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        macs = 0 if flops is None else flops(*args, **kwargs, out_val=result) // 2
        self._record(Operation(str(packet), macs), args, kwargs, result, bool(func._schema.is_mutable))
        return result

    def _record(self, operation: Operation, args: Any, kwargs: Any, result: Any, writes: bool) -> None:
        number = len(self.operations)
        taken = _tensors((args, kwargs))
        for tensor in taken:
            operation.reads |= self._before(tensor)
            if id(tensor) not in self._makers:
                operation.leaves.add(id(tensor))
        operation.depends = bool(operation.leaves & self._input_ids) or any(
            self.operations[before].depends for before in operation.reads
        )
        self.operations.append(operation)
        made = _tensors(result)
        for tensor in made:
            self._makers[id(tensor)] = number
        for tensor in taken if writes else ():
            if any(tensor is one for one in made):
                self._writers.setdefault(_storage(tensor), []).append(number)
        self._alive += [*taken, *made]

    def _before(self, tensor: Tensor) -> set[int]:
        found = set(self._writers.get(_storage(tensor), ()))
        if id(tensor) in self._makers:
            found.add(self._makers[id(tensor)])
        return found

    def live(self, outputs: Any) -> list[Operation]:
        """The operations that something of `outputs` depends on."""
        waiting = {before for tensor in _tensors(outputs) for before in self._before(tensor)}
        seen = set(waiting)
        while waiting:
            fresh = self.operations[waiting.pop()].reads - seen
            seen |= fresh
            waiting |= fresh
        return [self.operations[number] for number in sorted(seen)]


def total(operations: Iterable[Operation]) -> dict[str, int]:
    """Multiply-adds by operator, of those that have any."""
    result: Counter[str] = Counter()
    for operation in operations:
        result[operation.name] += operation.macs
    return {name: macs for name, macs in result.items() if macs}


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata

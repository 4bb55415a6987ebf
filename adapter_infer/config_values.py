"""The values that a configuration's expressions spell out: literals, dict(...) calls, arithmetic, earlier names.

Expressions are read through `ast` and computed here, under limits; none is executed. What is not spelled out is an
`Unknown`. Imports no torch.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from adapter_infer.config_limits import MAX_BITS, MAX_STRING, Budget, Unknown, count

_FOLDS: dict[str, Callable[[Any], Any]] = {"len": len, "sum": sum, "min": min, "max": max}
# Calls that change nothing, though their value is not computed here.
_PURE = {"print", "int", "float", "str", "bool", "sorted", "range", "abs", "round", *_FOLDS}
_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
}


class Values(Budget):
    """Computes expressions of one text, given the names set so far (`names`) and its base files' values (`base`)."""

    def __init__(self, text: str, where: str, base: Mapping[str, Any]) -> None:
        super().__init__(text, where)
        self.base = base
        self.names: dict[str, Any] = {}
        self.used: set[str] = set()  # names looked up since this was last emptied

    def unread(self, node: ast.AST) -> None:
        """Called for code that is not computed here and may bind or change names."""
        raise AssertionError("the reader of statements defines this")

    def value(self, node: ast.expr) -> Any:
        """What the expression stands for; every container is a fresh copy, paid for from the budget."""
        method = self.METHODS.get(type(node))
        return self.unspelled(node) if method is None else method(self, node)

    def unspelled(self, node: ast.expr) -> Unknown:
        """An expression that is not computed here; calls in it may change earlier values."""
        if any(isinstance(part, (ast.Call, ast.NamedExpr)) for part in ast.walk(node)):
            self.unread(node)
        return self.unknown(node)

    def _constant(self, node: ast.Constant) -> Any:
        value = node.value
        if value is not None and not isinstance(value, (bool, int, float, str)):
            return self.unknown(node)
        if isinstance(value, str) and "{{" in value:
            value = self.filled(value, node)
        return self.copy(value)

    def _name(self, node: ast.Name) -> Any:
        self.used.add(node.id)
        if node.id not in self.names:
            return self.unknown(node, "is not set in this file")
        return self.copy(self.names[node.id])

    def _list(self, node: ast.List) -> Any:
        return self.sequence(node, list)

    def _tuple(self, node: ast.Tuple) -> Any:
        return self.sequence(node, tuple)

    def sequence(self, node: ast.List | ast.Tuple, kind: type) -> Any:
        items: list[Any] = []
        for element in node.elts:
            if not isinstance(element, ast.Starred):
                items.append(self.value(element))
                continue
            part = self.value(element.value)
            if not isinstance(part, (list, tuple)):
                return self.unknown(node)
            items.extend(part)
        self.spend(1, node)
        return kind(items)

    def _listcomp(self, node: ast.ListComp) -> Any:
        """Only `[value for _ in range(n)]`, whose items are all the same."""
        loop = node.generators[0]
        steps, step = loop.iter, loop.target
        if len(node.generators) > 1 or loop.ifs or loop.is_async or not isinstance(step, ast.Name):
            return self.unspelled(node)
        if not isinstance(steps, ast.Call) or _dotted(steps.func) != ["range"] or "range" in self.names:
            return self.unspelled(node)
        if any(isinstance(part, ast.Name) and part.id == step.id for part in ast.walk(node.elt)):
            return self.unspelled(node)
        times = self.value(steps.args[0]) if len(steps.args) == 1 and not steps.keywords else None
        if type(times) is not int:
            return self.unspelled(node)
        item = self.value(node.elt)
        self.spend(1 + max(0, times) * count(item), node)
        return [self.copy(item) for _ in range(times)]

    def _dict(self, node: ast.Dict) -> Any:
        result: dict[Any, Any] = {}
        for key_node, value_node in zip(node.keys, node.values, strict=True):
            key = None if key_node is None else self.value(key_node)
            value = self.value(value_node)
            if key_node is None and isinstance(value, dict):
                result.update(value)
            elif key_node is not None and isinstance(key, (str, int, float)):
                result[key] = value
            else:
                return self.unknown(node)
        self.spend(1, node)
        return result

    def _call(self, node: ast.Call) -> Any:
        name = node.func.id if isinstance(node.func, ast.Name) and node.func.id not in self.names else ""
        if name in {"dict", "list", "tuple"} and len(node.args) <= 1 and (name == "dict" or not node.keywords):
            return self.constructed(name, node)
        if name in _FOLDS and len(node.args) == 1 and not node.keywords:
            given = self.value(node.args[0])
            numbers = isinstance(given, (list, tuple)) and all(isinstance(item, (int, float)) for item in given)
            if given and (numbers or (name == "len" and isinstance(given, (list, tuple, dict)))):
                return self.checked(_FOLDS[name](given), node)
            return given if isinstance(given, Unknown) else self.unknown(node)
        if name in _PURE or name in _FOLDS:
            for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
                self.value(argument)
        else:
            self.unread(node)
        return self.unknown(node)

    def constructed(self, name: str, node: ast.Call) -> Any:
        """dict(...), list(...) and tuple(...)."""
        given = self.value(node.args[0]) if node.args else {}
        self.spend(1, node)
        if name != "dict":
            if not isinstance(given, (list, tuple, dict)):
                return self.unknown(node)
            return list(given) if name == "list" else tuple(given)
        if not isinstance(given, dict):
            return self.unknown(node)
        for keyword in node.keywords:
            value = self.value(keyword.value)
            if keyword.arg is not None:
                given[keyword.arg] = value
            elif isinstance(value, dict):
                given.update(value)
            else:
                return value if isinstance(value, Unknown) else self.unknown(node)
        return given

    def _unaryop(self, node: ast.UnaryOp) -> Any:
        operand = self.value(node.operand)
        if isinstance(operand, (bool, int, float)) and type(node.op) in _UNARY:
            return _UNARY[type(node.op)](operand)
        return operand if isinstance(operand, Unknown) else self.unknown(node)

    def _binop(self, node: ast.BinOp) -> Any:
        left, right = self.value(node.left), self.value(node.right)
        for side in (left, right):
            if isinstance(side, Unknown):
                return side
        operation = _BINARY.get(type(node.op))
        if operation is None:
            return self.unknown(node)
        if isinstance(left, (int, float)) and isinstance(right, (int, float)):
            return self.number(node, operation, left, right)
        if operation is operator.add and type(left) is type(right) and isinstance(left, (list, tuple, str)):
            return self.checked(left + right, node)
        if operation is operator.mul:
            repeated, times = (left, right) if isinstance(right, int) else (right, left)
            if isinstance(repeated, (list, tuple, str)) and isinstance(times, int):
                self.spend(max(0, times) * max(1, count(repeated)) if not isinstance(repeated, str) else 1, node)
                if isinstance(repeated, str) and len(repeated) * times > MAX_STRING:
                    raise self.too_large(node)
                return repeated * times
        return self.unknown(node)

    def number(self, node: ast.BinOp, operation: Callable[[Any, Any], Any], left: float, right: float) -> Any:
        bits = max(abs(int(side)).bit_length() if isinstance(side, int) else 64 for side in (left, right))
        whole = isinstance(left, int) and isinstance(right, int)
        if operation is operator.pow and whole and bits * abs(right) > MAX_BITS:
            raise self.too_large(node)
        try:
            result = operation(left, right)
        except (ArithmeticError, ValueError) as error:
            return self.unknown(node, f"cannot be computed ({error})")
        if not isinstance(result, (int, float)):
            return self.unknown(node)
        return self.checked(result, node)

    def _subscript(self, node: ast.Subscript) -> Any:
        container, key = self.value(node.value), self.value(node.slice)
        for side in (container, key):
            if isinstance(side, Unknown):
                return side
        try:
            if isinstance(container, dict) or (isinstance(container, (list, tuple)) and isinstance(key, int)):
                return container[key]
        except (LookupError, TypeError):
            pass
        return self.unknown(node)

    def _set(self, node: ast.Set) -> Any:
        """Only mmcv's `{{ name }}`, which looks like a set in a set."""
        inner = node.elts[0]
        if len(node.elts) == 1 and isinstance(inner, ast.Set) and len(inner.elts) == 1:
            return self.placeholder(_dotted(inner.elts[0]), node)
        return self.unknown(node)

    def placeholder(self, path: list[str], node: ast.expr) -> Any:
        value: Any = self.base
        for part in path:
            if not isinstance(value, Mapping) or part not in value:
                return self.unknown(node, "names nothing that its base files set")
            value = value[part]
        return self.copy(value) if path else self.unknown(node)

    def filled(self, text: str, node: ast.expr) -> Any:
        """A string with mmcv's `{{ fileBasename }}` and the like put in; other placeholders make it unknown."""
        pieces = text.split("{{")
        result = pieces[0]
        for piece in pieces[1:]:
            name, closed, rest = piece.partition("}}")
            value = self.base.get(name.strip())
            if not closed or not isinstance(value, str):
                return self.unknown(node, "holds a placeholder that only mmcv fills in")
            result += value + rest
        return result

    METHODS: ClassVar[dict[type[ast.expr], Callable[[Any, Any], Any]]] = {
        ast.Constant: _constant,
        ast.Name: _name,
        ast.List: _list,
        ast.Tuple: _tuple,
        ast.ListComp: _listcomp,
        ast.Dict: _dict,
        ast.Set: _set,
        ast.Call: _call,
        ast.UnaryOp: _unaryop,
        ast.BinOp: _binop,
        ast.Subscript: _subscript,
    }


def _dotted(node: ast.expr) -> list[str]:
    """`_base_.a.b` as ["_base_", "a", "b"]; [] for anything else."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute) and (front := _dotted(node.value)):
        return [*front, node.attr]
    return []

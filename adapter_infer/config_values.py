"""The values that a configuration's expressions spell out: literals, dict(...) calls, arithmetic, earlier names.

Expressions are read through `ast` and computed here, under limits; none is executed. What is not spelled out is an
`Unknown`. Imports no torch.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from adapter_infer.errors import UnsupportedModel

MAX_VALUES = 200_000  # numbers, strings and containers that one text may expand to
MAX_BITS = 4096  # of an integer
MAX_STRING = 2**16

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


@dataclass(frozen=True)
class Unknown:
    """A value that the text does not spell out: where it stands (file:line), its expression, and why."""

    where: str
    text: str
    why: str = "is not a literal"

    def refusal(self, key: str) -> UnsupportedModel:
        """The error for needing this value as `key`."""
        return UnsupportedModel(
            f"{key} is needed, but its value `{self.text}` ({self.where}) {self.why} and configurations are never "
            "executed; write the value itself into the configuration"
        )


class Values:
    """Computes expressions of one text, given the names set so far (`names`) and its base files' values (`base`)."""

    def __init__(self, text: str, where: str, base: Mapping[str, Any]) -> None:
        self.where, self.base, self.budget = where, base, MAX_VALUES
        self.names: dict[str, Any] = {}
        self.used: set[str] = set()  # names looked up since this was last emptied
        self.lines = text.split("\n")

    def unread(self, node: ast.AST) -> None:
        """Called for code that is not computed here and may bind or change names."""
        raise AssertionError("the reader of statements defines this")

    def value(self, node: ast.expr) -> Any:
        """What the expression stands for; every container is a fresh copy, paid for from the budget."""
        method = self.METHODS.get(type(node))
        if method is not None:
            return method(self, node)
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
                self.spend(max(0, times) * max(1, _count(repeated)) if not isinstance(repeated, str) else 1, node)
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
        ast.Dict: _dict,
        ast.Set: _set,
        ast.Call: _call,
        ast.UnaryOp: _unaryop,
        ast.BinOp: _binop,
        ast.Subscript: _subscript,
    }

    # Limits and messages

    def copy(self, value: Any) -> Any:
        self.budget -= 1
        if self.budget < 0:
            raise UnsupportedModel(
                f"{self.where} expands to more than {MAX_VALUES} values; no configuration needs that"
            )
        if isinstance(value, dict):
            return {key: self.copy(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)([self.copy(item) for item in value])
        return value

    def spend(self, values: int, node: ast.AST) -> None:
        if values > self.budget:
            raise self.too_large(node)
        self.budget -= values

    def checked(self, value: Any, node: ast.expr) -> Any:
        if isinstance(value, (list, tuple)):
            self.spend(_count(value), node)
        size, limit = (len(value), MAX_STRING) if isinstance(value, str) else (0, 0)
        if isinstance(value, int):
            size, limit = value.bit_length(), MAX_BITS
        if size > limit:
            raise self.too_large(node)
        return value

    def too_large(self, node: ast.AST) -> UnsupportedModel:
        return UnsupportedModel(f"{self.place(node)}: `{self.excerpt(node)}` is too large for a configuration")

    def place(self, node: ast.AST) -> str:
        return f"{self.where}:{getattr(node, 'lineno', 1)}"

    def excerpt(self, node: ast.AST) -> str:
        line, start = getattr(node, "lineno", 1), getattr(node, "col_offset", 0)
        end = getattr(node, "end_col_offset", None) if getattr(node, "end_lineno", line) == line else None
        whole = self.lines[line - 1][: 2**12] if line <= len(self.lines) else ""
        text = whole.encode()[start:end].decode(errors="replace").strip() + (" ..." if end is None else "")
        return text if len(text) <= 80 else text[:77] + "..."

    def unknown(self, node: ast.AST, why: str = "is not a literal") -> Unknown:
        return Unknown(self.place(node), self.excerpt(node), why)


def _count(value: Any) -> int:
    """Values in a container, itself included."""
    if isinstance(value, dict):
        return 1 + sum(map(_count, value.values()))
    return 1 + sum(map(_count, value)) if isinstance(value, (list, tuple)) else 1


def _dotted(node: ast.expr) -> list[str]:
    """`_base_.a.b` as ["_base_", "a", "b"]; [] for anything else."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute) and (front := _dotted(node.value)):
        return [*front, node.attr]
    return []

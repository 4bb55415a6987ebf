"""Limits on what a configuration's text may expand to, and the values that it does not spell out. Imports no torch."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any

from adapter_infer.errors import UnsupportedModel

MAX_VALUES = 200_000  # numbers, strings and containers that one text may expand to
MAX_BITS = 4096  # of an integer
MAX_STRING = 2**16


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


class Budget:
    """The values that one text may still expand to, and messages that point into it."""

    def __init__(self, text: str, where: str) -> None:
        self.where, self.budget = where, MAX_VALUES
        self.lines = text.split("\n")

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
            self.spend(count(value), node)
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


def count(value: Any) -> int:
    """Values in a container, itself included."""
    if isinstance(value, dict):
        return 1 + sum(map(count, value.values()))
    return 1 + sum(map(count, value)) if isinstance(value, (list, tuple)) else 1

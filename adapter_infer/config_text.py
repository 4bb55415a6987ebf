"""Python configuration text read as data: literals, dict(...) calls and arithmetic through `ast`, nothing is executed.

What the text does not spell out (imports, function calls, f-strings, ...) becomes an `Unknown`, which travels along
and is refused only where its value is needed. A statement that could change an earlier value makes that value unknown
too: the result is either what Python would have computed or a refusal. Imports no torch.
"""

from __future__ import annotations

import ast
import io
import tokenize
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from adapter_infer.config_values import Values
from adapter_infer.errors import UnsupportedModel

MAX_TEXT = 2**19  # characters; the longest released configuration has 12 thousand
MAX_NAMES = 1000  # at the top level
MAX_NESTING = 1000  # tokens that an expression may nest deep

_IMPURE = {"exec", "eval", "compile", "globals", "locals", "vars", "setattr", "delattr", "__import__"}
_NAMED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.ExceptHandler, ast.MatchAs, ast.MatchStar)


def find_base(text: str, where: str) -> Any:
    """The value of the text's `_base_` (str, list of str, Unknown), None if it has none."""
    return _Reader(text, where, {}).read(until="_base_").get("_base_")


def parse(text: str, where: str, base: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The top-level names of a configuration text and their values.

    `where` names the file in messages; `base` holds what `{{ _base_.x }}` and `{{ fileBasename }}` stand for.
    Errors: UnsupportedModel if the text is no Python, nests or expands too far.
    """
    return _Reader(text, where, base or {}).read()


class _Reader(Values):
    """Evaluates the statements of one text in order."""

    def __init__(self, text: str, where: str, base: Mapping[str, Any]) -> None:
        super().__init__(text, where, base)
        self.origins: dict[str, set[str]] = {}  # the names that each name's value was built from
        self.body = _statements(text, where)

    def read(self, until: str | None = None) -> dict[str, Any]:
        try:
            for statement in self.body:
                self.statement(statement)
                if len(self.names) > MAX_NAMES:
                    raise UnsupportedModel(
                        f"{self.place(statement)}: no configuration sets more than {MAX_NAMES} names"
                    )
                if until is not None and until in self.names:
                    break
        except RecursionError:
            raise UnsupportedModel(f"{self.where} nests too deeply for a configuration") from None
        return self.names

    def statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Assign):
            value, origins = self.traced(node.value)
            for target in node.targets:
                self.assign(target, value, origins | _names(node.targets))
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            self.assign(node.target, *self.traced(node.value))
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            current = ast.Name(node.target.id, ast.Load(), lineno=node.lineno, col_offset=node.col_offset)
            whole = ast.BinOp(current, node.op, node.value, lineno=node.lineno, col_offset=node.col_offset)
            value, origins = self.traced(whole)
            self.change(node.target.id, node)  # `+=` changes a list in place, under every name that it has
            self.assign(node.target, value, origins)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            self.value(node.value)
        elif isinstance(node, (ast.Pass, ast.Assert)) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ):
            return
        else:
            self.unread(node)

    def traced(self, node: ast.expr) -> tuple[Any, set[str]]:
        """A value and the names that it was built from, directly or through other names."""
        self.used = set()
        value = self.value(node)
        return value, self.used.union(*(self.origins.get(name, set()) for name in self.used))

    def assign(self, target: ast.expr, value: Any, origins: set[str]) -> None:
        if isinstance(target, ast.Name):
            self.names[target.id] = self.copy(value)
            self.origins[target.id] = origins
        elif isinstance(target, (ast.Tuple, ast.List)) and isinstance(value, (tuple, list)):
            if len(target.elts) == len(value) and not any(isinstance(item, ast.Starred) for item in target.elts):
                for item, part in zip(target.elts, value, strict=True):
                    self.assign(item, part, origins)
            else:
                self.unread(target)
        else:
            self.unread(target)

    def unread(self, node: ast.AST) -> None:
        """Forgets what a piece of code that is not evaluated may bind or change."""
        for part in ast.walk(node):
            if isinstance(part, ast.ImportFrom) and part.names[0].name == "read_base":
                raise UnsupportedModel(
                    f"{self.place(part)} uses mmengine's read_base(), which runs other files as code; "
                    "pass the resolved configuration instead (the one that training wrote into its work folder)"
                )
            if isinstance(part, ast.alias) and part.name == "*":
                self.forget(set(self.names), node)
            for name in _bound(part):
                self.names[name] = self.unknown(node, "is not read")
                self.origins[name] = set()
            if isinstance(part, ast.Name):
                if part.id in _IMPURE:
                    self.forget(set(self.names), node)
                elif isinstance(part.ctx, ast.Load):
                    self.change(part.id, node)

    def forget(self, names: set[str], node: ast.AST) -> None:
        self.spend(1 + len(self.names) // 4, node)  # the work counts too, or many statements could hang the reader
        for name in names:
            self.names[name] = self.unknown(node, "may have changed it")

    def change(self, name: str, node: ast.AST) -> None:
        """`name` may be changed in place by `node`: it and whatever shares parts with it are unknown from here on."""
        if name in self.names and isinstance(self.names[name], (dict, list, tuple)):
            group = {name} | self.origins.get(name, set())
            self.forget({other for other in self.names if group & ({other} | self.origins.get(other, set()))}, node)


def _statements(text: str, where: str) -> list[ast.stmt]:
    if len(text) > MAX_TEXT:
        raise UnsupportedModel(f"{where} has {len(text)} characters, more than the {MAX_TEXT} of any configuration")
    _check_nesting(text, where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes like "\\d", which are not the user's concern here
            return ast.parse(text).body
    except SyntaxError as error:
        line = f":{error.lineno}" if error.lineno else ""
        raise UnsupportedModel(f"{where}{line} is not a Python configuration ({error.msg})") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise UnsupportedModel(f"{where} is not a configuration ({str(error) or 'it nests too deeply'})") from None


def _check_nesting(text: str, where: str) -> None:
    """Refuses what would nest too deeply before Python parses it: the parser of 3.10 overflows its stack and crashes.

    Along any path of open brackets, an expression nests at most as deep as it has tokens since its last comma.
    """
    levels, depth, branches = [0], 0, 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            before = levels[-1]
            if token.type in {tokenize.NEWLINE, tokenize.ENDMARKER}:
                levels, depth, before = [0], 0, 0
            elif token.string in {")", "]", "}"} and len(levels) > 1:
                depth -= levels.pop()
                before = levels[-1]
            elif token.string == ",":
                levels[-1] = 0
            elif token.type not in {tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT}:
                levels[-1] += 1
                branches += token.string == "elif"
            depth += levels[-1] - before
            if token.string in {"(", "[", "{"}:
                levels.append(0)
            formatted = token.type == tokenize.STRING and "f" in token.string.lower().partition(token.string[-1])[0]
            if max(depth, branches) > MAX_NESTING or (formatted and len(token.string) > MAX_NESTING):
                raise UnsupportedModel(f"{where}:{token.start[0]} nests too deeply for a configuration")
    except tokenize.TokenError as error:
        raise UnsupportedModel(f"{where}:{error.args[1][0]} is not a Python configuration ({error.args[0]})") from None
    except SyntaxError as error:  # bad indentation
        raise UnsupportedModel(f"{where}:{error.lineno} is not a Python configuration ({error.msg})") from None


def _names(nodes: list[ast.expr]) -> set[str]:
    return {part.id for node in nodes for part in ast.walk(node) if isinstance(part, ast.Name)}


def _bound(node: ast.AST) -> Iterator[str]:
    """The names that this one node binds or deletes."""
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        yield node.id
    elif isinstance(node, ast.alias) and node.name != "*":
        yield node.asname or node.name.partition(".")[0]
    elif isinstance(node, _NAMED) and node.name:
        yield node.name

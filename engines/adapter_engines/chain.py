"""The two files of `adapter-export --split` as one engine: image -> backbone -> tokens -> head -> outputs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from adapter_engines.engine import Engine, TensorInfo
from adapter_infer.errors import UnsupportedModel


class ChainedEngine(Engine):
    """Takes what `backbone` takes and gives what `head` gives; the rest of what it says of itself is the head's.

    Owns both: `close` closes them. Where several heads read one picture, run the backbone once and feed its tokens to
    every head by `Engine.infer` instead.
    """

    def __init__(self, backbone: Engine, head: Engine) -> None:
        """Errors: UnsupportedModel unless `head` was trained and cut behind what `backbone` holds."""
        _check(backbone, head)
        self._backbone, self._head = backbone, head
        self.path, self.metadata, self.provider = head.path, head.metadata, head.provider
        self.runtime, self.threads, self.library = head.runtime, head.threads, head.library
        self.inputs, self.outputs, self.best_batch = backbone.inputs, head.outputs, head.best_batch

    @classmethod
    def open(cls, backbone: Path, head: Path, **options: Any) -> ChainedEngine:
        """Both files, each by `Engine.load` with these options. Errors: as there."""
        with ExitStack() as opened:
            engines = [opened.enter_context(Engine.load(path, **options)) for path in (backbone, head)]
            chain = cls(*engines)
            opened.pop_all()
        return chain

    def infer(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        tokens = self._backbone.infer(feeds)
        return self._head.infer({**feeds, **tokens})

    def close(self) -> None:
        self._backbone.close()
        self._head.close()


def _check(backbone: Engine, head: Engine) -> None:
    theirs, wanted = _part(backbone, "backbone"), _part(head, "head")
    for what in ("weights", "tokens_after_block"):
        if theirs.get(what) != wanted.get(what):
            raise UnsupportedModel(
                f"{backbone.path} is not the backbone that {head.path} was split from (its {what} are another's); "
                f"that one was written as {wanted.get('partner')}"
            )
    given = {tensor.name: tensor for tensor in (*backbone.outputs, *backbone.inputs)}
    for tensor in head.inputs:
        if not _fits(given[tensor.name], tensor):
            raise UnsupportedModel(
                f"{backbone.path} and {head.path} were exported with different options: {tensor.name} is "
                f"{_form(given[tensor.name])} in the one and {_form(tensor)} in the other; export both with the same"
            )


def _part(engine: Engine, part: str) -> Mapping[str, Any]:
    """What the file says of the model that it is a part of."""
    split = engine.metadata.split if engine.metadata is not None else {}
    if split.get("part") != part:
        found = f"the {split['part']} of a split model" if split else "no part of a split model"
        raise UnsupportedModel(
            f"{engine.path} is {found}, where its {part} is wanted; adapter-export --split writes the head as OUT.onnx "
            "and the backbone as OUT.backbone.onnx"
        )
    return split


def _fits(one: TensorInfo, other: TensorInfo) -> bool:
    if one.dtype != other.dtype or len(one.shape) != len(other.shape):
        return False
    return all(a == b or str in (type(a), type(b)) for a, b in zip(one.shape, other.shape, strict=True))


def _form(tensor: TensorInfo) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"

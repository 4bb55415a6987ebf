"""Writes checkpoint files for the tests, good and bad, and says what reading them must give."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from adapter_infer import checkpoints
from adapter_infer.errors import AdapterError, UnsupportedModel

WEIGHTS = {"backbone.a.weight": torch.arange(6.0).reshape(2, 3), "backbone.a.bias": torch.ones(2)}
STATE = {"state_dict": WEIGHTS, "meta": {"epoch": 3, "config": "model = dict()"}}


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def saved(path: Path, value: Any, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


def packed(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def saved_bytes(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def assert_weights(checkpoint: checkpoints.Checkpoint) -> None:
    assert checkpoint.state_dict.keys() == WEIGHTS.keys()
    for name, tensor in WEIGHTS.items():
        assert torch.equal(checkpoint.state_dict[name], tensor)
        assert checkpoint.state_dict[name].dtype == torch.float32


def refusal(path: Path, kind: type[AdapterError] = UnsupportedModel) -> str:
    with pytest.raises(kind) as caught:
        checkpoints.read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    assert path.name in message
    return message

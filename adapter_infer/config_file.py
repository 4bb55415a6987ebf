"""Configuration files: .py and .json, with their `_base_` files, merged by mmcv's rules. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adapter_infer import config_text
from adapter_infer.config_limits import Unknown
from adapter_infer.errors import UnsupportedModel, UsageError

MAX_FILES = 64  # base files of one configuration
DELETE = "_delete_"


def read_config(path: str | Path) -> dict[str, Any]:
    """The merged configuration of a file, as mmcv's Config.fromfile would give it, without running it.

    Values that are no literals are `config_values.Unknown`. Errors: UsageError where a file is missing or has another
    suffix, UnsupportedModel where one cannot be read as a configuration.
    """
    return _without_delete(_Files().read(Path(path), ()))


def parse_config(text: str, where: str) -> dict[str, Any]:
    """The configuration that a text holds (mmcv's pretty_text in a checkpoint); `_base_` files are refused."""
    config = config_text.parse(text, where)
    if "_base_" in config:
        raise UnsupportedModel(f"{where} refers to `_base_` files, which a text without a folder cannot have")
    return _without_delete(_public(config))


class _Files:
    """Reads one configuration and counts the files that it draws in."""

    def __init__(self) -> None:
        self.count = 0

    def read(self, path: Path, chain: tuple[Path, ...]) -> dict[str, Any]:
        self.count += 1
        if self.count > MAX_FILES:
            raise UnsupportedModel(f"configuration {chain[0]} draws in more than {MAX_FILES} base files")
        resolved = path.resolve()
        if resolved in chain:
            raise UnsupportedModel(f"configuration {path} is its own base file (through {chain[-1]})")
        text, chain = _text(path, chain[-1] if chain else None), (*chain, resolved)
        if path.suffix == ".json":
            own = _json(text, path)
            base = self.bases(own.pop("_base_", None), path, chain)
        else:
            base = self.bases(config_text.find_base(text, str(path)), path, chain)
            own = _public(config_text.parse(text, str(path), {"_base_": base} | _file_names(path)))
        return merge(base, own)

    def bases(self, named: Any, path: Path, chain: tuple[Path, ...]) -> dict[str, Any]:
        """The base files' values together; mmcv does not let two of them set the same name."""
        if isinstance(named, Unknown):
            raise named.refusal("_base_")
        names = [] if named is None else [named] if isinstance(named, str) else named
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise UnsupportedModel(f"_base_ of {path} is {named!r:.80}, not a file name or a list of file names")
        together: dict[str, Any] = {}
        for name in names:
            base = self.read(path.parent / name, chain)
            if twice := sorted(together.keys() & base.keys()):
                raise UnsupportedModel(f"two base files of {path} set `{twice[0]}` (the second is {name})")
            together |= base
        return together


def merge(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`own` over `base`: dictionaries merge key by key unless they say `_delete_=True`; everything else replaces."""
    result = dict(base)
    for key, value in own.items():
        if not isinstance(value, dict) or key not in result or value.get(DELETE, False):
            result[key] = value
        elif isinstance(result[key], dict):
            result[key] = merge(result[key], value)
        elif not isinstance(result[key], Unknown):  # what is merged into an unknown value stays unknown
            raise UnsupportedModel(
                f"`{key}` is a dict, but its base file has a {type(result[key]).__name__} there; "
                f"add {DELETE}=True to it to replace the base value"
            )
    return result


def _text(path: Path, parent: Path | None) -> str:
    named = "" if parent is None else f" (a _base_ of {parent})"
    if path.suffix not in {".py", ".json"}:
        raise UsageError(f"configuration {path}{named} is neither .py nor .json")
    if not path.is_file():  # also keeps devices and pipes from being read
        raise UsageError(f"configuration {path}{named} does not exist")
    if path.stat().st_size > config_text.MAX_TEXT:
        raise UnsupportedModel(f"configuration {path}{named} is larger than {config_text.MAX_TEXT} bytes")
    try:
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise UsageError(f"configuration {path}{named} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UnsupportedModel(f"configuration {path}{named} is not UTF-8 text") from None


def _json(text: str, path: Path) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnsupportedModel(f"configuration {path} is not JSON ({error})") from None
    if not isinstance(config, dict):
        raise UnsupportedModel(f"configuration {path} holds a {type(config).__name__}, not an object")
    return config


def _file_names(path: Path) -> dict[str, str]:
    """mmcv's predefined `{{ names }}`."""
    return {
        "fileDirname": str(path.parent),
        "fileBasename": path.name,
        "fileBasenameNoExtension": path.stem,
        "fileExtname": path.suffix,
    }


def _public(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if not key.startswith("__") and key != "_base_"}


def _without_delete(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_delete(item) for key, item in value.items() if key != DELETE}
    return [_without_delete(item) for item in value] if isinstance(value, list) else value

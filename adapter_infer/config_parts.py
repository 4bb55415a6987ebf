"""Parts and plain values of a configuration, checked: what is read next must not meet an unknown or a hostile value.

Every refusal is an UnsupportedModel in one sentence that names the key and its source. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from adapter_infer.config_limits import Unknown
from adapter_infer.errors import UnsupportedModel
from adapter_infer.spec import NO_EFFECT

Config = Mapping[str, Any]

MAX_SIZE = 2**16  # of any width, count or pixel size in a model; beyond it a configuration is broken or hostile
MAX_COUNT = 512  # of blocks, layers and list entries
MAX_STAGES = 16  # of a detector
_COUNTS = {"depth", "length", "num_convs", "num_layers", "num_outs", "stacked_convs"} | {
    f"num_{kind}" for kind in ("shared_convs", "shared_fcs", "cls_fcs", "reg_fcs")
}
_LIMITS = {f".{name}": MAX_COUNT for name in _COUNTS} | {".num_stages": MAX_STAGES}


def part(config: Config, key: str, source: str) -> Config:
    """A dictionary inside the configuration."""
    found = config.get(key)
    if isinstance(found, Unknown):
        raise found.refusal(key)
    if not isinstance(found, Mapping):
        raise UnsupportedModel(f"{source} has no {key}" if found is None else f"{key} of {source} is not a dict")
    return found


def mapping(value: Any) -> Config:
    """`value` if it is a dictionary, otherwise an empty one."""
    return value if isinstance(value, Mapping) else {}


def module(model: Config, key: str, source: str) -> dict[str, Any]:
    """One module's arguments, less those without effect on inference; tuples as lists, as JSON has them."""
    kept = {name: value for name, value in part(model, key, source).items() if name not in NO_EFFECT}
    found = {str(name): plain(value, f"model.{key}.{name}") for name, value in kept.items()}
    if not isinstance(found.get("type"), str):
        raise UnsupportedModel(f"model.{key} of {source} has no type")
    for layer in ("norm_cfg", "act_cfg"):
        if not isinstance(found.get(layer), (dict, type(None))):
            raise UnsupportedModel(f"model.{key}.{layer} of {source} is {found[layer]!r:.80}, not a dict with a type")
    if (eps := mapping(found.get("norm_cfg")).get("eps", 1e-5)) != 1e-5:
        raise UnsupportedModel(f"model.{key}.norm_cfg of {source} has eps {eps!r:.80}; only 1e-5 is supported")
    check_numbers(found, f"model.{key}", source)
    return found


def check_numbers(value: Any, key: str, source: str) -> None:
    """Refuses plain values with a number or a list beyond any model."""
    for name, number in _numbers(value, key):
        limit = next((limit for end, limit in _LIMITS.items() if name.endswith(end)), MAX_SIZE)
        if not -limit <= number <= limit:
            raise UnsupportedModel(f"{name} of {source} is {number!r:.20}, beyond any model ({limit})")


def _numbers(value: Any, key: str) -> Iterator[tuple[str, float]]:
    """All numbers in a plain value and the lengths of its lists, with the dotted name of where they stand."""
    if isinstance(value, (int, float)):
        yield key, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _numbers(item, f"{key}.{name}")
    elif isinstance(value, list):
        yield f"{key}.length", len(value)
        for item in value:
            yield from _numbers(item, key)


def plain(value: Any, key: str) -> Any:
    """A value without tuples. Errors: UnsupportedModel if any part of it is not spelled out."""
    if isinstance(value, Unknown):
        raise value.refusal(key)
    if isinstance(value, Mapping):
        return {str(name): plain(item, f"{key}.{name}") for name, item in value.items()}
    return [plain(item, key) for item in value] if isinstance(value, (list, tuple)) else value


def pair(value: Any, key: str) -> tuple[int, int]:
    """Two positive whole numbers; one stands for both."""
    value = plain(value, key)
    numbers = [value, value] if not isinstance(value, Sequence) else value
    if len(numbers) != 2 or not all(is_count(number) for number in numbers):
        raise UnsupportedModel(f"{key} is {value!r:.80}, not two positive whole numbers")
    return int(numbers[0]), int(numbers[1])


def triple(value: Any, key: str) -> tuple[float, float, float]:
    """Three numbers."""
    value = plain(value, key)
    numbers = isinstance(value, list) and len(value) == 3 and all(type(number) in {int, float} for number in value)
    if not numbers or not all(-MAX_SIZE <= number <= MAX_SIZE for number in value):
        raise UnsupportedModel(f"{key} of the test pipeline is {value!r:.80}, not three numbers")
    return float(value[0]), float(value[1]), float(value[2])


def is_count(value: Any) -> bool:
    """Whether `value` is a positive whole number."""
    return type(value) is int and value > 0

"""From the object in a checkpoint file to plain float32 weights by their official names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from adapter_infer.errors import UnsupportedModel, UsageError

# Where training programs keep weights. The first that is there is taken; averaged ones (EMA) only for want of others.
PLAIN = ("state_dict", "model", "model_state_dict", "module", "net")
AVERAGED = ("state_dict_ema", "ema_state_dict", "model_ema", "ema")
WRAPPERS = ("module.", "_orig_mod.")  # prefixes of DistributedDataParallel and torch.compile
MAX_WRAPPERS = 3

Weights = dict[str, Tensor]


def extract(loaded: Any, name: str, key: str | None = None) -> tuple[Weights, list[str]]:
    """The weights in what a checkpoint file held, and notes on what was chosen or changed on the way.

    `key` takes the weights under that key, e.g. "state_dict_ema". Errors: UnsupportedModel where there are none or
    where they are no ordinary tensors, UsageError where `key` is not in the file.
    """
    notes: list[str] = []
    found = _select(_entries(loaded, name), name, key, notes)
    found = _without_prefixes(found, notes)
    found = _without_ema_buffers(found, notes)
    changed: dict[torch.dtype, int] = {}
    weights = {tensor_name: _weight(tensor_name, value, name, changed) for tensor_name, value in found.items()}
    for dtype, count in changed.items():
        notes.append(f"converted {count} {str(dtype).removeprefix('torch.')} tensors to float32")
    return weights, notes


def non_finite(weights: Mapping[str, Tensor], names: Iterable[str]) -> list[str]:
    """Which of these weights hold a NaN or an infinity."""

    def broken(tensor: Tensor) -> bool:
        if not tensor.is_floating_point() or not tensor.numel():
            return False
        low, high = torch.aminmax(tensor)  # NaN passes through both; no copy of the tensor is made
        return not bool(torch.isfinite(low) & torch.isfinite(high))

    return [name for name in names if broken(weights[name])]


def _entries(value: Any, name: str) -> dict[str, Any]:
    """A dictionary of the file as it was stored: entries only, whatever attributes a file may give an OrderedDict."""
    if not isinstance(value, dict):
        raise UnsupportedModel(f"{name} holds a {type(value).__name__}, not a dictionary of weights")
    entries = dict(dict.items(value))
    if not all(isinstance(key, str) for key in entries):
        raise UnsupportedModel(f"{name} holds a dictionary whose keys are not names, so no weights")
    return entries


def _select(entries: dict[str, Any], name: str, key: str | None, notes: list[str]) -> dict[str, Any]:
    places = [place for place in (*PLAIN, *AVERAGED) if isinstance(entries.get(place), dict)]
    if key is not None:
        if not isinstance(entries.get(key), dict):
            raise UsageError(f"{name} holds no weights under {key!r}; it has them under {_listed(places)}")
        return _unwrapped(_entries(entries[key], name), name)
    if places:
        if places[1:]:
            notes.append(
                f"took the weights under {places[0]!r}; the file also holds {_listed(places[1:])}, "
                f"which --weights-key {places[1]} takes"
            )
        elif places[0] in AVERAGED:
            notes.append(f"took the averaged weights under {places[0]!r}, the only ones in the file")
        return _unwrapped(_entries(entries[places[0]], name), name)
    tensors = {entry: value for entry, value in entries.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UnsupportedModel(
            f"{name} holds no weights: its entries are {_listed(entries)}, and none of {_listed(PLAIN)} is a dictionary"
        )
    if others := sorted(entries.keys() - tensors.keys()):
        notes.append(f"ignored {len(others)} entries that are no tensors: {_listed(others)}")
    return tensors


def _unwrapped(entries: dict[str, Any], name: str) -> dict[str, Any]:
    """Weights that are wrapped once more, e.g. {"model": {"module": {...}}}."""
    for _ in range(MAX_WRAPPERS):
        inner = [place for place in PLAIN if isinstance(entries.get(place), dict)]
        if not inner or any(isinstance(value, Tensor) for value in entries.values()):
            break
        entries = _entries(entries[inner[0]], name)
    if not entries:
        raise UnsupportedModel(f"{name} holds an empty dictionary of weights")
    return entries


def _without_prefixes(found: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    while prefix := next((p for p in WRAPPERS if all(name.startswith(p) for name in found)), None):
        found = {name.removeprefix(prefix): value for name, value in found.items()}
        notes.append(f"removed the prefix {prefix!r} from all names")
    return found


def _without_ema_buffers(found: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """mmcv's EMAHook stores a second copy of each weight as a buffer `ema_` + name with underscores."""
    copies = {"ema_" + name.replace(".", "_") for name in found} & found.keys()
    if copies:
        notes.append(f"ignored {len(copies)} ema_* buffers of mmcv's EMAHook")
    return {name: value for name, value in found.items() if name not in copies}


def _weight(tensor_name: str, value: Any, name: str, changed: dict[torch.dtype, int]) -> Tensor:
    """One weight as an ordinary CPU tensor, floating point ones as float32."""
    where = f"{tensor_name[:120]} in {name}"
    if type(value) not in (Tensor, torch.nn.Parameter):
        raise UnsupportedModel(f"{where} is a {type(value).__name__}, not a tensor")
    tensor: Tensor = value.detach()
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_complex():
        kind = "quantised" if tensor.is_quantized else f"{tensor.layout} {tensor.dtype} on {tensor.device}"
        raise UnsupportedModel(f"{where} is {kind}; plain dense weights are needed")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise UnsupportedModel(f"{where} repeats its storage to {tuple(tensor.shape)}; save it as a plain tensor")
    if not tensor.is_floating_point():
        return tensor.contiguous()
    if tensor.dtype != torch.float32:
        if tensor.dtype not in (torch.float16, torch.bfloat16, torch.float64):
            raise UnsupportedModel(f"{where} is {tensor.dtype}; float32, float16, bfloat16 and float64 are read")
        changed[tensor.dtype] = changed.get(tensor.dtype, 0) + 1
    return tensor.float().contiguous()


def _listed(names: Iterable[str]) -> str:
    """At most five names, shortened, for a message."""
    names = list(names)
    shown = ", ".join(repr(name[:60]) for name in names[:5])
    return (shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")) or "none"

"""Whether a checkpoint's tensors are those of a model, and which of them the model takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from adapter_infer import models
from adapter_infer.dinov3 import files as dinov3_files
from adapter_infer.errors import AdapterError, UnsupportedModel
from adapter_infer.findings import inspect_tensors
from adapter_infer.spec import ModelSpec

if TYPE_CHECKING:
    from adapter_infer.checkpoints import Checkpoint

SHOWN = 5  # names in an error message


def skeleton(spec: ModelSpec) -> nn.Module:
    """The model without memory for its weights."""
    try:
        return models.build_model(spec, device="meta")
    except AdapterError as error:
        raise type(error)(f"{spec.source}: {error}") from None
    except (TypeError, ValueError, LookupError, RuntimeError, ArithmeticError, AttributeError) as error:
        raise UnsupportedModel(f"no model can be built from {spec.source} ({error!r:.200})") from error


def fit(spec: ModelSpec, checkpoint: Checkpoint, model: nn.Module) -> dict[str, Tensor]:
    """The checkpoint's tensors under the model's names. Errors: UnsupportedModel with the first contradictions."""
    wanted = model.state_dict()
    found = _for_model(spec, checkpoint)
    for name in wanted.keys() - found.keys():
        if name.endswith("num_batches_tracked"):  # counts training steps; files from before torch 0.4.1 lack it
            found[name] = wanted[name].new_zeros((), device="cpu")
        elif name.endswith("integral.project"):  # GFL's distances, always 0 to reg_max
            found[name] = torch.arange(len(wanted[name]), dtype=torch.float32)
    problems = []
    if missing := [name for name in wanted if name not in found]:
        problems.append(f"{len(missing)} tensors are missing: {listed(missing)}")
    if surplus := [name for name in found if name not in wanted]:
        problems.append(f"{len(surplus)} tensors are not part of it: {listed(surplus)}")
    if other := [name for name in wanted if name in found and not _same(wanted[name], found[name])]:
        texts = [f"{name} is {_form(wanted[name])} in it, {_form(found[name])} in the file" for name in other[:SHOWN]]
        problems.append(f"{len(other)} tensors differ: {'; '.join(texts)}")
    if problems:
        what = f"{spec.source} (the backbone)" if spec.head is None else spec.source
        raise UnsupportedModel(f"{checkpoint.path} does not fit {what}: {'; '.join(problems)}{_hint(checkpoint)}")
    return found


def _for_model(spec: ModelSpec, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The tensors that the model must have, under its names: no auxiliary heads, no recomputable BEiT indexes."""
    found = {
        name: tensor
        for name, tensor in checkpoint.state_dict.items()
        if not name.startswith("auxiliary_head.") and not name.endswith("relative_position_index")
    }
    if spec.half == "dinov3":
        whole = dinov3_files.join(found, None, str(checkpoint.path))
        return dinov3_files.adapter_part(whole) if spec.head is None else whole
    if spec.head is None:
        prefix = "backbone." if any(name.startswith("backbone.") for name in found) else ""
        return {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}
    return found


def _hint(checkpoint: Checkpoint) -> str:
    found = inspect_tensors(checkpoint.state_dict)
    if found.decode_head is found.detector is None and found.backbone is not None:
        return "; the file holds a backbone without a head, which --output features exports"
    return f"; the file shows: {found.text()}"


def _same(wanted: Tensor, found: Tensor) -> bool:
    return wanted.shape == found.shape and wanted.is_floating_point() == found.is_floating_point()


def _form(tensor: Tensor) -> str:
    shape = "x".join(map(str, tensor.shape)) or "a scalar"
    return shape if tensor.is_floating_point() else f"{shape} {str(tensor.dtype).removeprefix('torch.')}"


def listed(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(name[:120] for name in names[:SHOWN]) + more

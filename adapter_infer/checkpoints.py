"""Reads a checkpoint safely, finds out which model it is, and builds it with its weights.

What the model is comes, in this order, from a configuration file, from the configuration text in the checkpoint's
meta, from a preset, and last from the tensors, which never say enough: then the refusal tells what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from adapter_infer import checkpoint_file, datasets, files, findings, presets, weights
from adapter_infer import config as configuration
from adapter_infer.checkpoint_fit import fit, listed, skeleton
from adapter_infer.detectors import DETECTORS
from adapter_infer.dinov3 import files as dinov3_files
from adapter_infer.errors import AdapterError, UnsupportedModel, UsageError
from adapter_infer.findings import Findings, inspect_tensors
from adapter_infer.spec import DETECTION_PARTS, HEADS, ModelSpec

META = "meta['config'] of the checkpoint"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights by their official names (float32; counters int64), the training program's meta, and the file.

    `notes` says what was chosen or changed while reading, for the user.
    """

    state_dict: dict[str, Tensor]
    meta: dict[str, Any]
    sha256: str
    path: Path
    notes: tuple[str, ...] = ()


def read(path: str | Path, weights_key: str | None = None, backbone: str | Path | None = None) -> Checkpoint:
    """Opens a checkpoint (.pth, .pth.tar, .safetensors, a zip with one of them); nothing in it is executed.

    `weights_key` takes the weights under that key of the file, e.g. "state_dict_ema"; without it `state_dict`, then
    `model`, are taken and a note tells of others. `backbone` is the file of DINOv3's frozen ViT, where `path` holds the
    adapter and head alone; `sha256` then names both files. Errors: UsageError, UnsupportedModel.
    """
    path = Path(path)
    loaded = checkpoint_file.load(path)
    state_dict, notes = weights.extract(loaded, str(path), weights_key)
    meta = dict.get(loaded, "meta")
    entries = dict(dict.items(meta)) if isinstance(meta, dict) else {}
    if backbone is None:
        return Checkpoint(state_dict, entries, files.sha256(path), path, tuple(notes))
    vit = read(backbone)
    state_dict = dinov3_files.join(state_dict, vit.state_dict, str(path), str(backbone))
    notes += [f"took the frozen ViT from {backbone}", *vit.notes]
    return Checkpoint(state_dict, entries, f"{files.sha256(path)}+{vit.sha256}", path, tuple(notes))


def identify(
    checkpoint: Checkpoint | None,
    config: str | Path | None = None,
    preset: str | None = None,
    *,
    features_only: bool = False,
) -> ModelSpec:
    """The model in a checkpoint, checked against its tensors; without a checkpoint, what the other sources say.

    `features_only` gives the backbone alone. Errors: UsageError where sources contradict each other, UnsupportedModel
    where the model is not supported, not sufficiently known, or does not fit the tensors.
    """
    spec = _resolve(checkpoint, config, preset, features_only)
    if checkpoint is not None:
        fit(spec, checkpoint, skeleton(spec))
    return spec


def load_model(
    path: str | Path,
    config: str | Path | None = None,
    preset: str | None = None,
    *,
    features_only: bool = False,
    weights_key: str | None = None,
    backbone: str | Path | None = None,
) -> tuple[nn.Module, ModelSpec, Checkpoint]:
    """The model with its weights (eval mode, no gradients), what it is, and the checkpoint that it came from.

    The model's tensors are the checkpoint's own, mapped from the file where its format allows it. Errors: as `read`
    and `identify`, and UnsupportedModel where a weight is NaN or infinite.
    """
    checkpoint = read(path, weights_key, backbone)
    spec = _resolve(checkpoint, config, preset, features_only)
    model = skeleton(spec)
    tensors = fit(spec, checkpoint, model)
    if broken := weights.non_finite(tensors, tensors):
        raise UnsupportedModel(f"{path} has NaN or infinite weights in {listed(broken)}; the training went wrong")
    model.load_state_dict(tensors, assign=True)
    return model.requires_grad_(False).eval(), spec, checkpoint


def inspect(
    path: str | Path,
    config: str | Path | None = None,
    preset: str | None = None,
    *,
    weights_key: str | None = None,
    backbone: str | Path | None = None,
) -> dict[str, Any]:
    """What a checkpoint file is, as plain data for people and JSON: file, meta, facts from the tensors, the model.

    "model" is its ModelSpec's source and name, or "refusal" says why it cannot be used as it is.
    """
    checkpoint = read(path, weights_key, backbone)
    found = inspect_tensors(checkpoint.state_dict)
    simple = {key: value for key, value in checkpoint.meta.items() if isinstance(value, (str, int, float))}
    report: dict[str, Any] = {
        "file": str(path),
        "sha256": checkpoint.sha256,
        "bytes": Path(path).stat().st_size,
        "tensors": len(checkpoint.state_dict),
        "notes": list(checkpoint.notes),
        "meta": {key: value for key, value in simple.items() if key != "config" and len(str(value)) < 100},
        "has_config": bool(checkpoint.meta.get("config")),
        "found": found.known(),
        "missing_in_tensors": found.missing(),
        "presets_with_these_shapes": candidates(found),
        "non_finite": weights.non_finite(checkpoint.state_dict, checkpoint.state_dict),
    }
    try:
        spec = identify(checkpoint, config, preset)
        report["model"] = spec.summary()
    except AdapterError as error:
        report["refusal"] = str(error)
    return report


def candidates(found: Findings) -> list[str]:
    """Presets whose shapes equal the ones found; what tensors do not show may still differ between them."""
    if found.backbone is None:
        return []
    return [name for name in presets.names() if not findings.differences(found, findings.expected(presets.spec(name)))]


# --- which model it is ---


def _resolve(
    checkpoint: Checkpoint | None, config: str | Path | None, preset: str | None, features_only: bool
) -> ModelSpec:
    spec, chosen = None, None if preset is None else _from_preset(preset, features_only)
    if config is not None:
        parsed, source = configuration.read_config(config), f"--config {config}"
        spec = configuration.spec_from_config(parsed, source, Path(config).stem, features_only=features_only)
    elif checkpoint is not None:
        spec = _from_meta(checkpoint, features_only, required=chosen is None)
    if spec is not None and chosen is not None:
        _check_agreement(spec, chosen)
    spec = spec or chosen
    if spec is None:
        if checkpoint is not None and dinov3_files.is_vit(checkpoint.state_dict):
            raise dinov3_files.lone_vit(str(checkpoint.path))
        raise _unknown(checkpoint)
    return spec if checkpoint is None else _labelled(spec, checkpoint.meta)


def _from_preset(preset: str, features_only: bool) -> ModelSpec:
    spec = presets.spec(preset)
    return replace(spec, decode_head=None, neck=None, auxiliary_heads=(), detector=None) if features_only else spec


def _from_meta(checkpoint: Checkpoint, features_only: bool, *, required: bool) -> ModelSpec | None:
    """The model in the checkpoint's own configuration, None where there is no configuration of a model."""
    text = checkpoint.meta.get("config")
    if not isinstance(text, (str, dict)) or not text:
        return None
    try:
        parsed = configuration.parse_config(text, META) if isinstance(text, str) else text
    except UnsupportedModel as error:
        if required:
            raise UnsupportedModel(f"{error}; pass --config FILE or --preset NAME instead") from None
        return None
    if parsed.get("model") is None:
        return None
    return configuration.spec_from_config(parsed, META, presets.stem(checkpoint.path), features_only=features_only)


def _check_agreement(spec: ModelSpec, chosen: ModelSpec) -> None:
    """A preset that a better source contradicts was a mistake, which must not pass unnoticed."""
    try:
        first, second = findings.expected(spec), findings.expected(chosen)
    except (AttributeError, LookupError, TypeError, ValueError):
        return  # `spec` is broken, which building it says better
    if spec.preprocessing and chosen.preprocessing:
        first["mean"], second["mean"] = spec.preprocessing.mean, chosen.preprocessing.mean
    for name in first | second:
        if first.get(name) != second.get(name):
            raise UsageError(
                f"--{chosen.source} contradicts {spec.source}, which comes first: {name} is {second.get(name)} there, "
                f"{first.get(name)} here; drop --preset"
            )


def _labelled(spec: ModelSpec, meta: Mapping[str, Any]) -> ModelSpec:
    """The class names and colours that the training program stored, where they fit the head."""
    if spec.num_classes is None:
        return spec
    newer = meta.get("dataset_meta")
    info = {str(key).upper(): value for key, value in (newer if isinstance(newer, dict) else meta).items()}
    classes, palette = datasets.checked(info.get("CLASSES"), info.get("PALETTE"), spec.num_classes)
    if classes is not None and classes != spec.classes:
        return replace(spec, classes=classes, palette=palette)
    return replace(spec, palette=palette or spec.palette)


def _unknown(checkpoint: Checkpoint | None) -> AdapterError:
    if checkpoint is None:
        return UsageError("nothing says which model is meant; pass --preset NAME or --config FILE")
    found = inspect_tensors(checkpoint.state_dict)
    if found.backbone is None:
        names = listed(list(checkpoint.state_dict))
        return UnsupportedModel(
            f"{checkpoint.path} holds no ViT, BEiT or Uni-Perceiver backbone; its tensors are {names}"
        )
    if not found.backbone.endswith(("Adapter", "Baseline")):
        return UnsupportedModel(
            f"{checkpoint.path} holds a {found.backbone}: weights from pre-training, "
            "to which an adapter or a baseline's levels are yet to be trained"
        )
    if found.decode_head is not None and found.decode_head not in HEADS:
        return UnsupportedModel(
            f"the decode head in {checkpoint.path} ({found.decode_head}) is not supported, only "
            f"{', '.join(HEADS)}; export its backbone with --output features and --config FILE"
        )
    if found.detector == "unknown":
        parts = ", ".join(part for part in found.other_parts if part in DETECTION_PARTS)
        return UnsupportedModel(
            f"the detector in {checkpoint.path} ({parts}) is not supported, only {', '.join(DETECTORS)} and "
            "Mask2Former; export its backbone with --output features and --config FILE"
        )
    fitting, named = candidates(found), presets.like(checkpoint.path)
    fitting.sort(key=lambda name: name not in named)
    advice = f"its shapes fit the presets {listed(fitting)}" if fitting else "no preset has its shapes"
    return UnsupportedModel(
        f"{checkpoint.path} carries no configuration, and its tensors do not say everything; found: {found.text()}; "
        f"missing: {', '.join(found.missing())}; pass the training configuration with --config FILE, or --preset NAME "
        f"({advice})"
    )

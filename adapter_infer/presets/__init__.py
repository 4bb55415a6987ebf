"""The released models, and the paper's models that were never released, as one table. Imports no torch.

A preset's name is the stem of its official configuration file.
"""

from __future__ import annotations

import difflib
from copy import deepcopy
from pathlib import Path

from adapter_infer.errors import UsageError
from adapter_infer.presets import detection, dinov2, dinov3, segmentation
from adapter_infer.presets.parts import DATASETS, Preset
from adapter_infer.spec import ModelSpec

__all__ = ["DATASETS", "PRESETS", "Preset", "like", "names", "spec", "stem"]

_FAMILIES = (segmentation.PRESETS, detection.PRESETS, dinov2.PRESETS, dinov3.PRESETS)

# The released ones first.
PRESETS: dict[str, Preset] = {
    name: preset
    for released in (True, False)
    for family in _FAMILIES
    for name, preset in family.items()
    if preset.released == released
}


def names() -> list[str]:
    """All presets, the released ones first."""
    return list(PRESETS)


def spec(name: str) -> ModelSpec:
    """The ModelSpec of a preset, the caller's own. Errors: UsageError on an unknown name, with the nearest ones."""
    preset = PRESETS.get(name)
    if preset is None:
        close = difflib.get_close_matches(name, PRESETS, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(PRESETS)}"
        raise UsageError(f"there is no preset {name!r}; {hint}")
    return deepcopy(preset.spec(name))


def stem(file: str | Path) -> str:
    """A checkpoint's file name without what archives and formats append."""
    name = Path(file).name
    while Path(name).suffix in {".pth", ".pt", ".ckpt", ".bin", ".tar", ".zip", ".safetensors"}:
        name = Path(name).stem
    return name


def like(file: str | Path) -> list[str]:
    """Presets that a file's name suggests; released weights carry their configuration's stem, less `_ss` or `_ms`."""
    name = stem(file)
    return [preset for preset in PRESETS if preset in {name, f"{name}_ss", f"{name}_ms"}]

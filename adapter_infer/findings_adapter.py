"""What the tensors of an adapter show, whichever ViT it is over. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

Shape = tuple[int, ...]


def adapter_facts(shapes: Mapping[str, Shape], width: int) -> dict[str, Any]:
    """The adapter's facts by the names of `findings.Findings`; `shapes` by bare names, `width` of the tokens."""
    first = "interactions.0.extractor"
    ffn, value = shapes.get(f"{first}.ffn.fc1.weight"), shapes.get(f"{first}.attn.value_proj.weight")
    weights = shapes.get(f"{first}.attn.attention_weights.weight")
    return {
        "interactions": numbered(shapes, r"interactions\.(\d+)\."),
        "conv_inplane": shapes["spm.stem.0.weight"][0],
        "with_cffn": ffn is not None,
        "cffn_ratio": None if ffn is None else ffn[0] / width,
        "use_extra_extractor": any(".extra_extractors." in name for name in shapes),
        "deform_ratio": None if value is None else value[0] / width,
        "heads_times_points": None if weights is None else weights[0],
    }


def numbered(names: Iterable[str], pattern: str) -> int:
    """How many numbered parts there are; the pattern's group is the number."""
    return len({found[1] for name in names if (found := re.match(pattern, name))})

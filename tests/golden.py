"""Finds the golden data: a selection in tests/data/golden, the whole set where the environment names its folder."""

from __future__ import annotations

import gzip
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
# The selection travels with the project; the full set lies beside a developer's checkout, or where this variable says.
ROOTS = [
    HERE / "data" / "golden",
    Path(os.environ.get("ADAPTER_GOLDEN", HERE.parent.parent / "shared" / "golden")),
]


def names(kind: str, *prefixes: str) -> list[str]:
    """Golden folders of a kind ("backbones" or "models"), those with one of the prefixes where any is given."""
    found = {path.name for root in ROOTS for path in (root / kind).glob("*/") if (path / "config.json").is_file()}
    return sorted(name for name in found if not prefixes or name.startswith(prefixes))


def folder(kind: str, name: str) -> Path:
    """The folder of one golden case."""
    for root in ROOTS:
        if (root / kind / name / "config.json").is_file():
            return root / kind / name
    raise FileNotFoundError(f"no golden data {kind}/{name} under {', '.join(map(str, ROOTS))}")


def config(kind: str, name: str) -> dict[str, Any]:
    """The case's config.json."""
    return json.loads((folder(kind, name) / "config.json").read_text())


def array(kind: str, name: str, file: str) -> np.ndarray:
    """One stored array; inputs are stored as float16 without loss and come back as float32."""
    data = np.load(folder(kind, name) / file)
    return data.astype(np.float32) if data.dtype == np.float16 else data


@cache
def released() -> dict[str, dict[str, Any]]:
    """The official figures of every released configuration by its stem, with `keys`, its list of "name shape"."""
    data = json.loads(gzip.decompress((HERE / "data" / "released_keys.json.gz").read_bytes()))
    return {
        Path(name).stem: figures | {"keys": data["key_lists"][figures["keys_sha256"]]}
        for name, figures in data["models"].items()
    }


SEGMENTORS = ("upernet_", "semfpn_", "setr_pup_")

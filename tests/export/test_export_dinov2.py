"""DINOv2's adapter through its ONNX file: any size from one file, half types, TensorRT with the plugin.

Exports at a fixed size are compared with the official outputs beside the other families', in test_export_golden.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import golden
import rtx_rig
from adapter_infer import metadata

LIMIT = 2e-4
SWIGLU, NO_CLS = "dinov2_adapter_swiglu", "dinov2_adapter_mlp_no_cls"
MSDA_NODES = 10  # four injectors, six extractors


def largest_difference(name: str, case: int, outputs: dict[str, np.ndarray]) -> float:
    """To the official maps of one case."""
    assert list(outputs) == list(metadata.FEATURE_NAMES)
    truths = [golden.array("backbones", name, f"out{case}_f{level}.npy") for level in (1, 2, 3, 4)]
    return max(float(np.abs(a - b).max()) for a, b in zip(outputs.values(), truths, strict=True))


@pytest.mark.parametrize("name", [SWIGLU, pytest.param(NO_CLS, marks=pytest.mark.slow)])
def test_one_file_serves_sizes_with_whole_patches_and_without(
    name: str, exported: Callable[..., Path], run: Any
) -> None:
    """224x224 holds 16x16 patches of 14 pixels; 32x64 and 64x160 leave a rest that no patch covers."""
    path = exported("backbones", name, dynamic_size=True, batch="dynamic")
    assert not [
        size.dim_value for size in onnx.load(path).graph.input[0].type.tensor_type.shape.dim if size.dim_value > 3
    ]
    for case in range(len(golden.config("backbones", name)["cases"])):
        image = golden.array("backbones", name, f"input{case}.npy")
        for with_library in (True, False):
            assert largest_difference(name, case, run(path, image, with_library=with_library)) < LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tensorrt_builds_it_with_one_plugin_layer_an_msda(exported: Callable[..., Path], precision: str) -> None:
    """fp16 has passed the gate before: its outputs are near those of fp32."""
    rtx_rig.require()
    path = exported("backbones", SWIGLU, precision=precision)
    found = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert json.loads(found[f"{metadata.PREFIX}parity"])
    with rtx_rig.process() as attempt:
        outcome = attempt(onnx.load(path), rtx_rig.plugin())
    assert outcome.error == ""
    assert outcome.layers["PLUGIN_V3"] == MSDA_NODES
    assert [(name, shape[2:]) for name, shape, _ in outcome.outputs] == [
        (name, (56 >> level, 56 >> level)) for level, name in enumerate(metadata.FEATURE_NAMES)
    ]
    assert outcome.plan > 100_000

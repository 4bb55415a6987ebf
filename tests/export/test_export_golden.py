"""Every golden model through its ONNX file, by the op library and by the function body, against official outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import golden
from adapter_infer.metadata import FEATURE_NAMES

LIMIT = 2e-4
BACKBONES = golden.names("backbones")
SEGMENTORS = golden.names("models", *golden.SEGMENTORS, "mask2former_")


@pytest.mark.parametrize("name", BACKBONES)
def test_backbone_features_equal_the_official_ones(name: str, exported: Callable[..., Path], run: Any) -> None:
    path = exported("backbones", name)
    image = golden.array("backbones", name, "input0.npy")
    for with_library in (True, False):
        outputs = run(path, image, with_library=with_library)
        assert list(outputs) == list(FEATURE_NAMES)
        for level, feature in enumerate(outputs.values()):
            wanted = golden.array("backbones", name, f"out0_f{level + 1}.npy")
            np.testing.assert_allclose(feature, wanted, rtol=0, atol=LIMIT, err_msg=f"library {with_library}")


def logits_agree(name: str, case: int, logits: np.ndarray) -> None:
    """Compares with the stored logits, of which some models keep every second pixel only."""
    whole = (golden.folder("models", name) / f"logits{case}.npy").exists()
    wanted = golden.array("models", name, f"logits{case}.npy" if whole else f"logits{case}_s2.npy")
    np.testing.assert_allclose(logits if whole else logits[..., ::2, ::2], wanted, rtol=0, atol=LIMIT)


@pytest.mark.parametrize("name", SEGMENTORS)
def test_segmentor_logits_equal_the_official_ones(name: str, exported: Callable[..., Path], run: Any) -> None:
    path = exported("models", name)
    image = golden.array("models", name, "input0.npy")
    for with_library in (True, False):
        logits_agree(name, 0, run(path, image, with_library=with_library)["logits"])


@pytest.mark.slow
def test_a_dynamic_export_serves_every_golden_size_and_batch(exported: Callable[..., Path], run: Any) -> None:
    name = "upernet_vit_adapter"
    path = exported("models", name, dynamic_size=True, batch="dynamic")
    for case in range(2):  # 1x3x64x96 and 2x3x96x64
        image = golden.array("models", name, f"input{case}.npy")
        for with_library in (True, False):
            logits_agree(name, case, run(path, image, with_library=with_library)["logits"])


@pytest.mark.slow
def test_a_dynamic_export_pads_windows_as_the_official_code(exported: Callable[..., Path], run: Any) -> None:
    name = "det_vit_adapter_win"
    path = exported("backbones", name, dynamic_size=True, batch="dynamic")
    for case in range(2):
        image = golden.array("backbones", name, f"input{case}.npy")
        outputs = run(path, image, with_library=True)
        for level, feature in enumerate(outputs.values()):
            wanted = golden.array("backbones", name, f"out{case}_f{level + 1}.npy")
            np.testing.assert_allclose(feature, wanted, rtol=0, atol=LIMIT)

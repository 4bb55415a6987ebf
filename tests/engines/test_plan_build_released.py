"""Builds of a released model, ViT-Adapter-T with UperNet, by NVIDIA's own builder: every type, op and form."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engines import plan_files
from engines.plan_files import built
from sweeps import sweep

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(plan_files.missing()), reason=plan_files.missing() or "-"),
    pytest.mark.skipif(bool(plan_files.plugin_missing()), reason=plan_files.plugin_missing() or "-"),
]

Exporter = Callable[..., Path]
TINY = "upernet_deit_adapter_tiny_512_160k_ade20k"
MSDA_NODES = 10  # of every ViT-Adapter with four interactions


@pytest.fixture
def export(tmp_path: Path) -> Exporter:
    return plan_files.exporter(tmp_path / "exports")


@pytest.mark.parametrize(
    ("precision", "op"),
    sweep(
        [("fp32", "fused"), ("fp16", "standard"), ("bf16", "fused")],
        [("fp32", "standard"), ("fp16", "fused"), ("bf16", "standard")],
    ),
)
def test_vit_adapter_tiny_upernet_builds(export: Exporter, tmp_path: Path, precision: str, op: str) -> None:
    """About 20 s each, most of it the export."""
    onnx, plan = export(TINY, size=(128, 128), precision=precision, op=op), tmp_path / "m.plan"
    sidecar = built(onnx, plan)
    assert sidecar["plugin_layers"] == MSDA_NODES
    assert plan.stat().st_size > 0.9 * onnx.stat().st_size, "the weights are in the plan"


@pytest.mark.parametrize(
    ("precision", "op"),
    sweep(
        [("fp16", "fused"), ("bf16", "standard")],
        [("fp32", "fused"), ("fp32", "standard"), ("fp16", "standard"), ("bf16", "fused")],
    ),
)
def test_vit_adapter_tiny_upernet_of_any_size_builds_with_its_plugin_inside(
    export: Exporter, tmp_path: Path, precision: str, op: str
) -> None:
    """About 30 s each, most of it the export."""
    onnx = export(TINY, dynamic_size=True, batch="dynamic", precision=precision, op=op)
    sizes = ["--min-size", "64", "64", "--opt-size", "128", "128", "--max-size", "128", "160"]
    sidecar = built(onnx, tmp_path / "m.plan", "--max-batch", "2", *sizes, "--embed-plugin")
    assert (sidecar["plugin_layers"], sidecar["plugin_embedded"]) == (MSDA_NODES, True)
    assert sidecar["inputs"] == [{"name": "image", "dtype": "float32", "shape": [-1, 3, -1, -1]}]

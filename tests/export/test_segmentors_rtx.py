"""Segmentors of every family in NVIDIA's parser and builder (TensorRT-RTX), with the plugin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

import golden
import rtx_rig
from adapter_infer.metadata import OP_DOMAIN
from sweeps import sweep

KEPT = ["semfpn_vit_adapter", "upernet_beit_adapter"]
NAMES = golden.names("models", *golden.SEGMENTORS)


@pytest.mark.slow
@pytest.mark.parametrize("name", sweep(KEPT, [name for name in NAMES if name not in KEPT]))
def test_each_msda_node_of_a_segmentor_becomes_a_plugin_layer(exported: Callable[..., Path], name: str) -> None:
    rtx_rig.require()
    model = onnx.load(exported("models", name))
    with rtx_rig.process() as attempt:
        outcome = attempt(model, rtx_rig.plugin())
    assert outcome.error == "" and outcome.plan > 0
    assert outcome.layers["PLUGIN_V3"] == sum(node.domain == OP_DOMAIN for node in model.graph.node)
    assert (outcome.layers["PLUGIN_V3"] > 0) == ("adapter" in name)

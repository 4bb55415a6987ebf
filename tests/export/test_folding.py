"""Large constants: folded within a bound, stored once, and not folded by a runtime beyond it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from adapter_export import export, folding
from adapter_infer.models import build_model, random_weights
from adapter_infer.spec import ModelSpec

BEIT = {
    "type": "BEiTAdapter",
    "img_size": 224,
    "patch_size": 16,
    "embed_dim": 32,
    "depth": 4,
    "num_heads": 2,
    "mlp_ratio": 1,
    "qkv_bias": True,
    "use_abs_pos_emb": False,
    "use_rel_pos_bias": True,
    "init_values": 1e-6,
    "conv_inplane": 8,
    "n_points": 4,
    "deform_num_heads": 2,
    "cffn_ratio": 0.25,
    "deform_ratio": 0.5,
    "interaction_indexes": [[0, 3]],
    "add_vit_feature": False,
    "use_extra_extractor": False,
}
TOKENS = 14 * 14 + 1
BIAS_BYTES = 2 * TOKENS * TOKENS * 4  # of one block


@pytest.fixture(scope="module")
def beit() -> tuple[Any, ModelSpec]:
    spec = ModelSpec(backbone=BEIT)
    model = build_model(spec).requires_grad_(False)
    random_weights(model, 0)
    return model, spec


def gathers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    sizes = {initializer.name: np.prod(initializer.dims) for initializer in model.graph.initializer}
    return [node for node in model.graph.node if node.op_type == "Gather" and sizes.get(node.input[0], 0) > 100]


def test_position_bias_is_folded_within_the_bound(
    beit: tuple[Any, ModelSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folding, "FOLDED_BYTES", 5 * BIAS_BYTES)
    path = tmp_path / "out.onnx"
    report = export(*beit, path, size=(224, 224))
    model = onnx.load(path)
    assert gathers(model) == []
    assert [list(each.dims) for each in model.graph.initializer].count([1, 2, TOKENS, TOKENS]) == 4
    assert report.file_bytes > 4 * BIAS_BYTES


def test_beyond_the_bound_all_blocks_gather_by_one_index_at_run_time(
    beit: tuple[Any, ModelSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folding, "FOLDED_BYTES", 3 * BIAS_BYTES)
    path = tmp_path / "out.onnx"
    export(*beit, path, size=(224, 224))
    model = onnx.load(path)
    nodes = gathers(model)
    assert len(nodes) == 4 and len({node.input[1] for node in nodes}) == 1
    stored = [each for each in model.graph.initializer if list(each.dims) == [TOKENS, TOKENS]]
    assert len(stored) == 1 and stored[0].data_type == onnx.TensorProto.INT32
    assert path.stat().st_size < 3 * BIAS_BYTES

    # Loaded by a runtime that folds constants, it still gathers when it runs, and a picture of NaN does not stop it.
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    assert len(gathers(onnx.load(tmp_path / "optimised.onnx"))) == 4
    session.run(None, {"image": np.full((1, 3, 224, 224), np.nan, np.float32)})

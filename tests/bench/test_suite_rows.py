"""What the suites' rows measure and count, on tiny models."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from adapter_bench import bare
from adapter_bench.suites import ablations, layout, parts, precision, profile, scaling, work
from adapter_engines import device
from adapter_engines.plans.options import BuildOptions
from adapter_infer.errors import AdapterError, EnvironmentMissing
from adapter_infer.spec import ModelSpec
from engines import fake_tensorrt

RULES = {"warmup": 0.0, "duration": 0.0, "iterations": 2}
BACKBONE = {"type": "ViTAdapter", "embed_dim": 32, "depth": 4, "num_heads": 2, "conv_inplane": 8, "deform_num_heads": 2}
BACKBONE |= {"n_points": 2, "interaction_indexes": [[0, 0], [1, 1], [2, 2], [3, 3]]}
NECK = {"type": "FPN", "in_channels": [32] * 4, "out_channels": 16, "num_outs": 4}
HEAD = {"type": "FPNHead", "in_channels": [16] * 4, "in_index": [0, 1, 2, 3], "feature_strides": [4, 8, 16, 32]}
TINY = ModelSpec(backbone=BACKBONE, neck=NECK, decode_head=HEAD | {"channels": 8, "num_classes": 5}, name="tiny")
SIZE = [64, 96]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Exported models, shared by the tests."""
    return tmp_path_factory.mktemp("models")


def in_process(monkeypatch):
    """Exports in this process: a fresh one would import torch again for each."""
    import importlib

    def call(target, **arguments):
        module, function = target.split(":")
        return getattr(importlib.import_module(module), function)(**arguments)

    monkeypatch.setattr(work.child, "call", call)


def test_a_row_has_every_figure_of_its_columns(models, monkeypatch):
    in_process(monkeypatch)
    spec = work.data(TINY)
    arguments = {"spec": spec, "size": SIZE, "flops": True, "counted": spec, "counted_size": [128, 128]}
    answer = work.measure(str(models), RULES, 1, **arguments)
    values = answer["values"]
    assert values["params"] == pytest.approx(sum(p.numel() for p in _model().parameters()) / 1e6)
    assert values["macs_paper"] > values["macs"] * 128 * 128 / (64 * 96) * 0.5
    for key in ("latency_ms", "fps", "peak_memory", "file", "side", "batch"):
        assert values[key] > 0, key
    (result,) = answer["results"]
    assert len(result["latency_ms"]["samples"]) >= 2
    assert json.dumps(answer, allow_nan=False)


def _model():
    from adapter_infer.models import build_model

    return build_model(TINY, "meta")


@pytest.mark.parametrize(("kind", "giga"), [("global", 1080), ("cswin", 456), ("pale", 456), ("deformable", 403)])
def test_multiply_adds_of_the_attention_types_are_the_paper_s(kind, giga):
    """Published: 1080, 456, 458 and 403; what the paper's Pale adds is not published."""
    rows = {row.arguments["spec"]["backbone"]["attention"]: row for row in ablations.suite("attention", True).rows}
    counted = work.counts(work.parse(rows[kind].arguments["counted"]), tuple(ablations.COUNTED_SIZE))
    assert round(counted["macs_paper"]) == giga
    assert layout.residual(counted["params"], rows[kind].paper["params"]) == 0
    assert rows[kind].paper["macs_paper"] == (458 if kind == "pale" else giga)


# --- parts ---


@pytest.mark.parametrize(
    ("scope", "part"),
    [
        ("backbone.patch_embed.proj", "patch_embedding"),
        ("backbone.spm.stem.0", "spatial_prior"),
        ("backbone.blocks.3.attn.qkv", "vit_blocks"),
        ("backbone.layers.3.linear1", "vit_blocks"),
        ("backbone.interactions.1.injector.attn", "injectors"),
        ("backbone.injectors.1.attn", "injectors"),
        ("backbone.interactions.3.extractor", "extractors"),
        ("backbone.interactions.3.extra_extractors.0.ffn", "extractors"),
        ("backbone", "maps"),
        ("backbone.up", "maps"),
        ("neck.lateral_convs.0", "neck"),
        ("decode_head", "head"),
        ("", None),
        ("header", None),
    ],
)
def test_modules_belong_to_parts(scope, part):
    assert profile.part_of(scope) == part


def test_a_profile_is_cut_into_parts_that_add_up(tmp_path):
    events = [{"cat": "Session", "name": "model_run", "ts": ts, "dur": 100} for ts in (0, 1000)]
    nodes = {"backbone.spm.stem.0/Conv": 40, "ReorderInput": 10, "decode_head/Add": 30, "strange": 5}
    for ts in (10, 1010):
        events += [
            {"cat": "Node", "name": f"{name}_kernel_time", "ts": ts + i, "dur": dur + ts}
            for i, (name, dur) in enumerate(nodes.items())
        ]
    events.append({"cat": "Node", "name": "strange_fence_before", "ts": 1020, "dur": 1000})
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(events))
    times, runs = profile.node_times(path, skip=1)
    assert runs == 1
    shares = {"backbone.spm.stem.0/Conv": "spatial_prior", "ReorderInput": "spatial_prior", "decode_head/Add": "head"}
    found = profile.by_part(times, shares)
    assert found == pytest.approx({"spatial_prior": 2.070, "head": 1.040, "other": 1.015})
    assert sum(found.values()) == pytest.approx(sum(times.values()))


def test_parts_that_miss_the_measured_time_are_refused():
    assert parts.check_sum(96.0, 100.0) == pytest.approx(96.0)
    for share in (94.0, 106.0):
        with pytest.raises(AdapterError, match="more than 5%"):
            parts.check_sum(share, 100.0)


def test_every_node_of_a_session_finds_its_part(models, monkeypatch, tmp_path):
    in_process(monkeypatch)
    path = work.exported(TINY, str(models), size=(64, 96))
    session = parts._session(path, 1, tmp_path / "optimised.onnx", tmp_path / "profile")
    image = np.random.default_rng(0).standard_normal((1, 3, 64, 96), np.float32)
    for _ in range(3):
        session.run(None, {"image": image})
    times, runs = profile.node_times(Path(session.end_profiling()), skip=1)
    found = profile.by_part(times, profile.PartMap(path, tmp_path / "optimised.onnx").parts)
    assert runs == 2
    assert sum(found.values()) == pytest.approx(sum(times.values()))
    expected = {"patch_embedding", "spatial_prior", "vit_blocks", "injectors", "extractors", "maps", "neck", "head"}
    assert expected <= set(found) <= expected | {profile.OTHER}
    assert found.get(profile.OTHER, 0.0) < 0.02 * sum(found.values())


def test_parts_measure_shares_of_the_wall_time(models, monkeypatch):
    in_process(monkeypatch)
    monkeypatch.setattr(parts, "TOLERANCE", 1.0)  # a tiny model leaves much of the time to the runtime
    values = parts.profiled(str(models), RULES, 1, work.data(TINY), SIZE, runs=3)["values"]
    shares = [value for key, value in values.items() if key.startswith(parts.SHARE)]
    assert sum(shares) == pytest.approx(values["sum"])
    assert 0 < values["sum"] < 101
    assert set(values) <= {column.key for column in parts.suite("parts", True).columns}


# --- scaling ---


def test_growth_is_the_power_of_the_pixels():
    assert scaling.exponent([(10, 3.0), (100, 300.0), (1000, 30000.0)]) == pytest.approx(2.0)
    assert scaling.exponent([(10, 3.0)]) is None

    def row(side, ms, memory, status="ok"):
        values = {"side": side, "batch": 1, "latency_ms": ms, "activations": memory}
        return {"group": "global", "status": status, "values": values}

    measured = [row(100, 1.0, 5.0), row(200, 4.0, 80.0), row(400, 64.0, 1280.0), row(800, None, None, "unavailable")]
    (grown,) = scaling.growth(measured)
    assert grown["values"]["latency_exponent"] == pytest.approx(1.5)
    assert grown["values"]["latency_exponent_last"] == pytest.approx(2.0)
    assert grown["values"]["activations_exponent"] == pytest.approx(2.0)
    assert scaling.growth(measured[:1]) == []


def test_what_does_not_fit_in_memory_is_not_tried(tmp_path):
    rows = {(row.group, row.name): row for row in scaling.suite("scaling", False).rows}
    largest = rows["global, larger pictures", "2048x2048"]
    # 16384 queries by 86016 keys in 6 heads, logits and softmax in fp32
    assert largest.arguments["needed_bytes"] == 16384 * 86016 * 6 * 8
    with pytest.raises(EnvironmentMissing, match="GiB are free here"):
        work.measure(str(tmp_path), RULES, 1, spec={}, size=[32, 32], needed_bytes=2**60)


# --- precision ---


def test_differences_are_shares_of_the_expected_values():
    expected = np.array([[[[1.0]], [[-1.0]]]])
    found = precision.differences(expected + np.array([[[[0.1]], [[-0.1]]]]), expected)
    assert found == pytest.approx({"parity_rms": 10.0, "parity_max": 10.0, "labels": 100.0})
    assert precision.differences(-expected, expected)["labels"] == 0


CASES = {
    ("ONNX Runtime", "function body", "fused", "fp32"): 1e-2,
    ("ONNX Runtime", "GridSample", "onnx", "fp32"): 1e-2,
    ("OpenVINO", "GridSample", "onnx", "fp32"): 1e-2,
    ("OpenVINO", "functions inlined", "fused", "fp32"): 1e-2,
    ("PyTorch", "eager", "fused", "bf16"): 20.0,
}


@pytest.mark.parametrize("case", list(CASES), ids=" ".join)
def test_runtimes_compute_what_pytorch_does(case, models, monkeypatch):
    in_process(monkeypatch)
    runtime, variant, op, kind = case
    if runtime == "OpenVINO":
        pytest.importorskip("openvino", reason="OpenVINO is not installed")
    arguments = {"runtime": runtime, "variant": variant, "op": op, "precision": kind, "spec": work.data(TINY)}
    answer = precision.compared(RULES, folder=str(models), threads=1, size=SIZE, **arguments)
    assert answer["values"]["parity_rms"] < CASES[case]
    assert (answer["values"]["parity_rms"] > 1e-3) == (kind == "bf16")
    assert answer["values"]["latency_ms"] > 0
    assert answer["values"].get("file", 1.0) > 0


def test_runtimes_that_are_not_here_say_why(models):
    absent = [("ONNX Runtime", "bf16", "no arithmetic in bf16")]
    if importlib.util.find_spec("openvino") is None:
        absent.append(("OpenVINO", "fp32", "openvino is not installed"))
    if device.unusable() is not None:
        absent += [
            ("TensorRT", "fp32", "TensorRT is not installed|GPU"),
            ("ONNX Runtime CUDA", "fp32", "onnxruntime-gpu"),
        ]
    arguments = {"spec": work.data(TINY), "size": SIZE, "folder": str(models), "threads": 1, "op": "fused"}
    for runtime, kind, reason in absent:
        case = precision.load(**arguments, runtime=runtime, variant="library", precision=kind)
        with pytest.raises(EnvironmentMissing, match=reason), case:
            pass


def test_tensorrt_rows_run_the_plan_of_the_exported_file(tmp_path, monkeypatch):
    """Built by a stand-in: what a plan computes and how it is built is tested elsewhere."""
    built = []

    def build(onnx: Path, plan: Path, *, options: BuildOptions) -> None:
        built.append((onnx.name, plan.name, options))
        picture = {"name": "image", "dtype": "FLOAT", "shape": [1, 3, *SIZE], "ranges": [[(1, 3, *SIZE)] * 3]}
        logits = {"name": "logits", "dtype": "FLOAT", "shape": [1, 2, *SIZE]}
        toy = {"weight": [[1, 0, 0], [0, 2, 0]], "context": [[0, 0, 0], [0, 0, 0]], "bias": [0, 1]}
        fake_tensorrt.write_plan(plan, "toy", inputs=[picture], outputs=[logits], **toy)
        fake_tensorrt.write_sidecar(plan)

    monkeypatch.setattr("adapter_engines.plans.build.build", build)
    monkeypatch.setattr(precision, "exported", lambda *_, **__: tmp_path / "model.onnx")
    plugin = tmp_path / "libmsda_trt10.so"
    plugin.write_bytes(b"a plugin library")
    with fake_tensorrt.installed(monkeypatch, plugin):
        case = {"runtime": "TensorRT", "variant": "plugin", "op": "fused", "precision": "fp16"}
        for _ in range(2):  # the second finds the plan
            image = bare.noise((1, 3, *SIZE), "float32")
            expected = np.stack([image[:, 0], 2 * image[:, 1] + 1], 1)
            with precision.load(str(tmp_path), 1, spec=work.data(TINY), size=SIZE, **case) as loaded:
                assert np.abs(loaded.run() - expected).max() < 1e-5
                assert loaded.file == tmp_path / "model.plan"
    assert built == [("model.onnx", "model.plan", BuildOptions(check=False))]


# --- hierarchical backbones ---


def test_hierarchical_backbones_give_our_head_its_maps():
    pytest.importorskip("transformers", reason="Hugging Face transformers is not installed")
    from adapter_bench.suites import hierarchical

    model = hierarchical.build("PVTv2-B2")
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == 29.1  # published, with Semantic FPN
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 64, 96)).shape == (1, hierarchical.CLASSES, 64, 96)
    # One 1x1 convolution by hand: 2 -> 3 channels over 4x5 positions.
    assert hierarchical.count(torch.nn.Conv2d(2, 3, 1), (1, 2, 4, 5)) == 2 * 3 * 4 * 5


def test_backbones_that_cannot_be_had_are_listed_with_the_reason():
    from adapter_bench.suites import hierarchical

    with pytest.raises(EnvironmentMissing, match="torchvision"):
        hierarchical.unavailable("", {}, None, reason=hierarchical.MISSING["Twins-SVT-S"])


def test_hierarchical_rows_are_unavailable_without_transformers(monkeypatch):
    from adapter_bench.suites import hierarchical

    monkeypatch.setattr(hierarchical.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentMissing, match="pip install transformers"):
        hierarchical.build("Swin-T")

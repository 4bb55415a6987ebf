"""Half types: what is typed how, what stays fp32, what is refused, and how far the golden models move."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

import adapter_infer.geometry
import golden
import rtx_rig
from adapter_export import export, exporter, noise, parity, retype, rounding, schema, tolerance
from adapter_export.cli import main
from adapter_export.precision import Precision, choose
from adapter_infer import metadata
from adapter_infer.errors import ParityError, UsageError
from adapter_plugins import library
from sweeps import sweep

FLOAT, HALF, BF16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16
UPERNET, LIGHT = ("models", "upernet_vit_adapter"), ("backbones", "seg_vit_adapter_light")
BEIT, SEMFPN = ("backbones", "seg_beit_baseline"), ("models", "semfpn_vit_baseline")

# Kept exports: each serves several tests. In parentheses what ONNX Runtime on a CPU measured (see LIMITS).
EXPORTS: dict[str, tuple[tuple[str, str], dict[str, Any]]] = {
    "upernet fp16": (UPERNET, {"precision": "fp16"}),
    "light bf16": (LIGHT, {"precision": "bf16"}),
    "light fp16 onnx": (LIGHT, {"precision": "fp16", "io_precision": "fp16", "op": "onnx"}),
    "beit fp16 attention": (BEIT, {"precision": "fp16", "attention_fp32": True}),
    "semfpn bf16": (SEMFPN, {"precision": "bf16", "io_precision": "bf16", "attention_fp32": True}),
    "mask2former fp16": (("models", "mask2former_vit_adapter"), {"precision": "fp16"}),
}
# Root mean square against the official outputs, in standard deviations: about 1.5 times what was measured.
LIMITS = {
    "upernet fp16": 4.5e-3,
    "light bf16": 1.4e-2,
    "light fp16 onnx": 1.5e-3,
    "beit fp16 attention": 2.2e-3,
    "semfpn bf16": 1.9e-2,
    "mask2former fp16": 5e-2,  # a mask logit near zero turns over what the next layer sees
}


@pytest.fixture(scope="session")
def kept(exported: Callable[..., Path]) -> Callable[[str], Path]:
    def kept(name: str) -> Path:
        (kind, model), options = EXPORTS[name]
        return exported(kind, model, **options)

    return kept


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every value, inferred strictly: an error where two inputs of a node disagree."""
    schema.register()
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    infos = (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    weights = {weight.name: weight.data_type for weight in model.graph.initializer}
    return {info.name: info.type.tensor_type.elem_type for info in infos} | weights


def fp32_nodes(model: onnx.ModelProto) -> Counter[str]:
    """How many nodes of each kind give fp32, those aside that give it to the outputs."""
    types, outputs = types_of(model), {value.name for value in model.graph.output}
    return Counter(
        node.op_type for node in model.graph.node if types[node.output[0]] == FLOAT and node.output[0] not in outputs
    )


def run_rounded(path: Path, image: np.ndarray, tmp_path: Path) -> list[np.ndarray]:
    """The outputs of the stand-in that is rounded after each operator, with the op library."""
    model = ir.load(path)
    rounding.emulate(model)
    ir.save(model, tmp_path / "rounded.onnx")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.register_custom_ops_library(str(library("msda_ort_cpu")))
    session = ort.InferenceSession(str(tmp_path / "rounded.onnx"), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image})


def official(kind: str, name: str) -> list[np.ndarray]:
    folder = golden.folder(kind, name)
    if kind == "backbones":
        return [golden.array(kind, name, f"out0_f{level}.npy") for level in (1, 2, 3, 4)]
    return [golden.array(kind, name, "logits0.npy" if (folder / "logits0.npy").exists() else "logits0_s2.npy")]


@pytest.mark.parametrize("name", EXPORTS)
def test_golden_models_move_by_no_more_than_rounding(kept: Any, tmp_path: Path, name: str) -> None:
    (kind, model), _ = EXPORTS[name]
    got = run_rounded(kept(name), golden.array(kind, model, "input0.npy"), tmp_path)
    for array, wanted in zip(got, official(kind, model), strict=True):
        step = array.shape[-1] // wanted.shape[-1]
        gaps = array[..., ::step, ::step].astype(np.float64) - wanted
        moved = np.sqrt(np.mean(gaps**2)) / wanted.std()
        assert LIMITS[name] / 20 < moved < LIMITS[name]  # below that it would not be rounded at all


@pytest.mark.parametrize("name", EXPORTS)
def test_every_value_is_typed_and_the_checker_agrees(kept: Any, name: str) -> None:
    _, options = EXPORTS[name]
    path = kept(name)
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path)
    types = types_of(model)
    half = {"fp16": HALF, "bf16": BF16}[options["precision"]]
    io = {"fp32": FLOAT, "fp16": HALF, "bf16": BF16}[options.get("io_precision", "fp32")]
    assert {types[value.name] for value in (*model.graph.input, *model.graph.output)} == {io}
    assert set(types.values()) <= {half, FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL}
    weights = Counter(weight.data_type for weight in model.graph.initializer if np.prod(weight.dims) > 1000)
    assert weights[half] > 10


def test_in_fp16_only_the_named_exceptions_are_fp32(kept: Any) -> None:
    model = onnx.load(kept("upernet fp16"))
    found = fp32_nodes(model)
    assert found.pop("BatchNormalization") == 4  # after sums, where they cannot be folded
    assert found.pop("Cast") == 4  # before them
    assert not found
    types = types_of(model)
    nodes = [node for node in model.graph.node if node.op_type == metadata.FUSED_OP]
    assert len(nodes) == 10
    for node in nodes:
        assert [types[name] for name in node.input] == [HALF, onnx.TensorProto.INT64, FLOAT, HALF]
    large = [weight for weight in model.graph.initializer if weight.data_type == FLOAT and len(weight.dims) > 1]
    assert {weight.name for weight in large} == {node.input[2] for node in nodes}  # reference points alone
    stash = [
        a.i
        for n in model.graph.node
        if n.op_type == "LayerNormalization"
        for a in n.attribute
        if a.name == "stash_type"
    ]
    assert set(stash) <= {FLOAT}  # absent means the same


def test_in_bf16_transposed_convolutions_stay_fp32_and_no_other_products(kept: Any) -> None:
    found = fp32_nodes(onnx.load(kept("light bf16")))  # its BatchNormalizations give the outputs
    assert found.pop("ConvTranspose") == 1
    assert set(found) == {"Cast"}


def test_sampling_that_is_spelt_out_stays_fp32(kept: Any) -> None:
    model = onnx.load(kept("light fp16 onnx"))
    found, types = fp32_nodes(model), types_of(model)
    grids = [node for node in model.graph.node if node.op_type == "GridSample"]
    assert grids and all(types[name] == FLOAT for node in grids for name in (*node.input, *node.output))
    assert not {"MatMul", "Gemm", "Conv", "ConvTranspose", "LayerNormalization", "Relu"} & set(found)


@pytest.mark.parametrize(
    ("name", "softmax"), [("beit fp16 attention", FLOAT), ("semfpn bf16", FLOAT), ("upernet fp16", HALF)]
)
def test_softmax_is_fp32_where_asked(kept: Any, name: str, softmax: int) -> None:
    model = onnx.load(kept(name))
    types = types_of(model)
    nodes = [node for node in model.graph.node if node.op_type == "Softmax"]
    assert len(nodes) == 4
    assert {types[node.output[0]] for node in nodes} == {types[node.input[0]] for node in nodes} == {softmax}
    if name.startswith("beit"):
        makers = {output: node for node in model.graph.node for output in node.output}
        assert {makers[node.input[0]].op_type for node in nodes} == {"Add"}  # of the position bias, in fp32 as well
    assert "MatMul" not in fp32_nodes(model)


def test_metadata_says_the_types_and_what_the_file_was_held_to(kept: Any) -> None:
    props = {entry.key: entry.value for entry in onnx.load(kept("semfpn bf16")).metadata_props}
    found = metadata.from_props(props)
    assert found is not None
    assert (found.precision, found.io_precision, found.attention_fp32) == ("bf16", "bf16", True)
    assert set(found.parity) == {"plain"}
    assert found.tolerance["output"] == "logits" and 0 < found.tolerance["rms"] < found.tolerance["largest"]
    earlier = {
        key: text
        for key, text in props.items()
        if key.split(".")[1] not in {"io_precision", "attention_fp32", "tolerance"}
    }
    found = metadata.from_props(earlier)
    assert found is not None and (found.io_precision, found.attention_fp32, found.tolerance) == ("fp32", False, {})


def test_half_the_bytes(kept: Any, exported: Any) -> None:
    assert kept("upernet fp16").stat().st_size < 0.62 * exported(*UPERNET).stat().st_size


# --- The gate ---


def test_locations_in_a_half_type_do_not_pass(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, spec = load(*LIGHT)
    monkeypatch.setattr(retype, "_sampling", lambda graph, varying: set())
    with pytest.raises(ParityError, match="parity failed: output feature_"):
        export(model, spec, tmp_path / "out.onnx", size=(512, 512), op="standard", precision="fp16")
    assert list(tmp_path.iterdir()) == []


def test_bf16_reference_points_do_not_pass(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points, trace = adapter_infer.geometry.reference_points, exporter._trace

    def traced(*arguments: Any) -> ir.Model:
        with monkeypatch.context() as patch:
            rounded = lambda shapes, device: points(shapes, device).to(torch.bfloat16).float()  # noqa: E731
            patch.setattr(adapter_infer.geometry, "reference_points", rounded)
            return trace(*arguments)

    monkeypatch.setattr(exporter, "_trace", traced)
    model, spec = load(*LIGHT)
    # Centres of cells are numbers of bf16 where a side is a power of two, so this one is not.
    with pytest.raises(ParityError, match="parity failed: output feature_"):
        export(model, spec, tmp_path / "out.onnx", size=(608, 800), precision="bf16")
    assert list(tmp_path.iterdir()) == []


def test_activations_beyond_fp16_are_refused_before_anything_is_traced(load: Any, tmp_path: Path) -> None:
    model, spec = load(*BEIT)
    with torch.no_grad():
        model.patch_embed.proj.bias += 5e4
        model.patch_embed.proj.weight *= 1e4
    with pytest.raises(
        ParityError, match=r"in fp16 the model's own activations become infinite.* precision bf16, or fp32"
    ):
        export(model, spec, tmp_path / "out.onnx", size=(64, 64), precision="fp16")
    assert list(tmp_path.iterdir()) == []


def test_the_noise_is_that_of_the_type_and_leaves_positions_alone(load: Any) -> None:
    model, _ = load(*LIGHT)
    image = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    right = model(image)
    moved = {name: noise.run(model, model, (image,), Precision(name)) for name in ("fp16", "bf16")}
    rms = {name: float((maps[1] - right[1]).square().mean().sqrt() / right[1].std()) for name, maps in moved.items()}
    assert 2e-4 < rms["fp16"] < 2e-3 and 6 < rms["bf16"] / rms["fp16"] < 11  # three bits are a factor of eight
    assert all(torch.equal(each, each.half().float()) for each in moved["fp16"])
    seen = []
    with noise.Rounding("bf16", [image], []):
        seen.append(adapter_infer.geometry.reference_points([(25, 19)], "cpu"))
    assert torch.equal(seen[0], adapter_infer.geometry.reference_points([(25, 19)], "cpu"))


def test_half_types_are_held_to_the_noise() -> None:
    expected = np.random.default_rng(0).standard_normal((1, 4, 64, 64)).astype(np.float32)
    moves = tolerance.Noise(rms=2e-3, largest=1e-2)
    gap = tolerance.gap(expected + np.float32(2.9e-3), expected, moves)
    assert gap.limit == pytest.approx(2.5e-2) and gap.rms_limit == pytest.approx(3e-3)
    assert gap.named("body", "logits", ()).share == pytest.approx(0.967, abs=0.01)
    gap = tolerance.gap(expected + np.float32(3.1e-3), expected, moves)
    with pytest.raises(ParityError, match=r"differs from torch by 0\.0031 in root mean square .* tolerance of 0\.003;"):
        parity.judge(gap.named("body", "logits", (1, 3, 64, 64)))
    assert tolerance.gap(np.full_like(expected, np.nan), expected, moves).largest == np.inf


# --- The rewriting, on small graphs ---


def small(weight: np.ndarray, name: str = "head.conv.weight") -> ir.Model:
    """image (1, 3) times a weight (3, n), then a ReLU."""
    image = ir.val("image", ir.DataType.FLOAT, [1, 3])
    matrix = ir.val(name, const_value=ir.tensor(weight.astype(np.float32), name=name))
    product = ir.node("MatMul", [image, matrix], name="head/MatMul")
    product.outputs[0].dtype, product.outputs[0].shape = ir.DataType.FLOAT, ir.Shape([1, weight.shape[1]])
    relu = ir.node("Relu", product.outputs, name="head/Relu")
    relu.outputs[0].name, relu.outputs[0].dtype = "logits", ir.DataType.FLOAT
    relu.outputs[0].shape = ir.Shape([1, weight.shape[1]])
    graph = ir.Graph(
        [image], relu.outputs, nodes=[product, relu], initializers=[matrix], opset_imports={"": 22}, name="small"
    )
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("value", [65520.0, -1e5])
def test_a_weight_beyond_fp16_is_refused_by_name_and_value(value: float) -> None:
    weight = np.ones((3, 4))
    weight[1, 2] = value
    with pytest.raises(UsageError, match=rf"weight head.conv.weight holds {value:g}, but fp16 ends at 65504; .* bf16"):
        retype.retype(small(weight), Precision("fp16"))
    retype.retype(small(weight), Precision("bf16"))
    weight[1, 2] = 65519.0  # is rounded to the largest number
    retype.retype(small(weight), Precision("fp16"))
    weight[0, 0], weight[1, 2] = -np.inf, np.sign(value) * 1e6  # infinite on purpose, and one that is not
    with pytest.raises(UsageError, match=r"holds -?1e\+06"):
        retype.retype(small(weight), Precision("fp16"))


def test_weights_are_rounded_one_at_a_time_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = np.random.default_rng(0).standard_normal((3, 500))
    model = small(weight)
    retype.retype(model, Precision("fp16"))
    (stored,) = model.graph.initializers.values()
    assert isinstance(stored.const_value, ir.LazyTensor) and stored.const_value.nbytes == 3000
    np.testing.assert_array_equal(stored.const_value.numpy(), weight.astype(np.float32).astype(np.float16))


@pytest.mark.parametrize("precision", [Precision("fp16", "bf16"), Precision("fp32", "fp16"), Precision("bf16", "fp32")])
def test_inputs_and_outputs_have_their_own_type_and_keep_their_names(precision: Precision) -> None:
    model = small(np.ones((3, 4)))
    retype.retype(model, precision)
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    types = types_of(proto)
    assert types["image"] == types["logits"] == int(retype.TYPES[precision.io])
    assert {weight.data_type for weight in proto.graph.initializer} == {int(retype.TYPES[precision.arithmetic])}


def test_the_stand_in_rounds_after_each_operator_and_onnx_runtime_keeps_it_so() -> None:
    rng = np.random.default_rng(0)
    weight, image = rng.standard_normal((3, 500)), rng.standard_normal((1, 3)).astype(np.float32)
    for name, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        model = small(weight)
        retype.retype(model, Precision(name))
        rounding.emulate(model)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options)
        (got,) = session.run(None, {"image": image})
        exact = torch.from_numpy(image).to(dtype).float() @ torch.from_numpy(weight).to(torch.float32).to(dtype).float()
        np.testing.assert_allclose(got, exact.to(dtype).float().relu().numpy(), rtol=float(torch.finfo(dtype).eps))
        assert torch.equal(torch.from_numpy(got).to(dtype).float(), torch.from_numpy(got))


# --- Options ---

REFUSED: list[tuple[list[str], str]] = [
    (["--attention-fp32"], "with precision fp32 everything is; pass --precision fp16 or bf16"),
    (["--precision", "bf16", "--opset", "20"], "opset 20 with op flavour fused has no bf16 convolutions"),
    (["--precision", "bf16", "--op", "onnx"], "choose op flavour fused, or precision fp16"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_what_cannot_be_typed_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    checkpoint = golden.folder(*UPERNET) / "checkpoint.pth"
    assert main([str(checkpoint), "--onnx", str(tmp_path / "o.onnx"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UsageError, match="io-precision 'int8' is unknown; choose one of fp32, fp16, bf16"):
        choose("fp16", "int8", False)
    assert replace(choose("fp16", "bf16", False)).coarsest == "bf16"


def test_the_command_reports_the_precision_and_normalises_pixels_in_fp32(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, report = tmp_path / "o.onnx", tmp_path / "r.json"
    arguments = [str(golden.folder(*SEMFPN) / "checkpoint.pth"), "--onnx", str(path), "--size", "32", "32"]
    arguments += ["--precision", "fp16", "--embed-preprocess", "--output", "labels", "--json", str(report)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "fp16; float inputs and outputs fp32" in printed
    assert "in fp32 rounded to fp16 after each operator" in printed and "by ONNX Runtime as it computes fp16" in printed
    found = json.loads(report.read_text())
    assert found["precision"] == {"arithmetic": "fp16", "io": "fp32", "attention_fp32": False}
    assert set(found["parity"]["largest"]) == {"plain", "as_written"} and found["parity"]["rounded"] == "fp16"
    # Differences between large numbers: done in a half type they would lose what a picture holds.
    assert fp32_nodes(onnx.load(path)) == {"Cast": 2, "Sub": 1, "Mul": 1, "InstanceNormalization": 1}


# --- TensorRT-RTX: NVIDIA's parser and builder ---


@pytest.mark.parametrize("name", ["upernet fp16", "light bf16", "beit fp16 attention", "mask2former fp16"])
def test_tensorrt_parses_and_builds_it_strongly_typed(kept: Any, name: str) -> None:
    rtx_rig.require()
    with rtx_rig.process() as attempt:
        outcome = attempt(onnx.load(kept(name)))
    assert outcome.error == "" and outcome.plan > 0
    assert {dtype for _, _, dtype in outcome.outputs} == {"FLOAT"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["det_vit_adapter_win", "upernet_uniperceiver_adapter", "det_vitdet_res", "upernet_beit_adapter"]
)
@pytest.mark.parametrize("precision", sweep(["fp16"], ["bf16"]))
def test_every_family_passes_the_gate_in_every_type(exported: Any, name: str, precision: str) -> None:
    kind = "models" if name.startswith("upernet") else "backbones"
    onnx.checker.check_model(str(exported(kind, name, precision=precision, external_data=True)), full_check=True)


@pytest.mark.slow
@pytest.mark.parametrize("op", ["fused", "standard", "tensorrt"])
def test_dynamic_sizes_keep_positions_and_resized_embeddings_in_fp32(exported: Any, op: str) -> None:
    path = exported(*LIGHT, precision="fp16", op=op, dynamic_size=True, batch="dynamic")
    model = onnx.load(path)
    types = types_of(model)
    cubic = [
        node for node in model.graph.node if node.op_type == "Resize" and b"cubic" in [a.s for a in node.attribute]
    ]
    assert cubic and all(types[node.output[0]] == FLOAT for node in cubic)
    assert not {"MatMul", "Conv", "Softmax"} & set(fp32_nodes(model)) - ({"Softmax"} if op != "fused" else set())

"""DINOv3 through its ONNX files, whole and split: against the official code, part for part."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from PIL import Image

import dinov3_golden
import rtx_rig
from adapter_engines import cli as run
from adapter_engines.chain import ChainedEngine
from adapter_engines.engine import Engine
from adapter_export import cli, exporter, pictures, split
from adapter_export.report import ExportReport
from adapter_infer.dinov3.tensors import VIT
from adapter_infer.errors import ParityError, UnsupportedModel, UsageError
from adapter_infer.metadata import from_props
from adapter_infer.spec import ModelSpec, Preprocessing
from adapter_plugins import library

TOKENS, SCORES = 2e-4, 5e-4
NAME = "mlp_d12"  # its adapter has D = 12, which is no multiple of 8
SPEC = replace(dinov3_golden.spec(NAME), preprocessing=Preprocessing())
MSDA_NODES = 8  # six of the adapter, two of the pixel decoder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportReport]:
    """The model in one file: tracing takes the time, so that it is done once."""
    path = tmp_path_factory.mktemp("whole") / "model.onnx"
    image, _ = dinov3_golden.case(NAME)
    report = exporter.export(dinov3_golden.load(NAME), SPEC, path, size=tuple(image.shape[2:]), batch=len(image))
    return path, report


@pytest.fixture
def ready(whole: tuple[Path, ExportReport], monkeypatch: pytest.MonkeyPatch) -> None:
    """`split.export` finds the whole file ready."""

    def export(model: object, spec: object, path: Path, **options: object) -> ExportReport:
        shutil.copyfile(whole[0], path)
        return replace(whole[1], path=path)

    monkeypatch.setattr(exporter, "export", export)


@pytest.fixture
def exported(ready: None, tmp_path: Path) -> tuple[Path, ExportReport]:
    path = tmp_path / "model.onnx"
    return path, split.export(dinov3_golden.load(NAME), SPEC, path)


def session(path: Path, with_library: bool) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    if with_library:
        options.register_custom_ops_library(str(library("msda_ort_cpu")))
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def difference(found: np.ndarray, wanted: torch.Tensor) -> float:
    assert found.shape == tuple(wanted.shape)
    return float(np.abs(found - wanted.numpy()).max())


def metadata(path: Path) -> tuple[Any, dict[str, Any]]:
    props = {prop.key: prop.value for prop in onnx.load(path).metadata_props}
    assert len(props) == len(onnx.load(path).metadata_props)  # a key that stands twice reads differently everywhere
    return from_props(props), json.loads(props["adapter_infer.split"])


def test_the_two_files_one_after_the_other_give_the_official_scores(exported: tuple[Path, ExportReport]) -> None:
    path, _ = exported
    image, wanted = dinov3_golden.case(NAME)
    vit = session(split.backbone_path(path), with_library=False)  # the ViT holds none of our operators
    tokens = dict(zip(split.TOKEN_NAMES, vit.run(list(split.TOKEN_NAMES), {"image": image.numpy()}), strict=True))
    for i, name in enumerate(split.TOKEN_NAMES):
        assert difference(tokens[name], wanted[f"tokens{i + 1}"]) < TOKENS
    for with_library in (True, False):
        (scores,) = session(path, with_library).run(["logits"], {"image": image.numpy(), **tokens})
        assert difference(scores[..., ::2, ::2], wanted["semantic"]) < SCORES


def test_each_file_says_which_it_is_and_holds_only_its_part(exported: tuple[Path, ExportReport]) -> None:
    path, report = exported
    backbone, about_backbone = metadata(split.backbone_path(path))
    head, about_head = metadata(path)
    assert (backbone.output, backbone.msda_nodes, head.output, head.msda_nodes) == ("backbone", 0, "logits", MSDA_NODES)
    assert (about_backbone["part"], about_head["part"]) == ("backbone", "head")
    assert (about_backbone["partner"], about_head["partner"]) == ("model.onnx", "model.backbone.onnx")
    blocks = {"tokens_1": 0, "tokens_2": 1, "tokens_3": 2, "tokens_4": 3}
    assert about_backbone["tokens_after_block"] == about_head["tokens_after_block"] == blocks
    assert backbone.params + head.params == report.params
    assert backbone.model == head.model == SPEC
    graph = onnx.load(split.backbone_path(path))
    assert not graph.functions
    assert not any("spm" in weight.name or "segmentation_model.1" in weight.name for weight in graph.graph.initializer)
    assert not any(".blocks." in weight.name for weight in onnx.load(path).graph.initializer)
    assert [value.name for value in onnx.load(path).graph.input] == ["image", *split.TOKEN_NAMES]


def test_an_engine_of_both_files_gives_the_official_scores(exported: tuple[Path, ExportReport]) -> None:
    path, _ = exported
    image, wanted = dinov3_golden.case(NAME)
    with Engine.load(path, backbone=split.backbone_path(path), threads=1) as engine:
        assert [tensor.name for tensor in engine.inputs] == ["image"]
        scores = engine.infer({"image": image.numpy()})["logits"]
        assert difference(scores[..., ::2, ::2], wanted["semantic"]) < SCORES
    with pytest.raises(UsageError, match="is closed"):
        engine.infer({"image": image.numpy()})


def test_adapter_run_takes_both_files(exported: tuple[Path, ExportReport], tmp_path: Path) -> None:
    path, _ = exported
    image, _ = dinov3_golden.case(NAME)
    pixels = np.random.default_rng(0).integers(0, 256, (*image.shape[2:], 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    words = [str(path), str(tmp_path / "a.png"), "--out", str(tmp_path / "out"), "--mode", "whole"]
    assert run.main([*words, "--backbone", str(split.backbone_path(path)), "--stretch"]) == 0
    labels = np.asarray(Image.open(tmp_path / "out" / "a_labels.png"))
    assert labels.shape == pixels.shape[:2]
    with Engine.load(path, backbone=split.backbone_path(path), threads=1) as engine:
        logits = engine.infer({"image": pictures.normalise(pixels[None], Preprocessing())})["logits"]
    assert np.mean(labels == logits[0].argmax(0)) > 0.999


def reworded(path: Path, **changes: Any) -> Path:
    """A copy of a split model's file that says something else of itself."""
    model = onnx.load(path)
    (prop,) = (prop for prop in model.metadata_props if prop.key == "adapter_infer.split")
    prop.value = json.dumps(json.loads(prop.value) | changes)
    onnx.save(model, path.with_name("other.onnx"))
    return path.with_name("other.onnx")


@pytest.mark.parametrize(
    ("swapped", "changes", "words"),
    [
        (
            False,
            {"weights": "f" * 64},
            r"other\.onnx is not the backbone that .*model\.onnx was split from .its weights",
        ),
        (
            False,
            {"tokens_after_block": {"tokens_1": 7}},
            "its tokens_after_block are another's.; .*model.backbone.onnx",
        ),
        (True, {}, r"model\.onnx is the head of a split model, where its backbone is wanted"),
    ],
)
def test_files_that_are_no_pair_are_refused(
    exported: tuple[Path, ExportReport], swapped: bool, changes: dict[str, Any], words: str
) -> None:
    head, backbone = exported[0], reworded(split.backbone_path(exported[0]), **changes)
    with pytest.raises(UnsupportedModel, match=words):
        Engine.load(backbone if swapped else head, backbone=head if swapped else backbone, threads=1)


@pytest.mark.parametrize("change", [{"dtype": "float16"}, {"shape": (1, 24, 8)}, {"shape": (1, "tokens")}])
def test_files_exported_with_different_options_are_no_pair(
    exported: tuple[Path, ExportReport], change: dict[str, Any]
) -> None:
    path, _ = exported
    with Engine.load(path, threads=1) as head, Engine.load(split.backbone_path(path), threads=1) as vit:
        vit.outputs = tuple(replace(each, **change) if each.name == "tokens_3" else each for each in vit.outputs)
        with pytest.raises(UnsupportedModel, match=r"different options: tokens_3 is float\d\d \[.*\] in the one and"):
            ChainedEngine(vit, head)


def test_a_whole_model_has_no_backbone_file(
    whole: tuple[Path, ExportReport], exported: tuple[Path, ExportReport]
) -> None:
    with pytest.raises(UnsupportedModel, match="is no part of a split model, where its head is wanted"):
        Engine.load(whole[0], backbone=split.backbone_path(exported[0]), threads=1)


def test_the_weights_digest_tells_one_vit_from_another() -> None:
    vit = dinov3_golden.load(NAME).backbone.backbone
    before = split.digest(vit)
    assert before == split.digest(dinov3_golden.load(NAME).backbone.backbone)
    vit.blocks[1].mlp.fc1.weight.data[0, 0] += 1e-6
    assert split.digest(vit) != before


def test_the_chain_is_compared_with_the_whole_file(exported: tuple[Path, ExportReport]) -> None:
    path, report = exported
    assert report.parity is not None
    assert report.parity.largest()["chain"] == 0.0
    assert {"library", "body", "chain"} >= set(report.parity.paths())
    assert report.path == path
    assert report.file_bytes == path.stat().st_size + split.backbone_path(path).stat().st_size
    assert sorted(file.name for file in path.parent.iterdir()) == ["model.backbone.onnx", "model.onnx"]


def test_a_part_that_computes_something_else_leaves_no_file(
    ready: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = split._part

    def broken(model: ir.Model, inputs: list[str], outputs: list[str]) -> ir.Model:
        part = cut(model, inputs, outputs)
        norm = part.graph.initializers.get("segmentation_model.1.predictor.post_norm.bias")
        if norm is not None:
            norm.const_value = ir.tensor(norm.const_value.numpy() + 1, name=norm.name)
        return part

    monkeypatch.setattr(split, "_part", broken)
    with pytest.raises(ParityError, match="through the chain path"):
        split.export(dinov3_golden.load(NAME), SPEC, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_the_whole_file_gives_the_official_scores(whole: tuple[Path, ExportReport]) -> None:
    image, wanted = dinov3_golden.case(NAME)
    for with_library in (True, False):
        (scores,) = session(whole[0], with_library).run(["logits"], {"image": image.numpy()})
        assert difference(scores[..., ::2, ::2], wanted["semantic"]) < SCORES


@pytest.mark.slow
def test_an_adapter_without_a_head_splits_too_and_at_any_size(tmp_path: Path) -> None:
    name = "swiglu"  # two pictures in its batch
    spec = replace(dinov3_golden.spec(name), decode_head=None)
    model = dinov3_golden.load(name).backbone
    report = split.export(model, spec, tmp_path / "a.onnx", dynamic_size=True, batch="dynamic")
    image, wanted = dinov3_golden.case(name)
    vit = session(split.backbone_path(report.path), with_library=False)
    tokens = dict(zip(split.TOKEN_NAMES, vit.run(list(split.TOKEN_NAMES), {"image": image.numpy()}), strict=True))
    maps = session(report.path, with_library=True).run(None, {"image": image.numpy(), **tokens})
    for i, found in enumerate(maps):
        assert difference(found, wanted[f"f{i + 1}"]) < TOKENS


@pytest.mark.slow
def test_tensorrt_builds_whole_and_parts_with_one_plugin_layer_an_msda(
    whole: tuple[Path, ExportReport], exported: tuple[Path, ExportReport]
) -> None:
    rtx_rig.require()
    head = exported[0]
    for path, count in ((whole[0], MSDA_NODES), (split.backbone_path(head), 0), (head, MSDA_NODES)):
        with rtx_rig.process() as attempt:
            outcome = attempt(onnx.load(path), rtx_rig.plugin())
        assert outcome.error == ""
        assert outcome.layers["PLUGIN_V3"] == count
        assert outcome.plan > 100_000


def test_other_families_are_refused_in_one_line() -> None:
    spec = ModelSpec({"type": "ViTAdapter", "interaction_indexes": [[0, 11]]})
    with pytest.raises(UsageError, match=r"--split .*DINOv3.*ViTAdapter") as refusal:
        split.export(torch.nn.Identity(), spec, "a.onnx")
    assert "\n" not in str(refusal.value)


# --- the command ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two files as they are released, and a configuration of the small model."""
    place = tmp_path_factory.mktemp("released")
    whole, spec = dinov3_golden.weights(NAME), dinov3_golden.spec(NAME)
    torch.save({name: tensor for name, tensor in whole.items() if not name.startswith(VIT)}, place / "head.pth")
    vit = {name.removeprefix(VIT): tensor for name, tensor in whole.items() if name.startswith(VIT)}
    torch.save(vit, place / "vit.pth")
    model = {"type": "EncoderDecoder", "backbone": spec.backbone, "decode_head": spec.decode_head}
    (place / "small.json").write_text(json.dumps({"model": model | {"test_cfg": {"mode": "whole"}}}))
    return place


@pytest.mark.slow
def test_the_command_makes_both_files_from_two_checkpoints(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.onnx"
    sources = [str(folder / "head.pth"), "--backbone-checkpoint", str(folder / "vit.pth")]
    sources += ["--config", str(folder / "small.json"), "--size", "64", "96"]
    assert cli.main([*sources, "--split", "--onnx", str(out), "--json", str(tmp_path / "report.json")]) == 0
    said = capsys.readouterr()
    assert f"took the frozen ViT from {folder / 'vit.pth'}" in said.err
    assert f"the frozen ViT is in {split.backbone_path(out)}" in said.err
    assert json.loads((tmp_path / "report.json").read_text())["parity"]["largest"]["chain"] == 0.0
    image, wanted = dinov3_golden.case(NAME)
    names = list(split.TOKEN_NAMES)
    tokens = session(split.backbone_path(out), with_library=False).run(names, {"image": image.numpy()})
    feeds = {"image": image.numpy(), **dict(zip(names, tokens, strict=True))}
    (scores,) = session(out, with_library=True).run(["logits"], feeds)
    assert difference(scores[..., ::2, ::2], wanted["semantic"]) < SCORES


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["head.pth", "--onnx", "a.onnx"], 3, "without the frozen ViT"),
        (["vit.pth", "--backbone-checkpoint", "head.pth", "--onnx", "a.onnx"], 2, "the two files are swapped"),
        (["--random-weights", "--backbone-checkpoint", "vit.pth", "--onnx", "a.onnx"], 2, "completes a checkpoint"),
        (["head.pth", "--backbone-checkpoint", "vit.pth", "--onnx", "vit.pth"], 2, "would overwrite"),
        (["head.pth", "--backbone-checkpoint", "none.pth", "--onnx", "a.onnx"], 2, "none.pth does not exist"),
    ],
)
def test_the_command_refuses_wrong_pairs_of_files(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    paths = [str(folder / word) if word.endswith((".pth", ".onnx")) else word for word in arguments]
    assert cli.main([*paths, "--config", str(folder / "small.json")]) == code
    assert words in capsys.readouterr().err
    assert not list(folder.glob("*.onnx"))


def test_the_command_inspects_the_two_files_as_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head, vit = str(folder / "head.pth"), str(folder / "vit.pth")
    assert cli.main([head, "--inspect"]) == 0
    assert "in a file of its own" in capsys.readouterr().out
    assert cli.main([vit, "--inspect"]) == 0
    assert "the frozen ViT alone" in capsys.readouterr().out
    assert cli.main([head, "--backbone-checkpoint", vit, "--inspect", "--config", str(folder / "small.json")]) == 0
    assert "in this file" in capsys.readouterr().out

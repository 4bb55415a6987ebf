"""What a checkpoint's model is comes from the right source, fits its tensors, and is never guessed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import golden
from adapter_infer import checkpoints, config, findings, models, presets
from adapter_infer.errors import UnsupportedModel, UsageError
from adapter_infer.findings import inspect_tensors

TINY = "upernet_deit_adapter_tiny_512_160k_ade20k"
SMALL, OTHER, WIDE = "upernet_small_test", "a_twin_of_it", "upernet_wide_test"
UPERNET = "upernet_vit_adapter"
torch.set_num_threads(1)


def file(name: str, kind: str = "models") -> Path:
    return golden.folder(kind, name) / "checkpoint.pth"


def stored(name: str, kind: str = "models") -> dict[str, Any]:
    return torch.load(file(name, kind), weights_only=True)


def without_config(path: Path, state: dict[str, Any]) -> Path:
    torch.save({"state_dict": state}, path)
    return path


def config_file(path: Path, name: str = UPERNET) -> Path:
    official = golden.config("models", name)
    path.write_text(json.dumps({"model": official["model"], "test_pipeline": official["test_pipeline"]}))
    return path


@pytest.fixture
def small_state(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Weights of three small presets, the first two of equal shapes, put into the table for one test."""
    backbone = golden.config("models", UPERNET)["model"]["backbone"]
    arguments = {key: value for key, value in backbone.items() if key != "drop_path_rate"}
    real = presets.PRESETS[presets.names()[0]]
    head = real.decode_head | {"in_channels": [32] * 4, "channels": 16}
    small = replace(real, backbone=arguments, decode_head=head, auxiliary_heads=())
    monkeypatch.setitem(presets.PRESETS, OTHER, replace(small, mean=(1.0, 2.0, 3.0)))
    monkeypatch.setitem(presets.PRESETS, SMALL, small)
    wide = arguments | {"embed_dim": 64}
    monkeypatch.setitem(presets.PRESETS, WIDE, replace(small, backbone=wide, decode_head=head | {"channels": 24}))
    return {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in models.build_model(presets.spec(SMALL)).state_dict().items()
    }


# --- golden checkpoints ---


@pytest.mark.parametrize("name", golden.names("models", *golden.SEGMENTORS))
def test_golden_models_load_from_their_own_configuration(name: str) -> None:
    model, spec, checkpoint = checkpoints.load_model(file(name))
    official, meta = golden.config("models", name), stored(name)["meta"]
    assert spec.source == checkpoints.META
    assert spec.classes == tuple(meta["CLASSES"])
    assert spec.palette == tuple(tuple(colour) for colour in meta["PALETTE"])
    assert spec.num_classes == official["num_classes"]
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, checkpoint.state_dict[key])
    case = next(case for case in official["cases"] if case["mode"] == "whole" and "head_logits" in case)
    image = torch.from_numpy(golden.array("models", name, case["input"]["file"])).float()
    with torch.no_grad():
        maps = model.features(image)
        head = model.decode_head(maps if model.neck is None else model.neck(maps))
    expected = torch.from_numpy(golden.array("models", name, case["head_logits"]["file"]))
    assert (head - expected).abs().max() < 1e-4


@pytest.mark.parametrize("name", golden.names("models", "mask2former_"))
def test_mask2former_is_read_from_its_own_configuration_and_recognised_from_its_tensors(name: str) -> None:
    model, spec, checkpoint = checkpoints.load_model(file(name))
    official = golden.config("models", name)
    assert (spec.num_classes, spec.half) == (official["num_classes"], "segmentation")
    assert sum(p.numel() for p in model.parameters()) == official["n_params"]
    found = checkpoints.inspect_tensors(checkpoint.state_dict)
    head = official["model"]["decode_head"]
    assert (found.decode_head, found.num_classes) == ("Mask2FormerHead", official["num_classes"])
    assert (found.num_queries, found.head_channels) == (head["num_queries"], head["feat_channels"])
    assert "the head's numbers of attention heads and groups" in found.missing()


def test_a_detectors_backbone_takes_the_detection_forward_pass(tmp_path: Path) -> None:
    content = stored(UPERNET)
    text = content["meta"]["config"].replace("type='EncoderDecoder'", "type='ATSS'")
    content["meta"]["config"] = text.replace("decode_head=dict(", "bbox_head=dict(")
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UnsupportedModel, match=r"bbox_head has type='UPerHead'|lacks nms"):
        checkpoints.load_model(tmp_path / "a.pth")
    model, spec, _ = checkpoints.load_model(tmp_path / "a.pth", features_only=True)
    plain, _, _ = checkpoints.load_model(file(UPERNET), features_only=True)
    assert (spec.half, spec.decode_head) == ("detection", None)
    image = torch.rand(1, 3, 64, 64)
    assert not torch.equal(model(image)[0], plain(image)[0])


@pytest.mark.parametrize("name", golden.names("backbones"))
def test_tensors_alone_are_refused_with_what_is_found_and_missing(name: str) -> None:
    official = golden.config("backbones", name)
    kwargs = official["kwargs"]
    with pytest.raises(UnsupportedModel, match=r"--config FILE.*--preset NAME") as refusal:
        checkpoints.identify(checkpoints.read(file(name, "backbones")), features_only=True)
    assert f"embed_dim {kwargs['embed_dim']}, depth {kwargs['depth']}" in str(refusal.value)
    assert "mean and std" in str(refusal.value).partition("missing:")[2]
    found = inspect_tensors(stored(name, "backbones")["state_dict"])
    assert (found.backbone, found.embed_dim, found.depth) == (official["type"], kwargs["embed_dim"], kwargs["depth"])
    assert found.mlp_ratio == kwargs.get("mlp_ratio", 4) or found.ffn_type == "swiglu"  # whose width is rounded up
    if found.backbone.startswith("BEiT"):
        assert (found.half, found.num_heads) == (official["half"], kwargs["num_heads"])
    else:
        assert found.num_heads is None
        assert "num_heads" in found.missing()
    if "interaction_indexes" in kwargs:
        assert found.interactions == len(kwargs["interaction_indexes"])
        assert found.heads_times_points == kwargs["deform_num_heads"] * kwargs["n_points"]
        assert found.deform_ratio == kwargs["deform_ratio"]
        assert found.conv_inplane == kwargs["conv_inplane"]
        assert found.with_cffn == kwargs.get("with_cffn", True)
        assert found.use_extra_extractor == kwargs.get("use_extra_extractor", True)
    if official["half"] == "detection" and found.backbone == "BEiTAdapter":
        assert found.window_sizes == tuple(kwargs["window_size"])
    if kwargs.get("residual_indices"):
        assert found.residual_indices == tuple(kwargs["residual_indices"])


@pytest.mark.parametrize("name", presets.names())
def test_what_a_preset_should_show_is_what_its_tensors_show(name: str) -> None:
    spec = presets.spec(name)
    found = inspect_tensors(models.build_model(spec, device="meta").state_dict())
    assert findings.differences(found, findings.expected(spec)) == []
    assert name in checkpoints.candidates(found)
    assert found.parameters == models.count_parameters(models.build_model(spec, device="meta"))


# --- the order of sources ---


def test_a_configuration_file_comes_first(tmp_path: Path) -> None:
    path = config_file(tmp_path / "mine.json")
    model, spec, _ = checkpoints.load_model(file(UPERNET), config=path)
    assert (spec.source, spec.name) == (f"--config {path}", "mine")
    assert len(model.state_dict()) > 0


def test_a_checkpoint_without_configuration_needs_and_takes_one(tmp_path: Path) -> None:
    path = without_config(tmp_path / "a.pth", stored(UPERNET)["state_dict"])
    with pytest.raises(UnsupportedModel, match=r"carries no configuration.*no preset has its shapes"):
        checkpoints.load_model(path)
    _, spec, _ = checkpoints.load_model(path, config=config_file(tmp_path / "c.json"))
    assert spec.num_classes == 7


def test_a_preset_fits_a_file_of_its_shapes_and_is_suggested_for_it(
    small_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = without_config(tmp_path / f"{SMALL}.pth.tar", small_state)
    with pytest.raises(UnsupportedModel) as refusal:
        checkpoints.load_model(path)
    assert refusal.value.exit_code == 3
    assert f"its shapes fit the presets {SMALL}, {OTHER})" in str(refusal.value)
    model, spec, checkpoint = checkpoints.load_model(path, preset=SMALL)
    assert (spec.name, spec.source, spec.num_classes) == (SMALL, f"preset {SMALL}", 150)
    assert spec.classes is not None
    assert spec.classes[0] == "wall"
    assert len(checkpoint.notes) == 1
    assert all(tensor.dtype == torch.float32 for tensor in model.parameters())
    backbone, spec, _ = checkpoints.load_model(path, preset=SMALL, features_only=True)
    assert (spec.decode_head, spec.inference.crop) == (None, (512, 512))
    assert "patch_embed.proj.weight" in backbone.state_dict()


def test_a_backbone_file_gives_features_with_or_without_prefix(
    small_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    prefixed = {name: tensor for name, tensor in small_state.items() if name.startswith("backbone.")}
    bare = {name.removeprefix("backbone."): tensor for name, tensor in prefixed.items()}
    for number, state in enumerate((prefixed, bare)):
        path = without_config(tmp_path / f"{number}.pth", state)
        model, _, _ = checkpoints.load_model(path, preset=SMALL, features_only=True)
        assert len(model.state_dict()) == len(bare)
        with pytest.raises(UnsupportedModel, match="without a head, which --output features exports"):
            checkpoints.load_model(path, preset=SMALL)


def test_a_preset_that_contradicts_the_checkpoints_configuration_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--preset upernet_deit.* contradicts meta\['config'\].*embed_dim is 192"):
        checkpoints.load_model(file(UPERNET), preset=TINY)
    with pytest.raises(UsageError, match="contradicts --config"):
        checkpoints.load_model(file(UPERNET), config=config_file(tmp_path / "c.json"), preset=TINY)


def test_an_unreadable_configuration_text_falls_back_to_the_preset_only(
    small_state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "a.pth"
    torch.save({"state_dict": small_state, "meta": {"config": "model = ("}}, path)
    with pytest.raises(UnsupportedModel, match=r"meta\['config'\].*pass --config FILE or --preset NAME"):
        checkpoints.identify(checkpoints.read(path))
    assert checkpoints.identify(checkpoints.read(path), preset=SMALL).name == SMALL


def test_without_a_checkpoint_the_other_sources_suffice(tmp_path: Path) -> None:
    assert checkpoints.identify(None, preset=TINY) == presets.spec(TINY)
    path = config_file(tmp_path / "c.json")
    expected = config.spec_from_config(config.read_config(path), f"--config {path}", "c")
    assert checkpoints.identify(None, config=path) == expected
    with pytest.raises(UsageError, match="--preset NAME or --config FILE"):
        checkpoints.identify(None)
    with pytest.raises(UsageError, match="did you mean"):
        checkpoints.identify(None, preset=TINY[:-3])


# --- contradictions between a source and the tensors ---


def test_wrong_shapes_are_named_with_both_shapes(small_state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = without_config(tmp_path / "a.pth", small_state)
    with pytest.raises(UnsupportedModel) as refusal:
        checkpoints.load_model(path, preset=WIDE)
    message = str(refusal.value)
    assert f"does not fit preset {WIDE}" in message
    assert "backbone.pos_embed is 1x17x64 in it, 1x17x32 in the file" in message
    assert "\n" not in message
    assert len(message) < 1500


def test_another_class_count_is_a_contradiction(small_state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    state = small_state | {
        "decode_head.conv_seg.weight": torch.zeros(19, 16, 1, 1),
        "decode_head.conv_seg.bias": torch.zeros(19),
    }
    with pytest.raises(UnsupportedModel, match=r"2 tensors differ.*conv_seg.bias is 150 in it, 19 in the file"):
        checkpoints.load_model(without_config(tmp_path / "a.pth", state), preset=SMALL)


def test_missing_and_surplus_tensors_are_counted_and_five_are_named(tmp_path: Path) -> None:
    content = stored(UPERNET)
    state = content["state_dict"]
    for name in [name for name in state if name.startswith("backbone.spm.")]:
        del state[name]
    state |= {f"extra.{i}": torch.zeros(1) for i in range(7)}
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UnsupportedModel) as refusal:
        checkpoints.load_model(tmp_path / "a.pth")
    assert "7 tensors are not part of it: extra.0, extra.1, extra.2, extra.3, extra.4 and 2 more" in str(refusal.value)
    assert " tensors are missing: backbone.spm." in str(refusal.value)


def test_integer_weights_are_a_contradiction(tmp_path: Path) -> None:
    content = stored(UPERNET)
    content["state_dict"]["backbone.up.bias"] = torch.zeros(32, dtype=torch.int8)
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UnsupportedModel, match=r"backbone.up.bias is 32 in it, 32 int8 in the file"):
        checkpoints.load_model(tmp_path / "a.pth")


def test_auxiliary_heads_and_beits_indexes_are_neither_needed_nor_trusted(tmp_path: Path) -> None:
    content = stored("upernet_beit_adapter")
    plain, _, _ = checkpoints.load_model(file("upernet_beit_adapter"))
    for name in list(content["state_dict"]):
        if name.startswith("auxiliary_head."):
            del content["state_dict"][name]
        elif name.endswith("relative_position_index"):
            content["state_dict"][name] = torch.zeros(3, dtype=torch.int64)
    torch.save(content, tmp_path / "a.pth")
    model, _, _ = checkpoints.load_model(tmp_path / "a.pth")
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(model(image), plain(image))


def test_files_from_before_batch_counters_load(tmp_path: Path) -> None:
    content = stored(UPERNET)
    kept = {name: value for name, value in content["state_dict"].items() if not name.endswith("num_batches_tracked")}
    assert len(kept) < len(content["state_dict"])
    torch.save(content | {"state_dict": kept}, tmp_path / "a.pth")
    model, _, _ = checkpoints.load_model(tmp_path / "a.pth")
    assert not any(tensor.is_meta for tensor in model.state_dict().values())


def test_nan_weights_are_refused_by_name_unless_they_are_not_used(tmp_path: Path) -> None:
    content = stored(UPERNET)
    name = next(name for name in content["state_dict"] if name.startswith("auxiliary_head.") and "conv_seg" in name)
    content["state_dict"][name] = content["state_dict"][name] * float("nan")
    torch.save(content, tmp_path / "a.pth")
    checkpoints.load_model(tmp_path / "a.pth")
    content["state_dict"]["backbone.level_embed"][1, 2] = float("inf")
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UnsupportedModel, match=r"NaN or infinite weights in backbone.level_embed"):
        checkpoints.load_model(tmp_path / "a.pth")
    assert set(checkpoints.inspect(tmp_path / "a.pth")["non_finite"]) == {name, "backbone.level_embed"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("depth=4", "depth='4'", "not one positive whole number"),
        ("depth=4", "depth=5", "per-block setting"),
        ("embed_dim=32", "embed_dim=-32", "not one positive whole number"),
        (" num_heads=2", " num_heads=3", "not a multiple of num_heads 3"),
        ("deform_num_heads=2", "deform_num_heads=3", "multiple of deform_num_heads=3"),
        ("n_points=4", "n_points=3", "does not fit"),
        ("interaction_indexes=[[0, 0], [1, 1], [2, 2], [3, 3]]", "interaction_indexes=5", "no model can be built"),
        ("pool_scales=[1, 2, 3, 6]", "pool_scales=None", "cannot be built"),
        ("channels=24", "channels='x'", "cannot be built"),
        ("in_channels=[32, 32, 32, 32]", "in_channels={}", "no model can be built"),
        ("mlp_ratio=4", "surprise=4", "unsupported settings: surprise"),
    ],
)
def test_broken_configurations_are_refused_in_one_line(old: str, new: str, said: str, tmp_path: Path) -> None:
    content = stored(UPERNET)
    text = content["meta"]["config"]
    assert old in text
    content["meta"]["config"] = text.replace(old, new)
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UnsupportedModel, match=said) as refusal:
        checkpoints.load_model(tmp_path / "a.pth")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"layer1.0.conv1.weight": torch.zeros(4, 4, 3, 3)}, "no ViT, BEiT or Uni-Perceiver backbone"),
        (
            {
                "blocks.0.attn.qkv.weight": torch.zeros(24, 8),
                "blocks.0.attn.qkv.bias": torch.zeros(24),
                "patch_embed.proj.weight": torch.zeros(8, 3, 16, 16),
                "pos_embed": torch.zeros(1, 197, 8),
            },
            "pre-training",
        ),
        (
            {
                "backbone.blocks.0.attn.qkv.weight": torch.zeros(()),
                "backbone.patch_embed.proj.weight": torch.zeros(()),
                "backbone.blocks.999999999999.attn.relative_position_bias_table": torch.zeros(()),
            },
            "no ViT, BEiT",
        ),
    ],
)
def test_files_of_other_models_are_refused_by_what_they_are(
    state: dict[str, torch.Tensor], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModel, match=said):
        checkpoints.identify(checkpoints.read(without_config(tmp_path / "a.pth", state)))


def test_an_unsupported_head_without_configuration_is_named(tmp_path: Path) -> None:
    state = {name: value for name, value in stored(UPERNET)["state_dict"].items() if name.startswith("backbone.")}
    path = without_config(tmp_path / "a.pth", state | {"decode_head.linear_fuse.conv.weight": torch.zeros(4, 8)})
    with pytest.raises(
        UnsupportedModel, match=r"\(unknown\) is not supported.*Mask2FormerHead.*--output features and --config FILE"
    ):
        checkpoints.identify(checkpoints.read(path))


# --- labels and reports ---


def test_class_names_that_do_not_fit_the_head_are_not_used() -> None:
    checkpoint = checkpoints.read(file(UPERNET))
    own = checkpoints.identify(checkpoint)
    assert own.classes == tuple(f"class_{i}" for i in range(7))
    meta = checkpoint.meta | {"CLASSES": ("a", "b"), "PALETTE": [[1, 2, 300]] * 7}
    assert checkpoints.identify(replace(checkpoint, meta=meta)).classes is None
    assert checkpoints.identify(replace(checkpoint, meta=meta)).palette is None
    newer = {"dataset_meta": {"classes": list("abcdefg"), "palette": [(i, i, i) for i in range(7)]}}
    spec = checkpoints.identify(replace(checkpoint, meta={"config": checkpoint.meta["config"]} | newer))
    assert spec.classes == tuple("abcdefg")
    assert spec.palette is not None
    assert spec.palette[3] == (3, 3, 3)


def test_a_report_says_what_the_file_is_and_is_plain_data() -> None:
    report = json.loads(json.dumps(checkpoints.inspect(file(UPERNET))))
    assert report["model"] == {"name": "checkpoint", "source": checkpoints.META, "num_classes": 7} | {
        "task": "semantic",
        "kind": "UPerHead",
    }
    assert report["found"]["decode_head"] == "UPerHead"
    assert report["found"]["other_parts"] == ["auxiliary_head", "decode_head"]
    assert (report["tensors"], report["has_config"], report["meta"]["epoch"]) == (380, True, 1)
    refused = checkpoints.inspect(golden.folder("backbones", "det_vit_adapter_win") / "checkpoint.pth")
    assert "model" not in refused
    assert "carries no configuration" in refused["refusal"]
    assert "window layout" in refused["missing_in_tensors"]

"""DINOv3's two checkpoint files: joined, told apart, and refused where they do not belong together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import dinov3_golden
from adapter_infer import checkpoints, findings, presets
from adapter_infer.dinov3 import files
from adapter_infer.dinov3.tensors import ELSEWHERE, IN_FILE, PLAIN, VIT
from adapter_infer.errors import AdapterError, UnsupportedModel, UsageError
from adapter_infer.models import build_model

OPTION = "--backbone-checkpoint"
WHOLE = dinov3_golden.weights("mlp_d12")


def parts(whole: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The head's file and the ViT's, as they are released."""
    head = {name: tensor for name, tensor in whole.items() if not name.startswith(VIT)}
    return head, {name.removeprefix(VIT): tensor for name, tensor in whole.items() if name.startswith(VIT)}


HEAD, BARE = parts(WHOLE)


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_two_files_make_one_model(prefix: str) -> None:
    joined = files.join(HEAD, {prefix + name: tensor for name, tensor in BARE.items()}, "head.pth", "vit.pth")
    assert joined.keys() == WHOLE.keys()
    assert all(joined[name] is WHOLE[name] for name in WHOLE)
    assert files.join(WHOLE, None, "all.pth") == WHOLE


OTHER = {"blocks.0.attn.qkv.weight": torch.zeros(3, 1)}
HUGGING_FACE = {"embeddings.cls_token": torch.zeros(1, 1, 48), "layer.0.attention.q_proj.weight": torch.zeros(1)}
WIDER = BARE | {"cls_token": torch.zeros(1, 1, 384)}


@pytest.mark.parametrize(
    ("head", "vit", "kind", "words"),
    [
        (HEAD, None, UnsupportedModel, f"without the frozen ViT.*{OPTION}"),
        (BARE, None, UsageError, f"frozen ViT alone.*{OPTION}"),
        (BARE, HEAD, UsageError, f"swapped: b.pth.*first, and {OPTION} a.pth"),
        (WHOLE, BARE, UsageError, f"holds the frozen ViT already; leave out {OPTION} b.pth"),
        (HEAD, OTHER, UnsupportedModel, "b.pth is no DINOv3 ViT: it lacks cls_token and rope_embed.periods"),
        (HEAD, HEAD, UnsupportedModel, "b.pth is no DINOv3 ViT"),
        (HEAD, HUGGING_FACE, UnsupportedModel, "b.pth has Hugging Face's names.*dinov3_.*_pretrain_"),
        (HEAD, WIDER, UnsupportedModel, "384 channels wide, but the adapter in a.pth was made for one of 48"),
        (OTHER, BARE, UnsupportedModel, f"a.pth holds no DINOv3 adapter.*{OPTION}"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(
    head: dict[str, Tensor], vit: dict[str, Tensor] | None, kind: type[AdapterError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        files.join(head, vit, "a.pth", None if vit is None else "b.pth")


# --- recognition from tensors alone ---


def test_both_parts_and_the_whole_are_told_apart() -> None:
    whole, head, vit = (findings.inspect_tensors(tensors) for tensors in (WHOLE, HEAD, BARE))
    assert (whole.backbone, whole.half, whole.frozen_vit) == ("DINOv3Adapter", "dinov3", IN_FILE)
    assert (whole.depth, whole.num_heads, whole.embed_dim, whole.ffn_type) == (4, 2, 48, "mlp")
    assert (whole.deform_ratio, whole.heads_times_points, whole.conv_inplane) == (0.5, 8, 8)
    assert (whole.decode_head, whole.num_classes, whole.num_queries) == ("DINOv3Mask2FormerHead", 5, 10)
    assert whole.parameters == sum(p.numel() for p in build_model(dinov3_golden.spec("mlp_d12"), "meta").parameters())
    assert (head.backbone, head.frozen_vit, head.depth) == ("DINOv3Adapter", ELSEWHERE, None)
    assert head.missing()[0] == f"the frozen ViT ({OPTION})"
    assert (vit.backbone, vit.depth, vit.frozen_vit) == (PLAIN, 4, None)
    assert vit.missing() == ["the adapter and its head"]
    assert whole.parameters == head.parameters + vit.parameters


@pytest.mark.parametrize("vit", ["vits16", "vitb16", "vitl16", "vit7b16"])
def test_a_head_alone_names_its_preset(vit: str) -> None:
    name = f"dinov3_{vit}_ade20k_m2f"
    state = build_model(presets.spec(name), device="meta").state_dict()
    head, bare = parts(state)
    assert checkpoints.candidates(findings.inspect_tensors(state)) == [name]
    assert checkpoints.candidates(findings.inspect_tensors(head)) == [name]
    assert checkpoints.candidates(findings.inspect_tensors(bare)) == []
    swiglu = dinov3_golden.weights("swiglu")
    assert findings.inspect_tensors(swiglu).ffn_type == "swiglu"


def test_damaged_tensors_are_no_crash() -> None:
    damaged = dict.fromkeys(WHOLE, torch.zeros(()))
    assert findings.inspect_tensors(damaged).half is None


# --- through the reader of checkpoints ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("dinov3")
    for name, tensors in {"head": HEAD, "vit": BARE, "whole": WHOLE}.items():
        torch.save(tensors, place / f"{name}.pth")
    return place


@pytest.fixture(scope="module")
def config(folder: Path) -> Path:
    spec = dinov3_golden.spec("mlp_d12")
    model = {"type": "EncoderDecoder", "backbone": spec.backbone, "decode_head": spec.decode_head}
    file = folder / "small.json"
    file.write_text(json.dumps({"model": model | {"test_cfg": {"mode": "whole"}}}))
    return file


def test_two_files_load_as_one_checked_model(folder: Path, config: Path) -> None:
    head, vit = folder / "head.pth", folder / "vit.pth"
    model, spec, checkpoint = checkpoints.load_model(head, config, backbone=vit)
    assert (spec.half, spec.num_classes) == ("dinov3", 5)
    assert all(torch.equal(tensor, WHOLE[name]) for name, tensor in model.state_dict().items())
    assert checkpoint.sha256 == f"{checkpoints.read(head).sha256}+{checkpoints.read(vit).sha256}"
    assert checkpoint.notes[0] == f"took the frozen ViT from {vit}"
    one, _, _ = checkpoints.load_model(folder / "whole.pth", config)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in one.state_dict().items())
    image, wanted = dinov3_golden.case("mlp_d12")
    adapter, spec, _ = checkpoints.load_model(head, config, features_only=True, backbone=vit)
    assert spec.decode_head is None
    with torch.inference_mode():
        assert float((adapter(image)[3] - wanted["f4"]).abs().max()) < 1e-4


def test_a_missing_or_wrong_file_is_named_with_the_way_out(folder: Path, config: Path) -> None:
    head, vit = folder / "head.pth", folder / "vit.pth"
    with pytest.raises(UnsupportedModel, match=f"head.pth holds.*without the frozen ViT.*{OPTION}"):
        checkpoints.load_model(head, config)
    with pytest.raises(UsageError, match=f"vit.pth is DINOv3's frozen ViT alone.*{OPTION}"):
        checkpoints.identify(checkpoints.read(vit))
    with pytest.raises(UsageError, match="swapped"):
        checkpoints.load_model(vit, config, backbone=head)
    with pytest.raises(UnsupportedModel, match=f"missing: the frozen ViT \\({OPTION}\\), interaction_indexes"):
        checkpoints.identify(checkpoints.read(head))
    with pytest.raises(UnsupportedModel, match="tensors differ"):
        checkpoints.load_model(head, preset="dinov3_vits16_ade20k_m2f", backbone=vit)


def test_inspection_says_which_of_the_files_it_is(folder: Path, config: Path) -> None:
    head, vit = folder / "head.pth", folder / "vit.pth"
    alone = checkpoints.inspect(head)
    assert alone["found"]["frozen_vit"] == ELSEWHERE
    assert OPTION in alone["refusal"]
    assert checkpoints.inspect(vit)["found"]["backbone"] == PLAIN
    both = checkpoints.inspect(head, config, backbone=vit)
    assert both["found"]["frozen_vit"] == IN_FILE
    assert both["model"]["num_classes"] == 5

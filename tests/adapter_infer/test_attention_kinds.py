"""Attention other than deformable, and parts of the adapter: what a query sees, published parameters, exports."""

from dataclasses import replace

import pytest
import torch

from adapter_infer import attention, models, presets
from adapter_infer.attention import CrossAttention
from adapter_infer.errors import UnsupportedModel
from adapter_infer.geometry import AdapterGeometry, Levels
from adapter_infer.spec import ModelSpec

TINY = {"type": "ViTAdapter", "embed_dim": 32, "depth": 4, "num_heads": 2, "conv_inplane": 8, "deform_num_heads": 2}
TINY |= {"n_points": 2, "interaction_indexes": [[0, 0], [1, 1], [2, 2], [3, 3]]}
MASK_RCNN_S = "mask_rcnn_deit_adapter_small_fpn_3x_coco"


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def mask_rcnn(**changes) -> ModelSpec:
    spec = presets.spec(MASK_RCNN_S)
    return replace(spec, backbone=spec.backbone | changes)


def tiny(half: str = "detection", **changes) -> ModelSpec:
    return ModelSpec(backbone=TINY | changes, half=half)


def built(spec: ModelSpec) -> torch.nn.Module:
    model = models.build_model(spec)
    models.random_weights(model, 0)
    return model


def groups(shapes, cells, columns: bool, interlaced: bool) -> torch.Tensor:
    """The number of each token's group by the definition, cell by cell."""
    numbers = []
    for h, w in shapes:
        k, among = (w // cells[1], cells[1]) if columns else (h // cells[0], cells[0])
        for y in range(h):
            for x in range(w):
                line = x if columns else y
                numbers.append(line % among if interlaced else line // k)
    return torch.tensor(numbers)


@pytest.mark.parametrize("kind", attention.DENSE)
@pytest.mark.parametrize("inject", [True, False], ids=["injector", "extractor"])
def test_queries_see_the_keys_of_their_group_and_no_others(kind, inject):
    geometry = AdapterGeometry.of(96, 64, "cpu")
    ends = (geometry.vit, geometry.pyramid) if inject else (geometry.pyramid, geometry.vit)
    torch.manual_seed(0)
    module = CrossAttention(16, 4, kind)
    query, feat = (torch.randn(2, sum(h * w for h, w in levels.shapes), 16) for levels in ends)
    found = module(query, ends[0], feat, ends[1])

    projected = (module.query_proj(query), module.key_proj(feat), module.value_proj(feat))
    q, k, v = (tokens.unflatten(-1, (4, 4)).transpose(1, 2) for tokens in projected)
    logits = q @ k.transpose(-1, -2) / 2.0
    if kind != "global":
        seen = []
        for head in range(4):
            a, b = (groups(levels.shapes, (3, 2), head >= 2, kind == "pale") for levels in ends)
            seen.append(a[:, None] == b[None, :])
        logits = logits.masked_fill(~torch.stack(seen), float("-inf"))
    expected = module.output_proj((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_core_multiply_adds_at_1280x800_are_the_paper_s_share():
    geometry = AdapterGeometry.of(1280, 800, "cpu")
    vit, pyramid = geometry.vit.shapes, geometry.pyramid.shapes
    assert attention.core_macs("global", vit, pyramid, 384) == 2 * 4000 * 21000 * 384
    assert attention.core_macs("cswin", vit, pyramid, 384) == attention.core_macs("pale", pyramid, vit, 384)
    assert attention.core_macs("cswin", vit, pyramid, 384) / attention.core_macs("global", vit, pyramid, 384) == 0.0325
    assert attention.core_macs("deformable", vit, pyramid, 384) == 0


@pytest.mark.parametrize(
    ("kind", "millions"), [("global", 50.3), ("cswin", 50.3), ("pale", 50.3), ("deformable", 47.8)]
)
def test_parameters_of_the_attention_types_are_the_paper_s(kind, millions):
    count = models.count_parameters(models.build_model(mask_rcnn(attention=kind), "meta"))
    assert round(count / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("components", "parameters"),
    [("none", 43_746_672), ("spatial_prior", 45_054_128), ("injector", 46_578_320), ("extractor", 47_802_368)],
)
def test_parameters_of_the_components_are_the_paper_s(components, parameters):
    assert models.count_parameters(models.build_model(mask_rcnn(components=components), "meta")) == parameters


@pytest.mark.parametrize(("n", "millions"), [(0, 43.75), (1, 45.46), (2, 46.24), (4, 47.80), (6, 49.37)])
def test_parameters_of_n_interactions_are_the_paper_s(n, millions):
    indexes = [[12 * i // n, 12 * (i + 1) // n - 1] for i in range(n)]
    count = models.count_parameters(models.build_model(mask_rcnn(interaction_indexes=indexes), "meta"))
    assert round(count / 1e6, 2) == millions


def test_no_interaction_is_the_plain_vit_with_its_keys():
    spec = tiny(interaction_indexes=[])
    model, plain = built(spec), models.build_model(models.baseline_spec(spec))
    plain.load_state_dict(model.state_dict())
    image = torch.randn(1, 3, 64, 96)
    for ours, theirs in zip(model(image), plain(image), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("half", ["detection", "segmentation"])
@pytest.mark.parametrize("components", ["none", "spatial_prior", "injector"])
def test_parts_of_the_adapter_give_four_maps_that_they_change(components, half):
    spec = tiny(half, components=components)
    model = built(spec)
    image = torch.randn(1, 3, 64, 96)
    maps = model(image)
    assert [tuple(level.shape) for level in maps] == [(1, 32, 64 // s, 96 // s) for s in (4, 8, 16, 32)]
    plain = models.build_model(models.baseline_spec(spec))
    plain.load_state_dict({key: value for key, value in model.state_dict().items() if key in plain.state_dict()})
    change = max((ours - theirs).abs().max().item() for ours, theirs in zip(maps, plain(image), strict=True))
    assert change == 0 if components == "none" else change > 0.1


@pytest.mark.parametrize(
    "changes",
    [
        {"attention": "swin"},
        {"attention": None},
        {"components": "all"},
        {"components": "injector", "attention": "swin"},
        {"attention": "pale", "deform_num_heads": 1},
        {"attention_kind": "global"},
    ],
)
def test_unknown_values_are_refused(changes):
    with pytest.raises(UnsupportedModel):
        models.build_model(tiny(**changes), "meta")


def test_components_are_refused_where_there_is_no_such_model():
    beit = {"type": "BEiTAdapter", "window_attn": True, "components": "injector"}
    with pytest.raises(UnsupportedModel, match="not for BEiTAdapter"):
        models.build_model(replace(tiny(), backbone=TINY | beit), "meta")


def test_maps_of_patches_of_14_pixels_are_refused_by_stripes():
    levels = Levels.of([(4, 5)], "cpu")
    module = CrossAttention(16, 4, "cswin")
    pyramid = AdapterGeometry.of(64, 96, "cpu").pyramid
    with pytest.raises(UnsupportedModel, match="4x5 cells to be a multiple of 2"):
        module(torch.zeros(1, 20, 16), levels, torch.zeros(1, 126, 16), pyramid)


@pytest.mark.parametrize("kind", attention.DENSE)
def test_attention_types_export_with_parity(kind, tmp_path):
    from adapter_export import export

    spec = tiny(attention=kind)
    report = export(built(spec), spec, tmp_path / "model.onnx", size=(64, 96))
    assert report.msda_nodes == 0
    assert [difference.path for difference in report.parity.differences]  # compared, and within the tolerance


@pytest.mark.parametrize("components", ["spatial_prior", "injector"])
def test_parts_of_the_adapter_export_with_parity(components, tmp_path):
    from adapter_export import export

    spec = tiny(components=components)
    report = export(built(spec), spec, tmp_path / "model.onnx", size=(64, 96))
    assert report.msda_nodes == (4 if components == "injector" else 0)

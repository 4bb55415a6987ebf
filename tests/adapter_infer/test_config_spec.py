"""A configuration becomes the right ModelSpec, or a refusal that names what is wrong."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

import golden
from adapter_infer import config, presets
from adapter_infer.errors import UnsupportedModel
from adapter_infer.spec import Inference, ModelSpec, Preprocessing, from_json, to_json

TINY = """
norm_cfg = dict(type='SyncBN', requires_grad=True)
pretrained = open('weights.pth')
crop_size = (64, 64)
model = dict(
    type='EncoderDecoder',
    pretrained=pretrained,
    backbone=dict(
        type='ViTAdapter', img_size=(64, 64), pretrain_size=64, embed_dim=32, depth=4, num_heads=2, mlp_ratio=4,
        drop_path_rate=0.1, with_cp=True, conv_inplane=8, n_points=4, deform_num_heads=2, cffn_ratio=0.25,
        deform_ratio=1.0, interaction_indexes=[[0, 0], [1, 1], [2, 2], [3, 3]], window_attn=[False] * 4,
        window_size=[None] * 4),
    decode_head=dict(
        type='UPerHead', in_channels=[32] * 4, in_index=[0, 1, 2, 3], pool_scales=(1, 2, 3, 6), channels=24,
        dropout_ratio=0.1, num_classes=19, norm_cfg=norm_cfg, align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=make_weight())),
    auxiliary_head=dict(type='FCNHead', in_channels=32, in_index=2, channels=16, num_convs=1, concat_input=False,
        num_classes=19, norm_cfg=norm_cfg),
    train_cfg=dict(sampler=make()),
    test_cfg=dict(mode='slide', crop_size=crop_size, stride=(43, 42)))
img_norm_cfg = dict(mean=[127.5, 127.5, 127.5], std=[127.5, 1, 2.5], to_rgb=False)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='MultiScaleFlipAug', img_scale=[(2048, 512), (1024, 256)], flip=False, transforms=[
        dict(type='Resize', keep_ratio=True),
        dict(type='ResizeToMultiple', size_divisor=32),
        dict(type='RandomFlip'),
        dict(type='Normalize', **img_norm_cfg),
        dict(type='ImageToTensor', keys=['img']),
        dict(type='Collect', keys=['img'])])]
data = dict(train=dict(type='RepeatDataset', times=compute()), test=dict(type='CityscapesDataset',
    pipeline=test_pipeline))
"""


def spec_of(text: str, *, features_only: bool = False) -> ModelSpec:
    return config.spec_from_config(config.parse_config(text, "c.py"), "c.py", "c", features_only=features_only)


def changed(*changes: tuple[str, str]) -> str:
    text = TINY
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


def test_model_test_settings_pictures_and_classes_are_read() -> None:
    spec = spec_of(TINY)
    assert (spec.half, spec.name, spec.source, spec.num_classes) == ("segmentation", "c", "c.py", 19)
    assert spec.backbone["type"] == "ViTAdapter"
    assert (spec.backbone["img_size"], spec.backbone["window_attn"]) == (64, [False] * 4)
    assert not {"drop_path_rate", "with_cp"} & set(spec.backbone)
    assert spec.decode_head is not None
    assert spec.decode_head["pool_scales"] == [1, 2, 3, 6]
    assert not {"loss_decode", "dropout_ratio"} & set(spec.decode_head)
    assert [head["channels"] for head in spec.auxiliary_heads] == [16]
    assert spec.inference == Inference("slide", (64, 64), (43, 42))
    assert spec.preprocessing == Preprocessing(
        mean=(127.5, 127.5, 127.5), std=(127.5, 1.0, 2.5), to_rgb=False, scale=(2048, 512), size_divisor=32
    )
    assert spec.classes is not None
    assert spec.classes[0] == "road"
    assert spec.palette is not None
    assert (len(spec.palette), spec.palette[0]) == (19, (128, 64, 128))
    assert from_json(to_json(spec)) == spec


def test_features_need_no_supported_head() -> None:
    text = changed(("type='EncoderDecoder'", "type='MaskRCNN'"), ("decode_head=dict(", "rpn_head=dict("))
    with pytest.raises(UnsupportedModel, match=r"does not say how many classes its MaskRCNN has"):
        spec_of(text)
    spec = spec_of(text, features_only=True)
    assert (spec.half, spec.decode_head, spec.neck, spec.auxiliary_heads) == ("detection", None, None, ())
    assert spec.preprocessing is not None
    spec = spec_of(changed(("type='UPerHead'", "type='ASPPHead'")), features_only=True)
    assert (spec.half, spec.decode_head, spec.inference.crop) == ("segmentation", None, (64, 64))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([("model = dict(", "modell = dict(")], "has no model"),
        ([("model = dict(", "model = make(")], r"model is needed, but its value `make\(.*c.py:5.*not a literal"),
        ([("depth=4", "depth=DEPTH")], r"model.backbone.depth is needed, but its value `DEPTH` \(c.py:9\)"),
        ([("window_attn=[False] * 4", "window_attn=[flag()] * 4")], "window_attn is needed"),
        (
            [("type='EncoderDecoder'", "type='CascadeEncoderDecoder'")],
            "'CascadeEncoderDecoder' of c.py is not supported",
        ),
        ([("type='EncoderDecoder'", "type=kind()")], "model.type is needed"),
        ([("type='UPerHead'", "type='ASPPHead'")], "'ASPPHead' of c.py is not supported.*SETRUPHead"),
        ([("type='UPerHead'", "type='Mask2FormerHead'")], "num_things_classes of c.py is None"),
        (
            [("type='UPerHead'", "type='Mask2FormerHead', num_things_classes=0, num_stuff_classes=0")],
            "neither things nor stuff",
        ),
        (
            [("decode_head=dict(", "decode_head=[dict("), ("weight=make_weight()))", "weight=make_weight()))]")],
            "a list of",
        ),
        ([("type='ViTAdapter'", "type='ResNetV1c'")], "backbone type 'ResNetV1c'.*ViTAdapter"),
        ([("type='ViTAdapter', ", "")], "model.backbone of c.py has no type"),
        ([("num_classes=19, norm_cfg=norm_cfg, align", "norm_cfg=norm_cfg, align")], "num_classes of c.py is None"),
        ([("num_classes=19, norm_cfg=norm_cfg, align", "num_classes=True, align")], "num_classes of c.py is True"),
        ([("(64, 64), pretrain", "(64, 32), pretrain")], "img_size of c.py is .64, 32., not one positive"),
        ([(" num_heads=2", " num_heads=3")], "embed_dim 32 is not a multiple of num_heads 3"),
        ([(" num_heads=2", " num_heads=0")], "num_heads of c.py is 0"),
        ([(" num_heads=2", " num_heads=True")], "num_heads of c.py is True"),
        ([("n_points=4", "n_points='4'")], "n_points of c.py is '4'"),
        (
            [("window_attn=[False] * 4", "window_attn=[False, True, False, False]")],
            "windowed block has window_size None",
        ),
        ([("window_attn=[False] * 4", "window_attn=True")], "windowed block has window_size None"),
        ([("mode='slide'", "mode='both'")], "mode of c.py is 'both'"),
        ([("test_cfg=dict(mode='slide', crop_size=crop_size, stride=(43, 42))", "test_cfg=None")], "must be 'whole'"),
        ([("stride=(43, 42)", "stride=(65, 42)")], "leaves gaps"),
        ([("stride=(43, 42)", "stride=(0, 42)")], "not two positive whole numbers"),
        ([("stride=(43, 42)", "stride=(43, 42, 1)")], "not two positive whole numbers"),
        ([("crop_size=crop_size", "crop_size=size()")], "crop_size is needed"),
        ([("mean=[127.5, 127.5, 127.5]", "mean=[1, 2]")], "not three numbers"),
        ([("mean=[127.5, 127.5, 127.5]", "mean=[1, 2, '3']")], "not three numbers"),
        ([("mean=[127.5, 127.5, 127.5]", "mean=MEAN")], "mean is needed"),
        ([("SyncBN', requires_grad=True", "SyncBN', eps=1e-3")], "eps 0.001"),
        ([("norm_cfg = dict(type='SyncBN', requires_grad=True)", "norm_cfg = 'BN'")], "not a dict with a type"),
        ([("align_corners=False", "norm_layer=dict(type='LN', eps=1e-5)")], "eps 1e-6"),
        ([("depth=4", "depth=10**6")], "model.backbone.depth of c.py is 1000000"),
        ([("embed_dim=32", "embed_dim=10**9")], "model.backbone.embed_dim of c.py"),
        ([("embed_dim=32", "embed_dim=1e400")], "model.backbone.embed_dim of c.py"),
        ([("[[0, 0], [1, 1], [2, 2], [3, 3]]", "[[0, 3]] * 10**4")], "interaction_indexes.length of c.py is 10000"),
    ],
)
def test_refusals_name_what_is_wrong(changes: list[tuple[str, str]], said: str) -> None:
    with pytest.raises(UnsupportedModel, match=said) as refusal:
        spec_of(changed(*changes))
    assert "\n" not in str(refusal.value)
    assert refusal.value.exit_code == 3


def test_a_model_without_any_head_does_not_say_which_half_it_is() -> None:
    with pytest.raises(UnsupportedModel, match="segmentation or the detection"):
        config.spec_from_config({"model": {"backbone": {"type": "ViTAdapter"}}}, "c.py", features_only=True)


def test_a_pipeline_without_normalisation_leaves_preprocessing_unknown() -> None:
    assert spec_of(changed(("dict(type='Normalize', **img_norm_cfg),", ""))).preprocessing is None
    assert (
        spec_of(changed(("pipeline=test_pipeline", "pipeline=None"), ("test_pipeline =", "other ="))).preprocessing
        is None
    )


def test_without_a_resize_to_multiples_the_divisor_is_one() -> None:
    preprocessing = spec_of(changed(("dict(type='ResizeToMultiple', size_divisor=32),", ""))).preprocessing
    assert preprocessing is not None
    assert preprocessing.size_divisor == 1


def test_multi_scale_testing_is_read_as_its_single_scale() -> None:
    text = changed(
        ("dict(type='ResizeToMultiple', size_divisor=32),", ""),
        ("dict(type='Resize', keep_ratio=True)", "dict(type='SETR_Resize', keep_ratio=True, setr_multi_scale=True)"),
    )
    assert spec_of(text).preprocessing == spec_of(TINY).preprocessing


def test_newer_mmseg_names_are_read_too() -> None:
    text = changed(
        (
            "type='EncoderDecoder',",
            "type='EncoderDecoder', data_preprocessor=dict(type='S', mean=[1, 2, 3], std=[4, 5, 6], bgr_to_rgb=True),",
        ),
        ("test_pipeline = [", "old = ["),
        (
            "data = dict(train=dict(type='RepeatDataset', times=compute()), test=dict(type='CityscapesDataset',\n"
            "    pipeline=test_pipeline))",
            "test_dataloader = dict(dataset=dict(type='CityscapesDataset', pipeline=[dict(type='Resize', "
            "scale=(2048, 1024), keep_ratio=True)]))",
        ),
    )
    spec = spec_of(text)
    assert spec.preprocessing == Preprocessing((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), True, (2048, 1024), True, 1)
    assert spec.classes is not None


def test_own_class_names_replace_the_data_sets() -> None:
    names = [f"c{i}" for i in range(19)]
    spec = spec_of(changed(("type='CityscapesDataset',", f"type='CityscapesDataset', classes={names},")))
    assert (spec.classes, spec.palette) == (tuple(names), None)
    spec = spec_of(changed(("num_classes=19", "num_classes=7")))
    assert (spec.classes, spec.palette) == (None, None)


@pytest.mark.parametrize("name", golden.names("models", *golden.SEGMENTORS))
def test_golden_configuration_texts_say_what_their_model_dictionaries_say(name: str) -> None:
    torch = pytest.importorskip("torch")
    official = golden.config("models", name)
    text = torch.load(golden.folder("models", name) / "checkpoint.pth", weights_only=True)["meta"]["config"]
    read = spec_of(text)
    expected = config.spec_from_config(
        {"model": official["model"], "test_pipeline": official["test_pipeline"]}, "c.py", "c"
    )
    assert replace(read, classes=None, palette=None) == expected
    norm = official["img_norm_cfg"]
    assert read.preprocessing is not None
    assert (list(read.preprocessing.mean), list(read.preprocessing.std)) == (norm["mean"], norm["std"])
    assert read.num_classes == official["num_classes"]


def test_a_written_out_preset_reads_back_as_itself() -> None:
    """Each preset of a segmentor as a configuration in the official form gives its own spec."""
    for name, preset in presets.PRESETS.items():
        if preset.half != "segmentation" or preset.crop is None:
            continue
        normal = {"type": "Normalize", "mean": list(preset.mean), "std": list(preset.std), "to_rgb": True}
        steps = [
            {"type": "Resize", "keep_ratio": True},
            {"type": "ResizeToMultiple", "size_divisor": preset.divisor},
            normal,
        ]
        pipeline = [{"type": "MultiScaleFlipAug", "img_scale": preset.scale, "transforms": steps}]
        test = {"mode": "slide", "crop_size": (preset.crop,) * 2, "stride": (preset.stride,) * 2}
        model = {"type": "EncoderDecoder", "backbone": preset.backbone, "neck": preset.neck, "test_cfg": test}
        model |= {"decode_head": preset.decode_head, "auxiliary_head": list(preset.auxiliary_heads)}
        kind = presets.DATASETS[preset.dataset][0]
        text = f"model = {model!r}\ndata = dict(test=dict(type={kind!r}, pipeline={pipeline!r}))"
        read = config.spec_from_config(config.parse_config(text, "c.py"), f"preset {name}", name)
        assert asdict(read) == asdict(presets.spec(name))

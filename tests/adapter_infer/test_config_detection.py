"""An mmdet configuration becomes the right ModelSpec, or a refusal that names what is wrong."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from adapter_infer import config, models, presets
from adapter_infer.errors import UnsupportedModel
from adapter_infer.spec import Inference, ModelSpec, Preprocessing, from_json, to_json

BACKBONE = """dict(
        type='ViTAdapter', embed_dim=32, depth=4, num_heads=2, mlp_ratio=4, drop_path_rate=0.2, conv_inplane=8,
        n_points=4, deform_num_heads=2, cffn_ratio=0.25, deform_ratio=1.0, pretrained=open('weights.pth'),
        interaction_indexes=[[0, 0], [1, 1], [2, 2], [3, 3]], window_attn=[True, False] * 2,
        window_size=[14, None] * 2)"""
NECK = "dict(type='FPN', in_channels=[32] * 4, out_channels=16, num_outs=5)"
MASK_RCNN = f"""
coder = dict(type='DeltaXYWHBBoxCoder', target_means=[.0, .0, .0, .0], target_stds=[1.0, 1.0, 1.0, 1.0])
extractor = dict(type='SingleRoIExtractor', roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0),
    out_channels=16, featmap_strides=[4, 8, 16, 32])
box_head = dict(type='Shared2FCBBoxHead', in_channels=16, fc_out_channels=24, roi_feat_size=7, num_classes=80,
    bbox_coder=coder, reg_class_agnostic=False, loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False),
    loss_bbox=dict(type='L1Loss', loss_weight=weigh()))
model = dict(
    type='MaskRCNN',
    pretrained=None,
    backbone={BACKBONE},
    neck={NECK},
    rpn_head=dict(type='RPNHead', in_channels=16, feat_channels=16,
        anchor_generator=dict(type='AnchorGenerator', scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64]),
        bbox_coder=coder, loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0)),
    roi_head=dict(type='StandardRoIHead', bbox_roi_extractor=extractor, bbox_head=box_head,
        mask_roi_extractor=dict(extractor, roi_layer=dict(type='RoIAlign', output_size=14, sampling_ratio=0)),
        mask_head=dict(type='FCNMaskHead', num_convs=2, in_channels=16, conv_out_channels=16, num_classes=80)),
    train_cfg=dict(rpn=make()),
    test_cfg=dict(
        rpn=dict(nms_pre=100, max_per_img=50, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0),
        rcnn=dict(score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=20, mask_thr_binary=0.5)))
img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='MultiScaleFlipAug', img_scale=(1333, 800), flip=False, transforms=[
        dict(type='Resize', keep_ratio=True),
        dict(type='RandomFlip'),
        dict(type='Normalize', **img_norm_cfg),
        dict(type='Pad', size_divisor=32),
        dict(type='ImageToTensor', keys=['img']),
        dict(type='Collect', keys=['img'])])]
data = dict(train=load(), test=dict(type='CocoDataset', pipeline=test_pipeline))
"""
SPARSE_RCNN = f"""
stages = 2
coder = dict(type='DeltaXYWHBBoxCoder', clip_border=False, target_means=[0., 0., 0., 0.],
    target_stds=[0.5, 0.5, 1., 1.])
model = dict(
    type='SparseRCNN', backbone={BACKBONE}, neck={NECK.replace("num_outs=5", "num_outs=4")},
    rpn_head=dict(type='EmbeddingRPNHead', num_proposals=12, proposal_feature_channel=16),
    roi_head=dict(type='SparseRoIHead', num_stages=stages, stage_loss_weights=[1] * stages,
        proposal_feature_channel=16,
        bbox_roi_extractor=dict(type='SingleRoIExtractor', out_channels=16, featmap_strides=[4, 8, 16, 32],
            roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=2)),
        bbox_head=[dict(type='DIIHead', num_classes=5, num_ffn_fcs=2, num_heads=2, num_cls_fcs=1, num_reg_fcs=1,
            feedforward_channels=24, in_channels=16, dropout=0.0, ffn_act_cfg=dict(type='ReLU', inplace=True),
            dynamic_conv_cfg=dict(type='DynamicConv', in_channels=16, feat_channels=4, out_channels=16,
                input_feat_shape=7, act_cfg=dict(type='ReLU', inplace=True), norm_cfg=dict(type='LN')),
            loss_cls=dict(type='FocalLoss', use_sigmoid=True), bbox_coder=coder) for _ in range(stages)]),
    test_cfg=dict(rpn=None, rcnn=dict(max_per_img=12)))
"""


def spec_of(text: str, **options: bool) -> ModelSpec:
    return config.spec_from_config(config.parse_config(text, "c.py"), "c.py", "c", **options)


def changed(*changes: tuple[str, str]) -> ModelSpec:
    text = MASK_RCNN
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return spec_of(text)


def test_the_detector_its_pictures_and_its_classes_are_read() -> None:
    spec = spec_of(MASK_RCNN)
    assert (spec.half, spec.task, spec.kind, spec.num_classes) == ("detection", "detection", "MaskRCNN", 80)
    assert (spec.neck, spec.decode_head, spec.auxiliary_heads) == (None, None, ())
    assert spec.inference == Inference("whole")
    assert spec.preprocessing == Preprocessing(scale=(1333, 800), size_divisor=32, pad=True)
    assert spec.classes == presets.spec("mask_rcnn_deit_tiny_fpn_3x_coco").classes
    assert spec.palette is not None
    assert spec.detector is not None
    assert set(spec.detector) == {"type", "neck", "rpn_head", "roi_head", "test_cfg"}
    assert not {"loss_cls", "loss_bbox"} & set(spec.detector["roi_head"]["bbox_head"])
    assert spec.detector["roi_head"]["mask_roi_extractor"]["roi_layer"]["output_size"] == 14
    assert from_json(to_json(spec)) == spec
    model = models.build_model(spec, device="meta")
    assert model.state_dict()["roi_head.bbox_head.fc_cls.weight"].shape == (81, 24)
    features = spec_of(MASK_RCNN, features_only=True)
    assert (features.detector, features.task, features.half) == (None, "features", "detection")
    assert features.preprocessing == spec.preprocessing


def test_stages_written_as_a_loop_are_read() -> None:
    spec = spec_of(SPARSE_RCNN)
    assert (spec.kind, spec.num_classes, spec.preprocessing) == ("SparseRCNN", 5, None)
    assert spec.detector is not None
    heads = spec.detector["roi_head"]["bbox_head"]
    assert len(heads) == 2
    assert heads[0] == heads[1]
    assert models.build_model(spec, device="meta").state_dict()["rpn_head.init_proposal_bboxes.weight"].shape == (12, 4)


def test_test_settings_beside_the_model_are_its_own_and_a_test_loop_is_not() -> None:
    start = MASK_RCNN.index("    test_cfg=dict(")
    end = MASK_RCNN.index("img_norm_cfg")
    settings = MASK_RCNN[start:end].strip().removesuffix(")")
    beside = MASK_RCNN[:start] + ")\n" + settings + "\n" + MASK_RCNN[end:]
    assert asdict(spec_of(beside)) == asdict(spec_of(MASK_RCNN))
    with pytest.raises(UnsupportedModel, match=r"c.py has no model.test_cfg, which says how MaskRCNN selects"):
        spec_of(MASK_RCNN[:start] + ")\ntest_cfg = dict(type='TestLoop')\n" + MASK_RCNN[end:])


def test_the_newer_generation_writes_its_pictures_otherwise() -> None:
    model = MASK_RCNN[: MASK_RCNN.index("img_norm_cfg")]
    newer = "data_preprocessor=dict(type='DetDataPreprocessor', mean=[1, 2, 3], std=[4, 5, 6], bgr_to_rgb=False, "
    model = model.replace("    pretrained=None,", f"    {newer}pad_mask=True, pad_size_divisor=64),")
    text = model + (
        "test_pipeline = [dict(type='LoadImageFromFile', backend_args=None), dict(type='Resize', scale=(640, 480), "
        "keep_ratio=True), dict(type='PackDetInputs')]\n"
        "test_dataloader = dict(batch_size=1, dataset=dict(type='CocoDataset', pipeline=test_pipeline, "
        "metainfo=dict(classes=tuple(['thing'] * 80))))\ntest_cfg = dict(type='TestLoop')"
    )
    spec = spec_of(text)
    assert spec.preprocessing == Preprocessing((1, 2, 3), (4, 5, 6), False, (640, 480), True, 64, True)
    assert spec.classes == ("thing",) * 80


def test_the_multi_scale_test_is_the_same_network() -> None:
    several = changed(
        ("img_scale=(1333, 800)", "img_scale=[(1333, 600), (1333, 800)]"), ("size_divisor=32", "size_divisor=64")
    )
    assert several.preprocessing is not None
    assert (several.preprocessing.scale, several.preprocessing.size_divisor) == ((1333, 600), 64)
    unpadded = changed(("        dict(type='Pad', size_divisor=32),\n", ""))
    assert unpadded.preprocessing is not None
    assert unpadded.preprocessing.size_divisor == 32


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            [("type='MaskRCNN'", "type='FasterRCNN'")],
            r"'FasterRCNN' of c.py is not supported \(supported: MaskRCNN, Ca",
        ),
        ([("type='MaskRCNN'", "type=kind()")], "model.type is needed"),
        ([("rpn_head=dict(", "rpn_head=make(")], r"model.rpn_head is needed, but its value `make\(.*never executed"),
        ([("num_classes=80,\n    bbox_coder", "bbox_coder")], r"does not say how many classes its MaskRCNN.*num_cl"),
        ([("num_classes=80,\n", "num_classes=0,\n")], r"class count of c.py is \[0\]"),
        ([("num_classes=80,\n", "num_classes='80',\n")], r"class count of c.py is \['80'\]"),
        ([("num_classes=80,\n", "num_classes=[80],\n")], "does not say how many classes"),
        ([("bbox_head=box_head", "bbox_head=[]")], "does not say how many classes"),
        ([("bbox_head=box_head", "bbox_head=7")], "does not say how many classes"),
        ([("fc_out_channels=24", "fc_out_channels=10**9")], "fc_out_channels of c.py is 1000000000, beyond any model"),
        ([("num_convs=2", "num_convs=600")], "num_convs of c.py is 600, beyond any model .512"),
        ([("max_per_img=50", "max_per_img=10**30")], "max_per_img of c.py is 1"),
        ([("neck=dict", "neck=[dict()] * 9 or dict")], "model.neck is needed|9 parts"),
        ([(NECK, f"[{NECK}] * 9")], "model.neck of c.py has 9 parts, beyond any model"),
        ([("[4, 8, 16, 32, 64]", "[4] * 600")], "strides.length of c.py is 600"),
        ([("mean=[123.675, ", "mean=[10 ** 400, ")], "Normalize.mean of the test pipeline is .*not three numbers"),
        ([("std=[58.395, ", "std=[0, ")], r"Normalize.std of the test pipeline is \(0.0, 57.12, 57.375\), by which"),
        ([("mean=[123.675, ", "mean=[")], "Normalize.mean of the test pipeline is .*not three numbers"),
        ([("img_scale=(1333, 800)", "img_scale=(1333, 0)")], "img_scale of the test pipeline is .*not two positive"),
        ([("dict(type='Pad', size_divisor=32)", "dict(type='Pad', size=(1024, 1024))")], "to a fixed size or a square"),
        (
            [("size_divisor=32", "size_divisor=32, pad_val=dict(img=114)")],
            "pads with 114; supported: 0",
        ),
        ([("size_divisor=32", "size_divisor='32'")], "size_divisor of the test pipeline is '32'"),
        (
            [
                ("        dict(type='Pad', size_divisor=32),\n", ""),
                (
                    "        dict(type='Normalize'",
                    "        dict(type='Pad', size_divisor=32),\n        dict(type='Normalize'",
                ),
            ],
            "pads before it normalises",
        ),
    ],
)
def test_what_is_wrong_is_named(changes: list[tuple[str, str]], said: str) -> None:
    with pytest.raises(UnsupportedModel, match=said) as refusal:
        changed(*changes)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            [("loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False)", "loss_cls=dict(use_sigmoid=True)")],
            "use_sigm",
        ),
        ([("use_sigmoid=True, loss_weight=1.0", "use_sigmoid=False")], "use_sigmoid=False; supported: True"),
        ([("type='RoIAlign', output_size=7", "type='RoIPool', output_size=7")], "type='RoIPool'; supported: RoIAlign"),
        ([("    pretrained=None,", "    mask_iou_head=dict(),")], "unsupported settings: mask_iou_head"),
        ([("score_thr=0.05", "score_thr='low'")], "score_thr='low'; supported: numbers"),
        ([("num_outs=5", "num_outs=4")], "anchors for 5 maps; supported: 4"),
    ],
)
def test_what_the_reader_passes_on_the_builder_refuses_by_name(changes: list[tuple[str, str]], said: str) -> None:
    with pytest.raises(UnsupportedModel, match=said):
        models.build_model(changed(*changes), device="meta")


@pytest.mark.parametrize(
    "name",
    [
        "atss_deit_adapter_small_fpn_3x_coco",
        "htc++_beit_adapter_large_fpn_3x_coco_old",
        "mask2former_beitv2_adapter_large_16x1_3x_coco-panoptic",
        "mask_rcnn_augreg_adapter_large_fpn_1x_coco",
    ],
)
def test_a_written_out_preset_reads_back_as_itself(name: str) -> None:
    spec, preset = presets.spec(name), presets.PRESETS[name]
    normal = {"type": "Normalize", "mean": list(preset.mean), "std": list(preset.std), "to_rgb": True}
    steps = [{"type": "Resize", "keep_ratio": True}, normal, {"type": "Pad", "size_divisor": 32}]
    pipeline = [{"type": "MultiScaleFlipAug", "img_scale": preset.scale, "transforms": steps}]
    model = {"backbone": preset.backbone, **(preset.detector or {})}
    kind = presets.DATASETS[preset.dataset][0]
    text = f"model = {model!r}\ndata = dict(test=dict(type={kind!r}, pipeline={pipeline!r}))"
    read = config.spec_from_config(config.parse_config(text, "c.py"), f"preset {name}", name)
    assert asdict(read) == asdict(spec)

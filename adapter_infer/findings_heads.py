"""What tensor names and shapes say of a decode head or a detector, and what they cannot say. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from adapter_infer.findings_adapter import numbered
from adapter_infer.spec import DETECTION_PARTS, ModelSpec

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

DETECTION_PREFIXES = tuple(f"{part}." for part in DETECTION_PARTS)
SEGMENTATION_FACTS = frozenset({"decode_head", "num_classes", "head_channels", "num_queries"})
DETECTOR_FACTS = frozenset(
    {
        "detector",
        "num_classes",
        "num_queries",
        "neck",
        "neck_channels",
        "neck_norm",
        "stages",
        "box_convs",
        "shared_boxes",
        "masks",
    }
    | {"semantic_classes", "reg_max"}
)

# The tensor that only this decode head has; without `decode_head.`.
_DECODE_HEADS = {
    "UPerHead": "psp_modules.0.1.conv.weight",
    "FPNHead": "scale_heads.0.0.conv.weight",
    "SETRUPHead": "up_convs.0.0.conv.weight",
    "Mask2FormerHead": "query_feat.weight",
}
# The tensor that only this detector has; the first that is found decides.
_DETECTORS = {
    "Mask2Former": "panoptic_head.query_feat.weight",
    "ATSS": "bbox_head.atss_cls.weight",
    "GFL": "bbox_head.gfl_cls.weight",
    "SparseRCNN": "roi_head.bbox_head.0.instance_interactive_conv.dynamic_layer.weight",
    "HybridTaskCascade": "roi_head.semantic_head.conv_logits.weight",
    "CascadeRCNN": "roi_head.bbox_head.0.fc_cls.weight",
    "MaskRCNN": "roi_head.bbox_head.fc_cls.weight",
}
# The tensor of the neck that has this name; a list of necks is numbered.
_NECKS = {
    "ExtraAttention + FPN": "neck.1.lateral_convs.0.conv.weight",
    "FPN": "neck.lateral_convs.0.conv.weight",
    "ChannelMapperWithPooling": "neck.convs.0.conv.weight",
}
_WIDTHS = ("channels", "feat_channels", "hidden_dim")  # what decode heads call their own width
_SELECTION = "score threshold, NMS and the most detections of a picture"


def head_facts(shapes: Shapes) -> dict[str, Any]:
    """The facts about a decode head or a detector; {} where there is neither."""
    if any(name.startswith("decode_head.") for name in shapes):
        return _decode_head(shapes)
    if any(name.startswith(DETECTION_PREFIXES) for name in shapes):
        return {"half": "detection"} | _detector(shapes)
    return {}


def head_missing(decode_head: str | None, detector: str | None) -> list[str]:
    """What a head needs and its tensors do not hold."""
    missing = []
    if "Mask2Former" in f"{decode_head} {detector}":
        missing.append("the head's numbers of attention heads and groups")
    if decode_head:
        missing.append("align_corners, crop, stride and test size")
    if detector in {"MaskRCNN", "CascadeRCNN", "HybridTaskCascade"}:
        missing += ["anchors, the units of boxes, sampling of regions", f"the RPN's and the last stage's {_SELECTION}"]
    elif detector == "SparseRCNN":
        missing += ["attention heads, the units of boxes, sampling of regions", "the most detections of a picture"]
    elif detector in {"ATSS", "GFL"}:
        missing += ["anchors", _SELECTION]
    elif detector == "Mask2Former":
        missing += ["how the classes divide into things and stuff", "thresholds of scores and overlaps"]
    return missing + (["test size"] if detector else [])


def expected_head(spec: ModelSpec) -> dict[str, Any]:
    """The facts that the tensors of the head of `spec` would show. Errors: LookupError, TypeError if it is broken."""
    head = spec.head
    if head is None:
        return {}
    facts: dict[str, Any] = {"num_classes": spec.num_classes}
    if spec.detector is not None:
        return facts | _expected_detector(spec.detector, head)
    facts |= {"decode_head": head["type"], "detector": None}
    facts["head_channels"] = int(next((head[key] for key in _WIDTHS if key in head), ""))
    return facts | ({"num_queries": int(head["num_queries"])} if "num_queries" in head else {})


# --- from tensors ---


def _decode_head(shapes: Shapes) -> dict[str, Any]:
    facts: dict[str, Any] = {"half": "segmentation", "decode_head": "unknown"}
    for kind, sign in _DECODE_HEADS.items():
        if f"decode_head.{sign}" in shapes:
            facts["decode_head"] = kind
    classifier = shapes.get("decode_head.conv_seg.weight")
    if classifier is not None and len(classifier) == 4:
        facts |= {"num_classes": classifier[0], "head_channels": classifier[1]}
    if "neck.lateral_convs.0.conv.weight" in shapes:
        facts["neck"] = "FPN"
    return facts | _queries(shapes, "decode_head")


def _queries(shapes: Shapes, part: str) -> dict[str, Any]:
    queries, scores = shapes.get(f"{part}.query_feat.weight"), shapes.get(f"{part}.cls_embed.weight")
    if queries is None or scores is None or not len(queries) == len(scores) == 2:
        return {}
    return {"num_classes": scores[0] - 1, "head_channels": scores[1], "num_queries": queries[0]}


def _detector(shapes: Shapes) -> dict[str, Any]:
    facts: dict[str, Any] = {"detector": next((kind for kind, sign in _DETECTORS.items() if sign in shapes), "unknown")}
    for kind, sign in _NECKS.items():
        if sign in shapes:
            facts |= {"neck": kind, "neck_channels": shapes[sign][0]}
            norms = (norm for norm in ("bn", "gn") if sign.replace("conv.weight", f"{norm}.weight") in shapes)
            facts["neck_norm"] = next(norms, None)
    if facts["detector"] == "unknown":
        return facts
    kind, rows = facts["detector"], {name: shape[0] for name, shape in shapes.items() if shape}
    if kind == "Mask2Former":
        return facts | _queries(shapes, "panoptic_head")
    if kind in {"ATSS", "GFL"}:
        facts["num_classes"] = rows[_DETECTORS[kind]]
        bins = rows.get("bbox_head.gfl_reg.weight")
        return facts if bins is None else facts | {"reg_max": bins // 4 - 1}
    box = "roi_head.bbox_head" if kind == "MaskRCNN" else "roi_head.bbox_head.0"
    if kind != "MaskRCNN":
        facts["stages"] = numbered(shapes, r"roi_head\.bbox_head\.(\d+)\.")
    if kind == "SparseRCNN":  # a sigmoid for each class
        found = {
            "num_classes": rows[f"{box}.fc_cls.weight"],
            "num_queries": rows["rpn_head.init_proposal_bboxes.weight"],
        }
        return facts | found
    facts |= {
        "num_classes": rows[f"{box}.fc_cls.weight"] - 1,  # the last one: background
        "box_convs": numbered(shapes, rf"{re.escape(box)}\.shared_convs\.(\d+)\."),
        "shared_boxes": rows.get(f"{box}.fc_reg.weight") == 4,
        "masks": any(name.startswith("roi_head.mask_head.") for name in shapes),
    }
    return facts | ({"semantic_classes": rows[_DETECTORS[kind]]} if kind == "HybridTaskCascade" else {})


# --- from a configuration ---


def _expected_detector(detector: Mapping[str, Any], head: Mapping[str, Any]) -> dict[str, Any]:
    kind = str(detector["type"]).removesuffix("Aug")
    facts: dict[str, Any] = {"detector": kind, "decode_head": None, "half": "detection"}
    necks = detector.get("neck") or []
    necks = necks if isinstance(necks, list) else [necks]
    facts["neck"] = " + ".join(neck["type"] for neck in necks) or None
    facts["neck_channels"] = int(necks[-1]["out_channels"]) if necks else None
    norm = (necks[-1].get("norm_cfg") or {}).get("type") if necks else None
    facts["neck_norm"] = norm and ("gn" if norm == "GN" else "bn")
    if kind == "Mask2Former":
        return facts | {"num_queries": int(head["num_queries"]), "head_channels": int(head["feat_channels"])}
    if kind in {"ATSS", "GFL"}:
        return facts | ({"reg_max": int(head.get("reg_max", 16))} if kind == "GFL" else {})
    if kind != "MaskRCNN":
        facts["stages"] = int(detector["roi_head"]["num_stages"])
    if kind == "SparseRCNN":
        return facts | {"num_queries": int(detector["rpn_head"]["num_proposals"])}
    if kind == "HybridTaskCascade":
        facts["semantic_classes"] = int(detector["roi_head"]["semantic_head"]["num_classes"])
    convs = {"Shared2FCBBoxHead": 0, "Shared4Conv1FCBBoxHead": 4}.get(str(head["type"]), head.get("num_shared_convs"))
    return facts | {
        "box_convs": int(convs or 0),
        "shared_boxes": bool(head.get("reg_class_agnostic", False)),
        "masks": bool(detector["roi_head"].get("mask_head")),
    }

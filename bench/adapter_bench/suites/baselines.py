"""ViT, ViTDet and ViT-Adapter at T, S, B and L, and hierarchical backbones, all with the same Semantic FPN head.

All rows run in PyTorch eager, the one runtime that they have in common.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from adapter_bench.suites.layout import Column, Data, Row, Suite
from adapter_bench.suites.work import MEASURE, changed, data
from adapter_infer import presets
from adapter_infer.spec import ModelSpec

SIZES = {"T": "tiny", "S": "small", "B": "base", "L": "large"}
SIDE = {False: 512, True: 128}
WORK = "adapter_bench.suites.hierarchical"
# Semantic FPN's parameters (M) in the paper's ADE20K table.
PAPER = {
    "ViT": {"T": 10.2, "S": 27.8, "B": 98.0},
    "ViT-Adapter": {"T": 12.2, "S": 31.9, "B": 104.6, "L": 332.0},
}
PAPER_HIERARCHICAL = {"PVTv2-B2": 29.1, "Swin-T": 31.9, "Swin-B": 91.2}
QUICK_HIERARCHICAL = ("PVTv2-B1", "Swin-T", "ConvNeXt-T", "FocalNet-T")
REMARKS = (
    "All rows in PyTorch eager with random weights, so that backbones from other libraries stand on equal ground.",
    "ViTDet as in the paper: windows of 14x14 cells but for every last block of four groups, all maps from the last "
    "block.",
)


def columns(side: int) -> tuple[Column, ...]:
    at = f"{side}x{side}"
    return (
        Column("params", "parameters", "M", "lower"),
        Column("params_residual", "parameters less the published", "M"),
        Column("macs", f"MACs, {at}", "G", "lower"),
        Column("latency_ms", f"median latency, {at}", "ms", "lower"),
        Column("fps", f"images per second, {at}", "1/s", "higher"),
        Column("peak_memory", "peak memory", "MiB", "lower"),
    )


def plain(size: str) -> ModelSpec:
    return presets.spec(f"semfpn_vit_{SIZES[size]}_512_ade20k")


def adapter(size: str) -> ModelSpec:
    return presets.spec(f"semfpn_vit_adapter_{SIZES[size]}_512_ade20k")


def vitdet(size: str) -> ModelSpec:
    """The plain ViT's neck and head on ViTDet's backbone."""
    backbone = presets.spec(f"mask_rcnn_vitdet_{SIZES[size]}_paper").backbone
    return changed(replace(plain(size), backbone={}, half="detection"), **backbone)


def suite(name: str, quick: bool) -> Suite:
    from adapter_bench.suites import hierarchical

    side = SIDE[quick]
    rows = []
    for size in ("T", "S") if quick else SIZES:
        for title, make in (("ViT", plain), ("ViTDet", vitdet), ("ViT-Adapter", adapter)):
            paper = PAPER.get(title, {}).get(size)
            rows.append(_row(f"{title}-{size}", size, make(size), side, paper))
    for title in QUICK_HIERARCHICAL if quick else hierarchical.FAMILIES:
        arguments: dict[str, Any] = {"name": title, "size": [side, side]}
        published = {"params": PAPER_HIERARCHICAL[title]} if title in PAPER_HIERARCHICAL else {}
        rows.append(Row(title, "hierarchical", f"{WORK}:measured", arguments, published))
    for title, reason in hierarchical.MISSING.items():
        rows.append(Row(title, "hierarchical", f"{WORK}:unavailable", {"reason": reason}))
    return Suite(name, "Backbones with Semantic FPN", columns(side), tuple(rows), REMARKS)


def _row(title: str, size: str, spec: ModelSpec, side: int, paper: float | None) -> Row:
    arguments: Data = {"spec": data(spec), "size": [side, side], "runtime": "pytorch", "flops": True}
    arguments |= {"counted": data(spec), "counted_size": [512, 512]}
    return Row(title, f"plain, {size}", MEASURE, arguments, {} if paper is None else {"params": paper})

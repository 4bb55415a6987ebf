"""The paper's ablations of ViT-Adapter-S with Mask R-CNN: interactions, components, attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from adapter_bench.suites.layout import Column, Row, Suite
from adapter_bench.suites.work import MEASURE, backbone_alone, changed, data
from adapter_infer import attention, presets, vit_adapter

PRESET = "mask_rcnn_deit_adapter_small_fpn_3x_coco"
DEPTH = 12
COUNTED_SIZE = [1280, 800]  # as the official script counts
SIZE = [800, 1280]
QUICK = [256, 384]

# Name of a row, settings of the adapter, published parameters (M) and MACs (G).
Case = tuple[str, dict[str, Any], dict[str, float]]


def _interactions() -> list[Case]:
    published = {0: 43.8, 1: 45.5, 2: 46.2, 4: 47.8, 6: 49.4}
    return [(f"N = {n}", {"interaction_indexes": groups(n)}, {"params": m}) for n, m in published.items()]


def groups(n: int, depth: int = DEPTH) -> list[list[int]]:
    """The first and the last block of each of `n` equal groups; [] for none, which is the plain ViT."""
    return [[depth * i // n, depth * (i + 1) // n - 1] for i in range(n)]


def _components() -> list[Case]:
    titles = ("ViT-S", "+ spatial prior, added", "+ injectors", "+ extractors (ViT-Adapter-S)")
    published: tuple[dict[str, float], ...] = (
        {"params": 43.8},
        {},
        {"params": 46.6},
        {"params": 47.8, "macs_paper": 403},
    )
    rows = zip(titles, vit_adapter.COMPONENTS, published, strict=True)
    return [(title, {"components": value}, paper) for title, value, paper in rows]


def _attention() -> list[Case]:
    published = {"global": (50.3, 1080), "cswin": (50.3, 456), "pale": (50.3, 458), attention.DEFORMABLE: (47.8, 403)}
    titles = {"global": "global", "cswin": "CSwin", "pale": "Pale", attention.DEFORMABLE: "deformable"}
    return [(titles[kind], {"attention": kind}, {"params": m, "macs_paper": g}) for kind, (m, g) in published.items()]


# suite: title, its cases, remarks
TABLES: dict[str, tuple[str, Callable[[], list[Case]], tuple[str, ...]]] = {
    "interactions": ("Number of interactions", _interactions, ()),
    "components": (
        "Components",
        _components,
        ("The variants' code is not published; adapter_infer.ablation says how they are made here.",),
    ),
    "attention": (
        "Attention in injectors and extractors",
        _attention,
        (
            "How CSwin and Pale attend between grids of different size is not published; adapter_infer.attention says "
            "how they do here. With that the MACs of global and CSwin come out, those of Pale but for the residual.",
        ),
    ),
}


def columns(size: list[int]) -> tuple[Column, ...]:
    at = f"backbone at {size[0]}x{size[1]}"
    return (
        Column("params", "parameters with Mask R-CNN", "M", "lower"),
        Column("params_residual", "parameters less the published", "M"),
        Column("macs_paper", "MACs with Mask R-CNN by the paper's rule, 1280x800", "G", "lower"),
        Column("macs_paper_residual", "MACs less the published", "G"),
        Column("latency_ms", f"median latency, {at}", "ms", "lower"),
        Column("fps", f"images per second, {at}", "1/s", "higher"),
        Column("peak_memory", f"peak memory, {at}", "MiB", "lower"),
        Column("run_memory", f"peak memory while running, {at}", "MiB", "lower"),
        Column("file", "exported backbone", "MiB", "lower"),
    )


def suite(name: str, quick: bool) -> Suite:
    title, cases, remarks = TABLES[name]
    size = QUICK if quick else SIZE
    detector = presets.spec(PRESET)
    rows = []
    for row, settings, paper in cases():
        spec = changed(detector, **settings)
        arguments = {"counted": data(spec), "counted_size": COUNTED_SIZE}
        arguments |= {"spec": data(backbone_alone(spec)), "size": size}
        rows.append(Row(row, "ViT-Adapter-S, Mask R-CNN", MEASURE, arguments, paper))
    remarks += ("A residual is 0 where ours rounds to the published figure at its printed digits.",)
    return Suite(name, title, columns(size), tuple(rows), remarks)

"""How latency and memory grow with the picture and the batch, for deformable against global attention."""

from __future__ import annotations

import math
from collections.abc import Sequence

from adapter_bench.suites.layout import Column, Data, Row, Suite
from adapter_bench.suites.work import MEASURE, backbone_alone, changed, data
from adapter_infer import attention, presets
from adapter_infer.spec import ModelSpec

PRESETS = {
    False: "mask_rcnn_deit_adapter_small_fpn_3x_coco",
    True: "mask_rcnn_deit_adapter_tiny_fpn_3x_coco",
}
KINDS = (attention.DEFORMABLE, "global")
SIDES = {False: (256, 384, 512, 768, 1024, 1536, 2048), True: (128, 192, 256, 384)}
BATCHES = {False: (1, 2, 4, 8, 16, 32), True: (1, 2, 4)}
BATCH_SIDE = {False: 256, True: 128}
COLUMNS = (
    Column("side", "side of the picture", "pixel"),
    Column("batch", "batch", ""),
    Column("latency_ms", "median latency of the batch", "ms", "lower"),
    Column("fps", "images per second", "1/s", "higher"),
    Column("peak_memory", "peak memory", "MiB", "lower"),
    Column("activations", "memory of the run", "MiB", "lower"),
    Column("macs", "MACs per image", "G", "lower"),
    Column("latency_exponent", "latency grows with the power", "", "lower"),
    Column("activations_exponent", "memory of the run grows with the power", "", "lower"),
    Column("latency_exponent_last", "latency, between the two largest", "", "lower"),
)
REMARKS = (
    "The backbone as in the paper's detectors: windows of 14x14 cells but for every third block, which is global, so "
    "the plain ViT's share grows faster than linearly too.",
    "Growth is a straight line through the logarithms of latency (or memory) and of pixels per run, by least squares; "
    "1 is linear.",
    "Memory of the run: highest while running less that after loading.",
)


def suite(name: str, quick: bool) -> Suite:
    base = backbone_alone(presets.spec(PRESETS[quick]))
    rows = []
    for kind in KINDS:
        spec = changed(base, attention=kind)
        rows += [_row(kind, spec, side, 1, "picture") for side in SIDES[quick]]
        rows += [_row(kind, spec, BATCH_SIDE[quick], batch, "batch") for batch in BATCHES[quick]]
    size = "T" if quick else "S"
    return Suite(name, f"Growth of ViT-Adapter-{size}", COLUMNS, tuple(rows), REMARKS, growth)


def _row(kind: str, spec: ModelSpec, side: int, batch: int, axis: str) -> Row:
    arguments = {"spec": data(spec), "size": [side, side], "batch": batch, "flops": True}
    arguments["needed_bytes"] = needed_bytes(spec, side, batch)
    name = f"{side}x{side}" if axis == "picture" else f"batch {batch}"
    return Row(name, f"{kind}, larger {'pictures' if axis == 'picture' else 'batches'}", MEASURE, arguments)


def needed_bytes(spec: ModelSpec, side: int, batch: int) -> int:
    """Of the largest single attention: its logits and their softmax in fp32. A lower bound of what a run needs."""
    tokens, heads = (side // 16) ** 2, spec.backbone["num_heads"]
    largest = tokens * tokens * heads
    if spec.backbone["attention"] == "global":
        largest = max(largest, tokens * (21 * tokens // 4) * spec.backbone["deform_num_heads"])
    return batch * largest * 4 * 2


def growth(rows: Sequence[Data]) -> list[Data]:
    """A row for each group with at least two measured ones: the exponents over pixels per run."""
    found = []
    for group in dict.fromkeys(row["group"] for row in rows):
        done = [row for row in rows if row["group"] == group and row["status"] == "ok"]
        points = [(row["values"]["side"] ** 2 * row["values"]["batch"], row["values"]) for row in done]
        values: dict[str, float | None] = {column.key: None for column in COLUMNS}
        for key in ("latency_ms", "activations"):
            curve = [(pixels, told[key]) for pixels, told in points if told[key]]
            name = "latency_exponent" if key == "latency_ms" else "activations_exponent"
            values[name] = exponent(curve)
            if key == "latency_ms":
                values["latency_exponent_last"] = exponent(sorted(curve)[-2:])
        if values["latency_exponent"] is None:
            continue
        row = {"name": group, "group": "growth", "status": "ok", "reason": "", "values": values, "paper": {}}
        found.append(row | {"results": []})
    return found


def exponent(points: Sequence[tuple[float, float]]) -> float | None:
    """The slope of log(y) over log(x), None for fewer than two different x."""
    logs = [(math.log(x), math.log(y)) for x, y in points]
    if len({x for x, _ in logs}) < 2:
        return None
    mean_x, mean_y = (sum(values) / len(logs) for values in zip(*logs, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / sum((x - mean_x) ** 2 for x, _ in logs)

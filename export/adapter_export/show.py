"""What the command prints: the finished export, the inspected checkpoint, the presets; as lines or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_infer.files import replacing
from adapter_infer.spec import ModelSpec

if TYPE_CHECKING:
    from adapter_export.precision import Precision
    from adapter_export.report import ExportReport, Parity

FLOATS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
PATHS = {
    "library": "through the op library",
    "body": "through the function body",
    "stand_in": "through a stand-in for the plugin",
    "plain": "in standard operators",
    "as_written": "by ONNX Runtime as it computes fp16",
}


def export_report(report: ExportReport, target: Path | None) -> None:
    """The summary; as JSON too where asked, and then the lines go to standard error if JSON takes standard output."""
    shape = report.input
    sides = [
        str(side) if side is not None else f"any multiple of {shape.size_divisor}"
        for side in (shape.height, shape.width)
    ]
    steps = [f"{name} {seconds:.1f}" for name, seconds in report.seconds.items()]
    lines = {
        "file": f"{report.path} ({report.file_bytes / 1e6:.1f} MB)",
        "second file": str(report.data_path) if report.data_path else "",
        "model": report.name,
        "precision": _precision(report.precision),
        "input": f"image {'uint8 RGB' if shape.embed_preprocess else FLOATS[report.precision.io]}, "
        f"batch {shape.batch or 'any'}, height {sides[0]}, width {sides[1]}",
        "output": report.output,
        "operators": f"{report.op}, opset {report.opset}: {report.nodes} nodes, {report.msda_nodes} of them MSDA",
        "parameters": f"{report.params / 1e6:.3f} M",
        **_parity_lines(report.parity),
        "time": f"{sum(report.seconds.values()):.1f} s ({', '.join(steps)})",
        "peak memory": f"{report.peak_bytes / 1e6:.0f} MB",
    }
    _print(lines, sys.stderr if str(target) == "-" else sys.stdout)
    if target is not None:
        _write_json(report.to_dict(), target)


def _precision(precision: Precision) -> str:
    """Empty where all is fp32."""
    if precision.coarsest == "fp32":
        return ""
    attention = ", softmax of attention in fp32" if precision.attention_fp32 else ""
    return f"{precision.arithmetic}{attention}; float inputs and outputs {precision.io}"


def _parity_lines(parity: Parity | None) -> dict[str, str]:
    if parity is None:
        return {"parity": "not checked (--no-check)"}
    lines = {}
    for path in parity.paths():
        worst = parity.worst(path)
        assert worst is not None
        allowed = f"{worst.largest:.2e} of {worst.limit:.2e} allowed in {worst.output}"
        if worst.rms_limit is not None:
            allowed += f", root mean square {worst.rms:.2e} of {worst.rms_limit:.2e}"
        way = PATHS[path]
        if parity.rounded is not None and path != "as_written":
            way += f", in fp32 rounded to {parity.rounded} after each operator"
        lines[f"parity, {path}"] = f"largest difference {parity.largest()[path]:.2e} {way} ({allowed})"
    return lines | {f"parity, {path}": f"not checked: {reason}" for path, reason in parity.unchecked.items()}


def inspection(found: Mapping[str, Any], target: Path | None) -> None:
    """What `adapter_infer.checkpoints.inspect` found, one line a fact."""
    if target is not None:
        _write_json(dict(found), target)
        if str(target) == "-":
            return
    _print({key.replace("_", " "): _text(value) for key, value in found.items()}, sys.stdout)


def as_inspection(spec: ModelSpec) -> dict[str, Any]:
    """A model that no checkpoint was given for, in the form of an inspection."""
    settings = spec.inference
    return {
        "model": {"name": spec.name, "source": spec.source, "num_classes": spec.num_classes},
        "backbone": spec.backbone,
        "neck": spec.neck or {},
        "decode_head": spec.decode_head or {},
        "test": {"mode": settings.mode, "crop": settings.crop, "stride": settings.stride},
    }


def presets() -> None:
    """One preset a line: name, backbone, head, classes, crop."""
    from adapter_infer import presets as table

    rows = []
    for name in table.names():
        spec = table.spec(name)
        head = (spec.decode_head or {}).get("type", "-")
        crop = "x".join(map(str, spec.inference.crop or ()))
        rows.append((name, spec.backbone["type"], head, f"{spec.num_classes} classes", crop))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _write_json(data: Mapping[str, Any], target: Path) -> None:
    text = json.dumps(data, indent=2, default=str)
    if str(target) == "-":
        print(text)
        return
    with replacing(target) as stream:
        stream.write((text + "\n").encode())


def _print(lines: Mapping[str, str], stream: Any) -> None:
    shown = {key: value for key, value in lines.items() if value}
    width = max(map(len, shown))
    for key, value in shown.items():
        print(f"{key.ljust(width)}  {value}", file=stream)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items() if item not in (None, ""))
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)

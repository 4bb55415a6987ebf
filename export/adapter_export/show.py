"""What the command prints: the finished export, the inspected checkpoint, the presets; as lines or as JSON."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_infer.files import replacing
from adapter_infer.spec import ModelSpec

if TYPE_CHECKING:
    from adapter_export.precision import Precision
    from adapter_export.report import ExportReport, Parity

WIDTH = 160  # of a terminal that inspections are written for
TOGETHER = "\u00a0"  # a space at which no line is broken, until it is printed
FLOATS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
PATHS = {
    "library": "through the op library",
    "body": "through the function body",
    "stand_in": "through a stand-in for the plugin",
    "plain": "in standard operators",
    "as_written": "by ONNX Runtime as it computes fp16",
    "drawn": "choosing from drawn predictions",
    "chain": "of the two files, one after the other, from the whole one",
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
    lines |= _match_lines(parity)
    return lines | {f"parity, {path}": f"not checked: {reason}" for path, reason in parity.unchecked.items()}


def _match_lines(parity: Parity) -> dict[str, str]:
    """Of a detector: how many of torch's detections are found, by path."""
    lines = {}
    for path in dict.fromkeys(match.path for match in parity.matches):
        own = [match for match in parity.matches if match.path == path]
        overlaps = [match.worst_iou for match in own if match.worst_iou is not None]
        scores = [match.worst_score for match in own if match.worst_score is not None]
        matched, unmatched = sum(match.matched for match in own), sum(match.unmatched for match in own)
        text = f"{matched} as in torch, {unmatched} without partner"
        if overlaps:
            text += f"; smallest overlap {min(overlaps):.6f}, largest difference of scores {max(scores):.1e}"
        lines[f"detections, {path}"] = text
    return lines


def inspection(found: Mapping[str, Any], target: Path | None) -> None:
    """What `adapter_infer.checkpoints.inspect` found, one line a fact."""
    if target is not None:
        _write_json(dict(found), target)
        if str(target) == "-":
            return
    _print({key.replace("_", " "): _text(value) for key, value in found.items()}, sys.stdout, WIDTH)


def as_inspection(spec: ModelSpec) -> dict[str, Any]:
    """A model that no checkpoint was given for, in the form of an inspection."""
    settings, pictures = spec.inference, spec.preprocessing
    test = {"mode": settings.mode, "crop": settings.crop, "stride": settings.stride}
    report: dict[str, Any] = {"model": spec.summary(), "backbone": spec.backbone}
    if spec.detector is None:
        report |= {"neck": spec.neck or {}, "decode_head": spec.decode_head or {}}
    else:
        report |= {name: part for name, part in spec.detector.items() if name not in {"type", "test_cfg"}}
        test |= spec.detector.get("test_cfg", {})
    return report | {"pictures": {} if pictures is None else asdict(pictures), "test": test}


def presets() -> None:
    """One preset a line: name, task, backbone, detector or head, classes, and the crops or pictures that it sees."""
    from adapter_infer import presets as table

    rows = []
    for name in table.names():
        spec = table.spec(name)
        size = spec.inference.crop or (spec.preprocessing and spec.preprocessing.scale) or ()
        seen = f"{spec.inference.mode} {'x'.join(map(str, size))}"
        rows.append((name, spec.task, spec.backbone["type"], spec.kind or "-", f"{spec.num_classes} classes", seen))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _write_json(data: Mapping[str, Any], target: Path) -> None:
    text = json.dumps(data, indent=2, default=str)
    if str(target) == "-":
        print(text)
        return
    with replacing(target) as stream:
        stream.write((text + "\n").encode())


def _print(lines: Mapping[str, str], stream: Any, limit: int | None = None) -> None:
    """Names and values in two columns; beyond `limit` characters a value goes on below itself."""
    shown = {key: value for key, value in lines.items() if value}
    width = max(map(len, shown))
    for key, value in shown.items():
        line = f"{key.ljust(width)}  {value}"
        if limit is not None:
            indent = " " * (width + 2)
            line = textwrap.fill(line, limit, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        print(line.replace(TOGETHER, " "), file=stream)


def _text(value: Any, inner: bool = False) -> str:
    """A value in words; `inner` is one that stands in another."""
    if isinstance(value, Mapping):
        known = {key: item for key, item in value.items() if item not in (None, "")}
        shown = ", ".join(f"{key}{TOGETHER}{_text(item, True)}" for key, item in known.items())
        return f"({shown})" if inner else shown
    if isinstance(value, (list, tuple)):
        nested = any(isinstance(item, (list, tuple)) for item in value)
        words = [f"[{_text(item, True)}]" if nested else _text(item, True) for item in value]
        return (" " if inner else ", ").join(words)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)

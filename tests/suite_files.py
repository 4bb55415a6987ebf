"""Results as the suites and adapter-bench write them, made up: what reports and comparisons are tested on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from adapter_bench.measure import Rules, Trial
from adapter_bench.report import document, result, with_baseline
from adapter_bench.subject import Count

Data = dict[str, Any]
MACHINE = {"cpu": "Invented CPU @ 2.6 GHz", "usable_cores": 2, "memory_bytes": 2**34, "load_average": [0.1, 0.1, 0.1]}
CIRCUMSTANCES = {
    "machine": MACHINE,
    "versions": {"onnxruntime": "1.32.0", "torch": "2.13.0"},
    "rules": {"text": "warm-up at least 0.2 s and 10 runs, measured at least 3 s and 10 runs"},
    "command": "adapter-bench suite segmentation --out results",
    "started": "2026-11-23T00:00:00+00:00",
    "finished": "2026-11-23T00:30:00+00:00",
}


def trial(
    median_ms: float, seed: int = 0, *, noise: float = 0.02, drift: float = 0.0, turns: int = 6, runs: int = 8
) -> Trial:
    """Run times with noise from run to run, and with `drift` from turn to turn, as a share of the median."""
    generator = np.random.default_rng(seed)
    blocks = []
    for shift in generator.normal(0.0, drift, turns):
        times = median_ms / 1e3 * (1 + shift) * (1 + np.abs(generator.normal(0.0, noise, runs)))
        blocks.append([float(time) for time in times])
    return Trial(1, 10, blocks, [sum(block) for block in blocks])


def one_result(
    model: str, median_ms: float, macs: int, seed: int = 0, *, size: int = 512, batch: int = 1, **options: Any
) -> Data:
    """What `adapter_bench.report.result` makes of invented samples."""
    facts = {
        "engine": {"path": f"{model}.onnx", "sha256": "0" * 64, "model": model},
        "runtime": {"name": "onnxruntime", "version": "1.32.0", "provider": "cpu", "custom_op_library": None},
        "device": "Invented CPU @ 2.6 GHz",
        "threads": 2,
        "precision": "fp32",
        "params": 104_578_166,
        "weights_bytes": 400 * 2**20,
        "msda_nodes": 10,
    }
    count = Count(macs * batch, {"Conv": macs * batch}, macs, {})
    return result(facts, batch, (size, size), trial(median_ms, seed, **options), count, {"peak_bytes": 7 * 2**28})


def column(key: str, title: str, unit: str = "", better: str | None = None) -> Data:
    return {"key": key, "title": title, "unit": unit, "better": better}


def row(name: str, group: str = "", *, status: str = "ok", reason: str = "", **values: Any) -> Data:
    paper, results = values.pop("paper", {}), values.pop("results", [])
    return {
        "name": name,
        "group": group,
        "status": status,
        "reason": reason,
        "values": values,
        "paper": paper,
        "results": results,
    }


def suite(name: str, title: str, columns: Sequence[Data], rows: Sequence[Data], **more: Any) -> Data:
    shown = {"schema": 1, "suite": name, "title": title, "circumstances": CIRCUMSTANCES}
    return shown | {"columns": list(columns), "rows": list(rows)} | more


PAPER = (
    ("ViT-B SETR-PUP", "ViT", 97.0, 170.2, 98.0, 170.0, 30.3),
    ("ViT-B Semantic FPN", "ViT", 98.0, 147.1, 98.0, 147.0, 29.7),
    ("ViT-Adapter-B Semantic FPN", "ViT-Adapter", 104.6, 182.6, 105.0, 183.0, 26.7),
    ("ViT-L SETR-PUP", "ViT", 317.3, 424.9, 318.0, 425.0, 14.0),
    ("ViT-L Semantic FPN", "ViT", 321.0, 413.8, 321.0, 414.0, 15.5),
    ("ViT-Adapter-L light Semantic FPN", "ViT-Adapter", 324.1, 445.1, 324.0, 445.0, 13.5),
    ("ViT-Adapter-L Semantic FPN", "ViT-Adapter", 332.0, 472.9, 332.0, 473.0, 12.9),
)


def segmentation() -> Data:
    columns = [
        column("params", "parameters", "parameters", "lower"),
        column("macs", "multiply-adds", "MACs", "lower"),
        column("fps", "images per second", "images/s", "higher"),
        column("latency_ms", "latency, median", "ms", "lower"),
        column("memory_bytes", "peak memory", "B", "lower"),
        column("ratio", "speed against plain ViT", "x", "higher"),
    ]
    rows = []
    for number, (name, group, params, macs, paper_params, paper_macs, fps) in enumerate(PAPER):
        latency = 21.0 * macs / 10
        plain = 29.7 if "B " in name else 15.5
        rows.append(
            row(
                name,
                group,
                params=params * 1e6,
                macs=macs * 1e9,
                fps=1e3 / latency,
                latency_ms=latency,
                memory_bytes=(600 + params * 5) * 2**20,
                ratio=fps / plain * 0.97,
                paper={"params": paper_params * 1e6, "macs": paper_macs * 1e9, "ratio": fps / plain},
                results=[one_result(name, latency, int(macs * 1e9), number)],
            )
        )
    rows.append(
        row(
            "Twins-B Semantic FPN",
            "hierarchical",
            status="unavailable",
            reason="timm imports torchvision, which is not installed",
        )
    )
    rows.append(row("Swin-B Semantic FPN", "hierarchical", status="failed", reason="out of memory after 3.1 GiB"))
    return suite("segmentation", "Segmentation at 512x512, the paper's table", columns, rows)


def scaling() -> Data:
    columns = [
        column("size", "input side", "pixels"),
        column("latency_ms", "latency, median", "ms", "lower"),
        column("memory_bytes", "peak memory", "B", "lower"),
    ]
    rows = [
        row(
            f"{kind}, {size}x{size}",
            kind,
            size=size,
            latency_ms=9 * (size / 256) ** power,
            memory_bytes=2**28 * (size / 256) ** power,
            results=[one_result(f"{kind} {size}", 9 * (size / 256) ** power, 10**10, size, size=size)],
        )
        for kind, power in (("deformable", 2.1), ("global", 3.6))
        for size in (256, 384, 512, 768, 1024)
    ]
    rows.append(
        row(
            "global, 2048x2048",
            "global",
            size=2048,
            latency_ms=None,
            memory_bytes=None,
            status="failed",
            reason="out of memory",
        )
    )
    return suite("scaling", "Scaling of deformable and of global attention", columns, rows)


def precision() -> Data:
    columns = [
        column("parity", "largest difference from PyTorch", "", "lower"),
        column("latency_ms", "latency, median", "ms", "lower"),
        column("memory_bytes", "peak memory", "B", "lower"),
    ]
    figures = (
        ("PyTorch fp32", "PyTorch", 0.0, 410.0),
        ("ONNX Runtime fp32, library", "ONNX Runtime", 1.9e-6, 245.0),
        ("ONNX Runtime fp32, function body", "ONNX Runtime", 2.1e-6, 910.0),
        ("ONNX Runtime fp32, GridSample", "ONNX Runtime", 2.4e-6, 530.0),
        ("ONNX Runtime fp16", "ONNX Runtime", 1.4e-3, 380.0),
        ("ONNX Runtime int8", "ONNX Runtime", 3.1e-2, 150.0),
        ("OpenVINO fp32, inlined", "OpenVINO", 3.0e-6, 205.0),
    )
    rows = [
        row(
            name,
            group,
            parity=parity,
            latency_ms=latency,
            memory_bytes=latency * 2**22,
            results=[one_result(name, latency, 10**11, seed)],
        )
        for seed, (name, group, parity, latency) in enumerate(figures)
    ]
    rows.append(row("TensorRT fp16", "TensorRT", status="unavailable", reason="no NVIDIA GPU on this machine"))
    return suite("precision", "Precision and runtime", columns, rows)


def parts() -> Data:
    shares = {
        "ViT-B": {"patch embedding": 2, "ViT blocks": 86, "neck": 5, "head": 7},
        "ViT-Adapter-B": {
            "patch embedding": 1.5,
            "ViT blocks": 66,
            "spatial prior": 7,
            "injectors": 5,
            "extractors": 10,
            "neck": 4,
            "head": 5.5,
            "other": 1,
        },
    }
    titles = dict.fromkeys(part for by_part in shares.values() for part in by_part)
    columns = [column("wall_ms", "wall time of a profiled run", "ms", "lower")]
    columns += [column(f"share_{number}", part, "%") for number, part in enumerate(titles)]
    columns += [column("sum", "all parts", "%")]
    rows = []
    for (model, by_part), total in zip(shares.items(), (230.0, 290.0), strict=True):
        values = {f"share_{number}": by_part.get(part) for number, part in enumerate(titles)}
        rows.append(row(model, "512x512", wall_ms=total, sum=100.0, **values))
    return suite("parts", "Where the time goes", columns, rows)


def op() -> Data:
    """As `adapter_bench.op_speed --json` writes it."""
    generator = np.random.default_rng(0)
    work = {"injector D=32": (1024, 0.6e9), "extractor D=32": (5376, 0.4e9)}
    timings = [
        {
            "workload": name,
            "rival": rival,
            "included": True,
            "threads": 2,
            "samples_ms": [float(s) for s in factor * queries / 1024 * generator.normal(1, 0.02, 30)],
        }
        for name, (queries, _) in work.items()
        for rival, factor in (("this op", 0.9), ("ORT GridSample", 9.0))
    ]
    told = {
        name: {"flops": queries * 12 * 12 * 32 * 10, "bytes": queries * 5000 + 8e6}
        for name, (queries, _) in work.items()
    }
    roof = {"2 threads": {"bytes_per_s": 22e9, "flops_per_s": 140e9}}
    return {"circumstances": {"cpu": "Invented CPU", "load": "0.1"}, "timings": timings, "work": told, "roof": roof}


def plain_document(model: str = "upernet_tiny", median_ms: float = 120.0, seed: int = 0, **options: Any) -> Data:
    """As adapter-bench --json writes it, without a baseline."""
    found = with_baseline(one_result(model, median_ms, 10**10, seed, **options), None, None)
    return document(["adapter-bench", "--engine", f"{model}.onnx"], Rules(), dict(MACHINE), [found])


def write(folder: Path) -> Path:
    """One of each in `folder`."""
    for made in (segmentation(), scaling(), precision(), parts()):
        path = folder / made["suite"] / "suite.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(made))
    (folder / "op.json").write_text(json.dumps(op()))
    (folder / "tiny.json").write_text(json.dumps(plain_document()))
    return folder

"""Exported models on ONNX Runtime's CUDA provider and on TensorRT, where they are installed, by this project's own
commands."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adapter_infer.errors import AdapterError

PRESET = "upernet_augreg_adapter_base_512_160k_ade20k"
TIME = ("--fps", "--duration", "2", "--iterations", "100")


def measure(folder: Path, say: Callable[[str], None], limit_s: float) -> dict[str, Any]:
    """`ran` maps a runtime to what adapter-bench reported, `left_out` to the reason why it was not run."""
    left_out = {name: why for name, why in (("ONNX Runtime", _no_ort()), ("TensorRT", _no_tensorrt())) if why}
    ran: dict[str, Any] = {}
    if len(left_out) == 2:
        return {"ran": ran, "left_out": left_out}
    onnx, plan = folder / "adapter_b.onnx", folder / "adapter_b.plan"
    precision = ["--precision", "fp16"]
    say(f"exporting {PRESET}")
    _command(
        "adapter_export.cli",
        ["--preset", PRESET, "--random-weights", "--onnx", str(onnx), "--no-check", *precision],
        limit_s,
    )
    if "ONNX Runtime" not in left_out:
        say("ONNX Runtime, CUDA provider")
        beside = ["--provider", "cuda", "--baseline", "--cache", str(folder / "baselines")]
        _try("ONNX Runtime", ran, left_out, lambda: _bench(onnx, beside, folder, limit_s))
    if "TensorRT" not in left_out:
        say("building a TensorRT plan and running it")

        def tensorrt() -> dict[str, Any]:
            _command("adapter_engines.plan_cli", ["build", str(onnx), "--plan", str(plan)], limit_s)
            return _bench(plan, [], folder, limit_s)

        _try("TensorRT", ran, left_out, tensorrt)
    return {"ran": ran, "left_out": left_out}


def _no_ort() -> str | None:
    try:
        import onnxruntime
    except ImportError as error:
        return f"onnxruntime cannot be imported ({error})"
    providers = onnxruntime.get_available_providers()
    return None if "CUDAExecutionProvider" in providers else f"onnxruntime has only {', '.join(providers)}"


def _no_tensorrt() -> str | None:
    try:
        importlib.import_module("tensorrt")
    except ImportError as error:
        return f"tensorrt cannot be imported ({error})"
    return None


def _try(name: str, ran: dict[str, Any], left_out: dict[str, str], run: Callable[[], dict[str, Any]]) -> None:
    try:
        ran[name] = run()
    except AdapterError as error:
        left_out[name] = str(error)


def _bench(path: Path, options: list[str], folder: Path, limit_s: float) -> dict[str, Any]:
    out = folder / f"{path.name}.json"
    _command("adapter_bench.cli", ["--engine", str(path), *TIME, *options, "--json", str(out)], limit_s)
    report: dict[str, Any] = json.loads(out.read_text())
    return report


def _command(module: str, arguments: list[str], limit_s: float) -> None:
    """Errors: AdapterError with the last line that the command printed."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            capture_output=True,
            text=True,
            timeout=limit_s,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise AdapterError(f"{module} took more than {limit_s:.0f} seconds") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        raise AdapterError(f"{module} ended with exit code {done.returncode}: {lines[-1][:300]}")

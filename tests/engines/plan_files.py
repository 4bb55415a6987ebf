"""For the tests of plans: the command in a process of its own, small exports, and a sidecar to start from."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from filelock import FileLock

import golden
from adapter_engines.plans.sidecar import Sidecar
from adapter_engines.plans.toolkit import Toolkit
from adapter_infer.errors import EnvironmentMissing

RTX = ("--toolkit", "tensorrt_rtx")


def missing() -> str:
    """Why TensorRT-RTX cannot build here, "" if it can."""
    for module in ("tensorrt_rtx_bindings", "tensorrt_rtx_libs", "polygraphy"):
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed (pip install -e '.[dev]')"
    return ""


def plugin_missing() -> str:
    """Why there is no plugin to build with, "" if there is one."""
    import adapter_plugins

    reasons = []
    for major in (11, 10):
        try:
            adapter_plugins.tensorrt_plugin(major)
        except EnvironmentMissing as error:
            reasons.append(str(error))
        else:
            return ""
    return reasons[0]


def command(*arguments: Any) -> SimpleNamespace:
    """`adapter-engine` in a process of its own, since TensorRT keeps what it was once given: code, out, err."""
    line = [sys.executable, "-m", "adapter_engines.plan_cli", *map(str, arguments)]
    done = subprocess.run(line, check=False, capture_output=True, text=True, timeout=600)
    return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)


def built(onnx: Path, plan: Path, *options: Any) -> dict[str, Any]:
    """Builds with TensorRT-RTX, and returns the sidecar's content."""
    done = command("build", onnx, "--plan", plan, *RTX, *options)
    assert done.code == 0, done.err
    return json.loads(plan.with_name(plan.name + ".json").read_text())


def exporter(folder: Path) -> Callable[..., Path]:
    """`export(model=name, **options)`: the path of that export in `folder`, made by the first worker who asks.

    `model` is a golden model, or a preset, which gets random weights.
    """
    folder.mkdir(exist_ok=True)

    def export(model: str = "upernet_vit_adapter", **options: Any) -> Path:
        key = hashlib.sha256(json.dumps([model, options], sort_keys=True).encode()).hexdigest()[:16]
        path = folder / f"{model}-{key}.onnx"
        with FileLock(f"{path}.lock"):
            if not path.exists():
                _export(model, path, options)
        return path

    return export


def _export(name: str, path: Path, options: dict[str, Any]) -> None:
    import torch

    from adapter_export import export
    from adapter_infer import checkpoints, models, presets

    torch.set_num_threads(1)
    if name in presets.names():
        spec = checkpoints.identify(None, None, name)
        model = models.build_model(spec).requires_grad_(False)
        models.random_weights(model, 0)
    else:
        model, spec, _ = checkpoints.load_model(golden.folder("models", name) / "checkpoint.pth")
    export(model, spec, path, check=False, **options)


def tools(name: str = "tensorrt", version: str = "10.14.1.48") -> Toolkit:
    """A toolkit that is only asked for its name and version."""
    return Toolkit(None, name, version, int(version.partition(".")[0]))


def described(plan: Path, **changes: Any) -> Sidecar:
    """A sidecar of the file `plan`, as a build with TensorRT 10.14 on an H100 would write it."""
    values: dict[str, Any] = {
        "plan_sha256": hashlib.sha256(plan.read_bytes()).hexdigest(),
        "onnx_sha256": "0" * 64,
        "checkpoint_sha256": None,
        "plugin_sha256": None,
        "plugin_embedded": False,
        "toolkit": "tensorrt",
        "toolkit_version": "10.14.1.48",
        "gpu": {"name": "NVIDIA H100", "compute_capability": "9.0"},
        "precision": {"fp16": 0.75, "fp32": 0.25},
        "profiles": [],
        "parity": {"done": False, "reason": "a test"},
        "hardware_compatible": False,
        "version_compatible": False,
        "weights_stripped": False,
        "props": {},
        "layers": {"source": "engine", "count": 4, "plugin": 0, "by_type": {"Gemm": 4}},
        "inputs": [{"name": "image", "dtype": "float32", "shape": [1, 3, 64, 64]}],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": [1, 5, 64, 64]}],
    }
    return Sidecar(**(values | changes))

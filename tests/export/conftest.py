"""Exports of golden models, made once for all tests and all workers: tracing takes seconds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch
from filelock import FileLock
from torch import nn

import golden
from adapter_export import export
from adapter_infer import checkpoints, models
from adapter_infer.spec import ModelSpec
from adapter_plugins import library

Loader = Callable[[str, str], tuple[nn.Module, ModelSpec]]
Exporter = Callable[..., Path]
Runner = Callable[..., dict[str, np.ndarray]]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Workers share the cores; several threads each would only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def load() -> Loader:
    """A golden model with its weights: a Segmentor, or a backbone alone."""

    def load(kind: str, name: str) -> tuple[nn.Module, ModelSpec]:
        file = golden.folder(kind, name) / "checkpoint.pth"
        if kind == "models":
            model, spec, _ = checkpoints.load_model(file)
            return model, spec
        return _backbone(file, name, golden.config(kind, name))

    return load


def _backbone(file: Path, name: str, settings: dict[str, Any]) -> tuple[nn.Module, ModelSpec]:
    spec = ModelSpec(backbone={"type": settings["type"], **settings["kwargs"]}, half=settings["half"], name=name)
    model = models.build_model(spec)
    state = checkpoints.read(file).state_dict
    state = {
        key.removeprefix("backbone."): value for key, value in state.items() if "relative_position_index" not in key
    }
    model.load_state_dict(state)
    return model.requires_grad_(False), spec


@pytest.fixture(scope="session")
def exported(load: Loader, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Exporter:
    """`exported(kind, name, **options)`: the path of that export, made by the first who asks."""
    # Workers share their parent's folder; without workers that folder outlives the run, and the code it came from.
    base = tmp_path_factory.getbasetemp()
    root = (base if worker_id == "master" else base.parent) / "exports"
    root.mkdir(exist_ok=True)

    def exported(kind: str, name: str, **options: Any) -> Path:
        key = hashlib.sha256(json.dumps([kind, name, options], sort_keys=True).encode()).hexdigest()[:16]
        path = root / f"{name}-{key}.onnx"
        with FileLock(f"{path}.lock"):
            if not path.exists():
                model, spec = load(kind, name)
                if "size" not in options and not options.get("dynamic_size"):
                    options["size"] = golden.array(kind, name, "input0.npy").shape[2:]
                export(model, spec, path, **options)
        return path

    return exported


@pytest.fixture(scope="session")
def run() -> Runner:
    """`run(path, image, library=bool)`: outputs by name from ONNX Runtime, with the op library or without."""

    def run(path: Path, image: np.ndarray, *, with_library: bool) -> dict[str, np.ndarray]:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        if with_library:
            options.register_custom_ops_library(str(library("msda_ort_cpu")))
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, {"image": image}), strict=True))

    return run

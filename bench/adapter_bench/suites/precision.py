"""Every precision and runtime at hand: how far each is from PyTorch in fp32, how fast, and how large in memory."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from adapter_bench import bare, child, memory
from adapter_bench.measure import Rules, measure
from adapter_bench.suites.layout import Column, Data, Row, Suite
from adapter_bench.suites.work import MEBI, SEED, data, exported, parse
from adapter_infer import presets
from adapter_infer.errors import EnvironmentMissing

if TYPE_CHECKING:
    from adapter_engines.sessions import Library

PRESET = {False: "semfpn_vit_adapter_base_512_ade20k", True: "semfpn_vit_adapter_tiny_512_ade20k"}
SIDE = {False: 512, True: 128}
COLUMNS = (
    Column("parity_rms", "difference to PyTorch fp32, of its deviation", "%", "lower"),
    Column("parity_max", "largest difference, of the largest logit", "%", "lower"),
    Column("labels", "pixels with the same class", "%", "higher"),
    Column("latency_ms", "median latency", "ms", "lower"),
    Column("fps", "images per second", "1/s", "higher"),
    Column("peak_memory", "peak memory", "MiB", "lower"),
    Column("run_memory", "peak memory while running", "MiB", "lower"),
    Column("file", "model file", "MiB", "lower"),
)
REMARKS = (
    "Random weights: differences of a thousandth are rounding; ones of many percent say that a runtime computes "
    "something else.",
    "Peak memory is that of a process that only loads the model and runs it; of PyTorch it includes making weights, "
    "and of a runtime on a GPU it is the host's.",
    "A runtime on a GPU is given and gives arrays of the host: its latency includes the copies.",
)
# runtime: row, variant, flavour of the operator, precision
CASES = (
    ("PyTorch", "eager", "fused", "fp32"),
    ("PyTorch", "eager", "fused", "bf16"),
    ("PyTorch", "eager", "fused", "fp16"),
    ("ONNX Runtime", "library", "fused", "fp32"),
    ("ONNX Runtime", "library", "fused", "fp16"),
    ("ONNX Runtime", "library", "fused", "bf16"),
    ("ONNX Runtime", "function body", "fused", "fp32"),
    ("ONNX Runtime", "function body", "fused", "fp16"),
    ("ONNX Runtime", "library, standard op", "standard", "fp32"),
    ("ONNX Runtime", "GridSample", "onnx", "fp32"),
    ("OpenVINO", "GridSample", "onnx", "fp32"),
    ("OpenVINO", "functions inlined", "fused", "fp32"),
    ("OpenVINO", "functions inlined, bf16 hint", "fused", "fp32"),
    ("ONNX Runtime CUDA", "library", "fused", "fp32"),
    ("ONNX Runtime CUDA", "library", "fused", "fp16"),
    ("TensorRT", "plugin", "fused", "fp32"),
    ("TensorRT", "plugin", "fused", "fp16"),
    ("TensorRT", "plugin", "fused", "bf16"),
)


def suite(name: str, quick: bool) -> Suite:
    side = SIDE[quick]
    spec = data(presets.spec(PRESET[quick]))
    rows = [
        Row(
            f"{variant}, {precision}",
            runtime,
            f"{__name__}:compared",
            {
                "spec": spec,
                "size": [side, side],
                "runtime": runtime,
                "variant": variant,
                "op": op,
                "precision": precision,
            },
        )
        for runtime, variant, op, precision in CASES
    ]
    title = f"Precisions and runtimes, {PRESET[quick]} at {side}x{side}"
    return Suite(name, title, COLUMNS, tuple(rows), REMARKS)


class Loaded(NamedTuple):
    """`run` gives the logits of the seeded picture; `file` is the model's, None without one."""

    run: Callable[[], np.ndarray]
    file: Path | None


def compared(rules: Data, **case: Any) -> Data:
    """A row: `case` (what `load` takes) on a seeded picture beside PyTorch in fp32. Errors: EnvironmentMissing where it
    cannot be had."""
    with load(**case) as loaded:
        logits = np.asarray(loaded.run(), np.float64)
        with load(**case | {"runtime": "PyTorch", "precision": "fp32"}) as reference:
            values: Data = differences(logits, np.asarray(reference.run(), np.float64))
        trial = measure({"case": (1, loaded.run)}, Rules.of(**rules))["case"]
        values |= {"latency_ms": trial.summary().median, "fps": trial.fps}
        if loaded.file is not None:
            values["file"] = sum(part.stat().st_size for part in loaded.file.parent.glob(f"{loaded.file.name}*")) / MEBI
    if memory.unusable() is None:
        peak = child.call(f"{__name__}:memory_here", **case)
        values |= {"peak_memory": peak["peak_bytes"] / MEBI}
        values |= {"run_memory": None if peak["run_peak_bytes"] is None else peak["run_peak_bytes"] / MEBI}
    return {"values": values, "results": []}


def memory_here(**case: Any) -> Data:
    """`memory.record` of the case, in a process of its own; the export has happened before."""

    @contextmanager
    def running() -> Iterator[Callable[[], Any]]:
        with load(**case) as loaded:
            yield loaded.run

    return memory.record(running)


def differences(logits: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """In percent: root mean square of the differences of the expected values' deviation, the largest difference of the
    largest value, and positions whose best class is the same. Both (N, classes, H, W)."""
    apart = logits - expected
    return {
        "parity_rms": 100 * float(np.sqrt(np.mean(apart**2)) / expected.std()),
        "parity_max": 100 * float(np.abs(apart).max() / np.abs(expected).max()),
        "labels": 100 * float(np.mean(logits.argmax(1) == expected.argmax(1))),
    }


@contextmanager
def load(
    folder: str,
    threads: int | None,
    spec: Data,
    size: list[int],
    runtime: str,
    variant: str,
    op: str,
    precision: str,
) -> Iterator[Loaded]:
    """A case, ready to run inside the block. Errors: EnvironmentMissing where this machine has not what it needs."""
    image = bare.noise((1, 3, *size), "float32")
    if runtime == "PyTorch":
        yield _torch(spec, image, precision, threads)
        return
    if runtime == "TensorRT":
        _check_tensorrt()
    if runtime == "OpenVINO" and importlib.util.find_spec("openvino") is None:
        raise EnvironmentMissing("the package openvino is not installed; pip install openvino")
    if runtime == "ONNX Runtime" and precision == "bf16":
        raise EnvironmentMissing("ONNX Runtime's CPU has no arithmetic in bf16")
    file = exported(parse(spec), folder, size=(size[0], size[1]), op=op, precision=precision)
    if runtime == "OpenVINO":
        yield _openvino(file, image, "bf16" if "bf16" in variant else "f32", threads)
        return
    from adapter_engines import Engine

    if runtime == "TensorRT":
        file = _plan(file)
        opened = Engine.load(file)
    else:
        provider = "cuda" if "CUDA" in runtime else "cpu"
        library: Library = None if variant == "function body" else "auto"
        opened = Engine.load(file, provider=provider, threads=threads, library=library)
    with opened as engine:
        if variant.startswith("library") and engine.library is None:
            raise EnvironmentMissing(
                "no custom-op library serves this graph here (`python -m adapter_plugins` says what was built)"
            )
        feeds = {"image": image}
        yield Loaded(lambda: next(iter(engine.infer(feeds).values())), file)


def _torch(spec: Data, image: np.ndarray, precision: str, threads: int | None) -> Loaded:
    import torch

    from adapter_engines.threads import chosen
    from adapter_infer import models

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    torch.set_num_threads(chosen(threads))
    model = models.build_model(parse(spec))
    models.random_weights(model, SEED)
    model = model.to(dtype)
    picture = torch.from_numpy(image).to(dtype)

    @torch.inference_mode()
    def run() -> np.ndarray:
        return model(picture).float().numpy()

    return Loaded(run, None)


def _openvino(file: Path, image: np.ndarray, hint: str, threads: int | None) -> Loaded:
    """OpenVINO has no custom functions: they are inlined into a copy of the file first."""
    import onnx
    import openvino
    from onnx import inliner

    from adapter_engines.threads import chosen

    inlined = file.with_name(f"inlined-{file.name}")
    if not inlined.exists():
        partial = file.with_name(f"part-{file.name}")
        onnx.save(inliner.inline_local_functions(onnx.load(str(file))), str(partial))
        partial.replace(inlined)
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": chosen(threads)}
    compiled = core.compile_model(core.read_model(str(inlined)), "CPU", settings)
    return Loaded(lambda: compiled([image])[0], inlined)


def _check_tensorrt() -> None:
    """Errors: EnvironmentMissing with the reason why no plan can be built and run here."""
    from adapter_engines import device
    from adapter_engines.plans.toolkit import toolkit

    toolkit()
    if reason := device.unusable():
        raise EnvironmentMissing(reason)


def _plan(file: Path) -> Path:
    """The file's plan beside it, built where it is not there; `compared` is what compares it."""
    from adapter_engines.plans.build import build
    from adapter_engines.plans.options import BuildOptions

    plan = file.with_suffix(".plan")
    if not plan.exists():
        build(file, plan, options=BuildOptions(check=False))
    return plan

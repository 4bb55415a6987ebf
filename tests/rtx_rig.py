"""NVIDIA's own ONNX parser and builder on a machine without a GPU: TensorRT-RTX from its two wheels, for tests.

    import rtx_rig as rtx

    rtx.require()                                  # skips where the wheels or a compiler are missing
    with rtx.loaded(rtx.plugin()):                 # without a plugin the parser takes the function bodies
        parsed = rtx.parse(model)                  # onnx.ModelProto or a path
        assert parsed.layers()["PLUGIN_V3"] == 1
        plan = parsed.build({"value": ((1, 80, 2, 16), (2, 80, 2, 16), (4, 80, 2, 16))})

One process has one plugin registry, and what others have loaded into it stays. A test that depends on which plugin is
there, or that none is, asks a process of its own:

    with rtx.process() as attempt:
        outcome = attempt(model, plugin=rtx.plugin(), profile=None)

TensorRT-RTX builds plans here and cannot run them. Its parser opens `libtensorrt_rtx.so`, a name that the wheels do not
ship; a library of that name which only leads on to theirs is made in a temporary folder.
"""

from __future__ import annotations

import ctypes
import importlib.util
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

import trt_face

WHEELS = "tensorrt_rtx_cu13_libs==1.7.1.116 tensorrt_rtx_cu13_bindings==1.7.1.116"

#: Least, usual and largest shape of an input.
Bounds = tuple[Sequence[int], Sequence[int], Sequence[int]]


def why_not() -> str | None:
    """Why TensorRT-RTX cannot be used here, or None."""
    for name in ("tensorrt_rtx_bindings", "tensorrt_rtx_libs"):
        if importlib.util.find_spec(name) is None:
            return f"needs {name}: pip install --no-deps {WHEELS}"
    return None if trt_face.compiler() else "needs a C++ compiler"


def require() -> None:
    """Skips the test where TensorRT-RTX cannot be used."""
    if why := why_not():
        pytest.skip(why)


@lru_cache
def module() -> Any:
    """The `tensorrt_rtx_bindings` module, with what its parser needs loaded into this process."""
    import tensorrt_rtx_libs

    libraries = Path(tensorrt_rtx_libs.__file__).parent
    name = "libtensorrt_rtx.so"
    link = ["-shared", f"-Wl,-soname,{name}", "-Wl,--no-as-needed", f"-L{libraries}", f"-l:{name}.1"]
    stub = trt_face.compiled(name, [trt_face.TESTS / "trt" / "empty.cpp"], [*link, f"-Wl,-rpath,{libraries}"])
    import tensorrt_rtx_bindings

    ctypes.CDLL(str(stub), mode=ctypes.RTLD_GLOBAL)
    return tensorrt_rtx_bindings


def plugin() -> Path:
    """The plugin to load here: the installed one, else one with the CPU kernel; for TensorRT 11 where there is one."""
    from adapter_infer.errors import EnvironmentMissing
    from adapter_plugins import library

    for major in (11, 10):
        try:
            return library(f"msda_trt{major}")
        except (EnvironmentMissing, KeyError):
            continue
    return trt_face.library(max(trt_face.headers(), default=10))


@contextmanager
def loaded(path: Path) -> Iterator[Any]:
    """`path` in the plugin registry of this process for the length of the block; the registry."""
    registry = module().get_plugin_registry()
    ctypes.CDLL(str(path))  # stays mapped: a network that outlives the block still holds plugins of it
    handle = registry.load_library(str(path))
    assert handle, f"TensorRT-RTX could not load {path}"
    try:
        yield registry
    finally:
        registry.deregister_library(handle)


@lru_cache
def logger() -> Any:
    """The one TensorRT logger of this process, whose `.messages` are `(severity, text)` down to INFO.

    TensorRT keeps the first logger that it is given, so that one may never go.
    """
    rtx = module()

    class Kept(rtx.ILogger):
        def __init__(self) -> None:
            super().__init__()
            self.messages: list[tuple[str, str]] = []

        def log(self, severity: Any, text: str) -> None:
            if severity != rtx.ILogger.VERBOSE:
                self.messages.append((severity.name, text))

    kept = Kept()
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))  # nor at the end of the process, when TensorRT still speaks
    return kept


@dataclass
class Parsed:
    """A network, and what TensorRT said from the first line of its making on."""

    parser: Any  # in this order: a network goes before its builder
    network: Any
    builder: Any
    since: int

    def said(self, severity: str | None = None) -> list[str]:
        """TensorRT's messages about this network so far, of one severity ("WARNING") or all."""
        return [text for level, text in logger().messages[self.since :] if severity in (None, level)]

    def layers(self) -> Counter[str]:
        """How many layers of each type the network holds, by name ("PLUGIN_V3")."""
        return Counter(self.network.get_layer(i).type.name for i in range(self.network.num_layers))

    def build(
        self, profile: Mapping[str, Bounds] | None = None, embed: Sequence[Path] = (), target: str = "SM89"
    ) -> bytes:
        """A plan for GPUs of `target`; `profile` gives each dynamic input's least, usual and largest shape.

        AssertionError with TensorRT's own messages where the builder refuses.
        """
        rtx = module()
        config = self.builder.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(rtx.ComputeCapability, target), 0)
        if profile:
            bounds = self.builder.create_optimization_profile()
            for name, (least, usual, largest) in profile.items():
                bounds.set_shape(name, tuple(least), tuple(usual), tuple(largest))
            config.add_optimization_profile(bounds)
        if embed:
            config.plugins_to_serialize = [str(path) for path in embed]
        plan = self.builder.build_serialized_network(self.network, config)
        assert plan is not None, "\n".join(self.said())
        return bytes(memoryview(plan))


class Refused(AssertionError):
    """The parser refused the model; says what TensorRT said."""


def parse(model: Any) -> Parsed:
    """`model` (onnx.ModelProto, its bytes or a path) as a strongly typed network; Refused if the parser says no."""
    rtx = module()
    log = logger()
    since = len(log.messages)
    builder = rtx.Builder(log)
    flag = 1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flag)
    parser = rtx.OnnxParser(network, log)
    parsed = Parsed(parser, network, builder, since)
    text = model.SerializeToString() if hasattr(model, "graph") else model
    done = parser.parse(text) if isinstance(text, bytes) else parser.parse_from_file(str(text))
    if not done:
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise Refused("\n".join(errors + parsed.said()))
    return parsed


@dataclass
class Outcome:
    """What became of a model: how far it came, and what was said on the way."""

    layers: Counter[str]  # empty where the parser refused
    outputs: list[tuple[str, tuple[int, ...], str]]  # name, shape with -1 for dynamic, type
    plan: int  # bytes; 0 where there is none
    messages: list[str]  # "WARNING: text" from the logger, and lines of stderr
    error: str  # empty where a plan was built

    def from_plugin(self) -> list[str]:
        """The sentences that our plugin said, wherever they arrived."""
        return [text.partition("adapter_infer ")[2] for text in self.messages if "adapter_infer " in text]


def _attempt(model: bytes, path: str | None, profile: Mapping[str, Bounds] | None, embed: Sequence[str]) -> Outcome:
    outcome = Outcome(Counter(), [], 0, [], "")
    since = len(logger().messages)
    with tempfile.TemporaryFile() as spoken, loaded(Path(path)) if path else nullcontext():
        stderr = os.dup(2)
        os.dup2(spoken.fileno(), 2)
        try:
            parsed = parse(model)
            outcome.layers = parsed.layers()
            tensors = [parsed.network.get_output(i) for i in range(parsed.network.num_outputs)]
            outcome.outputs = [(t.name, tuple(t.shape), t.dtype.name) for t in tensors]
            outcome.plan = len(parsed.build(profile, [Path(name) for name in embed]))
        except AssertionError as error:
            outcome.error = str(error)
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        outcome.messages = [f"{level}: {text}" for level, text in logger().messages[since:]]
        spoken.seek(0)
        outcome.messages += spoken.read().decode(errors="replace").splitlines()
    return outcome


@contextmanager
def process() -> Iterator[Callable[..., Outcome]]:
    """A process of its own for TensorRT-RTX, and the function that tries models in it:
    `attempt(model, plugin=None, profile=None, embed=())`, with `plugin` a library to load for that attempt."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:

        def attempt(
            model: Any,
            plugin: Path | None = None,
            profile: Mapping[str, Bounds] | None = None,
            embed: Sequence[Path] = (),
        ) -> Outcome:
            path = str(plugin) if plugin else None
            job = pool.submit(_attempt, model.SerializeToString(), path, profile, [str(name) for name in embed])
            return job.result(timeout=120)

        yield attempt


def in_a_fresh_process(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """`script` run by this Python with this folder importable: for what a process can do only once."""
    path = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)

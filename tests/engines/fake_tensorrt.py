"""A stand-in for the runtime half of the `tensorrt` module, over fake_cuda: plans are small JSON files that compute.

It refuses and punishes as TensorRT does: shapes outside a profile, missing or misaligned addresses, a context used by
two threads at once, a capture before the first run after a change, an engine freed under its contexts.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace

import ml_dtypes
import numpy as np

from adapter_engines.plans import plugin as plugin_library
from adapter_engines.plans import sidecar as sidecars
from engines import fake_cuda

VERSION = "10.14.1.48"
NUMPY = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "BOOL": np.bool_,
    "FP8": np.uint8,
}


def _double(inputs, plan):
    return {"y": inputs["x"] * 2}


def _positives(inputs, plan):
    return {"y": inputs["x"][inputs["x"] > 0]}


def _toy(inputs, plan):
    x = inputs["image"].astype(np.float64)
    weight, context, bias = (np.array(plan[key]) for key in ("weight", "context", "bias"))
    local = np.einsum("kc,nchw->nkhw", weight, x)
    return {"logits": local + (x.mean(axis=(2, 3)) @ context.T + bias)[:, :, None, None]}


FUNCTIONS = {"double": _double, "positives": _positives, "toy": _toy, "fails": _double, "uncapturable": _double}


class DataType(Enum):
    FLOAT, HALF, BF16, INT32, INT64, UINT8, BOOL, FP8 = range(8)


class TensorIOMode(Enum):
    NONE, INPUT, OUTPUT = range(3)


class TensorLocation(Enum):
    DEVICE, HOST = range(2)


class TensorFormat(Enum):
    LINEAR, CHW4 = range(2)


class EngineStat(Enum):
    TOTAL_WEIGHTS_SIZE = 0


class Severity(Enum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class ILogger:
    Severity = Severity

    def __init__(self):
        self.ready = True

    def log(self, severity, msg):
        raise NotImplementedError


class IProfiler:
    def __init__(self):
        self.ready = True


class IOutputAllocator:
    def __init__(self):
        self.ready = True


class _Counted:
    """Counted in the world for as long as it lives."""

    def __init__(self, world):
        self._world = world
        world.objects[type(self).__name__] += 1

    def __del__(self):
        self._world.objects[type(self).__name__] -= 1
        self._going()

    def _going(self):
        pass


class IExecutionContext(_Counted):
    def __init__(self, world, plan, logger):
        super().__init__(world)
        self._plan, self._logger = plan, logger
        self._tensors = {tensor["name"]: tensor for tensor in plan["inputs"] + plan["outputs"]}
        self._user = None
        self.active_optimization_profile = 0
        self._shapes, self._addresses, self._allocators = {}, {}, {}
        self._fresh = True  # something was put off until the next run
        self._stream = None
        self.profiler = None

    def _going(self):
        if self._stream is not None and self._world.streams.get(self._stream):
            self._world.violations.append("a context was freed while it ran")

    @contextmanager
    def _mine(self):
        me = threading.get_ident()
        if self._user not in (None, me):
            self._world.violations.append("a context was used by two threads at once")
        self._user = me
        try:
            yield
        finally:
            self._user = None

    def set_optimization_profile_async(self, profile_index, stream_handle):
        with self._mine():
            if not 0 <= profile_index < self._plan["profiles"]:
                return False
            self.active_optimization_profile, self._shapes, self._fresh = profile_index, {}, True
            self._world.enqueue(stream_handle, lambda: None)
            self._stream = stream_handle
            return True

    def set_input_shape(self, name, shape):
        with self._mine():
            low, _, high = self._tensors[name]["ranges"][self.active_optimization_profile]
            if len(shape) != len(low) or not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
                return False
            self._shapes[name], self._fresh = tuple(shape), True
            return True

    def infer_shapes(self):
        return [tensor["name"] for tensor in self._plan["inputs"] if tensor["name"] not in self._shapes]

    def get_tensor_shape(self, name):
        tensor = self._tensors[name]
        if name in self._shapes:
            return self._shapes[name]
        if "ranges" in tensor or self.infer_shapes():
            return tuple(tensor["shape"])
        first = self._shapes[self._plan["inputs"][0]["name"]]
        like = tensor.get("like", range(len(tensor["shape"])))  # the input's axis of each dynamic size, -1: the data's
        return tuple(
            size if size >= 0 or axis < 0 else first[axis] for size, axis in zip(tensor["shape"], like, strict=True)
        )

    def set_tensor_address(self, name, memory):
        with self._mine():
            if name not in self._tensors or memory % 256:
                return False
            self._addresses[name] = memory
            return True

    def set_output_allocator(self, name, output_allocator):
        if not getattr(output_allocator, "ready", False):
            self._world.violations.append("IOutputAllocator.__init__ was not called")
        self._allocators[name] = output_allocator
        return True

    def execute_async_v3(self, stream_handle):
        world, plan = self._world, self._plan
        with self._mine():
            self._stream = stream_handle
            if stream_handle in world.capturing and (self._fresh or plan["function"] == "uncapturable"):
                if self._fresh:
                    world.violations.append("a capture before the first run after a change")
                world.capturing[stream_handle] = (threading.get_ident(), None)
                self._logger.log(Severity.ERROR, "operation not permitted when stream is capturing")
                return False
            if plan["function"] == "fails":
                self._logger.log(Severity.ERROR, "the kernel\ncannot be launched")
                return False
            missing = [name for name in self._tensors if not self._addresses.get(name) and name not in self._allocators]
            if missing or self.infer_shapes():
                world.violations.append(f"a run without the address or shape of {missing or self.infer_shapes()}")
                return False
            self._fresh = False
            run = self._run()
            if self._allocators:
                if stream_handle in world.capturing:
                    world.violations.append("an output allocator in a capture")
                world.flush(stream_handle)
                return self._allocate_and_write(stream_handle)
            world.enqueue(stream_handle, run)
            if self.profiler is not None:
                world.flush(stream_handle)
                self.profiler.report_layer_time("first", 0.5)
                self.profiler.report_layer_time("second", 1.5)
            return True

    def _run(self):
        """The run with the shapes and addresses of now, as a graph would hold it."""
        world, plan = self._world, self._plan  # not the context: work under way does not keep it
        shapes, addresses = dict(self._shapes), dict(self._addresses)
        outputs = [(tensor, self.get_tensor_shape(tensor["name"])) for tensor in self._plan["outputs"]]

        def run():
            results = FUNCTIONS[plan["function"]](_inputs(world, plan, shapes, addresses), plan)
            for tensor, shape in outputs:
                values = np.ascontiguousarray(results[tensor["name"]].astype(NUMPY[tensor["dtype"]]))
                assert values.shape == shape, (values.shape, shape)
                target = world.view(addresses[tensor["name"]], values.nbytes, "device", "output")
                target[:] = values.view(np.uint8).ravel()

        return run

    def _allocate_and_write(self, stream):
        inputs = _inputs(self._world, self._plan, self._shapes, self._addresses)
        results = FUNCTIONS[self._plan["function"]](inputs, self._plan)
        for name, allocator in self._allocators.items():
            values = np.ascontiguousarray(results[name])
            address = allocator.reallocate_output_async(name, self._addresses.get(name, 0), values.nbytes, 256, stream)
            if not address:
                return False
            allocator.notify_shape(name, values.shape)
            if values.nbytes:
                self._world.view(address, values.nbytes, "device", "output")[:] = values.view(np.uint8).ravel()
        return True


def _inputs(world, plan, shapes, addresses):
    result = {}
    for tensor in plan["inputs"]:
        dtype, shape = np.dtype(NUMPY[tensor["dtype"]]), shapes[tensor["name"]]
        nbytes = dtype.itemsize * int(np.prod(shape))
        view = world.view(addresses[tensor["name"]], nbytes, "device", f"input {tensor['name']}")
        result[tensor["name"]] = view.view(dtype).reshape(shape)
    return result


class ICudaEngine(_Counted):
    def __init__(self, world, plan, logger):
        super().__init__(world)
        self._plan, self._logger = plan, logger
        self._tensors = plan["inputs"] + plan["outputs"]
        self._by_name = {tensor["name"]: tensor for tensor in self._tensors}
        self.num_io_tensors = len(self._tensors)
        self.num_optimization_profiles = plan["profiles"]
        self.device_memory_size_v2 = 4096

    def _going(self):
        if self._world.objects["IExecutionContext"]:
            self._world.violations.append("an engine was freed before its contexts")

    def create_execution_context(self):
        if self._world.fail.pop("create_execution_context", None):
            self._logger.log(Severity.ERROR, "out of memory for activations")
            return None
        return IExecutionContext(self._world, self._plan, self._logger)

    def get_tensor_name(self, index):
        return self._tensors[index]["name"]

    def get_tensor_location(self, name):
        return TensorLocation[self._by_name[name].get("location", "DEVICE")]

    def get_tensor_format(self, name):
        return TensorFormat[self._by_name[name].get("format", "LINEAR")]

    def get_tensor_dtype(self, name):
        return DataType[self._by_name[name]["dtype"]]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if "ranges" in self._by_name[name] else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name):
        return tuple(self._by_name[name]["shape"])

    def get_tensor_profile_shape(self, name, profile_index):
        return [tuple(shape) for shape in self._by_name[name]["ranges"][profile_index]]

    def get_engine_stat(self, stat):
        assert stat is EngineStat.TOTAL_WEIGHTS_SIZE
        return 1000


class Runtime(_Counted):
    def __init__(self, logger):
        super().__init__(self.world)
        if not self._world.devices:
            self._world.violations.append("a Runtime without a GPU, whose first use crashes")
        assert isinstance(logger, ILogger)
        assert logger.ready
        self._logger = logger
        self.engine_host_code_allowed = False

    def _going(self):
        if self._world.objects["ICudaEngine"]:
            self._world.violations.append("a runtime was freed before its engine")

    def deserialize_cuda_engine(self, serialized_engine):
        try:
            plan = json.loads(bytes(serialized_engine))
        except ValueError:
            self._logger.log(Severity.ERROR, "Magic tag does not match")
            return None
        registry = self.module.get_plugin_registry()
        if plan.get("code") and not self.engine_host_code_allowed:
            self._logger.log(Severity.ERROR, "Cannot deserialize engine with host code")
            return None
        if plan.get("plugin") and not plan.get("code") and not registry.all_creators:
            self._logger.log(Severity.ERROR, "Cannot find plugin: MSDeformAttn")
            return None
        return ICudaEngine(self._world, plan, self._logger)


class IPluginRegistry:
    def __init__(self):
        self.all_creators = []

    def load_library(self, plugin_path):
        if not Path(plugin_path).is_file():
            return None
        self.all_creators += [
            SimpleNamespace(name=name, plugin_version="1", plugin_namespace="adapter_infer")
            for name in plugin_library.OPERATORS
        ]
        return object()


def module(world: fake_cuda.World) -> ModuleType:
    """The module `tensorrt` of one world."""
    result = ModuleType("tensorrt")
    registry = IPluginRegistry()
    result.__version__ = VERSION
    result.get_plugin_registry = lambda: registry
    for each in (
        DataType,
        EngineStat,
        ICudaEngine,
        IExecutionContext,
        ILogger,
        IOutputAllocator,
        IPluginRegistry,
        IProfiler,
        TensorFormat,
        TensorIOMode,
        TensorLocation,
    ):
        setattr(result, each.__name__, each)
    result.Runtime = type("Runtime", (Runtime,), {"world": world, "module": result})
    return result


@contextmanager
def installed(monkeypatch, plugin: Path | None = None) -> Iterator[fake_cuda.World]:
    """A world behind the stand-ins, in which at the end nothing may be left and nothing may have been done wrong."""
    world = fake_cuda.World()
    install(monkeypatch, world, plugin)
    yield world
    gc.collect()
    world.check()


def install(monkeypatch, world: fake_cuda.World, plugin: Path | None = None) -> ModuleType:
    """Puts the stand-ins where the code looks for TensorRT, cuda-bindings and the plugin library `plugin`."""
    cuda, bindings, tensorrt = ModuleType("cuda"), ModuleType("cuda.bindings"), module(world)
    bindings.runtime = fake_cuda.runtime(world)
    cuda.bindings = bindings
    monkeypatch.setitem(sys.modules, "cuda", cuda)
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt)
    monkeypatch.setattr(plugin_library, "_loaded", {})

    def library(major, self_registering=False):
        from adapter_infer.errors import EnvironmentMissing

        if plugin is None:
            raise EnvironmentMissing(f"libmsda_trt{major}.so is not part of this installation")
        return plugin

    monkeypatch.setattr("adapter_plugins.tensorrt_plugin", library, raising=False)
    return tensorrt


def write_plan(path: Path, function: str = "double", *, dtype="FLOAT", ranges=None, **more) -> Path:
    """A plan of y = 2x (or another of FUNCTIONS) over x (N, 4); `ranges` are (min, opt, max) per profile."""
    ranges = ranges or [[(1, 4), (2, 4), (8, 4)]]
    fixed = all(low == high for low, _, high in ranges) and len(ranges) == 1
    shape = ranges[0][0] if fixed else (-1, 4)
    open_ended = function == "positives"
    plan = {
        "function": function,
        "profiles": len(ranges),
        "inputs": [{"name": "x", "dtype": dtype, "shape": shape, "ranges": ranges}],
        "outputs": [{"name": "y", "dtype": dtype, "shape": [-1] if open_ended else shape}],
    }
    if open_ended:
        plan["outputs"][0]["like"] = [-1]
    path.write_text(json.dumps(plan | more))
    return path


def write_sidecar(path: Path, **changed) -> sidecars.Sidecar:
    """A sidecar that fits the plan at `path`, the stand-in TensorRT and the GPU, but for what is `changed`."""
    from adapter_infer.files import sha256

    content = {
        "plan_sha256": sha256(path),
        "onnx_sha256": "0" * 64,
        "checkpoint_sha256": None,
        "plugin_sha256": None,
        "plugin_embedded": False,
        "toolkit": "tensorrt",
        "toolkit_version": VERSION,
        "gpu": {"name": "Pretended GPU", "compute_capability": "9.0"},
        "precision": {"fp32": 1.0},
        "profiles": [],
        "parity": None,
        "hardware_compatible": False,
        "version_compatible": False,
        "weights_stripped": False,
        "props": {},
        "layers": {},
    }
    described = sidecars.Sidecar(**(content | changed))
    sidecars.write(path, described)
    return described

"""ONNX Runtime's CUDA provider over fake_cuda: a real CPU session computes, from and to the pretended GPU's memory.

It punishes what the real one does not survive: a recorded graph that is launched with other addresses, and two runs at
once of a session that launches graphs.
"""

from __future__ import annotations

import threading
from typing import Any

import ml_dtypes
import numpy as np

from adapter_engines import ort_engine, sessions
from engines import fake_cuda

BFLOAT16 = 16


class Value:
    """An OrtValue on the GPU, in memory of its own or at an address that was given."""

    def __init__(self, world: fake_cuda.World, array: np.ndarray, pointer: int | None = None) -> None:
        self.world, self._shape, self._dtype = world, array.shape, array.dtype
        self.owned = pointer is None
        self.pointer = world.allocate(max(array.nbytes, 1), "device") if pointer is None else pointer
        if array.nbytes:
            world.view(self.pointer, array.nbytes, "device", "output")[:] = (
                np.ascontiguousarray(array).view(np.uint8).ravel()
            )

    def __del__(self) -> None:
        if self.owned:
            self.world.free(self.pointer, "device")

    def data_ptr(self) -> int:
        return self.pointer

    def shape(self) -> list[int]:
        return list(self._shape)

    def numpy(self) -> np.ndarray:
        return read(self.world, self.pointer, self._shape, self._dtype)


def read(world: fake_cuda.World, pointer: int, shape: Any, dtype: Any) -> np.ndarray:
    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return world.view(pointer, nbytes, "device", "input").view(dtype).reshape(shape).copy()


class Binding:
    def __init__(self) -> None:
        self.inputs: dict[str, tuple[int, Any, tuple[int, ...]]] = {}
        self.outputs: dict[str, int | None] = {}
        self.values: list[Value] = []

    def bind_input(self, name, device_type, device_id, element_type, shape, buffer_ptr):
        assert (device_type, device_id) == ("cuda", 0)
        dtype = ml_dtypes.bfloat16 if element_type == BFLOAT16 else element_type
        self.inputs[name] = (buffer_ptr, dtype, tuple(shape))

    def bind_output(self, name, device_type, device_id=0, element_type=None, shape=None, buffer_ptr=None):
        assert (device_type, device_id) == ("cuda", 0)
        self.outputs[name] = buffer_ptr

    def get_outputs(self) -> list[Value]:
        return self.values


class Session:
    """`uncapturable` says that recording a graph fails, `fails` that every run does."""

    def __init__(self, session: Any, world: fake_cuda.World, graphs: bool) -> None:
        self._session, self.world, self.graphs = session, world, graphs
        self.recorded: dict[str, list[Any]] = {}
        self.launches = self.plain = 0
        self.uncapturable = self.fails = False
        self._busy = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def io_binding(self) -> Binding:
        return Binding()

    def run_with_iobinding(self, binding: Binding, options: Any = None) -> None:
        alone = self._busy.acquire(blocking=False)
        if not alone and self.graphs:
            self.world.violations.append("two runs at once of a session that launches graphs")
        try:
            self._run(binding, options)
        finally:
            if alone:
                self._busy.release()

    def _run(self, binding: Binding, options: Any) -> None:
        if self.fails:
            raise RuntimeError("CUDA failure 700:\n  an illegal memory access")
        number = options.get_run_config_entry("gpu_graph_id") if options is not None else None
        assert (number is not None) == self.graphs
        if number in (None, "-1"):
            self.plain += 1
        else:
            addresses = [binding.inputs, binding.outputs]
            if self.uncapturable:
                raise RuntimeError("CUDA failure 901: operation failed due to a previous error during capture")
            if self.recorded.setdefault(number, addresses) != addresses:
                self.world.violations.append(f"graph {number} was recorded for other addresses")
            self.launches += 1
        feeds = {name: read(self.world, at, shape, dtype) for name, (at, dtype, shape) in binding.inputs.items()}
        results = self._session.run(list(binding.outputs), feeds)
        binding.values = [
            Value(self.world, array, binding.outputs[name])
            for name, array in zip(binding.outputs, results, strict=True)
        ]


def install(monkeypatch: Any, world: fake_cuda.World) -> list[Session]:
    """Puts it in the place of the CUDA provider; the sessions that are made from now on."""
    made: list[Session] = []

    def open_session(path, file, provider, threads, library, cuda_graph=False):
        session, registered = sessions.open_session(path, file, "cpu", threads, library)
        if provider == "cuda":
            made.append(Session(session, world, cuda_graph))
            return made[-1], registered
        return session, registered

    monkeypatch.setattr(ort_engine, "open_session", open_session)
    return made

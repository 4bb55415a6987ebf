"""Runs of an ONNX Runtime session over memory of the GPU: arrays there are bound as they are, and results stay there.
Where asked for, runs are launched as CUDA graphs, whose inputs and outputs keep their place."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from adapter_engines import device
from adapter_engines.device.arrays import Adopted
from adapter_infer.errors import AdapterError, UnsupportedModel

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

    from adapter_engines.engine import TensorInfo

DEVICE = 0  # the GPU that ONNX Runtime takes where its options name none
BFLOAT16 = 16  # ONNX's number of the type that numpy has not
NO_GRAPH = -1
# Of feeds to arrays, given what turns an array on the GPU into one that the engine reads; UsageError inside.
Check = Callable[[Mapping[str, Any], Callable[[str, Any], Any]], dict[str, Any]]
Failed = Callable[[Mapping[str, Any], Exception], AdapterError]  # from the arrays and what ONNX Runtime raised
Place = tuple[int, str, tuple[int, ...]]  # address, type, shape
Key = tuple[tuple[int, ...], ...]


class BoundRun:
    """Inputs in their place on the GPU: `run` as often as wanted, then ask for its results.

    `graph` says whether runs are launched as a CUDA graph. The next `run` overwrites what `outputs` gave.
    """

    def __init__(
        self,
        session: InferenceSession,
        failed: Callable[[Exception], AdapterError],
        inputs: Mapping[str, Place],
        outputs: Sequence[TensorInfo],
        places: Mapping[str, tuple[device.DeviceBuffer, tuple[int, ...]]] | None = None,
        graph: int | None = None,
    ) -> None:
        """`places` of the outputs, where those are settled; `graph` the number under which the session knows the graph,
        None in a session without graphs."""
        import onnxruntime

        self._session, self._failed, self._tensors, self._places = session, failed, outputs, places
        self.graph = graph not in (None, NO_GRAPH)
        self._options = None
        if graph is not None:
            self._options = onnxruntime.RunOptions()
            self._options.add_run_config_entry("gpu_graph_id", str(graph))
        self._binding = session.io_binding()
        for name, (pointer, dtype, shape) in inputs.items():
            self._binding.bind_input(name, "cuda", DEVICE, _element(dtype), shape, pointer)
        for tensor in outputs:
            if places is None:
                self._binding.bind_output(tensor.name, "cuda", DEVICE)
            else:
                buffer, shape = places[tensor.name]
                self._binding.bind_output(tensor.name, "cuda", DEVICE, _element(tensor.dtype), shape, buffer.pointer)

    def run(self) -> None:
        """Runs once and waits for it. Errors: AdapterError."""
        try:
            self._session.run_with_iobinding(self._binding, self._options)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise self._failed(error) from error

    def outputs(self) -> dict[str, device.DeviceArray]:
        """All outputs of the last run by name, on the GPU."""
        found = {}
        for tensor, value in zip(self._tensors, self._binding.get_outputs(), strict=True):
            owner: Any = value if self._places is None else self._places[tensor.name][0].memory
            shape = tuple(value.shape())
            found[tensor.name] = device.DeviceArray(int(value.data_ptr()), shape, tensor.dtype, DEVICE, owner)
        return found

    def taken(self) -> dict[str, device.DeviceArray]:
        """The same for the caller to keep: copies on the GPU of what has a place of its own."""
        found = self.outputs()
        if self._places is None:
            return found
        with device.Stream() as stream:
            kept = {name: _copy(array, stream) for name, array in found.items()}
            stream.synchronize()
        return kept

    def numpy(self) -> dict[str, np.ndarray]:
        """All outputs of the last run by name, as new arrays on the host."""
        arrays = self.outputs()
        return {
            tensor.name: arrays[tensor.name].numpy() if tensor.dtype == "bfloat16" else value.numpy()
            for tensor, value in zip(self._tensors, self._binding.get_outputs(), strict=True)
        }


class DeviceRuns:
    """What binds feeds to a session. `graphs` says whether the session was made to launch CUDA graphs."""

    def __init__(
        self, session: InferenceSession, check: Check, failed: Failed, outputs: Sequence[TensorInfo], *, graphs: bool
    ) -> None:
        self._session, self._check, self._failed, self._outputs = session, check, failed, outputs
        self._graphs = graphs
        self._settled: dict[Key, _Settled] = {}
        self._lock = threading.RLock()  # ONNX Runtime takes one run at a time of a session that launches graphs

    @contextmanager
    def bound(self, feeds: Mapping[str, Any], *, graph: bool) -> Iterator[BoundRun]:
        """`feeds`, arrays of the host or of the GPU, in place for the block; with graphs only one thread at a time.

        Errors: as of `Check`, CudaError, EnvironmentMissing without cuda-bindings.
        """
        with device.Device(DEVICE).current(), device.Stream() as stream, ExitStack() as held:
            adopted: list[Adopted] = []
            held.callback(_let_go, adopted)

            def adopt(name: str, value: Any) -> Adopted:
                adopted.append(device.adopt(name, value, stream, DEVICE))
                return adopted[-1]

            arrays = self._check(feeds, adopt)
            if self._graphs:
                held.enter_context(self._lock)
            if graph:
                yield self._in_graph(arrays, stream)
                return
            inputs = {name: _placed(array, stream, held) for name, array in arrays.items()}
            stream.synchronize()
            yield self._run(arrays, inputs, graph=NO_GRAPH if self._graphs else None)

    def _run(self, arrays: Mapping[str, Any], inputs: Mapping[str, Place], **more: Any) -> BoundRun:
        return BoundRun(self._session, partial(self._failed, arrays), inputs, self._outputs, **more)

    def _in_graph(self, arrays: Mapping[str, Any], stream: device.Stream) -> BoundRun:
        key = tuple(tuple(array.shape) for array in arrays.values())
        settled = self._settled.get(key)
        if settled is not None:
            settled.fill(arrays, stream)
        else:
            settled = _Settled(partial(self._run, arrays), arrays, stream, len(self._settled) + 1)
            try:
                settled.bound.run()  # records the graph
            except AdapterError as error:
                settled.close()
                raise UnsupportedModel(
                    "the model cannot be run as a CUDA graph, for some operator waits for the GPU while it runs; load "
                    f"it without cuda_graph ({str(error)[:200]})"
                ) from error
            self._settled[key] = settled
        return settled.bound

    def close(self) -> None:
        """Frees the places of all graphs."""
        with self._lock:
            while self._settled:
                self._settled.popitem()[1].close()


class _Settled:
    """The places of one set of shapes, which its graph holds the addresses of."""

    def __init__(
        self, make: Callable[..., BoundRun], arrays: Mapping[str, Any], stream: device.Stream, number: int
    ) -> None:
        """`make` gives a BoundRun from inputs; `number` is not yet another graph's."""
        with ExitStack() as owned:
            self._host: dict[str, device.HostBuffer] = {}
            owned.callback(self._free_host)
            self._inputs = {
                name: owned.enter_context(device.DeviceBuffer(array.nbytes)) for name, array in arrays.items()
            }
            self.fill(arrays, stream)
            inputs = {
                name: (self._inputs[name].pointer, str(array.dtype), tuple(array.shape))
                for name, array in arrays.items()
            }
            trial = make(inputs, graph=NO_GRAPH)  # tells the shapes of the outputs
            trial.run()
            places = {}
            for name, array in trial.outputs().items():
                places[name] = (owned.enter_context(device.DeviceBuffer(array.nbytes)), array.shape)
            self.bound = make(inputs, places=places, graph=number)
            self._owned = owned.pop_all()

    def fill(self, arrays: Mapping[str, Any], stream: device.Stream) -> None:
        """Copies the inputs to their places, and waits for it."""
        for name, array in arrays.items():
            if not isinstance(array, Adopted) and name not in self._host:
                self._host[name] = device.HostBuffer(array.nbytes)
            _fill(self._inputs[name].pointer, array, stream, self._host.get(name))
        stream.synchronize()

    def _free_host(self) -> None:
        for buffer in self._host.values():
            buffer.close()

    def close(self) -> None:
        self._owned.close()


def _element(dtype: str) -> Any:
    """A type as ONNX Runtime's bindings take it."""
    return BFLOAT16 if dtype == "bfloat16" else np.dtype(dtype).type


def _placed(array: Any, stream: device.Stream, held: ExitStack) -> Place:
    """Address, type and shape on the GPU; what lies on the host is copied to memory that `held` frees."""
    if isinstance(array, Adopted):
        return array.pointer, array.dtype, array.shape
    buffer = held.enter_context(device.DeviceBuffer(array.nbytes))
    _fill(buffer.pointer, array, stream, held.enter_context(device.HostBuffer(array.nbytes)))
    return buffer.pointer, str(array.dtype), array.shape


def _fill(place: int, array: Any, stream: device.Stream, host: device.HostBuffer | None) -> None:
    """Enqueues a copy of `array` to an address on the GPU, by way of `host` where it lies on the host."""
    if isinstance(array, Adopted):
        device.copy_within(place, array.pointer, array.nbytes, stream)
        return
    assert host is not None
    np.copyto(host.array(array.dtype, array.shape), array)
    device.copy_in(place, host, array.nbytes, stream)


def _copy(array: device.DeviceArray, stream: device.Stream) -> device.DeviceArray:
    buffer = device.DeviceBuffer(array.nbytes)
    device.copy_within(buffer.pointer, array.pointer, array.nbytes, stream)
    return device.DeviceArray(buffer.pointer, array.shape, array.dtype, array.device, buffer.memory)


def _let_go(adopted: Sequence[Adopted]) -> None:
    for array in adopted:
        array.let_go()

"""One execution context of a plan with its stream, its buffers and its graph: copies in, runs, copies out."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from adapter_engines import device
from adapter_engines.device.arrays import Adopted, numpy_dtype
from adapter_engines.plan_outputs import output_allocator
from adapter_engines.plan_tensors import PlanTensor, Shape, profile_for
from adapter_infer.errors import AdapterError, UsageError

if TYPE_CHECKING:
    from adapter_engines.plan_file import OpenPlan

Check = Callable[[Mapping[str, Any], Callable[[str, Any], Any]], dict[str, Any]]


class PlanContext:
    """Belongs to one thread at a time. In order: `set_inputs`, `enqueue` (as often as wanted), `outputs`.

    `stream` is where everything is enqueued; `profile` the optimization profile in use. `check` is the engine's check
    of feeds. Errors of a run are AdapterError; after one the context is not used again.
    """

    def __init__(self, plan: OpenPlan, check: Check, profile: int | None) -> None:
        self._plan = plan
        self._check = check
        self._asked = profile
        self.owner: int | None = threading.get_ident()
        self._shapes: dict[str, Shape] = {}
        self._host: dict[str, device.HostBuffer] = {}
        self._device: dict[str, device.DeviceBuffer] = {}
        self._addresses: dict[str, int] = {}
        self._adopted: list[Adopted] = []
        self._open_shapes: tuple[str, ...] = ()  # outputs whose shape only the run tells
        self._ready = self._ran = self._pending = False
        self._graph: device.GraphExec | None = None
        self._graphs_wanted = False
        self._warm = False  # whether a run without a graph came after the last change of shapes or addresses
        self.graph_refusal: str | None = None
        with ExitStack() as stack:
            self.stream = stack.enter_context(device.Stream())
            with plan.words() as words:
                context = plan.engine.create_execution_context()
            if context is None:
                raise AdapterError(
                    f"TensorRT made no execution context for {plan.path}{words.told()}; it may lack GPU memory: use "
                    "fewer contexts or a smaller profile"
                )
            self._context: Any = context
            self.profile: int = context.active_optimization_profile
            self._allocators = output_allocator(plan.toolkit.module)
            stack.pop_all()

    def set_inputs(self, feeds: Mapping[str, Any]) -> None:
        """Takes one array per input: numpy arrays are copied in, arrays on the device are bound as they are.

        Those must stay unchanged until `outputs` or `stream.synchronize`. Errors: UsageError on feeds the plan cannot
        take, AdapterError if TensorRT refuses the shapes.
        """
        self._mine()
        self._settle()
        self._ready = self._ran = False
        try:
            self._take(feeds)
        except BaseException:
            self._settle()
            raise
        self._ready = True

    def _take(self, feeds: Mapping[str, Any]) -> None:
        arrays = self._check(feeds, self._adopt)
        shapes = {name: tuple(array.shape) for name, array in arrays.items()}
        self._choose_profile(shapes)
        for tensor in self._plan.inputs:
            array = arrays[tensor.name]
            if self._shapes.get(tensor.name) != array.shape:
                self._shapes.pop(tensor.name, None)
                self._drop_graph()
                if not self._context.set_input_shape(tensor.name, tuple(array.shape)):
                    raise AdapterError(f"TensorRT refuses {tensor.name} {array.shape} in profile {self.profile}")
                self._shapes[tensor.name] = array.shape
            self._bind(tensor.name, array.pointer if isinstance(array, Adopted) else self._copied(tensor, array))
        missing = self._context.infer_shapes()
        if missing:
            raise AdapterError(f"TensorRT cannot tell the shapes of {self._plan.path} without {', '.join(missing)}")
        self._prepare_outputs()

    def enqueue(self) -> None:
        """Enqueues one run on `stream` and returns at once. Errors: UsageError without inputs, AdapterError."""
        self._mine()
        if not self._ready:
            raise UsageError("there is nothing to run; call set_inputs first")
        self._pending = True
        if not self._graph_possible():
            self._execute()
        elif self._graph is not None or (self._warm and self._capture()):
            assert self._graph is not None
            self._graph.launch(self.stream)
        else:  # after a change TensorRT does in the first run what it has put off; only the second can be captured
            self._execute()
        self._ran = True

    def use_graph(self, wanted: bool) -> None:
        """Whether runs are launched as a CUDA graph: captured at the second run in a row with the same shapes and
        addresses, captured anew when those change. Where that cannot be, `graph_refusal` says why and runs go on
        without."""
        self._mine()
        if wanted == self._graphs_wanted:
            return
        self._graphs_wanted = wanted
        self.graph_refusal = None
        if not wanted:
            self._settle()
            self._drop_graph()

    @property
    def graph_in_use(self) -> bool:
        """Whether the next run with these inputs would launch a captured graph."""
        return self._graph is not None

    def outputs(self) -> dict[str, np.ndarray]:
        """All outputs by name as new numpy arrays, once the run is done. Errors: UsageError without one, CudaError."""
        shapes = self._result_shapes()
        views = {}
        for tensor in self._plan.outputs:
            shape, dtype = shapes[tensor.name], numpy_dtype(tensor.dtype)
            nbytes = dtype.itemsize * math.prod(shape)
            host = self._host_buffer(tensor.name, nbytes)
            if nbytes:
                device.copy_out(host, self._address(tensor.name), nbytes, self.stream)
            views[tensor.name] = host.array(dtype, shape)
        self._pending = True
        self._settle()
        return {name: view.copy() for name, view in views.items()}

    def device_outputs(self) -> dict[str, device.DeviceArray]:
        """All outputs by name on the device, perhaps still being computed on `stream`; the next run overwrites them.

        Errors: UsageError without a run.
        """
        shapes = self._result_shapes()
        return {tensor.name: self._shared(tensor, shapes[tensor.name], self.stream) for tensor in self._plan.outputs}

    def take_outputs(self) -> dict[str, device.DeviceArray]:
        """All outputs by name on the device, computed, and never overwritten: this context gets new buffers.

        Errors: UsageError without a run, CudaError.
        """
        shapes = self._result_shapes()
        self._settle()
        result = {tensor.name: self._shared(tensor, shapes[tensor.name], None) for tensor in self._plan.outputs}
        self._drop_graph()
        for name in result:
            self._device.pop(name, None)
            self._addresses.pop(name, None)
            self._allocators.forget(name)
        self._ready = self._ran = False
        return result

    def profiled(self, profiler: Any) -> None:
        """Hands every layer's time of further runs to TensorRT's IProfiler `profiler`; such runs wait for the GPU."""
        self._mine()
        self._context.profiler = profiler

    @property
    def buffer_bytes(self) -> int:
        """Device memory of its inputs and outputs."""
        return sum(buffer.nbytes for buffer in self._device.values()) + self._allocators.nbytes

    def close(self) -> None:
        """Waits for its work and frees graph, context, buffers and stream, in this order. Errors: CudaError, after."""
        if self.stream.closed:
            return
        with ExitStack() as stack:
            stack.callback(self.stream.close)
            stack.callback(self._free_buffers)
            stack.callback(self._free_context)
            stack.callback(self._drop_graph)
            stack.callback(self._settle)

    def _free_context(self) -> None:
        self._context = None

    def _free_buffers(self) -> None:
        for buffer in [*self._host.values(), *self._device.values()]:
            buffer.close()
        self._host, self._device = {}, {}
        self._allocators.close()

    def _mine(self) -> None:
        if self.stream.closed:
            raise UsageError("this context is closed; ask the engine for another")
        if self.owner != threading.get_ident():
            raise UsageError("this context is another thread's, or was given back; ask the engine for one here")

    def _adopt(self, name: str, value: Any) -> Adopted:
        adopted = device.adopt(name, value, self.stream, self._plan.device.ordinal)
        self._adopted.append(adopted)
        self._pending = True
        return adopted

    def _settle(self) -> None:
        """Waits until nothing is under way, and lets other libraries' arrays go."""
        try:
            if self._pending:
                self._pending = False
                self.stream.synchronize()
        finally:
            adopted, self._adopted = self._adopted, []
            for array in adopted:
                array.let_go()

    def _choose_profile(self, shapes: Mapping[str, Shape]) -> None:
        profile = profile_for(self._plan.path, self._plan.inputs, shapes, self._asked)
        if profile == self.profile:
            return
        self.profile, self._shapes = -1, {}  # a profile takes all shapes anew
        self._drop_graph()
        self._pending = True
        if not self._context.set_optimization_profile_async(profile, self.stream.handle):
            raise AdapterError(f"TensorRT does not switch to profile {profile} of {self._plan.path}")
        self.profile = profile

    def _copied(self, tensor: PlanTensor, array: np.ndarray) -> int:
        host = self._host_buffer(tensor.name, array.nbytes)
        np.copyto(host.array(array.dtype, array.shape), array)
        target = self._device_buffer(tensor.name, array.nbytes)
        self._pending = True
        device.copy_in(target.pointer, host, array.nbytes, self.stream)
        return target.pointer

    def _prepare_outputs(self) -> None:
        undecided = []
        for tensor in self._plan.outputs:
            shape = tuple(self._context.get_tensor_shape(tensor.name))
            if -1 in shape:
                undecided.append(tensor.name)
                if not self._context.set_output_allocator(tensor.name, self._allocators.of(tensor.name)):
                    raise AdapterError(f"TensorRT takes no output allocator for {tensor.name} of {self._plan.path}")
            else:
                nbytes = numpy_dtype(tensor.dtype).itemsize * math.prod(shape)
                self._bind(tensor.name, self._device_buffer(tensor.name, nbytes).pointer)
        self._open_shapes = tuple(undecided)

    def _bind(self, name: str, address: int) -> None:
        if self._addresses.get(name) == address:
            return
        self._addresses.pop(name, None)
        self._drop_graph()
        if not self._context.set_tensor_address(name, address):
            raise AdapterError(f"TensorRT does not take the address of {name} of {self._plan.path}")
        self._addresses[name] = address

    def _execute(self) -> None:
        with self._plan.words() as words:
            done = self._context.execute_async_v3(self.stream.handle)
        self._allocators.check()
        if not done:
            shapes = ", ".join(f"{name} {shape}" for name, shape in self._shapes.items())
            raise AdapterError(f"TensorRT failed to run {self._plan.path} on {shapes}{words.told()}")
        self._warm = True

    def _graph_possible(self) -> bool:
        if not self._graphs_wanted or self.graph_refusal is not None:
            return False
        capturable = getattr(self._context, "is_stream_capturable", None)  # newer than TensorRT 10
        if self._open_shapes:
            self.graph_refusal = f"the shape of {', '.join(self._open_shapes)} depends on the data"
        elif self._graph is None and capturable is not None and not capturable(self.stream.handle):
            self.graph_refusal = "TensorRT says that this plan cannot be captured"
        return self.graph_refusal is None

    def _capture(self) -> bool:
        try:
            self._graph = device.GraphExec.capture(self.stream, self._execute)
        except AdapterError as error:  # the run itself is possible: without a graph, and it was only recorded
            self.graph_refusal = " ".join(str(error).split())
        return self._graph is not None

    def _drop_graph(self) -> None:
        graph, self._graph = self._graph, None
        self._warm = False
        if graph is not None:
            graph.close()

    def _result_shapes(self) -> dict[str, Shape]:
        self._mine()
        if not self._ran:
            raise UsageError("there is no result; call set_inputs and enqueue first")
        if self._open_shapes:
            self.stream.synchronize()
        return {
            tensor.name: self._allocators.shape(tensor.name)
            if tensor.name in self._open_shapes
            else tuple(self._context.get_tensor_shape(tensor.name))
            for tensor in self._plan.outputs
        }

    def _address(self, name: str) -> int:
        return self._memory(name).pointer

    def _memory(self, name: str) -> Any:
        if name in self._open_shapes:
            return self._allocators.memory(name)
        return self._device[name].memory

    def _shared(self, tensor: PlanTensor, shape: Shape, stream: device.Stream | None) -> device.DeviceArray:
        memory = self._memory(tensor.name)
        return device.DeviceArray(memory.pointer, shape, tensor.dtype, self._plan.device.ordinal, memory, stream)

    def _host_buffer(self, name: str, nbytes: int) -> device.HostBuffer:
        return _at_least(self._host, name, nbytes, device.HostBuffer)

    def _device_buffer(self, name: str, nbytes: int) -> device.DeviceBuffer:
        return _at_least(self._device, name, nbytes, device.DeviceBuffer)


def _at_least(buffers: dict[str, Any], name: str, nbytes: int, kind: Any) -> Any:
    """The buffer `name` of `buffers`, replaced if it is too small. Nothing may be using it."""
    known = buffers.get(name)
    if known is None or known.nbytes < nbytes:
        buffers.pop(name, None)
        if known is not None:
            known.close()
        buffers[name] = kind(nbytes)
    return buffers[name]

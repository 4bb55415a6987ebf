"""A stand-in for cuda.bindings.runtime that keeps the rules a GPU machine enforces, and computes in host memory.

Work on a stream is put off until something waits for it, so that a result read too early is wrong here too. Memory has
real addresses and is never reused: an access outside a living allocation is a violation. `World` counts everything;
`World.check()` fails on violations and leaks.
"""

from __future__ import annotations

import ctypes
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from enum import IntEnum
from types import SimpleNamespace

import numpy as np

LEGACY, PER_THREAD = 1, 2
POISON = 0xDD


class cudaError_t(IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorNoDevice = 100
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class cudaMemcpyKind(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


class cudaStreamCaptureMode(IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1


TEXTS = {cudaError_t.cudaErrorMemoryAllocation: b"out of memory", cudaError_t.cudaErrorNoDevice: b"no device"}
OK = cudaError_t.cudaSuccess


class Handle(int):
    """What cuda-bindings returns for a stream, an event or a graph."""


class Allocation:
    def __init__(self, nbytes: int, kind: str) -> None:
        self.backing = (ctypes.c_byte * (nbytes + 256))()
        self.pointer = -(-ctypes.addressof(self.backing) // 256) * 256
        self.nbytes, self.kind, self.alive = nbytes, kind, True

    def poison(self) -> None:
        ctypes.memset(self.pointer, POISON, self.nbytes)


class World:
    """What one pretended machine holds, and how it misbehaves: `fail[name] = (error, call number from now)`."""

    def __init__(self, devices: int = 1) -> None:
        self.devices = devices
        self.allocations: dict[int, Allocation] = {}
        self.streams: dict[int, list[Callable[[], None]]] = {LEGACY: [], PER_THREAD: []}
        self.events: dict[int, tuple[int, int] | None] = {}
        self.done: Counter[int] = Counter()  # operations run, by stream
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.graph_execs: dict[int, list[Callable[[], None]]] = {}
        self.capturing: dict[int, tuple[int, list[Callable[[], None]] | None]] = {}  # stream -> (thread, operations)
        self.objects: Counter[str] = Counter()  # TensorRT's, by kind
        self.violations: list[str] = []
        self.calls: list[str] = []
        self.fail: dict[str, tuple[cudaError_t, int]] = {}
        self.counts: defaultdict[str, Counter] = defaultdict(Counter)
        self.current = threading.local()
        self.lock = threading.RLock()
        self.next_handle = 1000
        self.tick = 0

    # memory
    def allocate(self, nbytes: int, kind: str) -> int:
        allocation = Allocation(nbytes, kind)
        self.allocations[allocation.pointer] = allocation
        return allocation.pointer

    def free(self, pointer: int, kind: str) -> None:
        allocation = self.allocations.get(pointer)
        if allocation is None or not allocation.alive or allocation.kind != kind:
            self.violations.append(f"{pointer:#x} freed as {kind} memory, which it is not (a double free?)")
            return
        for stream in list(self.streams):
            self.flush(stream)  # CUDA frees when the device is done
        allocation.alive = False
        allocation.poison()

    def view(self, pointer: int, nbytes: int, kind: str, why: str) -> np.ndarray:
        """The bytes at an address, which must lie in living memory of `kind`."""
        for allocation in self.allocations.values():
            if allocation.pointer <= pointer and pointer + nbytes <= allocation.pointer + allocation.nbytes:
                if not allocation.alive:
                    self.violations.append(f"use after free: {why}")
                elif allocation.kind != kind:
                    self.violations.append(f"{why}: {allocation.kind} memory used as {kind} memory")
                break
        else:
            self.violations.append(f"{why}: {nbytes} bytes at {pointer:#x} lie in no allocation")
            return np.zeros(nbytes, np.uint8)
        return np.frombuffer((ctypes.c_byte * nbytes).from_address(pointer), np.uint8)

    # streams
    def enqueue(self, stream: int, operation: Callable[[], None]) -> None:
        if stream in self.capturing:
            recorded = self.capturing[stream][1]
            if recorded is not None:
                recorded.append(operation)
        elif stream in self.streams:
            self.streams[stream].append(operation)
        else:
            self.violations.append(f"work for the stream {stream}, which does not exist")

    def flush(self, stream: int, until: int | None = None) -> None:
        with self.lock:
            queue = self.streams.get(stream, [])
            while queue and (until is None or self.done[stream] < until):
                operation = queue.pop(0)
                self.done[stream] += 1
                self.tick += 1
                operation()

    def position(self, stream: int) -> tuple[int, int]:
        return stream, self.done[stream] + len(self.streams[stream])

    def captured_here(self) -> list[int]:
        return [stream for stream, (thread, _) in self.capturing.items() if thread == threading.get_ident()]

    def handle(self) -> Handle:
        self.next_handle += 1
        return Handle(self.next_handle)

    def check(self) -> None:
        """Fails on whatever was done wrong, and on what was never given back."""
        assert self.violations == [], self.violations
        assert self.alive() == {}, self.alive()

    def alive(self) -> dict[str, int]:
        """What is held now, by kind, without what is not."""
        counts = Counter(allocation.kind for allocation in self.allocations.values() if allocation.alive)
        counts += Counter(
            streams=len(self.streams) - 2, events=len(self.events), graphs=len(self.graphs), execs=len(self.graph_execs)
        )
        counts += self.objects
        return {kind: count for kind, count in counts.items() if count}


def runtime(world: World) -> SimpleNamespace:  # noqa: PLR0915, one function a call
    """The module: functions return a tuple that begins with the status, as those of cuda-bindings do."""
    module = SimpleNamespace(
        cudaError_t=cudaError_t,
        cudaMemcpyKind=cudaMemcpyKind,
        cudaStreamCaptureMode=cudaStreamCaptureMode,
        cudaStreamNonBlocking=1,
        cudaEventDefault=0,
        cudaEventDisableTiming=2,
        cudaStream_t=Handle,
    )

    def export(*, in_capture: bool = True, no_device: bool = False):
        def add(function):
            name = function.__name__

            def called(*arguments):
                with world.lock:
                    world.calls.append(name)
                    if not no_device and not world.devices:
                        return cudaError_t.cudaErrorNoDevice, None
                    error, after = world.fail.get(name, (OK, 0))
                    if error != OK:
                        world.fail[name] = (error, after - 1)
                        if after <= 1:
                            del world.fail[name]
                            if name == "cudaStreamSynchronize":  # the error is the work's, which is over
                                world.flush(*arguments)
                            return error, None
                    captured = world.captured_here()
                    if captured and not in_capture:
                        world.violations.append(f"{name} while this thread captures")
                        for stream in captured:
                            world.capturing[stream] = (threading.get_ident(), None)
                        return cudaError_t.cudaErrorStreamCaptureUnsupported, None
                    result = function(*arguments)
                return result if isinstance(result, tuple) else (OK,) if result is None else (OK, result)

            called.arguments = function.__code__.co_argcount
            setattr(module, name, called)
            return function

        return add

    @export(no_device=True)
    def cudaGetErrorName(error):
        return cudaError_t(error).name.encode()

    @export(no_device=True)
    def cudaGetErrorString(error):
        return TEXTS.get(error, b"it failed")

    @export(no_device=True)
    def cudaGetLastError():
        return None

    @export(no_device=True)
    def cudaGetDeviceCount():
        return world.devices if world.devices else (cudaError_t.cudaErrorNoDevice, None)

    @export()
    def cudaGetDevice():
        return getattr(world.current, "device", 0)

    @export()
    def cudaSetDevice(device):
        if not 0 <= device < world.devices:
            return cudaError_t.cudaErrorInvalidValue, None
        world.current.device = device
        return None

    @export()
    def cudaGetDeviceProperties(device):
        return SimpleNamespace(name=b"Pretended GPU", major=9, minor=0)

    @export()
    def cudaMemGetInfo():
        used = sum(allocation.nbytes for allocation in world.allocations.values() if allocation.alive)
        return OK, 2**34 - used, 2**34

    @export()
    def cudaDriverGetVersion():
        return 13000

    @export()
    def cudaRuntimeGetVersion():
        return 13050

    @export(in_capture=False)
    def cudaMalloc(size):
        return world.allocate(size, "device")

    @export(in_capture=False)
    def cudaFree(devPtr):
        world.free(devPtr, "device")

    @export(in_capture=False)
    def cudaMallocHost(size):
        return world.allocate(size, "host")

    @export(in_capture=False)
    def cudaFreeHost(ptr):
        world.free(ptr, "host")

    @export()
    def cudaMemcpyAsync(dst, src, count, kind, stream):
        to = "host" if kind == cudaMemcpyKind.cudaMemcpyDeviceToHost else "device"
        since = "host" if kind == cudaMemcpyKind.cudaMemcpyHostToDevice else "device"

        def copy():
            world.view(dst, count, to, "copy to")[:] = world.view(src, count, since, "copy from")

        world.enqueue(stream, copy)

    @export(in_capture=False)
    def cudaStreamCreateWithFlags(flags):
        handle = world.handle()
        world.streams[handle] = []
        return handle

    @export()
    def cudaStreamDestroy(stream):
        world.flush(stream)
        if world.streams.pop(int(stream), None) is None:
            return cudaError_t.cudaErrorInvalidValue, None
        return None

    @export(in_capture=False)
    def cudaStreamSynchronize(stream):
        world.flush(stream)

    @export()
    def cudaStreamWaitEvent(stream, event, flags):
        mark = world.events[event]
        if mark is not None:
            world.enqueue(stream, lambda: world.flush(*mark))

    @export()
    def cudaEventCreateWithFlags(flags):
        handle = world.handle()
        world.events[handle] = None
        return handle

    @export()
    def cudaEventRecord(event, stream):
        if stream in world.capturing:
            world.enqueue(stream, lambda: None)
            return None
        if stream not in world.streams:
            return (cudaError_t.cudaErrorInvalidValue,)
        world.enqueue(stream, lambda: None)
        world.events[event] = world.position(stream)
        return None

    @export(in_capture=False)
    def cudaEventSynchronize(event):
        if world.events[event] is not None:
            world.flush(*world.events[event])

    @export()
    def cudaEventElapsedTime(start, end):
        first, last = world.events[start], world.events[end]
        if first is None or last is None:
            return cudaError_t.cudaErrorInvalidValue, None
        return float(last[1] - first[1])

    @export()
    def cudaEventDestroy(event):
        if event not in world.events:
            return (cudaError_t.cudaErrorInvalidValue,)
        del world.events[event]
        return None

    @export()
    def cudaStreamBeginCapture(stream, mode):
        if stream in (LEGACY, PER_THREAD) or stream in world.capturing:
            return cudaError_t.cudaErrorStreamCaptureUnsupported, None
        world.capturing[stream] = (threading.get_ident(), [])
        return None

    @export()
    def cudaStreamEndCapture(stream):
        _, recorded = world.capturing.pop(stream)
        if recorded is None:
            return cudaError_t.cudaErrorStreamCaptureInvalidated, None
        handle = world.handle()
        world.graphs[handle] = recorded
        return handle

    @export()
    def cudaGraphInstantiate(graph, flags):
        handle = world.handle()
        world.graph_execs[handle] = list(world.graphs[graph])
        return handle

    @export()
    def cudaGraphLaunch(graphExec, stream):
        for operation in world.graph_execs[graphExec]:
            world.enqueue(stream, operation)

    @export()
    def cudaGraphExecDestroy(graphExec):
        del world.graph_execs[graphExec]

    @export()
    def cudaGraphDestroy(graph):
        del world.graphs[graph]

    return module

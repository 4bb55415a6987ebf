"""Device memory, streams, graphs and array protocols: everything is given back once, whatever fails in the middle."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from adapter_engines import device
from adapter_engines.device import cuda, dlpack
from adapter_infer.errors import EnvironmentMissing, UsageError
from engines import fake_cuda, fake_tensorrt
from engines.fake_cuda import cudaError_t


@pytest.fixture
def world(monkeypatch):
    with fake_tensorrt.installed(monkeypatch) as made:
        yield made


def on_device(world, values, pointer_shift=0):
    """A device buffer that holds `values`, and the address where they begin."""
    buffer = device.DeviceBuffer(values.nbytes + 256)
    view = world.view(buffer.pointer + pointer_shift, values.nbytes, "device", "test")
    view[:] = np.ascontiguousarray(values).view(np.uint8).ravel()
    return buffer


def shared(values, buffer, stream=None):
    return device.DeviceArray(buffer.pointer, values.shape, values.dtype.name, 0, buffer.memory, stream)


class Foreign:
    """Another library's array with `__cuda_array_interface__` only, as pycuda's."""

    def __init__(self, buffer, values, *, offset=0, **changed):
        self.buffer = buffer
        self.__cuda_array_interface__ = {
            "shape": values.shape,
            "typestr": values.dtype.str,
            "data": (buffer.pointer + offset, False),
            "version": 3,
            "strides": None,
            "stream": None,
        } | changed


def test_the_reason_for_no_device_is_cudas(monkeypatch):
    fake_tensorrt.install(monkeypatch, fake_cuda.World(devices=0))
    assert "cudaErrorNoDevice (no device)" in device.unusable()
    with pytest.raises(EnvironmentMissing, match="run it where an NVIDIA GPU"):
        device.Device()


def test_without_cuda_bindings_the_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(EnvironmentMissing, match="pip install cuda-bindings"):
        device.Device()


def test_the_real_cuda_bindings_answer_without_a_device():
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    program = "from adapter_engines import device; print(device.unusable())"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    answer = result.stdout.strip()
    assert answer == "None" or "no CUDA device" in answer or "driver" in answer


def test_an_error_has_cudas_name_and_text(world):
    world.fail["cudaMalloc"] = (cudaError_t.cudaErrorMemoryAllocation, 1)
    with pytest.raises(device.CudaError, match=r"^cudaMalloc failed: cudaErrorMemoryAllocation \(out of memory\)$"):
        device.DeviceBuffer(2**40)


def test_the_device_tells_what_it_is_and_is_left_as_it_was(monkeypatch):
    world = fake_cuda.World(devices=2)
    fake_tensorrt.install(monkeypatch, world)
    second = device.Device(1)
    with second.current():
        assert cuda.call("cudaGetDevice") == 1
        info = second.info()
    assert cuda.call("cudaGetDevice") == 0
    assert (info.name, info.compute_capability, info.total_memory) == ("Pretended GPU", "9.0", 2**34)
    assert (info.driver, info.runtime) == ("13.0", "13.5")


def test_a_round_trip_through_pinned_memory_and_the_device(world):
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    with (
        device.Stream() as stream,
        device.HostBuffer(24) as source,
        device.HostBuffer(24) as back,
        device.DeviceBuffer(24) as memory,
    ):
        source.array(values.dtype, values.shape)[:] = values
        device.copy_in(memory.pointer, source, 24, stream)
        device.copy_out(back, memory.pointer, 24, stream)
        result = back.array(values.dtype, values.shape)
        assert not np.array_equal(result, values)  # nothing has waited yet
        stream.synchronize()
        np.testing.assert_array_equal(result, values)


def test_resources_are_given_back_in_reverse_order(world):
    with device.Stream(), device.Event(), device.DeviceBuffer(8), device.HostBuffer(8):
        assert world.alive() == {"streams": 1, "events": 1, "device": 1, "host": 1}
        world.calls.clear()
    assert world.calls == ["cudaFreeHost", "cudaFree", "cudaEventDestroy", "cudaStreamDestroy"]
    assert world.alive() == {}


@pytest.mark.parametrize("kind", [device.Stream, device.Event, lambda: device.DeviceBuffer(8)])
def test_a_closed_resource_says_so_and_closes_once(world, kind):
    made = kind()
    made.close()
    made.close()
    with pytest.raises(UsageError, match="is closed"):
        made.handle if hasattr(type(made), "handle") else made.pointer


def test_a_buffer_outlives_its_owner_while_an_array_shares_it(world):
    values = np.arange(4, dtype=np.float32)
    buffer = on_device(world, values)
    array = shared(values, buffer)
    buffer.close()
    np.testing.assert_array_equal(array.numpy(), values)
    assert world.alive() == {"device": 1}
    del array
    assert world.alive() == {}


def test_too_small_a_pinned_buffer_is_refused(world):
    with device.HostBuffer(8) as buffer, pytest.raises(UsageError, match="needs 16 bytes, but the buffer has 8"):
        buffer.array(np.dtype(np.float32), (4,))


def test_events_measure_what_lies_between_them(world):
    with (
        device.Stream() as stream,
        device.Event() as start,
        device.Event() as end,
        device.HostBuffer(8) as host,
        device.DeviceBuffer(8) as memory,
    ):
        start.record(stream)
        device.copy_in(memory.pointer, host, 8, stream)
        end.record(stream)
        end.synchronize()
        assert start.elapsed_ms(end) == 2.0  # operations, in this stand-in


def test_a_graph_repeats_what_was_captured_and_nothing_runs_in_the_capture(world):
    with (
        device.Stream() as stream,
        device.HostBuffer(4) as host,
        device.HostBuffer(4) as back,
        device.DeviceBuffer(4) as memory,
    ):
        number, result = (buffer.array(np.dtype(np.int32), (1,)) for buffer in (host, back))

        def copies():
            device.copy_in(memory.pointer, host, 4, stream)
            device.copy_out(back, memory.pointer, 4, stream)

        number[:], result[:] = 1, 0
        with device.GraphExec.capture(stream, copies) as graph:
            stream.synchronize()
            assert result[0] == 0
            for value in (5, 6):
                number[:] = value
                graph.launch(stream)
                stream.synchronize()
                assert result[0] == value
    del number, result  # they keep the pinned memory, as arrays over it must
    assert world.alive() == {}


def test_a_capture_that_fails_leaves_nothing_and_the_stream_usable(world):
    with device.Stream() as stream:
        with pytest.raises(ZeroDivisionError):
            device.GraphExec.capture(stream, lambda: 1 / 0)
        world.fail["cudaGraphInstantiate"] = (cudaError_t.cudaErrorMemoryAllocation, 1)
        with pytest.raises(device.CudaError, match="cudaGraphInstantiate"):
            device.GraphExec.capture(stream, lambda: None)
        stream.synchronize()
    assert world.alive() == {}


def test_memory_let_go_while_capturing_is_freed_afterwards(world):
    held = [device.DeviceBuffer(8)]
    with device.Stream() as stream, device.GraphExec.capture(stream, held.clear):
        assert world.alive()["execs"] == 1
        assert "device" not in world.alive()


def test_the_stand_in_notices_what_must_not_be_done():
    """Each of these is a bug that the checks of this file exist for; the stand-in would be worth nothing otherwise."""
    world = fake_cuda.World()
    module = fake_cuda.runtime(world)
    _, pointer = module.cudaMalloc(8)
    with pytest.raises(AssertionError):
        world.check()  # a leak
    module.cudaFree(pointer)
    world.check()
    module.cudaFree(pointer)
    world.view(pointer, 8, "device", "x")
    world.view(pointer, 999, "device", "x")
    _, stream = module.cudaStreamCreateWithFlags(1)
    module.cudaStreamBeginCapture(stream, 1)
    assert module.cudaMalloc(8)[0] == cudaError_t.cudaErrorStreamCaptureUnsupported
    assert module.cudaStreamEndCapture(stream)[0] == cudaError_t.cudaErrorStreamCaptureInvalidated
    kinds = ["a double free", "use after free", "lie in no allocation", "cudaMalloc while this thread captures"]
    assert all(kind in violation for kind, violation in zip(kinds, world.violations, strict=True))


# The array protocols


def test_an_array_describes_itself_by_the_interface(world):
    values = np.arange(6, dtype=np.float16).reshape(2, 3)
    with on_device(world, values) as buffer, device.Stream() as stream:
        pending = shared(values, buffer, stream)
        assert pending.__cuda_array_interface__ == {
            "shape": (2, 3),
            "typestr": "<f2",
            "data": (buffer.pointer, False),
            "version": 3,
            "strides": None,
            "stream": stream.handle,
        }
        assert shared(values, buffer).__cuda_array_interface__["stream"] is None
        stream.close()
        assert pending.__cuda_array_interface__["stream"] is None


@pytest.mark.parametrize("dtype", sorted(dlpack.TYPES))
def test_what_is_given_by_dlpack_is_what_is_taken(world, dtype):
    values = np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    buffer = on_device(world, values)
    array = shared(values, buffer)
    assert array.__dlpack_device__() == (2, 0)
    assert array.nbytes == values.nbytes
    taken = dlpack.take(array.__dlpack__())
    pointer = buffer.pointer
    buffer.close()
    del array
    assert (taken.pointer, taken.shape, taken.dtype, taken.device) == (pointer, (2, 3), dtype, (2, 0))
    assert taken.strides == (3, 1)
    assert world.alive() == {"device": 1}
    taken.give_back()
    assert world.alive() == {}


def test_a_capsule_nobody_takes_lets_its_memory_go(world):
    values = np.ones(3, np.float32)
    buffer = on_device(world, values)
    capsule = shared(values, buffer).__dlpack__()
    buffer.close()
    assert world.alive() == {"device": 1}
    del capsule
    assert world.alive() == {}


def test_another_librarys_reader_of_dlpack_agrees():
    """torch reads the capsule of memory that claims to be the CPU's, for want of a GPU: the layout is the same."""
    torch = pytest.importorskip("torch")
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    owner = ["kept"]
    capsule = dlpack.give(values.ctypes.data, values.shape, "float32", 0, owner)
    address = ctypes.pythonapi.PyCapsule_GetPointer
    address.restype, address.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    dlpack._Managed.from_address(address(capsule, b"dltensor")).tensor.device.type = 1
    tensor = torch.utils.dlpack.from_dlpack(capsule)
    assert (tuple(tensor.shape), tensor.dtype) == ((2, 3, 4), torch.float32)
    np.testing.assert_array_equal(tensor.numpy(), values)
    before = sys.getrefcount(owner)
    del tensor, capsule
    gc.collect()
    assert sys.getrefcount(owner) == before - 1


def test_what_another_library_gives_by_dlpack_is_read():
    torch = pytest.importorskip("torch")
    tensor = torch.arange(12, dtype=torch.bfloat16).reshape(3, 4).t()
    taken = dlpack.take(tensor.__dlpack__())
    assert (taken.pointer, taken.shape, taken.strides) == (tensor.data_ptr(), (4, 3), (1, 4))
    assert (taken.dtype, taken.device) == ("bfloat16", (1, 0))
    taken.give_back()


def test_a_used_capsule_and_an_unknown_type_are_refused():
    torch = pytest.importorskip("torch")
    capsule = torch.ones(3).__dlpack__()
    dlpack.take(capsule).give_back()
    with pytest.raises(UsageError, match="gave no fresh capsule"):
        dlpack.take(capsule)
    with pytest.raises(UsageError, match=r"holds DLPack type \(5, 64\)"):
        dlpack.take(torch.ones(3, dtype=torch.complex64).__dlpack__())


def test_bfloat16_goes_by_dlpack_only_and_to_numpy_with_ml_dtypes(world):
    values = np.array([1.5, -2, 3], ml_dtypes.bfloat16)
    with on_device(world, values) as buffer:
        array = shared(values, buffer)
        assert not hasattr(array, "__cuda_array_interface__")
        np.testing.assert_array_equal(array.numpy(), values)


@pytest.mark.parametrize(("stream", "waits"), [(None, 1), (1, 1), (2, 2), (-1, None)])
def test_a_consumer_waits_for_the_stream_that_computes(world, stream, waits):
    values = np.zeros(2, np.int32)
    with on_device(world, values) as buffer, device.Stream() as ours, device.HostBuffer(8) as host:
        host.array(values.dtype, (2,))[:] = 7
        device.copy_in(buffer.pointer, host, 8, ours)
        capsule = shared(values, buffer, ours).__dlpack__(stream=stream)
        assert len(world.streams[fake_cuda.LEGACY]) == (waits == 1)
        assert len(world.streams[fake_cuda.PER_THREAD]) == (waits == 2)
        for each in (fake_cuda.LEGACY, fake_cuda.PER_THREAD):
            world.flush(each)
        seen = world.view(buffer.pointer, 8, "device", "test").view(np.int32)
        assert seen.tolist() == ([7, 7] if waits else [0, 0])
        del capsule


def test_requests_the_protocol_forbids_are_refused(world):
    values = np.zeros(2, np.int32)
    with on_device(world, values) as buffer:
        array = shared(values, buffer)
        with pytest.raises(ValueError, match="stream 0"):
            array.__dlpack__(stream=0)
        for asked in ({"copy": True}, {"dl_device": (1, 0)}):
            with pytest.raises(BufferError, match="stays where it is"):
                array.__dlpack__(**asked)


@pytest.mark.parametrize(
    ("changed", "follows"),
    [({"stream": 1}, True), ({"stream": None}, False), ({"version": 2}, True), ({"stream": "theirs"}, True)],
)
def test_the_producers_stream_is_honoured(world, changed, follows):
    values = np.zeros(2, np.float32)
    with on_device(world, values) as buffer, device.Stream() as theirs, device.Stream() as ours:
        producer = fake_cuda.LEGACY
        if changed.get("stream") == "theirs":
            producer = theirs.handle
            changed = {"stream": producer}
        world.enqueue(producer, lambda: world.view(buffer.pointer, 8, "device", "x").__setitem__(slice(None), 255))
        adopted = device.adopt("x", Foreign(buffer, values, **changed), ours, 0)
        assert (adopted.pointer, adopted.shape, adopted.dtype) == (buffer.pointer, (2,), "float32")
        ours.synchronize()
        assert bool(world.view(buffer.pointer, 8, "device", "x").all()) == follows
        world.flush(producer)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"strides": (4, 12)}, r"x \(2, 3\) lies in memory with strides \(1, 3\), not row by row; make it contiguous"),
        ({"offset": 16}, "x begins 16 bytes behind a multiple of 256"),
        ({"mask": 1}, "has a mask"),
        ({"stream": 0}, "names stream 0"),
        ({"typestr": ">f4"}, "is >f4"),
        ({"typestr": "<c8"}, "is <c8"),
    ],
)
def test_arrays_that_cannot_be_bound_are_refused_and_let_go(world, changed, message):
    values = np.zeros((2, 3), np.float32)
    foreign = Foreign(on_device(world, values), values, **changed)
    with device.Stream() as stream, pytest.raises(UsageError, match=message):
        device.adopt("x", foreign, stream, 0)
    del foreign
    gc.collect()
    assert world.alive() == {}


def test_strides_that_say_nothing_are_no_reason_to_refuse(world):
    values = np.zeros((1, 3), np.float32)
    with on_device(world, values) as buffer, device.Stream() as stream:
        device.adopt("x", Foreign(buffer, values, strides=(999 * 4, 4)), stream, 0).let_go()


def test_an_array_of_another_device_is_refused(world):
    values = np.zeros(2, np.float32)
    with on_device(world, values) as buffer, device.Stream() as stream:
        elsewhere = device.DeviceArray(buffer.pointer, (2,), "float32", 3, buffer.memory)
        with pytest.raises(UsageError, match="x lies on device 3, but the engine is on device 0; move it there"):
            device.adopt("x", elsewhere, stream, 0)


def test_a_producers_refusal_is_told(world):
    class Unwilling:
        def __dlpack_device__(self):
            return 2, 0

        def __dlpack__(self, stream=None):
            raise BufferError("can't export tensors that require gradient")

    with device.Stream() as stream, pytest.raises(UsageError, match="x cannot be shared through DLPack: can't export"):
        device.adopt("x", Unwilling(), stream, 0)


def test_host_arrays_are_not_taken_for_device_arrays():
    torch = pytest.importorskip("torch")
    assert not device.is_device_array(np.zeros(2))
    assert not device.is_device_array(torch.zeros(2))
    assert not device.is_device_array([1, 2])

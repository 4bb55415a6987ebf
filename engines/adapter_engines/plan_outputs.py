"""Memory for outputs whose shape only the run tells: TensorRT's IOutputAllocator over owned buffers."""

from __future__ import annotations

from typing import Any

from adapter_engines.device import DeviceBuffer
from adapter_engines.device.memory import Memory
from adapter_infer.errors import AdapterError


class Allocators:
    """One allocator per output that needs one, kept as long as the context that holds its address."""

    def __init__(self, kind: type) -> None:
        self._kind = kind
        self._made: dict[str, Any] = {}

    def of(self, name: str) -> Any:
        """The IOutputAllocator of the output `name`."""
        if name not in self._made:
            self._made[name] = self._kind()
        self._made[name].shape = None
        return self._made[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape the last run gave it. Errors: AdapterError if it gave none."""
        shape = self._made[name].shape
        if shape is None:
            raise AdapterError(f"TensorRT did not tell the shape of {name}; the run did not end")
        return tuple(shape)

    def memory(self, name: str) -> Memory:
        """The memory the last run wrote it to. Errors: AdapterError if it asked for none."""
        buffer = self._made[name].buffer
        if buffer is None:
            raise AdapterError(f"TensorRT asked for no memory for {name}; the run did not end")
        return buffer.memory

    def check(self) -> None:
        """Errors: CudaError if memory that a run asked for could not be had."""
        for allocator in self._made.values():
            error, allocator.error = allocator.error, None
            if error is not None:
                raise error

    def forget(self, name: str) -> None:
        """Leaves the memory of `name` to the arrays that share it."""
        if name in self._made:
            self._made[name].close()

    def close(self) -> None:
        """Gives all memory back."""
        for allocator in self._made.values():
            allocator.close()

    @property
    def nbytes(self) -> int:
        """Device memory held."""
        return sum(allocator.buffer.nbytes for allocator in self._made.values() if allocator.buffer is not None)


def output_allocator(module: Any) -> Allocators:
    """Allocators of the TensorRT that `module` is."""

    class OutputAllocator(module.IOutputAllocator):  # type: ignore[misc, name-defined]
        """Keeps one buffer, as large as any run needed."""

        def __init__(self) -> None:
            module.IOutputAllocator.__init__(self)
            self.buffer: DeviceBuffer | None = None
            self.shape: tuple[int, ...] | None = None
            self.error: AdapterError | None = None

        def reallocate_output_async(self, tensor_name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            """The address of at least `size` bytes; 0 makes the run fail, and `error` says why."""
            if self.buffer is None or self.buffer.nbytes < size:
                self.close()
                try:
                    self.buffer = DeviceBuffer(size)
                except AdapterError as error:  # an exception would end in TensorRT's C++, which cannot take it
                    self.error = error.with_traceback(None)  # whose frames would keep the context
                    return 0
            return self.buffer.pointer

        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
            """The same, as early versions of TensorRT 10 call it."""
            return self.reallocate_output_async(tensor_name, memory, size, alignment, 0)

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            """Takes the shape the run found."""
            self.shape = tuple(shape)

        def close(self) -> None:
            """Lets the buffer go."""
            buffer, self.buffer = self.buffer, None
            if buffer is not None:
                buffer.close()

    return Allocators(OutputAllocator)

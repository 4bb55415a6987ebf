"""Streams and events with an owner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adapter_engines.closing import Closing
from adapter_engines.device import cuda
from adapter_infer.errors import UsageError

if TYPE_CHECKING:
    pass


class _Handle(Closing):
    """A handle of CUDA that is destroyed once."""

    destroy = ""

    def __init__(self, raw: Any) -> None:
        self._raw: Any | None = raw

    @property
    def raw(self) -> Any:
        """The object that cuda-bindings' functions take. Errors: UsageError after `close`."""
        if self._raw is None:
            raise UsageError(f"this {type(self).__name__} is closed")
        return self._raw

    @property
    def handle(self) -> int:
        """The same as a number, as TensorRT and the array protocols take it. Errors: UsageError after `close`."""
        return int(self.raw)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._raw is None

    def close(self) -> None:
        """Destroys it; further calls do nothing. Errors: CudaError."""
        raw, self._raw = self._raw, None
        if raw is not None:
            cuda.call(self.destroy, raw)


class Event(_Handle):
    """A point in a stream's work. `timing` False makes it cheaper, for waiting only. Errors: CudaError."""

    destroy = "cudaEventDestroy"

    def __init__(self, *, timing: bool = True) -> None:
        module = cuda.runtime()
        flags = module.cudaEventDefault if timing else module.cudaEventDisableTiming
        super().__init__(cuda.call("cudaEventCreateWithFlags", flags))

    def record(self, stream: Stream) -> None:
        """Marks what is enqueued on `stream` up to now. Errors: CudaError."""
        cuda.call("cudaEventRecord", self.raw, stream.raw)

    def synchronize(self) -> None:
        """Waits until what it marks is done. Errors: CudaError, also of the work itself."""
        cuda.call("cudaEventSynchronize", self.raw)

    def elapsed_ms(self, end: Event) -> float:
        """Milliseconds of GPU time from this event to `end`, both recorded and done. Errors: CudaError."""
        return float(cuda.call("cudaEventElapsedTime", self.raw, end.raw))


class Stream(_Handle):
    """A queue of GPU work that never waits for the legacy default stream. Errors: CudaError."""

    destroy = "cudaStreamDestroy"

    def __init__(self) -> None:
        super().__init__(cuda.call("cudaStreamCreateWithFlags", cuda.runtime().cudaStreamNonBlocking))

    def synchronize(self) -> None:
        """Waits until everything enqueued is done. Errors: CudaError, also of the work itself."""
        cuda.call("cudaStreamSynchronize", self.raw)

    def wait_for(self, other: int) -> None:
        """Lets what is enqueued from now on wait for the stream with the handle `other` (1 is the legacy default
        stream, 2 the thread's own default stream), as it stands now. Errors: CudaError."""
        order(cuda.runtime().cudaStream_t(other), self.raw)

    def hold_back(self, other: int) -> None:
        """Lets the stream with the handle `other` wait for what is enqueued here. Errors: CudaError."""
        order(self.raw, cuda.runtime().cudaStream_t(other))


def order(first: Any, then: Any) -> None:
    """Lets the stream `then` wait for all that is enqueued on the stream `first` now. Errors: CudaError."""
    with Event(timing=False) as event:  # CUDA lets an event be destroyed before it is reached
        cuda.call("cudaEventRecord", event.raw, first)
        cuda.call("cudaStreamWaitEvent", then, event.raw, 0)

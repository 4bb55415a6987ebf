"""CUDA graphs: a run recorded once and launched again at once, with an owner."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from adapter_engines.device import cuda
from adapter_engines.device.memory import frees_put_off
from adapter_engines.device.stream import Stream, _Handle

if TYPE_CHECKING:
    from typing_extensions import Self


class GraphExec(_Handle):
    """An executable graph; it holds the addresses of its capture, whose memory must outlive it."""

    destroy = "cudaGraphExecDestroy"

    @classmethod
    def capture(cls, stream: Stream, enqueue: Callable[[], None]) -> Self:
        """What `enqueue()` puts on `stream`, which is recorded and not run. Errors: CudaError, and what it raises.

        Other threads go on as they like (a thread-local capture); memory this thread lets go is freed afterwards.
        """
        module = cuda.runtime()
        with frees_put_off():
            cuda.call(
                "cudaStreamBeginCapture", stream.raw, module.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
            )
            try:
                enqueue()
            except BaseException:
                _abandon(stream)
                raise
            graph = cuda.call("cudaStreamEndCapture", stream.raw)
            try:
                return cls(cuda.call("cudaGraphInstantiate", graph, 0))
            finally:
                cuda.call("cudaGraphDestroy", graph)

    def launch(self, stream: Stream) -> None:
        """Enqueues one run of it. Errors: CudaError."""
        cuda.call("cudaGraphLaunch", self.raw, stream.raw)


def _abandon(stream: Stream) -> None:
    """Ends a capture that went wrong; that CUDA calls it invalid is no news, and its report is taken away."""
    module = cuda.runtime()
    graph: Any
    status, graph = module.cudaStreamEndCapture(stream.raw)
    if status == module.cudaError_t.cudaSuccess:
        cuda.call("cudaGraphDestroy", graph)
    module.cudaGetLastError()

"""An ONNX file as an Engine, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_engines import device, onnx_file
from adapter_engines import threads as thread_count
from adapter_engines.engine import Engine, TensorInfo
from adapter_engines.feeds import checked
from adapter_engines.sessions import Library, open_session
from adapter_infer import metadata as file_metadata
from adapter_infer.errors import AdapterError, EnvironmentMissing, UnsupportedModel, UsageError
from adapter_infer.metadata import Metadata

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, NodeArg

    from adapter_engines.ort_device import BoundRun, DeviceRuns

BEST_BATCH = {"cpu": 1, "cuda": 4}  # one image already fills a CPU's cores
DTYPES = {"float": "float32", "double": "float64", "bool": "bool", "string": "object", "float16": "float16"} | {
    name: name for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
}


class OrtEngine(Engine):
    """A session of ONNX Runtime behind the face of Engine."""

    threads: int

    def __init__(
        self,
        session: InferenceSession,
        *,
        path: Path,
        metadata: Metadata | None,
        provider: str,
        threads: int,
        library: Path | None,
        cuda_graph: bool = False,
    ) -> None:
        import onnxruntime

        self._session: InferenceSession | None = session
        self.path = path
        self.metadata = metadata
        self.provider = provider
        self.runtime = ("onnxruntime", onnxruntime.__version__)
        self.threads = threads
        self.library = library
        self.best_batch = BEST_BATCH[provider]
        self.inputs = tuple(_tensor(node) for node in session.get_inputs())
        self.outputs = tuple(_tensor(node) for node in session.get_outputs())
        self.cuda_graph = cuda_graph
        self._device_runs: DeviceRuns | None = None
        if provider == "cuda":
            from adapter_engines import ort_device

            self._device_runs = ort_device.DeviceRuns(
                session, self._checked, self._failed, self.outputs, graphs=cuda_graph
            )

    @classmethod
    def open(
        cls, path: Path, *, provider: str, threads: int | None, library: Library, cuda_graph: bool = False
    ) -> OrtEngine:
        """The model in the ONNX file at `path`; arguments and errors as in `Engine.load`."""
        if cuda_graph and provider != "cuda":
            raise UsageError(f"cuda_graph does not apply to provider {provider}; leave it out, or take provider cuda")
        count = thread_count.chosen(threads)
        file = onnx_file.read(path)
        metadata = file_metadata.from_props(file.props)
        if metadata is not None and metadata.op == "tensorrt":
            raise UnsupportedModel(
                f"{path} was exported with --op tensorrt, whose operator only TensorRT has; export it with --op fused"
            )
        if metadata is not None and metadata.precision == "bf16" and provider == "cpu":
            raise EnvironmentMissing(
                f"{path} is in bf16, in which ONNX Runtime does not compute on a CPU; build a plan, or export it "
                "with --precision fp16 or fp32"
            )
        onnx_file.check_external(path, file.external)
        session, registered = open_session(path, file, provider, count, library, cuda_graph)
        return cls(
            session,
            path=path,
            metadata=metadata,
            provider=provider,
            threads=count,
            library=registered,
            cuda_graph=cuda_graph,
        )

    def infer(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        on_device = (
            self.provider == "cuda"
            and isinstance(feeds, Mapping)
            and any(device.is_device_array(value) for value in feeds.values())
        )
        if on_device or self.cuda_graph:
            with self.bound(feeds) as bound:
                bound.run()
                return bound.taken() if on_device else bound.numpy()
        session = self._open_session()
        arrays = checked(feeds, self.inputs, self.metadata)
        names = [output.name for output in self.outputs]
        try:
            results: list[Any] = session.run(names, arrays)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise self._failed(arrays, error) from error
        return dict(zip(names, results, strict=True))

    @contextmanager
    def bound(self, feeds: Mapping[str, Any], *, graph: bool | None = None) -> Iterator[BoundRun]:
        """`feeds` (arrays of the host or the GPU) on the GPU, to be run there as often as wanted, for the block.

        Provider "cuda" only. `graph` False runs without the CUDA graph that the engine was loaded for. Errors: as
        `infer`; EnvironmentMissing without cuda-bindings.
        """
        self._open_session()
        if self._device_runs is None:
            raise UsageError(f"the engine of {self.path} runs on the CPU; load it with provider cuda")
        if graph and not self.cuda_graph:
            raise UsageError(f"the engine of {self.path} was loaded without cuda_graph; load it with cuda_graph=True")
        with self._device_runs.bound(feeds, graph=self.cuda_graph if graph is None else graph) as bound:
            yield bound

    def close(self) -> None:
        runs, self._device_runs = self._device_runs, None
        if runs is not None:
            runs.close()
        self._session = None

    def _open_session(self) -> InferenceSession:
        if self._session is None:
            raise UsageError(f"the engine of {self.path} is closed; load it again")
        return self._session

    def _checked(self, feeds: Mapping[str, Any], adopt: Callable[[str, Any], Any]) -> dict[str, Any]:
        return checked(feeds, self.inputs, self.metadata, adopt)

    def _failed(self, arrays: Mapping[str, Any], error: Exception) -> AdapterError:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
        text = " ".join(str(error).split())
        return AdapterError(f"ONNX Runtime failed to run {self.path} on {shapes}: {text[:500]}")


def _tensor(node: NodeArg) -> TensorInfo:
    kind, _, element = node.type.partition("(")
    if kind != "tensor":
        raise UnsupportedModel(
            f"{node.name} is a {node.type}; only models whose inputs and outputs are tensors can be run"
        )
    element = element.rstrip(")")
    return TensorInfo(
        name=node.name,
        shape=tuple("?" if size is None else size for size in node.shape),
        dtype=DTYPES.get(element, element),
    )

"""An ONNX file as an Engine, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from adapter_engines import onnx_file
from adapter_engines import threads as thread_count
from adapter_engines.engine import Engine, TensorInfo
from adapter_engines.feeds import checked
from adapter_engines.sessions import Library, open_session
from adapter_infer import metadata as file_metadata
from adapter_infer.errors import AdapterError, EnvironmentMissing, UnsupportedModel, UsageError
from adapter_infer.metadata import Metadata

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, NodeArg

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

    @classmethod
    def open(cls, path: Path, *, provider: str, threads: int | None, library: Library) -> OrtEngine:
        """The model in the ONNX file at `path`; arguments and errors as in `Engine.load`."""
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
        session, registered = open_session(path, file, provider, count, library)
        return cls(session, path=path, metadata=metadata, provider=provider, threads=count, library=registered)

    def infer(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        session = self._session
        if session is None:
            raise UsageError(f"the engine of {self.path} is closed; load it again")
        arrays = checked(feeds, self.inputs, self.metadata)
        names = [output.name for output in self.outputs]
        try:
            results: list[Any] = session.run(names, arrays)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
            text = " ".join(str(error).split())
            raise AdapterError(f"ONNX Runtime failed to run {self.path} on {shapes}: {text[:500]}") from error
        return dict(zip(names, results, strict=True))

    def close(self) -> None:
        self._session = None


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

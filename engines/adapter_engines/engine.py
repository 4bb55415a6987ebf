"""An exported model, ready to run: `with Engine.load("model.onnx") as engine: engine.infer({"image": x})`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from adapter_engines import onnx_file
from adapter_engines import threads as thread_count
from adapter_engines.feeds import checked
from adapter_engines.sessions import Library, open_session
from adapter_infer import metadata as file_metadata
from adapter_infer.errors import AdapterError, EnvironmentMissing, UnsupportedModel, UsageError
from adapter_infer.metadata import Metadata

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, NodeArg

PLAN_SUFFIXES = (".plan", ".engine", ".trt")
DTYPES = {"float": "float32", "double": "float64", "bool": "bool", "string": "object", "float16": "float16"} | {
    name: name for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
}


@dataclass(frozen=True)
class TensorInfo:
    """One input or output. A size is an int, or the name of a dynamic dimension ("?" where the file gives no name).

    `dtype` is numpy's name of the element type, or ONNX's where numpy has none ("bfloat16").
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str


class Engine:
    """A loaded model. `infer` may be called from several threads at once; `close` frees the session.

    `inputs` and `outputs` in the file's order; `metadata` what adapter-export wrote, None for a file of another maker;
    `provider` "cpu" or "cuda" and `threads` as they are in use; `library` the registered custom-op library, None where
    function bodies (or a graph without custom operators) run.
    """

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
        self._session: InferenceSession | None = session
        self.path = path
        self.metadata = metadata
        self.provider = provider
        self.threads = threads
        self.library = library
        self.inputs = tuple(_tensor(node) for node in session.get_inputs())
        self.outputs = tuple(_tensor(node) for node in session.get_outputs())

    @classmethod
    def load(
        cls, path: str | Path, *, provider: str = "cpu", threads: int | None = None, library: Library = "auto"
    ) -> Engine:
        """The model in the ONNX file at `path`.

        `provider` is "cpu" or "cuda", never replaced by another. `threads` counts the threads one operator may use;
        None takes the physical cores this process may run on. `library` "auto" registers this project's custom-op
        library where it covers the session, None runs function bodies, a path registers that library.

        Errors: UsageError on a wrong argument or a missing file, UnsupportedModel on a file that is no usable ONNX
        model, EnvironmentMissing if provider, library or operator cannot be had here, or the file is a TensorRT plan.
        """
        path = Path(path)
        if path.suffix.lower() in PLAN_SUFFIXES:
            raise EnvironmentMissing(
                f"{path} is a TensorRT plan by its name, and this version does not support TensorRT plans; "
                "give the ONNX file it was built from"
            )
        count = thread_count.chosen(threads)
        file = onnx_file.read(path)
        metadata = file_metadata.from_props(file.props)
        if metadata is not None and metadata.op == "tensorrt":
            raise UnsupportedModel(
                f"{path} was exported with --op tensorrt, whose operator only TensorRT has; export it with --op fused"
            )
        _check_external(path, file.external)
        session, registered = open_session(path, file, provider, count, library)
        return cls(session, path=path, metadata=metadata, provider=provider, threads=count, library=registered)

    def infer(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs by name, for one array per input, of exactly the input's element type and a shape it allows.

        Nothing is cast, padded or resized; arrays that are not contiguous are copied.
        Errors: UsageError on feeds the model cannot take or after `close`, AdapterError if the run fails.
        """
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
        """Frees the session, once runs under way in other threads have ended. Further calls do nothing."""
        self._session = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Engine({str(self.path)!r}, provider={self.provider!r}, threads={self.threads}, library={self.library})"


def _check_external(path: Path, external: Mapping[str, int]) -> None:
    """Errors: UsageError if a file with weights is not beside the model, or is too short."""
    for name, needed in sorted(external.items()):
        weights = path.parent / name
        if not weights.is_file():
            raise UsageError(f"{path} keeps its weights in {weights}, which is not there; put the two side by side")
        if weights.stat().st_size < needed:
            raise UsageError(
                f"{weights} has {weights.stat().st_size} bytes, but {path.name} needs {needed} of it; copy it again"
            )


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

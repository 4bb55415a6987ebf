"""A model, ready to run: `with Engine.load("model.onnx") as engine: engine.infer({"image": x})`, and plans alike."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_engines.closing import Closing
from adapter_infer.errors import UsageError
from adapter_infer.metadata import Metadata

if TYPE_CHECKING:
    from adapter_engines.sessions import Library

PLAN_SUFFIXES = (".plan", ".engine", ".trt")
PLAN_PROVIDER = "tensorrt"


@dataclass(frozen=True)
class TensorInfo:
    """One input or output. A size is an int, or the name of a dynamic dimension ("?" where the file gives no name).

    `dtype` is numpy's name of the element type, or ONNX's where numpy has none ("bfloat16").
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str


class Engine(Closing):
    """A loaded model. `infer` may be called from several threads at once; `close` frees what it holds.

    `inputs` and `outputs` in the file's order; `metadata` what adapter-export wrote, None for a file of another maker;
    `provider` "cpu", "cuda" or "tensorrt" as it is in use; `runtime` what runs it, as (name, version); `threads` of
    the CPU, None for a plan; `library` the custom-op library or plugin in use, None where function bodies (or a graph
    without custom operators) run; `best_batch` how many images at once are worth while where the file leaves it open.
    """

    path: Path
    metadata: Metadata | None
    provider: str
    runtime: tuple[str, str]
    threads: int | None
    library: Path | None
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    best_batch: int

    @staticmethod
    def load(
        path: str | Path,
        *,
        backbone: str | Path | None = None,
        provider: str | None = None,
        threads: int | None = None,
        library: Library = "auto",
        allow_embedded_code: bool = False,
        profile: int | None = None,
        contexts: int | None = None,
        cuda_graph: bool = False,
    ) -> Engine:
        """The model in the ONNX file, or the TensorRT plan (*.plan, *.engine, *.trt), at `path`.

        Of a model in two files (adapter-export --split), `path` is the head, `backbone` the other file, loaded alike.

        Of an ONNX file: `provider` is "cpu" (None takes it) or "cuda", never replaced by another. `threads` counts the
        threads one operator may use; None takes the physical cores this process may run on. `library` "auto" registers
        this project's custom-op library where it covers the session, None runs function bodies, a path registers that
        library. `cuda_graph` on "cuda" launches runs as CUDA graphs, one for each set of shapes and one at a time; it
        needs a model that lies on the GPU as a whole, which exports of a fixed size do.

        Of a plan: code in it (an embedded plugin, a lean runtime) is only run with `allow_embedded_code`. `profile` is
        the optimization profile for all runs; None takes the one that fits each best. `contexts` is how many threads
        can run at once (4), each with its own memory on the GPU; `cuda_graph` launches repeated runs as CUDA graphs.

        Errors: UsageError on a wrong argument, one that the file has no use for, a missing file, or a plan that its
        sidecar refuses; UnsupportedModel on a file that is no usable model; EnvironmentMissing if provider, library,
        operator, TensorRT or GPU cannot be had here.
        """
        if backbone is not None:
            from adapter_engines.chain import ChainedEngine

            return ChainedEngine.open(
                Path(backbone),
                Path(path),
                provider=provider,
                threads=threads,
                library=library,
                allow_embedded_code=allow_embedded_code,
                profile=profile,
                contexts=contexts,
                cuda_graph=cuda_graph,
            )
        path = Path(path)
        if path.suffix.lower() in PLAN_SUFFIXES:
            from adapter_engines.plan_engine import PlanEngine

            other = provider not in (None, PLAN_PROVIDER)
            _no_use(path, "a TensorRT plan", provider=other, threads=threads is not None, library=library != "auto")
            return PlanEngine.open(
                path,
                allow_embedded_code=allow_embedded_code,
                profile=profile,
                contexts=contexts,
                cuda_graph=cuda_graph,
            )
        from adapter_engines.ort_engine import OrtEngine

        _no_use(path, "an ONNX file", profile=profile is not None, contexts=contexts is not None)
        _no_use(path, "an ONNX file", allow_embedded_code=allow_embedded_code)
        return OrtEngine.open(path, provider=provider or "cpu", threads=threads, library=library, cuda_graph=cuda_graph)

    @abstractmethod
    def infer(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """All outputs by name, for one array per input, of exactly the input's element type and a shape it allows.

        numpy arrays in, numpy arrays out. Nothing is cast, padded or resized; arrays that are not contiguous are
        copied. A plan, and an ONNX file on "cuda", also takes arrays on its GPU (`__dlpack__` or
        `__cuda_array_interface__`: torch, cupy, pycuda), reads them there, and then returns DeviceArrays, computed.
        bfloat16 in numpy is ml_dtypes.bfloat16. Errors: UsageError on feeds the model cannot take or after `close`,
        AdapterError if the run fails.
        """

    @abstractmethod
    def close(self) -> None:
        """Frees what it holds, once runs under way in other threads have ended. Further calls do nothing."""

    def __repr__(self) -> str:
        return f"Engine({str(self.path)!r}, provider={self.provider!r}, threads={self.threads}, library={self.library})"


def _no_use(path: Path, what: str, **given: bool) -> None:
    """Errors: UsageError if an argument was given that such a file has no use for."""
    for name, is_given in given.items():
        if is_given:
            raise UsageError(f"{path} is {what}, which {name} does not apply to; leave {name} out")

"""An exported ONNX file on ONNX Runtime, as a subject to measure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from adapter_bench import bare, files, machine, macs_onnx, memory, ort_runs, weights
from adapter_bench.measure import Rules
from adapter_bench.shapes import msda_kind
from adapter_bench.subject import Count, Prepare, Size, content_remarks, default_size
from adapter_engines import Engine, onnx_file
from adapter_infer import metadata as file_metadata
from adapter_infer.errors import UnsupportedModel, UsageError
from adapter_infer.metadata import IMAGE_SIZE, Metadata
from adapter_infer.spec import ModelSpec

DTYPES: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.UINT8: "uint8",
}


class EngineSubject:
    """The ONNX file at `path`. `threads` None takes the runtime's choice, known once the file was opened.

    On provider "cuda" inputs and outputs stay on the GPU; `cuda_graph` says whether runs are launched as a CUDA graph,
    None: where the model lets itself be.

    Errors: UsageError for a file that is not there, UnsupportedModel for one that is no ONNX model with one picture as
    its input; `open` has those of `Engine.load`.
    """

    def __init__(
        self,
        path: str,
        provider: str = "cpu",
        threads: int | None = None,
        name: str | None = None,
        cuda_graph: bool | None = None,
    ) -> None:
        self.path, self.provider, self.threads, self.cuda_graph = Path(path), provider, threads, cuda_graph
        self._external = sorted(onnx_file.read(self.path).external)  # and refuses what cannot be an ONNX file
        self._graph = macs_onnx.load(self.path)
        props = {entry.key: entry.value for entry in self._graph.metadata_props}
        self.metadata: Metadata | None = file_metadata.from_props(props)
        self.name = name or (self.spec.name if self.spec is not None else "") or self.path.stem
        self._input, self._sizes = self._inputs()
        self._opened = False
        self._found: dict[str, Any] = {}  # what the last run gave
        self._library: Path | None = None
        self._device: ort_runs.DeviceTimes | None = None

    @property
    def spec(self) -> ModelSpec | None:
        return None if self.metadata is None else self.metadata.model

    def resolve(self, size: Size | None, batches: list[int] | None) -> tuple[Size, list[int]]:
        fixed_batch, *fixed_size = self._fixed()
        if batches is None:
            batches = [fixed_batch or 1]
        if fixed_batch is not None and any(batch != fixed_batch for batch in batches):
            raise UsageError(
                f"--batch {' '.join(map(str, batches))}: {self.path} takes batches of {fixed_batch} only; "
                "export it with --batch dynamic"
            )
        if size is None:
            size = self._default_size()
        if any(fixed is not None and fixed != asked for fixed, asked in zip(fixed_size, size, strict=True)):
            raise UsageError(
                f"--size {size[0]} {size[1]}: {self.path} takes {fixed_size[0]}x{fixed_size[1]} only; "
                "export it with --dynamic-size or at that --size"
            )
        divisor = 1 if self.metadata is None else self.metadata.input.size_divisor
        if any(side % divisor for side in size):
            raise UsageError(
                f"--size {size[0]} {size[1]} is not a multiple of {divisor}, which the model's coarsest level needs"
            )
        return size, batches

    @contextmanager
    def open(self) -> Iterator[Prepare]:
        with ExitStack() as held:
            if self.provider == "cuda":
                self._device = ort_runs.opened(self.path, self.threads, self.cuda_graph, held)
                engine: Engine = self._device.engine
            else:
                engine = held.enter_context(Engine.load(self.path, provider=self.provider, threads=self.threads))
            self._opened, self.threads, self._library = True, engine.threads, engine.library

            def prepare(batch: int, size: Size) -> Callable[[], object]:
                feeds = bare.feeds(**self._feed(batch, size))
                if self._device is not None:
                    return self._device.prepared(feeds)

                def run() -> object:
                    self._found = engine.infer(feeds)
                    return self._found

                return run

            yield prepare

    def facts(self) -> dict[str, Any]:
        import onnxruntime

        msda_nodes = sum(msda_kind(node) is not None for node in self._graph.graph.node)
        remarks = []
        if self._opened and msda_nodes and self._library is None:
            remarks.append("no custom-op library was registered: MSDA ran as its function body, which is slower")
        if self._device is not None and self._device.graph["refusal"]:
            remarks.append(f"no CUDA graph: {self._device.graph['refusal']}")
        found = self._found if self._device is None else self._device.found
        if self._sizes is not None and {"count", "scores"} <= found.keys():
            remarks += content_remarks(found["count"], found["scores"].shape[1])
        return {
            "engine": self._engine(),
            "runtime": {
                "name": "onnxruntime",
                "version": onnxruntime.__version__,
                "provider": self.provider,
                "custom_op_library": None if self._library is None else files.describe(Path(self._library)),
            },
            "device": self._device_name(),
            "threads": self.threads,
            "precision": weights.precision(self._graph),
            "params": weights.numbers(self._graph) if self.metadata is None else self.metadata.params,
            "params_of": "the constants in the graph"
            if self.metadata is None
            else "the model, without auxiliary heads",
            "weights_bytes": weights.size_in_bytes(self._graph),
            "msda_nodes": msda_nodes,
            "remarks": remarks,
        }

    def details(self, batch: int, size: Size, rules: Rules) -> dict[str, Any]:
        """On a GPU `ways`: with a CUDA graph, without one, and whole runs with numpy arrays in and out."""
        if self._device is None:
            return {}
        return {"cuda_graph": self._device.graph, "ways": self._device.ways(batch, rules)}

    def peak_memory(self, batch: int, size: Size) -> dict[str, Any]:
        if self.provider == "cuda":
            return ort_runs.memory(self.path, self.threads, self.cuda_graph, self._feed(batch, size))
        return memory.measure(self.alone(batch, size))

    def _feed(self, batch: int, size: Size) -> dict[str, Any]:
        """What `bare.feeds` takes."""
        shape = self._picture_shape(batch, size)
        return {"name": self._input.name, "shape": shape, "dtype": self._dtype, "sizes": self._sizes}

    def alone(self, batch: int, size: Size) -> dict[str, Any]:
        """JSON data with which `bare.load` opens the model, ready to run, in a process of its own."""
        return {
            "kind": "engine",
            "path": str(self.path),
            "provider": self.provider,
            "threads": self.threads,
            **self._feed(batch, size),
        }

    def count(self, batch: int, size: Size) -> Count:
        shapes: dict[str, tuple[int, ...]] = {self._input.name: self._picture_shape(batch, size)}
        if self._sizes is not None:
            shapes[self._sizes] = (batch, 2)
        counted = macs_onnx.count(self._graph, shapes)
        paper, remarks = None, []
        if (spec := self._counted_spec()) is not None:
            from adapter_bench import macs_torch

            output = self.metadata.output if self.metadata is not None else None
            paper = None if output == "dense" else macs_torch.count_paper(spec, size)
            in_torch = sum(macs_torch.count(spec, size, batch, output).values())
            if in_torch != counted.macs:
                constant = macs_torch.count_constant(spec, size, batch, output)
                folded = counted.macs == in_torch - constant
                remarks.append(
                    f"{constant} MACs of the PyTorch model are constants in the graph"
                    if folded
                    else f"the graph has {counted.macs} MACs, the PyTorch model {in_torch}: the graph was changed"
                )
        if counted.uncounted:
            found = ", ".join(f"{times} {operator}" for operator, times in counted.uncounted.items())
            remarks.append(f"MACs are a lower bound: no rule counts {found}")
        return Count(counted.macs, counted.by_op, paper, counted.uncounted, tuple(remarks))

    def baseline(self, cache: Path) -> EngineSubject:
        from adapter_bench import baseline

        if self.metadata is None:
            raise UnsupportedModel(
                f"{self.path} was not written by adapter-export, so its plain ViT is not known; leave --baseline out"
            )
        plain = str(baseline.engine(self.metadata, self._opset, cache))
        return EngineSubject(plain, self.provider, self.threads, cuda_graph=self.cuda_graph)

    def _counted_spec(self) -> ModelSpec | None:
        """What of the model is in the graph: an export of feature maps holds the backbone alone."""
        if self.metadata is None:
            return None
        if self.metadata.output == "features":
            return replace(self.metadata.model, neck=None, decode_head=None, detector=None)
        return self.metadata.model

    @property
    def _opset(self) -> int:
        """The version of ONNX's own operators."""
        return next(opset.version for opset in self._graph.opset_import if opset.domain in {"", "ai.onnx"})

    def _device_name(self) -> str:
        if self.provider != "cuda":
            return machine.device()
        from adapter_engines.device import Device

        return Device().info().name

    def _engine(self) -> dict[str, Any]:
        described = files.describe(self.path)
        described["external_data"] = [files.describe(self.path.parent / name) for name in self._external]
        described["model"] = self.name
        if self.metadata is not None:
            described |= {"op": self.metadata.op, "output": self.metadata.output, "version": self.metadata.version}
            described |= {"checkpoint_sha256": self.metadata.checkpoint_sha256, "parity": self.metadata.parity}
        return described

    # --- the input ---

    def _inputs(self) -> tuple[onnx.ValueInfoProto, str | None]:
        """The graph's picture, and the name of a detector's other input, the pictures' sizes.

        Errors: UnsupportedModel.
        """
        weights_too = {tensor.name for tensor in self._graph.graph.initializer}
        inputs = [entry for entry in self._graph.graph.input if entry.name not in weights_too]
        pictures = [entry for entry in inputs if entry.name != IMAGE_SIZE]
        if len(pictures) != 1 or len(pictures[0].type.tensor_type.shape.dim) != 4:
            found = ", ".join(entry.name for entry in inputs) or "nothing"
            raise UnsupportedModel(
                f"{self.path} takes {found}; only models with one picture as their input are measured, "
                f"and detectors that take its {IMAGE_SIZE} too"
            )
        if pictures[0].type.tensor_type.elem_type not in DTYPES:
            raise UnsupportedModel(f"{self.path} takes pictures that are not float32, float16 or uint8")
        return pictures[0], IMAGE_SIZE if len(inputs) > 1 else None

    def _dims(self) -> list[int | None]:
        dims = self._input.type.tensor_type.shape.dim
        return [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]

    @property
    def _channels_last(self) -> bool:
        if self.metadata is not None:
            return self.metadata.input.embed_preprocess
        return self._dims()[3] == 3 and self._dims()[1] != 3

    def _fixed(self) -> tuple[int | None, int | None, int | None]:
        """Batch, height and width where the graph fixes them."""
        n, first, second, third = self._dims()
        return (n, first, second) if self._channels_last else (n, second, third)

    def _default_size(self) -> Size:
        _, height, width = self._fixed()
        crop = default_size(self.spec)
        if (height is None or width is None) and crop is None:
            raise UsageError(f"{self.path} takes any size and names none; give --size H W")
        fallback = crop or (0, 0)
        return height or fallback[0], width or fallback[1]

    def _picture_shape(self, batch: int, size: Size) -> tuple[int, int, int, int]:
        return (batch, *size, 3) if self._channels_last else (batch, 3, *size)

    @property
    def _dtype(self) -> str:
        return DTYPES[int(self._input.type.tensor_type.elem_type)]

"""The ONNX file a plan is built from: what it says of itself, what TensorRT cannot take, its bytes for the parser."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from adapter_engines import onnx_file
from adapter_engines.onnx_file import OnnxFile
from adapter_infer import metadata as file_metadata
from adapter_infer.errors import UnsupportedModel
from adapter_infer.files import sha256
from adapter_infer.metadata import FUSED_OP, OP_DOMAIN, STANDARD_OP, Metadata

OURS = frozenset({(OP_DOMAIN, FUSED_OP), (OP_DOMAIN, STANDARD_OP)})
STOCK = ("trt.plugins", "MultiscaleDeformableAttnPlugin_TRT")  # TensorRT's own plugin, which --op tensorrt uses
# A field of ModelProto that does not exist, as the two bytes of its tag: a parser skips it.
UNKNOWN_FIELD = bytes([0x82 | 0x78, 0x7D])


@dataclass(frozen=True)
class Source:
    """An ONNX file: its hash, custom operators and functions, metadata (None: another maker's), count of MSDA nodes."""

    path: Path
    sha256: str
    file: OnnxFile
    metadata: Metadata | None
    msda_nodes: int

    @property
    def ours(self) -> frozenset[tuple[str, str]]:
        """The operators of this project that the graph calls."""
        return OURS & self.file.operators.keys()

    @property
    def bodies(self) -> frozenset[tuple[str, str]]:
        """Those of them that the file has a function body for."""
        return self.ours & self.file.functions


def read(path: Path) -> Source:
    """The facts of the ONNX file at `path`, refused before any work where no plan can come of it.

    Errors: UsageError if it or its weights are not there, UnsupportedModel if TensorRT cannot take it.
    """
    file = onnx_file.read(path)
    metadata = file_metadata.from_props(file.props)
    if metadata is not None and metadata.op == "onnx":
        raise UnsupportedModel(
            f"{path} was exported with --op onnx, whose GridSample TensorRT misreads without an error; "
            "export it with --op fused"
        )
    onnx_file.check_external(path, file.external)
    nodes = sum(count for operator, count in file.operators.items() if operator in OURS or operator == STOCK)
    return Source(path, sha256(path), file, metadata, nodes)


@contextmanager
def content(path: Path, without: frozenset[tuple[str, str]] = frozenset()) -> Iterator[mmap.mmap]:
    """The bytes of the file for a protobuf parser, without the functions (domain, name) of `without`.

    The file is mapped, not read: of a model of gigabytes only the pages with a function's tag are copied. A function is
    taken out by renaming its field to one that does not exist; the file itself stays as it is.
    """
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        at = 0
        for number, begin, end in onnx_file.fields(mapped, 0, len(mapped)):
            if number == onnx_file.MODEL_FUNCTIONS and _function(mapped, begin, end) in without:
                mapped[at : at + len(UNKNOWN_FIELD)] = UNKNOWN_FIELD
            at = end
        yield mapped


def _function(mapped: mmap.mmap, begin: int, end: int) -> tuple[str, str]:
    return onnx_file.pair(mapped, begin, end, onnx_file.FUNCTION_DOMAIN, onnx_file.FUNCTION_NAME)

"""What an ONNX file says of itself, read without loading it: metadata, custom operators, files it refers to.

ONNX Runtime tells the metadata only after it has built the session, and by then the custom-op library must be
registered. So the few fields needed are picked out of the protobuf wire format, which is a list of (field number, wire
type, content); weights are skipped over, not read. The numbers are the field numbers of onnx.proto, which never change.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from adapter_infer.errors import UnsupportedModel, UsageError

MODEL_GRAPH, MODEL_OPSETS, MODEL_METADATA, MODEL_FUNCTIONS = 7, 8, 14, 25
GRAPH_NODE, GRAPH_INITIALIZER = 1, 5
NODE_OP_TYPE, NODE_ATTRIBUTE, NODE_DOMAIN = 4, 5, 7
ATTRIBUTE_TENSOR, ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS = 5, 6, 11
TENSOR_EXTERNAL_DATA = 13
FUNCTION_NAME, FUNCTION_NODE, FUNCTION_DOMAIN = 1, 7, 10
KEY, VALUE = 1, 2  # of a StringStringEntryProto

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
DEEPEST_SUBGRAPH = 32


class Damaged(ValueError):
    """The bytes are not the protobuf message they should be."""


@dataclass
class OnnxFile:
    """`props` metadata_props; `operators` how often each (domain, op_type) outside the standard domain is called, in
    function bodies and subgraphs too; `functions` the (domain, name) that have a body; `external` the
    files beside the model, with the bytes each must have.
    """

    props: dict[str, str] = field(default_factory=dict)
    operators: Counter[tuple[str, str]] = field(default_factory=Counter)
    functions: set[tuple[str, str]] = field(default_factory=set)
    external: dict[str, int] = field(default_factory=dict)


def read(path: Path) -> OnnxFile:
    """The facts of the ONNX file at `path`.

    Errors: UsageError if it is not there or no file, UnsupportedModel if it is not ONNX or cut short.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(64)
            if not start:
                raise UnsupportedModel(f"{path} is empty; export or copy it again")
            if start.startswith(b"version https://git-lfs"):
                raise UnsupportedModel(f"{path} is a Git LFS pointer, not the model; fetch it with `git lfs pull`")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _model(content, path)
    except FileNotFoundError as error:
        raise UsageError(f"there is no file {path}; give the path of an ONNX file that adapter-export wrote") from error
    except IsADirectoryError as error:
        raise UsageError(f"{path} is a folder; give the path of the ONNX file in it") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error


def check_external(path: Path, external: Mapping[str, int]) -> None:
    """Errors: UsageError if a file with weights is not beside the model, or is too short."""
    for name, needed in sorted(external.items()):
        weights = path.parent / name
        if not weights.is_file():
            raise UsageError(f"{path} keeps its weights in {weights}, which is not there; put the two side by side")
        if weights.stat().st_size < needed:
            raise UsageError(
                f"{weights} has {weights.stat().st_size} bytes, but {path.name} needs {needed} of it; copy it again"
            )


def _model(content: mmap.mmap, path: Path) -> OnnxFile:
    facts = OnnxFile()
    graphs = 0
    try:
        for number, begin, end in fields(content, 0, len(content)):
            if number == MODEL_GRAPH:
                graphs += 1
                _nodes(content, begin, end, GRAPH_NODE, facts)
            elif number == MODEL_METADATA:
                key, value = _entry(content, begin, end)
                facts.props[key] = value
            elif number == MODEL_FUNCTIONS:
                facts.functions.add(pair(content, begin, end, FUNCTION_DOMAIN, FUNCTION_NAME))
                _nodes(content, begin, end, FUNCTION_NODE, facts)
    except (Damaged, UnicodeDecodeError) as error:
        raise UnsupportedModel(
            f"{path} is not an ONNX file, or is cut short ({error}); export or copy it again"
        ) from error
    if graphs != 1:
        raise UnsupportedModel(f"{path} is not an ONNX file: it holds {graphs} graphs instead of one")
    return facts


def _nodes(content: mmap.mmap, begin: int, end: int, node_field: int, facts: OnnxFile, depth: int = 0) -> None:
    """Walks a GraphProto or a FunctionProto, which differ in the number of their node field."""
    if depth > DEEPEST_SUBGRAPH:
        raise Damaged(f"subgraphs nested deeper than {DEEPEST_SUBGRAPH}")
    for number, first, last in fields(content, begin, end):
        if number == node_field:
            operator = pair(content, first, last, NODE_DOMAIN, NODE_OP_TYPE)
            if operator[0] not in ("", "ai.onnx"):
                facts.operators[operator] += 1
            for inner, at, to in fields(content, first, last):
                if inner == NODE_ATTRIBUTE:
                    _attribute(content, at, to, facts, depth)
        elif number == GRAPH_INITIALIZER and node_field == GRAPH_NODE:
            _tensor(content, first, last, facts)


def _attribute(content: mmap.mmap, begin: int, end: int, facts: OnnxFile, depth: int) -> None:
    for number, first, last in fields(content, begin, end):
        if number in (ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS):
            _nodes(content, first, last, GRAPH_NODE, facts, depth + 1)
        elif number == ATTRIBUTE_TENSOR:
            _tensor(content, first, last, facts)


def _tensor(content: mmap.mmap, begin: int, end: int, facts: OnnxFile) -> None:
    place: dict[str, str] = {}
    for number, first, last in fields(content, begin, end):
        if number == TENSOR_EXTERNAL_DATA:
            key, value = _entry(content, first, last)
            place[key] = value
    if "location" in place:
        try:
            needed = int(place.get("offset", 0)) + int(place.get("length", 0))
        except ValueError as error:
            raise Damaged(f"a tensor's place in {place['location']} is no number") from error
        facts.external[place["location"]] = max(needed, facts.external.get(place["location"], 0))


def _entry(content: mmap.mmap, begin: int, end: int) -> tuple[str, str]:
    return pair(content, begin, end, KEY, VALUE)


def pair(content: mmap.mmap, begin: int, end: int, first_field: int, second_field: int) -> tuple[str, str]:
    """Two string fields of one message, "" where absent."""
    found = {first_field: "", second_field: ""}
    for number, first, last in fields(content, begin, end):
        if number in found:
            found[number] = content[first:last].decode("utf-8")
    return found[first_field], found[second_field]


def fields(content: mmap.mmap, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(field number, first byte, byte after the last) of every field of the message in content[begin:end]."""
    at = begin
    while at < end:
        tag, at = _varint(content, at, end)
        number, wire_type = tag >> 3, tag & 7
        first = at
        if wire_type == VARINT:
            _, at = _varint(content, at, end)
        elif wire_type == FIXED64:
            at += 8
        elif wire_type == FIXED32:
            at += 4
        elif wire_type == BYTES:
            length, first = _varint(content, at, end)
            at = first + length
        else:
            raise Damaged(f"byte {begin} starts no ONNX message")
        if number == 0:
            raise Damaged(f"byte {begin} starts no ONNX message")
        if at > end:
            raise Damaged(f"{at - end} bytes are missing after byte {end}")
        yield number, first, at


def _varint(content: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """A base-128 number and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise Damaged(f"it ends inside a number at byte {end}")
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise Damaged(f"a number longer than 64 bits at byte {at}")

"""Lays a plan or an ONNX file out as a model of Triton Inference Server, with its plugin and the way to load it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapter_engines.plans import sidecar
from adapter_engines.plans.sidecar import Sidecar
from adapter_engines.plans.toolkit import TENSORRT
from adapter_infer.errors import AdapterError, EnvironmentMissing, UsageError
from adapter_infer.files import replacing, sha256
from adapter_infer.metadata import IMAGE

TYPES = {"float32": "FP32", "float16": "FP16", "bfloat16": "BF16", "bool": "BOOL"} | {
    name: name.upper() for name in ("uint8", "int8", "int32", "int64")
}
ONNX_BATCH = 8  # pictures in a batch that Triton may gather for an ONNX file, where nothing else is said
QUEUE_MICROSECONDS = 500  # a request waits so long for others to share its batch
PLUGINS = "plugins"  # Triton takes numbered folders for versions and leaves others alone


@dataclass(frozen=True)
class Package:
    """A model in the repository: its folder, version, the library beside it, and how the server is started."""

    folder: Path
    version: int
    library: Path | None
    command: str


@dataclass(frozen=True)
class _Model:
    """What a server must know of a model. Shapes have -1 for dynamic; `batches` (best ones), () for a fixed batch."""

    backend: str
    platform: str
    file_name: str
    kind: str
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    max_batch: int
    batches: tuple[int, ...]
    profiles: int
    library: Path | None
    backend_options: tuple[str, ...]
    data: tuple[Path, ...]


def package(
    model: str | Path,
    repository: str | Path,
    *,
    name: str | None = None,
    version: int | None = None,
    max_batch: int | None = None,
    server_path: str | None = None,
) -> Package:
    """Adds `model` (a plan with its sidecar, or an ONNX file) to Triton's model `repository`, as a new version.

    `name` is the file's, `version` one more than there is, where they are not said. `max_batch` limits what the server
    gathers of a dynamic batch. `server_path` is where the server sees the repository, if not where it is here.
    Errors: UsageError on names and numbers, a version that exists, or a configuration that another model has there;
    EnvironmentMissing if the plugin library is missing.
    """
    model, repository = Path(model), Path(repository)
    if not model.is_file():
        raise UsageError(f"there is no file {model}; give a plan or an ONNX file")
    name = name or model.name.removesuffix("".join(model.suffixes[-1:]))
    if not name or name.startswith(".") or any(sign in name for sign in "/\\ "):
        raise UsageError(f"{name!r} is no name for a model; pass --name with letters, digits, - and _")
    if version is not None and version < 1:
        raise UsageError(f"model version {version} does not exist in Triton; versions start at 1")
    facts = _onnx(model, max_batch) if model.suffix.lower() == ".onnx" else _plan(model, max_batch)
    folder = repository / name
    seen = f"{(server_path or str(repository.resolve())).rstrip('/')}"
    library = None if facts.library is None else folder / PLUGINS / facts.library.name
    command = _command(facts, seen, name)
    text = config(facts, name, f"{seen}/{name}/{PLUGINS}", command)
    try:
        chosen = _publish(model, facts, folder, version, library, text)
    except OSError as error:
        raise AdapterError(f"cannot write {folder}: {error.strerror or error}") from error
    return Package(folder, chosen, library, command)


def config(facts: _Model, name: str, plugins: str, command: str) -> str:
    """The text of config.pbtxt. `plugins` is the folder of the library as the server sees it."""
    lines = [f"# {command}", f"name: {_text(name)}", f"backend: {_text(facts.backend)}"]
    lines += [f"platform: {_text(facts.platform)}", f"default_model_filename: {_text(facts.file_name)}"]
    lines += [f"max_batch_size: {facts.max_batch}"]
    for field, tensors in (("input", facts.inputs), ("output", facts.outputs)):
        for tensor in tensors:
            dims = tensor["shape"][1:] if facts.max_batch else tensor["shape"]
            lines += [f"{field} {{", f"  name: {_text(tensor['name'])}", f"  data_type: TYPE_{_type(tensor)}"]
            lines += [f"  dims: [ {', '.join(map(str, dims or [1]))} ]"]
            lines += [] if dims else ["  reshape { shape: [ ] }"]  # one number a picture: Triton wants a dimension
            lines += ["}"]
    profiles = (
        [f"  profile: [ {', '.join(_text(str(i)) for i in range(facts.profiles))} ]"] if facts.profiles > 1 else []
    )
    lines += ["instance_group {", "  count: 1", f"  kind: {facts.kind}", *profiles, "}"]
    if facts.max_batch > 1:
        preferred = sorted({size for size in facts.batches if 1 < size <= facts.max_batch}) or [facts.max_batch]
        lines += ["dynamic_batching {", f"  preferred_batch_size: [ {', '.join(map(str, preferred))} ]"]
        lines += [f"  max_queue_delay_microseconds: {QUEUE_MICROSECONDS}", "}"]
    if facts.library is not None and facts.backend == "onnxruntime":
        lines += [f"model_operations {{ op_library_filename: {_text(f'{plugins}/{facts.library.name}')} }}"]
    return "\n".join(lines) + "\n"


def _command(facts: _Model, seen: str, name: str) -> str:
    """How the server is started, with what its TensorRT backend must be told of the plugin."""
    options = list(facts.backend_options)
    if facts.library is not None and facts.backend == "tensorrt":
        options.append(f"plugins={seen}/{name}/{PLUGINS}/{facts.library.name}")
    told = "".join(f" --backend-config={facts.backend},{option}" for option in options)
    return f"tritonserver --model-repository={seen}{told}"


def _plan(path: Path, max_batch: int | None) -> _Model:
    described = sidecar.read(path)
    if described is None:
        raise UsageError(
            f"{path} has no {sidecar.path_of(path).name} beside it, which says what goes in and out; copy that file "
            "too, or build the plan with adapter-engine"
        )
    reason = sidecar.content_mismatch(path, described)
    if reason is not None:
        raise UsageError(reason)
    if described.weights_stripped:
        raise UsageError(f"{path} holds no weights; fill them in with `adapter-engine refit` first")
    if described.toolkit != TENSORRT:
        raise UsageError(f"{path} was built with {described.toolkit}, which Triton has no backend for; use TensorRT")
    batches = [profile[IMAGE] for profile in described.profiles]
    dynamic = all(tensor["shape"][0] == -1 for tensor in described.inputs)
    largest = max((shapes["max"][0] for shapes in batches), default=0) if dynamic else 0
    return _Model(
        "tensorrt",
        "tensorrt_plan",
        "model.plan",
        "KIND_GPU",
        described.inputs,
        described.outputs,
        _most(path, dynamic, largest, max_batch),
        tuple(shapes["opt"][0] for shapes in batches),
        len(described.profiles),
        _plugin(path, described),
        ("version-compatible=true",) if described.version_compatible else (),
        (),
    )


def _plugin(path: Path, described: Sidecar) -> Path | None:
    """The library that registers itself, which Triton's `plugins` option needs. Errors: EnvironmentMissing."""
    if not described.plugin_layers or described.plugin_embedded or described.plugin_sha256 is None:
        return None
    import adapter_plugins

    major = int(described.toolkit_version.partition(".")[0])
    plain = Path(adapter_plugins.tensorrt_plugin(major))
    if sha256(plain) != described.plugin_sha256:
        raise EnvironmentMissing(
            f"{path} was built with another plugin than {plain}; build the plan again with this one, or package it "
            "where it was built"
        )
    return Path(adapter_plugins.tensorrt_plugin(major, self_registering=True))


def _onnx(path: Path, max_batch: int | None) -> _Model:
    from adapter_engines import onnx_file
    from adapter_engines.engine import Engine

    with Engine.load(path, provider="cpu", threads=1) as engine:
        inputs, outputs = (
            [
                {"name": each.name, "dtype": each.dtype, "shape": [s if isinstance(s, int) else -1 for s in each.shape]}
                for each in tensors
            ]
            for tensors in (engine.inputs, engine.outputs)
        )
        library = engine.library
    dynamic = all(tensor["shape"] and tensor["shape"][0] == -1 for tensor in inputs)
    return _Model(
        "onnxruntime",
        "onnxruntime_onnx",
        "model.onnx",
        "KIND_CPU",
        inputs,
        outputs,
        _most(path, dynamic, max_batch or ONNX_BATCH, max_batch),
        (),
        0,
        library,
        (),
        tuple(path.parent / name for name in sorted(onnx_file.read(path).external)),
    )


def _most(path: Path, dynamic: bool, largest: int, asked: int | None) -> int:
    """max_batch_size: 0 says that the shapes are to be taken as they are."""
    if asked is not None and not dynamic:
        raise UsageError(f"{path} has a fixed batch; leave out --max-batch, or export with --batch dynamic")
    if asked is not None and not 1 <= asked <= largest:
        raise UsageError(f"--max-batch is {asked}, but {path} takes 1 to {largest}; build the plan for larger batches")
    return (asked or largest) if dynamic else 0


def _publish(model: Path, facts: _Model, folder: Path, version: int | None, library: Path | None, text: str) -> int:
    """Writes configuration and library, then the version as a whole. Its number. Errors: UsageError, OSError."""
    numbers = [int(each.name) for each in folder.iterdir() if each.name.isdigit()] if folder.is_dir() else []
    chosen = version or max(numbers, default=0) + 1
    place = folder / str(chosen)
    if place.exists():
        raise UsageError(
            f"{place} exists and is not overwritten; leave out --model-version for a new one, or remove it"
        )
    description = folder / "config.pbtxt"
    if description.exists() and description.read_text(encoding="utf-8") != text:
        raise UsageError(
            f"{description} describes another model or other settings than {model} has; choose another --name, or "
            "remove the file to have it written anew"
        )
    if library is not None and facts.library is not None:
        library.parent.mkdir(parents=True, exist_ok=True)
        if library.exists() and sha256(library) != sha256(facts.library):
            raise UsageError(f"{library} is another library, which older versions use; choose another --name")
        _copy(facts.library, library)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{chosen}.part"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        shutil.copyfile(model, partial / facts.file_name)
        for data in facts.data:  # under the name that the model file gives
            target = partial / data.relative_to(model.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(data, target)
        if not description.exists():
            with replacing(description) as stream:
                stream.write(text.encode())
        partial.rename(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return chosen


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as reader, replacing(target) as writer:
        shutil.copyfileobj(reader, writer)


def _type(tensor: dict[str, Any]) -> str:
    if tensor["dtype"] not in TYPES:
        raise UsageError(f"{tensor['name']} is {tensor['dtype']}, which Triton has no type for; export it with fp32")
    return TYPES[tensor["dtype"]]


def _text(value: str) -> str:
    return json.dumps(value)

"""The plain ViT of an exported model, exported in the same form with random weights and kept in a cache."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from adapter_bench import child, machine
from adapter_infer import spec as model_spec
from adapter_infer.errors import UsageError
from adapter_infer.metadata import Metadata

SEED = 0
FILE = "baseline.onnx"
# Packages whose version the file depends on.
_MAKERS = ("torch", "onnx", "onnxscript")


def default_cache() -> Path:
    """$XDG_CACHE_HOME/adapter-infer/baselines, by default in ~/.cache."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "adapter-infer" / "baselines"


def engine(metadata: Metadata, opset: int, cache: Path) -> Path:
    """The baseline of the exported model that `metadata` describes: from the cache, exported first if need be.

    Same input form, output, precision and opset; random weights, which cost the same time as trained ones. Errors:
    UnsupportedModel where the model has no baseline, UsageError where the cache cannot be written.
    """
    request = describe(metadata, opset)
    folder = cache / key(request)
    if (folder / FILE).is_file():
        return folder / FILE
    try:
        cache.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=cache))
    except OSError as error:
        raise UsageError(
            f"the cache folder {cache} cannot be written ({error.strerror}); name another with --cache"
        ) from error
    try:
        child.call(f"{__name__}:export_here", request=request, path=str(draft / FILE))
        os.chmod(draft, 0o755)
        try:
            os.rename(draft, folder)
        except OSError:  # another process was faster; its file is as good
            if not (folder / FILE).is_file():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder / FILE


def describe(metadata: Metadata, opset: int) -> dict[str, Any]:
    """All that the baseline's file depends on, as JSON data. Errors: UnsupportedModel."""
    from adapter_infer.models import baseline_spec

    spec = baseline_spec(metadata.model)
    form = metadata.input
    return {
        "spec": json.loads(model_spec.to_json(spec)),
        "batch": form.batch,
        "size": None if form.height is None or form.width is None else [form.height, form.width],
        "embed_preprocess": form.embed_preprocess,
        "output": metadata.output,
        "precision": metadata.precision,
        "opset": opset,
        "seed": SEED,
        "versions": {name: version for name, version in machine.versions().items() if name in _MAKERS},
        "code": _code_digest(),
    }


def key(request: dict[str, Any]) -> str:
    """The cache folder's name."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:24]


def _code_digest() -> str:
    """Of the code that makes the file: after an update, or a change in a checkout, an old baseline is not measured."""
    digest = hashlib.sha256()
    for package in ("adapter_infer", "adapter_export"):
        origin = importlib.util.find_spec(package)
        for path in sorted(Path(str(origin and origin.origin)).parent.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def export_here(request: dict[str, Any], path: str) -> None:
    """Exports what `describe` describes. Without the parity check: the weights are random, only the time counts."""
    from adapter_export import export
    from adapter_infer.models import build_model, random_weights

    spec = model_spec.from_json(json.dumps(request["spec"]))
    model = build_model(spec)
    random_weights(model, request["seed"])
    export(
        model,
        spec,
        path,
        size=None if request["size"] is None else tuple(request["size"]),
        dynamic_size=request["size"] is None,
        batch="dynamic" if request["batch"] is None else request["batch"],
        output=request["output"],
        precision=request["precision"],
        embed_preprocess=request["embed_preprocess"],
        opset=request["opset"],
        check=False,
    )

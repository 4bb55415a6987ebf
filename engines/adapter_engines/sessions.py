"""Opens an ONNX Runtime session exactly as asked, or says in one sentence why it cannot be had."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from adapter_engines.onnx_file import OnnxFile
from adapter_infer.errors import AdapterError, EnvironmentMissing, UnsupportedModel, UsageError
from adapter_infer.metadata import FUSED_OP, OP_DOMAIN, STANDARD_OP

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

COVERED = {(OP_DOMAIN, FUSED_OP), (OP_DOMAIN, STANDARD_OP)}  # the operators the library registers
FATAL_ONLY = 4  # ONNX Runtime logs what it also throws; one of the two is enough

EXECUTION_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
PROVIDER_PACKAGES = {
    "cpu": "install onnxruntime",
    "cuda": "install onnxruntime-gpu in place of onnxruntime, or use provider cpu",
}
PROVIDER_NEEDS = {
    "cpu": "see the package's own requirements",
    "cuda": "it needs an NVIDIA GPU with its driver, and the CUDA and cuDNN libraries of that onnxruntime-gpu",
}

Library = Literal["auto"] | Path | str | None


def unavailable(provider: str) -> str | None:
    """Why `provider` cannot be used by the ONNX Runtime installed here, None if it may be."""
    import onnxruntime

    if EXECUTION_PROVIDERS[provider] in onnxruntime.get_available_providers():
        return None
    name = EXECUTION_PROVIDERS[provider]
    return f"onnxruntime {onnxruntime.__version__} here has no {name}; {PROVIDER_PACKAGES[provider]}"


def open_session(
    path: Path, file: OnnxFile, provider: str, threads: int, library: Library, cuda_graph: bool = False
) -> tuple[InferenceSession, Path | None]:
    """A session over the ONNX file at `path`, and the custom-op library registered in it (None: function bodies run).

    `cuda_graph`: on provider "cuda", one that can launch runs as CUDA graphs.
    Errors: UsageError on an unknown provider, EnvironmentMissing if the provider, a library or an operator cannot be
    had here, UnsupportedModel if ONNX Runtime does not accept the file.
    """
    if provider not in EXECUTION_PROVIDERS:
        raise UsageError(f"there is no provider {provider!r}; choose {' or '.join(EXECUTION_PROVIDERS)}")
    reason = unavailable(provider)
    if reason is not None:
        raise EnvironmentMissing(reason)

    ours = {operator for operator in file.operators if operator[0] == OP_DOMAIN}
    bodies_suffice = ours <= file.functions
    if library == "auto":
        chosen = _covering_library(provider, ours)
        if chosen is not None and bodies_suffice:
            try:
                return _create(path, file, provider, threads, chosen, cuda_graph), chosen
            except UnsupportedModel:  # the library lacks the node's element type, or cannot run on this GPU
                return _create(path, file, provider, threads, None, cuda_graph), None
        return _create(path, file, provider, threads, chosen, cuda_graph), chosen
    if library is None:
        return _create(path, file, provider, threads, None, cuda_graph), None
    return _create(path, file, provider, threads, Path(library), cuda_graph), Path(library)


def _covering_library(provider: str, ours: set[tuple[str, str]]) -> Path | None:
    """Our library for `provider` where the session has work for it, None where it has none or it was not built.

    A library is all or nothing for the operators it knows: one without them for the session's provider would make ONNX
    Runtime refuse the graph instead of using the function body. Two of ours cannot stand side by side, so the one for
    CUDA has the operators for the CPU too, and a node that ONNX Runtime leaves there still runs.
    """
    if not ours & COVERED:
        return None
    import adapter_plugins

    libraries = {"cpu": adapter_plugins.ORT_CPU, "cuda": adapter_plugins.ORT_CUDA}
    try:
        return adapter_plugins.library(libraries[provider])
    except EnvironmentMissing:
        return None


def _create(
    path: Path, file: OnnxFile, provider: str, threads: int, library: Path | None, cuda_graph: bool
) -> InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = FATAL_ONLY
    if library is not None:
        if not library.is_file():
            raise EnvironmentMissing(
                f"there is no custom-op library {library}; pass library=None to run function bodies"
            )
        try:
            options.register_custom_ops_library(str(library))
        except Exception as error:
            raise EnvironmentMissing(
                f"{library} cannot be used as a custom-op library ({_reason(error)}); build it for this onnxruntime "
                f"{onnxruntime.__version__}, or pass library=None to run function bodies"
            ) from error
    if provider == "cuda" and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls(directory="")  # finds CUDA and cuDNN where pip put them
    names = list(dict.fromkeys([EXECUTION_PROVIDERS[provider], EXECUTION_PROVIDERS["cpu"]]))
    settings: list[dict[str, str]] = [{} for _ in names]
    if cuda_graph:
        settings[0] = {"enable_cuda_graph": "1"}
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=names, provider_options=settings, enable_fallback=0
        )
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise _refusal(path, file, library, error) from error
    session.disable_fallback()
    if session.get_providers()[0] != names[0]:  # ONNX Runtime goes on without a provider that does not start
        raise EnvironmentMissing(
            f"{names[0]} did not start; {PROVIDER_NEEDS[provider]}; use provider cpu to run without it"
        )
    return session


def _refusal(path: Path, file: OnnxFile, library: Path | None, error: Exception) -> AdapterError:
    """ONNX Runtime's exception as the error the user can act on."""
    import onnxruntime

    reason = _reason(error)
    missing = sorted(f"{domain}.{name}" for domain, name in set(file.operators) - file.functions)
    if "is not a registered function/op" in reason and missing:
        ours = any(name.startswith(f"{OP_DOMAIN}.") for name in missing)
        way_out = (
            "build this project's library (`python -m adapter_plugins` says what is missing), or export the model "
            "again, which gives it a function body"
            if ours
            else "export with --op fused, or pass the library that has it"
        )
        return EnvironmentMissing(f"{path} needs {', '.join(missing)}, which ONNX Runtime does not have; {way_out}")
    if "graph capture" in reason:
        return UnsupportedModel(
            f"{path} cannot be run as a CUDA graph: ONNX Runtime leaves some of it to the CPU, which it does "
            "least with an export of a fixed size and batch; leave cuda_graph out"
        )
    if "Unsupported model IR version" in reason or "*guarantees* support" in reason:
        return EnvironmentMissing(
            f"{path} is too new for onnxruntime {onnxruntime.__version__}, upgrade onnxruntime: {reason}"
        )
    hint = ""
    if library is not None:
        hint = f"; with {library.name} registered; if it lacks the graph's element type, library=None runs the bodies"
    return UnsupportedModel(f"ONNX Runtime {onnxruntime.__version__} does not accept {path}: {reason}{hint}")


def _reason(error: Exception) -> str:
    """The telling end of ONNX Runtime's message: no status codes, no C++ positions, one line, at most 300 letters."""
    text = " ".join(str(error).split())
    for marker in ("[ONNXRuntimeError] : ", " failed:"):
        text = text.rpartition(marker)[2]
    text = re.sub(r"/\S+\.(cc|h):\d+ .*?\) (?=\S)", "", text)
    text = re.sub(r"^\d+ : [A-Z_]+ : ", "", text)
    return text if len(text) <= 300 else text[:300] + "..."

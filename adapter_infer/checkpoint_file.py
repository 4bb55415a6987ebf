"""Opens checkpoint files without executing anything: torch's zip and legacy formats, safetensors, a zip around one.

What a file is follows from its bytes, not from its name. Weights of the zip format and of safetensors are mapped.
"""

from __future__ import annotations

import pickletools
import re
import shutil
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from adapter_infer.errors import AdapterError, UnsupportedModel, UsageError

SUFFIXES = (".pth", ".pth.tar", ".pt", ".ckpt", ".bin", ".safetensors")  # looked for inside a zip
MAX_RATIO = 100  # unpacked to packed size; float weights pack to about nine tenths
MAX_PICKLE = 2**28  # bytes of a torch file's pickle, which holds names and settings but no weights
MAX_HEADER = 10**8  # bytes of a safetensors header, that format's own limit

_LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # torch.save's magic number, pickled
_OTHERS = (  # what people pass by mistake: first bytes, what it is, the way out
    (b"\x1f\x8b", "gzip compressed", "unpack it first"),
    (b"BZh", "bzip2 compressed", "unpack it first"),
    (b"\xfd7zXZ", "xz compressed", "unpack it first"),
    (b"7z\xbc\xaf", "a 7-zip archive", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "zstd compressed", "unpack it first"),
    (b"version https://git-lfs", "a Git LFS pointer without the file behind it", "run git lfs pull"),
    (b"<", "a web page or XML", "the download failed; get the file itself"),
    (b"\x89HDF", "an HDF5 file", "convert it to a torch or safetensors file"),
)
# Globals that torch or this module allow, for naming the one that a refused file wanted; it decides nothing.
_ALLOWED = re.compile(
    r"collections\.(OrderedDict|Counter)|_codecs\.encode|builtins\.(set|bytearray|complex)"
    r"|torch\.(\w+Storage|Size|Tensor|device|bool|half|double|long|(b?float|u?int|q?u?int|complex)\d+\w*)"
    r"|torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_from_type_v2|torch\.nn\.parameter\.Parameter"
    r"|torch\.(storage\.\w+|serialization\._get_layout)"
    r"|numpy\.(dtype|ndarray|_?core\.multiarray\.(scalar|_reconstruct))"
)


def load(path: Path) -> Any:
    """The object in a checkpoint file, tensors on the CPU; a safetensors file gives {"state_dict", "meta"}.

    Errors: UsageError where there is no such file, UnsupportedModel where it is no checkpoint, is damaged, or would
    have to run code to be read.
    """
    _check_path(path)
    return _load(path, str(path), inside=False)


def _load(path: Path, name: str, *, inside: bool) -> Any:
    """`name` is what messages call the file; `inside` says that it came out of a zip."""
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(b"PK"):
        return _load_zip(path, name, inside=inside)
    if start.startswith(_LEGACY):
        return _load_torch(path, name, mmap=False)
    if _is_safetensors(start, path.stat().st_size):
        return _load_safetensors(path, name)
    raise _not_a_checkpoint(path, name, start)


def _check_path(path: Path) -> None:
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name the checkpoint file in it")
    if not path.exists():
        raise UsageError(f"checkpoint {path} does not exist")
    if not path.is_file():
        raise UsageError(f"{path} is not a regular file")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise UsageError(f"checkpoint {path} cannot be read ({error.strerror})") from None
    if empty:
        raise UnsupportedModel(f"{path} is empty; the download or the copy failed")


def _not_a_checkpoint(path: Path, name: str, start: bytes) -> AdapterError:
    if wanted := _forbidden_in(path, _plain_pickle):
        return _would_run_code(name, wanted)
    for magic, kind, way_out in _OTHERS:
        if start.lstrip().startswith(magic):
            return UnsupportedModel(f"{name} is {kind}, not a checkpoint; {way_out}")
    if start[257:262] == b"ustar":
        return UnsupportedModel(f"{name} is a tar archive, not a checkpoint; unpack it first")
    if start.startswith(b"\x80"):
        return UnsupportedModel(f"{name} is a pickle that torch.save did not write; save it again with torch.save")
    return UnsupportedModel(f"{name} is neither a torch nor a safetensors checkpoint, nor a zip that holds one")


# --- zip files: torch's own format, or a container ---


def _load_zip(path: Path, name: str, *, inside: bool) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            pickles = [entry for entry in entries if re.fullmatch(r"[^/]+/data\.pkl", entry.filename)]
            if not pickles:
                return _load_member(path, name, archive, inside=inside)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, OSError) as error:
        raise UnsupportedModel(f"{name} is damaged or cut off ({_reason(error)}); get it again") from None
    if any(re.fullmatch(r"[^/]+/(constants\.pkl|code/.*)", entry.filename) for entry in entries):
        raise UnsupportedModel(f"{name} is a TorchScript program; a checkpoint with a state_dict is needed")
    if pickles[0].file_size > MAX_PICKLE:
        raise UnsupportedModel(f"{name} has a pickle of {pickles[0].file_size} bytes; no checkpoint needs that")
    packed = [entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    for entry in packed:
        _check_ratio(name, entry)
    return _load_torch(path, name, mmap=not packed)  # packed weights cannot be mapped


def _load_member(path: Path, name: str, archive: zipfile.ZipFile, *, inside: bool) -> Any:
    """The one checkpoint in a zip, unpacked into a temporary file that is gone when this returns."""
    members = [entry for entry in archive.infolist() if _is_candidate(entry.filename)]
    if inside or len(members) != 1:
        found = ", ".join(entry.filename for entry in members[:5]) or "none"
        raise UnsupportedModel(
            f"{name} is a zip, and not one file but {found} in it ends in {', '.join(SUFFIXES)}; "
            "unpack it and name the checkpoint"
        )
    member = members[0]
    if member.flag_bits & 1:
        raise UnsupportedModel(f"{name} is encrypted; unpack it and name {member.filename}")
    _check_ratio(name, member)
    with tempfile.TemporaryDirectory(prefix="adapter-infer-") as folder:
        free = shutil.disk_usage(folder).free
        if member.file_size > free:
            raise AdapterError(
                f"unpacking {member.filename} of {name} needs {member.file_size} bytes, {folder} has {free} free; "
                "set TMPDIR to a larger disk, or unpack it and name the checkpoint"
            )
        unpacked = Path(folder) / "checkpoint"
        with archive.open(member) as source, unpacked.open("wb") as target:
            shutil.copyfileobj(source, target, 2**20)
        return _load(unpacked, f"{member.filename} in {path}", inside=True)


def _is_candidate(name: str) -> bool:
    return name.endswith(SUFFIXES) and not name.startswith("__MACOSX/") and not name.rpartition("/")[2].startswith(".")


def _check_ratio(name: str, entry: zipfile.ZipInfo) -> None:
    if entry.file_size > MAX_RATIO * max(entry.compress_size, 2**16):
        raise UnsupportedModel(
            f"{name}: {entry.filename} would unpack from {entry.compress_size} to {entry.file_size} bytes, more than "
            f"{MAX_RATIO} times; weights do not pack like that"
        )


# --- torch and safetensors ---


def _load_torch(path: Path, name: str, *, mmap: bool) -> Any:
    try:
        known = torch.serialization.get_safe_globals()
        extra = [entry for entry in _numpy_globals() if entry not in known]  # leaving takes all of these off again
        with warnings.catch_warnings(), torch.serialization.safe_globals(extra):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # broken and hostile files make torch raise nearly anything
        if wanted := _forbidden_in(path, _legacy_pickles if not zipfile.is_zipfile(path) else _zip_pickle):
            raise _would_run_code(name, wanted) from None
        reason = _reason(error)
        raise UnsupportedModel(f"{name} is damaged, cut off or no checkpoint ({reason})") from None


def _numpy_globals() -> list[Any]:
    """What numpy values in a checkpoint's meta need, under the names of numpy 1 and 2; all plain data."""
    scalar, array = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")
    functions = [(scalar, f"{module}.scalar") for module in modules]
    functions += [(array, f"{module}._reconstruct") for module in modules]
    kinds = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "U1")
    return [*functions, (np.ndarray, "numpy.ndarray"), (np.dtype, "numpy.dtype"), *{type(np.dtype(k)) for k in kinds}]


def _is_safetensors(start: bytes, size: int) -> bool:
    header = int.from_bytes(start[:8], "little")
    return len(start) > 8 and start[8:9] == b"{" and 2 <= header <= min(MAX_HEADER, size - 8)


def _load_safetensors(path: Path, name: str) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return {"state_dict": weights, "meta": dict(file.metadata() or {})}
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError, AttributeError) as error:
        raise UnsupportedModel(f"{name} is a damaged or cut off safetensors file ({_reason(error)})") from None


# --- what a refused pickle wanted ---


def _would_run_code(name: str, wanted: list[str]) -> UnsupportedModel:
    others = f" (and {len(wanted) - 1} more)" if len(wanted) > 1 else ""
    return UnsupportedModel(
        f"{name} wants the global {wanted[0]}{others}, which is made by running code that the file chooses; "
        "nothing was run. If you trust the file, save its weights alone with the software that wrote it: "
        "torch.save({'state_dict': model.state_dict()}, 'weights.pth')"
    )


def _forbidden_in(path: Path, pickles: Any) -> list[str]:
    """Globals outside the allow-list that a file's pickles name, in their order; found without running anything."""
    names: list[str] = []
    try:
        for pickle in pickles(path):
            names += _globals(pickle)
    except Exception:  # the scan ends where the file is no pickle; what it has seen until then still counts
        pass
    return list(dict.fromkeys(name for name in names if not _ALLOWED.fullmatch(name)))


def _zip_pickle(path: Path) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if re.fullmatch(r"[^/]+/data\.pkl", name))
        with archive.open(name) as pickle:
            yield pickle


def _legacy_pickles(path: Path) -> Iterator[IO[bytes]]:
    """Magic number, protocol, machine and the object follow one another in the file."""
    with path.open("rb") as file:
        for _ in range(4):
            yield file


def _plain_pickle(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as file:
        yield file


def _globals(pickle: IO[bytes]) -> Iterator[str]:
    """The globals that one pickle names, as `module.name`."""
    strings: list[str] = ["", ""]
    memo: dict[Any, str] = {}
    for opcode, argument, _ in pickletools.genops(pickle):
        if opcode.name in {"GLOBAL", "INST"}:
            yield _python3(*str(argument).split(" ", 1))
        elif opcode.name == "STACK_GLOBAL":
            yield _python3(*strings[-2:])
        elif opcode.name in {"MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"}:
            memo[len(memo) if argument is None else argument] = strings[-1]
        elif opcode.name in {"GET", "BINGET", "LONG_BINGET"}:
            strings.append(memo.get(argument, ""))
        elif isinstance(argument, str):
            strings.append(argument)


def _python3(module: str, name: str) -> str:
    module = {"__builtin__": "builtins", "posix": "os", "nt": "os"}.get(
        module, module
    )  # os.system pickles as posix.system
    return f"{module}.{name}"


def _reason(error: BaseException) -> str:
    """The telling part of an exception, in a few words."""
    text = str(error).partition("WeightsUnpickler error:")[2] or str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    return lines[0] if len(lines[0]) <= 120 else lines[0][:117] + "..."

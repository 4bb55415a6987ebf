"""Hostile and broken checkpoint files are refused in one line, and nothing in them is run."""

from __future__ import annotations

import argparse
import builtins
import collections
import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adapter_infer import checkpoints
from adapter_infer.errors import AdapterError, UsageError
from checkpoint_files import STATE, WEIGHTS, Call, assert_weights, packed, refusal, saved, saved_bytes

# --- what is no checkpoint ---


def test_missing_files_and_folders_are_usage_errors(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "missing.pth", UsageError)
    assert "is a folder" in refusal(tmp_path, UsageError)
    os.mkfifo(tmp_path / "pipe.pth")
    assert "not a regular file" in refusal(tmp_path / "pipe.pth", UsageError)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\0" * 100, "neither a torch nor a safetensors"),
        (b"hello world", "neither a torch nor a safetensors"),
        (b"<!DOCTYPE html><html>", "download failed"),
        (b"\n <html>", "download failed"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git lfs pull"),
        (b"\x1f\x8b\x08rest", "gzip"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"x" * 257 + b"ustar" + b"y" * 250, "tar archive"),
        (b"PK\x03\x04broken", "damaged or cut off"),
        (b"PK\x05\x06" + b"\0" * 18, "none"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "damaged"),
        (pickle.dumps({"state_dict": [1.0]}), "torch.save did not write"),
        (struct.pack("<Q", 8) + b'{"a":1}}', "safetensors"),
        (struct.pack("<Q", 2**63) + b'{"a":1}}', "neither"),
    ],
)
def test_other_files_are_refused_by_what_they_are(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    assert said in refusal(tmp_path / "a.pth")


@pytest.mark.parametrize("zip_format", [True, False])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.999])
def test_cut_off_files_are_refused(zip_format: bool, share: float, tmp_path: Path) -> None:
    content = saved_bytes({"state_dict": {"x": torch.rand(1000)}}, _use_new_zipfile_serialization=zip_format)
    (tmp_path / "a.pth").write_bytes(content[: int(len(content) * share)])
    refusal(tmp_path / "a.pth")


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_cut_off_safetensors_and_zips_are_refused(share: float, tmp_path: Path) -> None:
    from safetensors.torch import save

    for name, content in {"a.safetensors": save(WEIGHTS), "a.zip": packed_bytes(saved_bytes(STATE))}.items():
        (tmp_path / name).write_bytes(content[: int(len(content) * share)])
        refusal(tmp_path / name)


def packed_bytes(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.pth", content)
    return buffer.getvalue()


def test_flipped_bytes_never_end_in_a_traceback(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for zip_format in (True, False):
        content = bytearray(saved_bytes(STATE, _use_new_zipfile_serialization=zip_format))
        for _ in range(150):
            broken = bytearray(content)
            for position in rng.integers(0, min(len(broken), 900), 3):
                broken[position] = rng.integers(256)
            (tmp_path / "a.pth").write_bytes(broken)
            try:
                checkpoints.read(tmp_path / "a.pth")
            except AdapterError as error:
                assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1, 2], "holds a list"),
        (torch.zeros(3), "holds a Tensor"),
        ({}, "no weights"),
        ({"state_dict": {}}, "empty dictionary"),
        ({"epoch": 1, "loss": 0.5}, "'epoch', 'loss'"),
        ({1: torch.zeros(2)}, "keys are not names"),
        ({"state_dict": {"x": [1.0, 2.0]}}, "x in .* is a list"),
        ({"state_dict": {"x": torch.zeros(2, 2).to_sparse()}}, "dense weights are needed"),
        ({"state_dict": {"x": torch.zeros(2, device="meta")}}, "on meta"),
        ({"state_dict": {"x": torch.zeros(2, dtype=torch.complex64)}}, "dense weights are needed"),
        ({"state_dict": {"x": torch.zeros(2).to(torch.float8_e4m3fn)}}, "float8_e4m3fn"),
        ({"state_dict": {"x": torch.zeros(1).expand(10**6, 10**6)}}, "repeats its storage"),
    ],
)
def test_files_without_ordinary_weights_are_refused(value: Any, said: str, tmp_path: Path) -> None:
    import re

    assert re.search(said, refusal(saved(tmp_path / "a.pth", value)))


def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    members = {"x/data.pkl": b"\x80\x02}.", "x/code/__torch__.py": b"", "x/constants.pkl": b"\x80\x02)."}
    assert "TorchScript" in refusal(packed(tmp_path / "a.pt", members))


# --- zips that are traps ---


def test_zips_with_none_or_several_checkpoints_are_refused_by_name(tmp_path: Path) -> None:
    content = saved_bytes(STATE)
    message = refusal(packed(tmp_path / "a.zip", {"x.pth": content, "d/y.pth": content}))
    assert "x.pth, d/y.pth" in message
    assert "none" in refusal(packed(tmp_path / "b.zip", {"x.txt": content}))
    assert "is a zip" in refusal(packed(tmp_path / "c.zip", {"x.pth": packed_bytes(content)}))


def test_a_zip_bomb_is_refused_before_it_unpacks(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", {"x.pth": bytes(2**26)})
    assert path.stat().st_size < 2**17
    assert "more than 100 times" in refusal(path)
    torch_like = packed(tmp_path / "b.pth", {"x/data.pkl": b"\x80\x02.", "x/data/0": bytes(2**26)})
    assert "more than 100 times" in refusal(torch_like)


def test_a_zip_that_lies_about_its_sizes_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", {"x.pth": saved_bytes(STATE) + bytes(2**20)})
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        size = archive.infolist()[0].file_size
    path.write_bytes(content.replace(struct.pack("<I", size), struct.pack("<I", 1000)))
    refusal(path)


def test_names_in_a_zip_lead_nowhere(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", {"../../escaped.pth": saved_bytes(STATE)})
    assert_weights(checkpoints.read(path))
    assert not list(tmp_path.parent.glob("escaped.pth"))


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", {"x.pth": saved_bytes(STATE)})
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    assert "encrypted" in refusal(path)


# --- files that would run code ---

FORMATS = {"zip": {}, "legacy": {"_use_new_zipfile_serialization": False}, "protocol 4": {"pickle_protocol": 4}}


@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("place", ["alone", "meta", "deep in meta", "in the weights", "numpy array", "key"])
@pytest.mark.parametrize(
    ("function", "argument", "wanted"),
    [
        (os.system, "touch {}", "os.system"),
        (builtins.eval, "open({!r}, 'w')", "builtins.eval"),
        (builtins.exec, "open({!r}, 'w')", "builtins.exec"),
    ],
)
def test_code_in_a_pickle_is_named_and_never_run(
    function: Callable[..., Any], argument: str, wanted: str, place: str, options: dict[str, Any], tmp_path: Path
) -> None:
    marker = tmp_path / "hacked"
    evil: Any = Call(function, argument.format(str(marker)))
    array = np.empty(1, object)
    array[0] = evil
    value = {
        "alone": evil,
        "meta": STATE | {"meta": evil},
        "deep in meta": STATE | {"meta": {"a": [(1, {"b": evil})]}},
        "in the weights": {"state_dict": WEIGHTS | {"x": evil}},
        "numpy array": STATE | {"meta": {"PALETTE": array}},
        "key": {evil: 1} | STATE,
    }[place]
    message = refusal(saved(tmp_path / "a.pth", value, **options))
    assert f"wants the global {wanted}" in message
    assert "nothing was run" in message
    assert "torch.save({'state_dict'" in message
    assert not marker.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_that_run_code_are_named_too(protocol: int, tmp_path: Path) -> None:
    marker = tmp_path / "hacked"
    (tmp_path / "a.pth").write_bytes(pickle.dumps({"a": Call(os.system, f"touch {marker}")}, protocol))
    assert "os.system" in refusal(tmp_path / "a.pth")
    assert not marker.exists()


def test_code_in_a_zipped_checkpoint_is_named(tmp_path: Path) -> None:
    marker = tmp_path / "hacked"
    path = packed(tmp_path / "a.zip", {"x.pth": saved_bytes({"a": Call(os.system, f"touch {marker}")})})
    assert "x.pth in" in refusal(path)
    assert "os.system" in refusal(path)
    assert not marker.exists()


@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS)
def test_classes_of_training_programs_are_named_with_a_way_out(options: dict[str, Any], tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", STATE | {"args": argparse.Namespace(lr=1.0)}, **options)
    message = refusal(path)
    assert "argparse.Namespace" in message
    assert "weights.pth" in message
    assert "collections.defaultdict" in refusal(
        saved(tmp_path / "b.pth", STATE | {"x": collections.defaultdict(list)}, **options)
    )


def test_torch_functions_that_are_not_for_loading_are_refused(tmp_path: Path) -> None:
    message = refusal(saved(tmp_path / "a.pth", STATE | {"meta": Call(torch.hub.load, "x/y", "z")}))
    assert "torch.hub.load" in message


@pytest.mark.parametrize("options", list(FORMATS.values())[:2], ids=list(FORMATS)[:2])
@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_numpy_values_in_meta_are_read_under_the_names_of_numpy_1_and_2(
    module: str, options: dict[str, Any], tmp_path: Path
) -> None:
    meta = {
        "best": np.float64(0.5),
        "seed": np.int64(3),
        "name": np.str_("adapter"),
        "flag": np.bool_(True),
        "PALETTE": np.arange(6, dtype=np.uint8).reshape(2, 3),
        "curve": np.linspace(0, 1, 3, dtype=np.float32),
    }
    content = saved_bytes(STATE | {"meta": meta}, _use_new_zipfile_serialization=False)
    content = content.replace(b"cnumpy._core.multiarray\n", f"c{module}\n".encode())
    content = content.replace(b"cnumpy.core.multiarray\n", f"c{module}\n".encode())
    if not options:  # the zip format, renamed inside its pickle
        value = saved_bytes(STATE | {"meta": meta})
        with zipfile.ZipFile(io.BytesIO(value)) as archive:
            members = {entry.filename: archive.read(entry) for entry in archive.infolist()}
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, member in members.items():
                renamed = member.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
                archive.writestr(name, renamed.replace(b"numpy.core.multiarray", module.encode()))
        content = buffer.getvalue()
    (tmp_path / "a.pth").write_bytes(content)
    read = checkpoints.read(tmp_path / "a.pth").meta
    assert (read["best"], read["seed"], str(read["name"]), bool(read["flag"])) == (0.5, 3, "adapter", True)
    assert read["PALETTE"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert read["curve"].dtype == np.float32


def test_reading_leaves_torchs_allow_list_as_it_was(tmp_path: Path) -> None:
    before = set(map(str, torch.serialization.get_safe_globals()))
    checkpoints.read(saved(tmp_path / "a.pth", STATE))
    refusal(saved(tmp_path / "b.pth", {"a": Call(os.system, "true")}))
    assert set(map(str, torch.serialization.get_safe_globals())) == before


def test_attributes_smuggled_onto_a_dictionary_are_not_used(tmp_path: Path) -> None:
    class Smuggler:
        def __reduce__(self) -> tuple[Any, ...]:
            attributes = {"items": torch.zeros(1), "keys": torch.zeros(1), "get": 3, "_metadata": {}}
            return collections.OrderedDict, (), attributes, None, iter(WEIGHTS.items())

    smuggled = Smuggler()
    assert_weights(checkpoints.read(saved(tmp_path / "a.pth", {"state_dict": smuggled})))
    assert_weights(checkpoints.read(saved(tmp_path / "b.pth", smuggled)))


def test_a_meta_of_repeated_references_is_not_walked(tmp_path: Path) -> None:
    bomb: Any = ["x"]
    for _ in range(60):
        bomb = [bomb, bomb]
    path = saved(tmp_path / "a.pth", STATE | {"meta": {"config": bomb, "CLASSES": bomb, "PALETTE": bomb, "x": bomb}})
    assert_weights(checkpoints.read(path))


def test_huge_declared_storages_are_refused(tmp_path: Path) -> None:
    content = saved_bytes({"state_dict": {"x": torch.zeros(77)}}, _use_new_zipfile_serialization=False)
    # numel of the storage and the tensor's size are BININT1 77: claim 2**31 - 1 instead
    (tmp_path / "a.pth").write_bytes(content.replace(b"K\x4d", b"J\xff\xff\xff\x7f"))
    refusal(tmp_path / "a.pth")
    header = json.dumps({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    (tmp_path / "b.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    refusal(tmp_path / "b.safetensors")


def test_a_deep_pickle_is_read_or_refused(tmp_path: Path) -> None:
    nested = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    legacy = saved_bytes({"state_dict": WEIGHTS}, _use_new_zipfile_serialization=False)
    start = legacy.index(b"\x80\x02}", 20)
    (tmp_path / "a.pth").write_bytes(legacy[:start] + nested)
    refusal(tmp_path / "a.pth")


def test_a_damaged_stored_member_fails_its_checksum(tmp_path: Path) -> None:
    content = bytearray(packed_bytes(saved_bytes(STATE)))
    content[200] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(content)
    assert zlib.crc32(bytes(content))
    refusal(tmp_path / "a.zip")

"""Checkpoint files of every kind are opened, and the right weights are taken out of them."""

from __future__ import annotations

import collections
import hashlib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from adapter_infer import checkpoints, weights
from adapter_infer.errors import UsageError
from checkpoint_files import STATE, WEIGHTS, assert_weights, packed, refusal, saved, saved_bytes

# --- formats ---


@pytest.mark.parametrize("name", ["a.pth", "a.pth.tar", "a.pt", "weights", "a.zip"])
@pytest.mark.parametrize("zip_format", [True, False])
def test_both_torch_formats_open_under_any_name(name: str, zip_format: bool, tmp_path: Path) -> None:
    path = saved(tmp_path / name, STATE, _use_new_zipfile_serialization=zip_format)
    checkpoint = checkpoints.read(str(path))
    assert_weights(checkpoint)
    assert checkpoint.meta == STATE["meta"]
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert checkpoint.path == path
    assert checkpoint.notes == ()


@pytest.mark.parametrize("name", ["a.safetensors", "a.bin"])
def test_safetensors_open(name: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(WEIGHTS, tmp_path / name, metadata={"config": "model = dict()"})
    checkpoint = checkpoints.read(tmp_path / name)
    assert_weights(checkpoint)
    assert checkpoint.meta == {"config": "model = dict()"}


@pytest.mark.parametrize("zip_format", [True, False])
def test_a_zip_that_holds_one_checkpoint_opens(zip_format: bool, tmp_path: Path) -> None:
    content = saved_bytes(STATE, _use_new_zipfile_serialization=zip_format)
    junk = {"__MACOSX/m/._x.pth": b"junk", "readme.txt": b"hello", "m/.hidden.pth": b"junk"}
    assert "but none in it" in refusal(packed(tmp_path / "a.zip", {"m/model_x": content} | junk))
    path = packed(tmp_path / "b.zip", {"m/x.pth.tar": content} | junk)
    checkpoint = checkpoints.read(path)
    assert_weights(checkpoint)
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    from safetensors.torch import save

    assert_weights(checkpoints.read(packed(tmp_path / "c.zip", {"x.safetensors": save(WEIGHTS)})))


def test_a_torch_file_whose_entries_were_packed_again_is_not_mapped_wrongly(tmp_path: Path) -> None:
    saved(tmp_path / "a.pth", STATE)
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        members = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert_weights(checkpoints.read(tmp_path / "b.pth"))


def test_weights_of_the_zip_format_are_mapped_and_stay_valid(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", {"state_dict": {"x": torch.arange(100_000.0)}})
    checkpoint = checkpoints.read(path)
    path.unlink()
    assert torch.equal(checkpoint.state_dict["x"], torch.arange(100_000.0))


# --- where the weights are ---


@pytest.mark.parametrize(
    "wrapped",
    [
        {"state_dict": WEIGHTS},
        {"model": WEIGHTS, "epoch": 2, "optimizer": {"state": {}}},
        {"model": {"state_dict": WEIGHTS}},
        {"module": WEIGHTS},
        WEIGHTS,
        collections.OrderedDict(WEIGHTS),
        {"state_dict": {f"module.{name}": tensor for name, tensor in WEIGHTS.items()}},
        {f"module._orig_mod.{name}": tensor for name, tensor in WEIGHTS.items()},
        {"state_dict": {name: torch.nn.Parameter(tensor) for name, tensor in WEIGHTS.items()}},
    ],
)
def test_wrappers_are_taken_off(wrapped: Any, tmp_path: Path) -> None:
    assert_weights(checkpoints.read(saved(tmp_path / "a.pth", wrapped)))


@pytest.mark.parametrize("key", ["ema", "state_dict_ema", "model_ema", "ema_state_dict"])
def test_averaged_weights_are_never_chosen_silently(key: str, tmp_path: Path) -> None:
    averaged = {name: tensor + 1 for name, tensor in WEIGHTS.items()}
    path = saved(tmp_path / "a.pth", {key: averaged, "state_dict": WEIGHTS})
    checkpoint = checkpoints.read(path)
    assert_weights(checkpoint)
    assert len(checkpoint.notes) == 1
    assert f"--weights-key {key}" in checkpoint.notes[0]
    other = checkpoints.read(path, weights_key=key)
    assert torch.equal(other.state_dict["backbone.a.bias"], torch.full((2,), 2.0))
    assert other.notes == ()
    only = checkpoints.read(saved(tmp_path / "b.pth", {key: {"module": WEIGHTS}}))
    assert_weights(only)
    assert "averaged" in only.notes[0]


def test_a_key_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no weights under 'swa'.*'state_dict'"):
        checkpoints.read(saved(tmp_path / "a.pth", STATE), weights_key="swa")


def test_copies_of_mmcvs_ema_hook_are_left_out(tmp_path: Path) -> None:
    copies = {"ema_backbone_a_weight": torch.zeros(2, 3), "ema_backbone_a_bias": torch.zeros(2)}
    checkpoint = checkpoints.read(saved(tmp_path / "a.pth", {"state_dict": WEIGHTS | copies}))
    assert_weights(checkpoint)
    assert checkpoint.notes == ("ignored 2 ema_* buffers of mmcv's EMAHook",)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_types_become_float32_with_a_note(dtype: torch.dtype, tmp_path: Path) -> None:
    stored = {name: tensor.to(dtype) for name, tensor in WEIGHTS.items()} | {"steps": torch.tensor(7)}
    checkpoint = checkpoints.read(saved(tmp_path / "a.pth", {"state_dict": stored}))
    assert checkpoint.state_dict.pop("steps").dtype == torch.int64
    assert_weights(checkpoint)
    assert checkpoint.notes == (f"converted 2 {str(dtype)[6:]} tensors to float32",)


def test_non_finite_weights_are_found_without_a_copy() -> None:
    tensors = {
        "fine": torch.full((3,), 3e38),
        "nan": torch.tensor([1.0, float("nan")]),
        "inf": torch.tensor([[-float("inf")]]),
        "count": torch.tensor(3),
        "empty": torch.zeros(0),
    }
    assert weights.non_finite(tensors, tensors) == ["nan", "inf"]

"""Which baseline belongs to an exported model, and that a cache never hands out a wrong or half-written one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from adapter_bench import baseline
from adapter_infer import presets
from adapter_infer.errors import AdapterError, UsageError
from adapter_infer.metadata import InputForm, Metadata

METADATA = Metadata(
    model=presets.spec("semfpn_vit_adapter_tiny_512_ade20k"),
    input=InputForm(1, 512, 512),
    op="fused",
    output="logits",
    params=12_168_000,
    msda_nodes=10,
    version="0.1.0",
)


def key(opset: int = 18, **changes: Any) -> str:
    return baseline.key(baseline.describe(dataclasses.replace(METADATA, **changes), opset))


def test_the_baseline_is_the_plain_vit_in_the_same_form() -> None:
    request = baseline.describe(METADATA, 18)
    assert request["spec"]["backbone"]["type"] == "ViTBaseline"
    assert request["spec"]["backbone"]["embed_dim"] == 192
    assert request["spec"]["decode_head"]["type"] == "FPNHead"
    assert (request["batch"], request["size"], request["output"], request["opset"]) == (1, [512, 512], "logits", 18)
    dynamic = baseline.describe(dataclasses.replace(METADATA, input=InputForm(None, None, None)), 18)
    assert (dynamic["batch"], dynamic["size"]) == (None, None)


def test_every_difference_in_form_is_another_file() -> None:
    keys = [
        key(),
        key(opset=20),
        key(output="labels"),
        key(input=InputForm(2, 512, 512)),
        key(input=InputForm(1, 512, 640)),
        key(input=InputForm(None, 512, 512)),
        key(input=InputForm(1, 512, 512, embed_preprocess=True)),
        key(model=presets.spec("semfpn_vit_adapter_small_512_ade20k")),
    ]
    assert len(set(keys)) == len(keys)
    assert key() == key()


def test_what_the_adapter_alone_has_is_no_other_file() -> None:
    """The same plain ViT serves the fused and the standard operator, and any checkpoint of the preset."""
    assert key(op="standard") == key(checkpoint_sha256="0" * 64) == key(parity={"body": 1e-6}) == key()


def test_other_code_is_another_file(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key()
    monkeypatch.setattr(baseline, "_code_digest", lambda: "changed")
    assert key() != before


def test_half_precision_has_a_baseline_of_its_own() -> None:
    assert key(precision="fp16") != key()
    assert baseline.describe(dataclasses.replace(METADATA, precision="fp16"), 18)["precision"] == "fp16"


def written(target: str, request: dict[str, Any], path: str) -> None:
    Path(path).write_text("new")


def test_a_failed_export_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(target: str, request: dict[str, Any], path: str) -> None:
        Path(path).write_text("half")
        raise AdapterError("the model could not be traced")

    monkeypatch.setattr(baseline.child, "call", fail)
    with pytest.raises(AdapterError, match="could not be traced"):
        baseline.engine(METADATA, 18, tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(baseline.child, "call", written)
    assert baseline.engine(METADATA, 18, tmp_path).read_text() == "new"


def test_of_two_at_once_the_first_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overtaken(target: str, request: dict[str, Any], path: str) -> None:
        Path(path).write_text("second")
        folder = tmp_path / baseline.key(request)
        folder.mkdir()
        (folder / baseline.FILE).write_text("first")

    monkeypatch.setattr(baseline.child, "call", overtaken)
    assert baseline.engine(METADATA, 18, tmp_path).read_text() == "first"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cache folder .*file/cache cannot be written .* name another with --cache"):
        baseline.engine(METADATA, 18, tmp_path / "file" / "cache")


def test_the_cache_follows_the_users_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert baseline.default_cache() == Path("/somewhere/adapter-infer/baselines")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert baseline.default_cache() == Path.home() / ".cache" / "adapter-infer" / "baselines"

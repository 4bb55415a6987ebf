"""Configuration files and their base files merge as mmcv merges them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from adapter_infer.config_file import parse_config, read_config
from adapter_infer.config_limits import Unknown
from adapter_infer.errors import UnsupportedModel, UsageError


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_dictionaries_merge_and_everything_else_replaces(tmp_path: Path) -> None:
    write(
        tmp_path,
        base="norm = dict(type='BN')\nmodel = dict(a=dict(x=1, y=2), b=[1, 2], c=dict(p=1, norm=norm), d=dict(q=1))",
        child="_base_ = 'base.py'\nmodel = dict(a=dict(y=3), b=[9], c=dict(_delete_=True, z=0), d=5)\nown = 1",
    )
    assert read_config(tmp_path / "child.py") == {
        "norm": {"type": "BN"},
        "model": {"a": {"x": 1, "y": 3}, "b": [9], "c": {"z": 0}, "d": 5},
        "own": 1,
    }


def test_delete_without_a_base_value_leaves_no_trace(tmp_path: Path) -> None:
    write(tmp_path, child="model = dict(backbone=dict(_delete_=True, depth=2, steps=[dict(_delete_=True, a=1)]))")
    assert read_config(tmp_path / "child.py") == {"model": {"backbone": {"depth": 2, "steps": [{"a": 1}]}}}


def test_base_files_are_relative_to_their_file_and_may_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "_base_" / "models").mkdir(parents=True)
    (tmp_path / "ade").mkdir()
    (tmp_path / "_base_" / "models" / "m.py").write_text("_base_ = ['../n.py']\nmodel = dict(head=dict(n=2))")
    (tmp_path / "_base_" / "n.py").write_text("model = dict(head=dict(n=1, k=1), type='E')")
    (tmp_path / "_base_" / "d.json").write_text(json.dumps({"data": {"x": 1}}))
    (tmp_path / "ade" / "c.py").write_text("_base_ = ('../_base_/models/m.py', '../_base_/d.json')\nmodel = dict(a=0)")
    monkeypatch.chdir(tmp_path / "ade")
    expected = {"model": {"head": {"n": 2, "k": 1}, "type": "E", "a": 0}, "data": {"x": 1}}
    assert read_config("c.py") == expected
    assert read_config(tmp_path / "ade" / "c.py") == expected


def test_json_configurations_have_base_files_too(tmp_path: Path) -> None:
    write(tmp_path, base="model = dict(a=1, b=2)")
    (tmp_path / "c.json").write_text(json.dumps({"_base_": "base.py", "model": {"b": 3}}))
    assert read_config(tmp_path / "c.json") == {"model": {"a": 1, "b": 3}}


def test_names_of_a_base_file_are_not_visible_in_its_child(tmp_path: Path) -> None:
    write(tmp_path, base="norm = dict(type='BN')", child="_base_ = 'base.py'\nmodel = dict(norm=norm, other=1)")
    model = read_config(tmp_path / "child.py")["model"]
    assert isinstance(model["norm"], Unknown)
    assert "is not set in this file" in model["norm"].why


def test_base_values_are_reached_through_mmcvs_placeholder(tmp_path: Path) -> None:
    write(tmp_path, base="depth = [1, 2]", child="_base_ = 'base.py'\nmodel = dict(depth={{ _base_.depth }})")
    assert read_config(tmp_path / "child.py")["model"] == {"depth": [1, 2]}


def test_what_is_merged_into_an_unknown_value_stays_unknown(tmp_path: Path) -> None:
    write(tmp_path, base="model = make()", child="_base_ = 'base.py'\nmodel = dict(depth=1)")
    assert isinstance(read_config(tmp_path / "child.py")["model"], Unknown)


def test_a_missing_base_file_is_named_with_the_file_that_asks_for_it(tmp_path: Path) -> None:
    write(tmp_path, child="_base_ = ['../../_base_/models/upernet_r50.py']")
    with pytest.raises(UsageError) as refusal:
        read_config(tmp_path / "child.py")
    assert "upernet_r50.py" in str(refusal.value)
    assert "child.py" in str(refusal.value)
    assert refusal.value.exit_code == 2


def test_a_cycle_of_base_files_is_refused(tmp_path: Path) -> None:
    write(tmp_path, a="_base_ = 'b.py'", b="_base_ = 'a.py'")
    with pytest.raises(UnsupportedModel, match="its own base file"):
        read_config(tmp_path / "a.py")


def test_a_tree_of_base_files_that_doubles_is_refused(tmp_path: Path) -> None:
    for level in range(10):
        write(tmp_path, **{f"c{level}": f"_base_ = ['c{level + 1}.py', 'd{level + 1}.py']"})
        write(tmp_path, **{f"d{level}": f"_base_ = ['c{level + 1}.py', 'd{level + 1}.py']"})
    write(tmp_path, c10="", d10="")
    with pytest.raises(UnsupportedModel, match="more than 64 base files"):
        read_config(tmp_path / "c0.py")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("_base_ = 3", "not a file name"),
        ("_base_ = [1]", "not a file name"),
        ("import os\n_base_ = os.environ['BASE']", "_base_ is needed"),
        ("_base_ = '/dev/zero'", "neither .py nor .json"),
        ("_base_ = 'folder.py'", "does not exist"),
        ("_base_ = ['x.py', 'y.py']", "two base files"),
        ("_base_ = 'x.py'\na = dict(b=1)", "_delete_=True"),
    ],
)
def test_unusable_base_files_are_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "folder.py").mkdir()
    write(tmp_path, child=text, x="a = 1", y="a = 2")
    with pytest.raises((UsageError, UnsupportedModel), match=said):
        read_config(tmp_path / "child.py")


def test_pipes_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    with pytest.raises(UsageError, match="does not exist"):
        read_config(tmp_path / "pipe.py")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("c.yml", b"model: 1", "neither .py nor .json"),
        ("c.py", b"\xff\xfe\x00", "not UTF-8"),
        ("c.py", b"x = 1" + b" " * 2**21, "larger than"),
        ("c.json", b"{", "not JSON"),
        ("c.json", b"[" * 100_000, "not JSON"),
        ("c.json", b"[1]", "holds a list"),
    ],
)
def test_unreadable_files_are_refused(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises((UsageError, UnsupportedModel), match=said):
        read_config(tmp_path / name)


def test_a_byte_order_mark_does_not_hurt(tmp_path: Path) -> None:
    (tmp_path / "c.py").write_bytes(b"\xef\xbb\xbfx = 1\r\ny = [2,\r\n3]\r\n")
    assert read_config(tmp_path / "c.py") == {"x": 1, "y": [2, 3]}


def test_a_text_without_a_folder_reads_no_files() -> None:
    with pytest.raises(UnsupportedModel, match="_base_"):
        parse_config("_base_ = '/etc/passwd'", "meta")

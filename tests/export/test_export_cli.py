"""`adapter-export` from the outside: what it prints, its exit codes, and what it leaves behind when things go wrong."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest

import golden
from adapter_export.cli import main
from adapter_infer import metadata

CHECKPOINT = golden.folder("models", "upernet_vit_adapter") / "checkpoint.pth"
BEIT = golden.folder("models", "upernet_beit_adapter") / "checkpoint.pth"
SHA256 = hashlib.sha256(CHECKPOINT.read_bytes()).hexdigest()
LIGHT = "upernet_deit_adapter_light_base_512_160k_ade20k"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def failure(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str]:
    """Exit code and message; a mistake is one line on standard error and nothing on standard output."""
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("adapter-export: ") and printed.err.count("\n") == 1, printed.err
    return code, printed.err


@pytest.mark.parametrize("option", ["--help", "--version", "--list-presets"])
def test_opens_without_importing_torch_or_onnx(option: str) -> None:
    code = f"""
import sys
from adapter_export.cli import main
try:
    main([{option!r}])
finally:
    heavy = {{"torch", "onnx", "onnxruntime", "onnxscript", "onnx_ir"}} & set(sys.modules)
    assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_exports_reports_and_says_nothing_else(here: Path) -> None:
    command = [sys.executable, "-m", "adapter_export.cli", str(CHECKPOINT), "--onnx", "out.onnx", "--json", "-"]
    done = subprocess.run([*command, "--size", "64", "96"], check=True, capture_output=True, text=True)
    report = json.loads(done.stdout)
    assert [file.name for file in here.iterdir()] == ["out.onnx"]
    assert report["msda_nodes"] == 10 and report["params"] == 211223 and report["opset"] == 18
    assert report["file_bytes"] == (here / "out.onnx").stat().st_size
    assert set(report["parity"]["largest"]) == {"library", "body"}
    assert report["peak_bytes"] > 10**8 and set(report["seconds"]) >= {"read", "trace", "parity"}
    first = {line.split("  ")[0].strip() for line in done.stderr.splitlines()}
    assert first == {"file", "model", "input", "output", "operators", "parameters"} | {
        "parity, library",
        "parity, body",
        "time",
        "peak memory",
    }
    found = metadata.from_props({entry.key: entry.value for entry in onnx.load(here / "out.onnx").metadata_props})
    assert found is not None and found.checkpoint_sha256 == SHA256
    assert found.model.classes is not None and len(found.model.classes) == 7


def test_random_weights_need_no_checkpoint_and_follow_the_seed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = here / "tiny.json"
    config.write_text(
        json.dumps({"model": golden.config("models", "semfpn_vit_baseline")["model"], "crop_size": [64, 64]})
    )
    arguments = ["--random-weights", "--config", str(config), "--no-check", "--size", "32", "32"]
    weights = []
    for seed in ("0", "1"):
        assert main([*arguments, "--seed", seed, "--onnx", f"{seed}.onnx", "--json", f"{seed}.json"]) == 0
        weights.append(onnx.load(f"{seed}.onnx").graph.initializer)
    assert "not checked (--no-check)" in capsys.readouterr().out
    assert json.loads(Path("0.json").read_text())["parity"] is None
    same = [first.name for first, second in zip(*weights, strict=True) if first == second and len(first.dims) == 4]
    assert same == []


def test_inspect_says_what_a_checkpoint_is_and_writes_no_model(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(CHECKPOINT), "--inspect"]) == 0
    printed = capsys.readouterr().out
    assert "backbone ViTAdapter" in printed and SHA256 in printed
    assert main([str(CHECKPOINT), "--inspect", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["found"]["num_classes"] == 7
    assert main(["--preset", LIGHT, "--inspect"]) == 0
    assert "interaction_indexes [0 11]" in capsys.readouterr().out
    assert list(here.iterdir()) == []


MISTAKES: list[tuple[list[str], int, str]] = [
    ([], 2, "no checkpoint given; pass CHECKPOINT, or --random-weights"),
    ([str(CHECKPOINT)], 2, "pass --onnx OUT.onnx"),
    (["--random-weights", "--onnx", "o.onnx"], 2, "pass --preset NAME or --config FILE"),
    ([str(CHECKPOINT), "--random-weights", "--onnx", "o.onnx"], 2, "exclude each other"),
    (["--random-weights", "--preset", "nothing", "--onnx", "o.onnx"], 2, "there is no preset 'nothing'"),
    (["missing.pth", "--onnx", "o.onnx"], 2, "missing.pth"),
    (["picture.png", "--onnx", "o.onnx"], 3, "picture.png"),
    ([str(CHECKPOINT), "--onnx", "missing/o.onnx"], 2, "the folder missing does not exist"),
    ([str(CHECKPOINT), "--onnx", "."], 2, "is a folder; name a file in it"),
    ([str(CHECKPOINT), "--onnx", "o.onnx", "--json", "missing/r.json"], 2, "the folder missing does not exist"),
    ([str(CHECKPOINT), "--onnx", "o.onnx", "--json", "o.onnx"], 2, "--json and --onnx both name o.onnx"),
    (["picture.png", "--onnx", "picture.png"], 2, "would overwrite the file that is read"),
    ([str(CHECKPOINT), "--onnx", "o.onnx", "--size", "500", "300"], 2, "500x300 is not a multiple of 32"),
    ([str(CHECKPOINT), "--onnx", "o.onnx", "--size", "-32", "32"], 2, "-32x32 is not a multiple of 32"),
    ([str(CHECKPOINT), "--onnx", "o.onnx", "--opset", "12"], 2, "opset 12 is not supported"),
    ([str(CHECKPOINT), "--onnx", "o.onnx", "--op", "onnx", "--opset", "20"], 2, "choose 18 to 19"),
    ([str(CHECKPOINT), "--onnx", "o.onnx", "--size", "64", "64", "--dynamic-size"], 2, "exclude each other"),
    ([str(BEIT), "--onnx", "o.onnx", "--dynamic-size"], 2, "position bias was trained for 64x64"),
    (["--random-weights", "--preset", LIGHT, "--weights-key", "ema", "--onnx", "o.onnx"], 2, "--weights-key"),
    ([str(CHECKPOINT), "--attention", "pale", "--onnx", "o.onnx"], 2, "--attention builds a model to measure"),
    (
        ["--random-weights", "--preset", "semfpn_vit_tiny_512_ade20k", "--attention", "pale", "--onnx", "o.onnx"],
        3,
        "ViTBaseline has no injectors",
    ),
]


@pytest.mark.parametrize(("arguments", "code", "message"), MISTAKES)
def test_a_mistake_is_one_line_and_its_exit_code(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    (here / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    got, printed = failure(capsys, *arguments)
    assert (got, message in printed) == (code, True), printed
    assert [file.name for file in here.iterdir()] == ["picture.png"]


@pytest.mark.parametrize(
    "arguments",
    [["--op", "cuda"], ["--batch", "0"], ["--batch", "many"], ["--size", "64"], ["--nonsense"], ["--outp", "x"]],
)
def test_a_malformed_option_ends_with_exit_code_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(CHECKPOINT), "--onnx", "o.onnx", *arguments])
    assert caught.value.code == 2
    assert "adapter-export: error: " in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "locked").mkdir(mode=0o500)
    assert failure(capsys, CHECKPOINT, "--onnx", "locked/o.onnx") == (
        2,
        "adapter-export: --onnx locked/o.onnx: the folder locked is not writable; choose another one\n",
    )


@pytest.fixture
def small_files_only() -> Iterator[None]:
    """No file of this process may grow beyond 64 KiB: to a writer, a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield resource.setrlimit(resource.RLIMIT_FSIZE, (65536, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_one_line_and_keeps_the_earlier_file(
    here: Path, capsys: pytest.CaptureFixture[str], small_files_only: None
) -> None:
    (here / "o.onnx").write_bytes(b"an earlier export")
    code, printed = failure(capsys, CHECKPOINT, "--onnx", "o.onnx", "--size", "32", "32", "--no-check")
    assert code == 1 and "writing o.onnx failed" in printed and "nothing was kept" in printed
    assert (here / "o.onnx").read_bytes() == b"an earlier export"
    assert [file.name for file in here.iterdir()] == ["o.onnx"]


def test_an_orphaned_second_file_goes_with_the_export_that_it_belonged_to(here: Path, exported: Any, load: Any) -> None:
    from adapter_export import files

    options = {"external_data": True, "batch": 2}
    source = exported("models", "upernet_vit_adapter", **options)
    target = here / "o.onnx"
    model = onnx.load(source)
    onnx.save_model(model, target, save_as_external_data=True, location="o.onnx.data", size_threshold=64)
    assert (here / "o.onnx.data").exists()
    stranger = here / "other.onnx.data"
    stranger.write_bytes(b"someone else's")
    with files.staging(target) as place:
        shutil.copyfile(exported("models", "upernet_vit_adapter"), place.model)
        place.publish()
    assert sorted(file.name for file in here.iterdir()) == ["o.onnx", "other.onnx.data"]
    assert onnx.load(target).graph.initializer[0].data_location == onnx.TensorProto.DEFAULT

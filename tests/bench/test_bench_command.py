"""adapter-bench from its command line: what it prints and writes, what it refuses, and what it keeps."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import golden
from adapter_bench import cli

Export = Callable[..., Path]

QUICK = ["--duration", "0", "--iterations", "3", "--warmup", "0", "--threads", "1"]
LATENCY = {"median", "mean", "min", "max", "p90", "p95", "p99", "std", "samples"}
KEYS = {
    *("engine", "runtime", "device", "threads", "precision", "batch", "height", "width", "latency_ms", "fps", "params"),
    *("macs", "macs_paper", "msda_nodes", "memory", "baseline", "ratio_fps"),
}


@pytest.fixture(autouse=True)
def no_cache_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home_cache"))


@pytest.fixture
def engine(exported: Export) -> Path:
    """A tiny two-interaction ViT-Adapter, any batch of 64x96."""
    return exported("vit_adapter_fpn", size=(64, 96), batch="dynamic")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def report(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_everything_is_measured_where_nothing_is_selected(
    engine: Path, cache: Path, tmp_path: Path, capsys: Any
) -> None:
    out, pasted = tmp_path / "report.json", tmp_path / "report.md"
    command = ["--engine", str(engine), "--cache", str(cache), "--json", str(out), "--markdown", str(pasted), *QUICK]
    assert cli.main(command) == 0
    found = report(out)

    assert found.keys() >= KEYS
    assert found["baseline"].keys() >= KEYS - {"baseline", "ratio_fps"}
    assert found["latency_ms"].keys() >= LATENCY
    assert len(found["latency_ms"]["samples"]) == found["latency_ms"]["count"] == 4  # two turns of two runs
    assert found["latency_ms"]["p90"] is None
    assert found["engine"]["path"] == str(engine)
    assert found["engine"]["sha256"] == hashlib.sha256(engine.read_bytes()).hexdigest()
    assert (found["batch"], found["height"], found["width"], found["threads"]) == (1, 64, 96, 1)
    assert (found["runtime"]["name"], found["precision"], found["msda_nodes"]) == ("onnxruntime", "fp32", 6)
    assert (found["baseline"]["msda_nodes"], found["baseline"]["engine"]["model"]) == (0, "vit_adapter_fpn baseline")
    assert (
        found["memory"]["peak_bytes"]
        > found["memory"]["weights_bytes"]
        == found["weights_bytes"]
        > 4 * found["params"] * 0.9
    )
    assert found["macs"] > found["baseline"]["macs"] > 0
    assert found["ratio_fps"] == pytest.approx(found["fps"] / found["baseline"]["fps"])
    assert len(found["ratio"]["blocks"]) == 2
    assert found["results"] == [{key: found[key] for key in found["results"][0]}]
    assert found["command"].startswith("adapter-bench --engine ")
    assert found["rules"]["overridden"] == ["--warmup 0", "--duration 0", "--iterations 3"]
    assert found["machine"]["cores"] >= 1
    assert "onnxruntime" in found["versions"]

    shown, markdown = capsys.readouterr().out, pasted.read_text()
    for text in ("images per second", "MACs per image, MSDA included", "peak memory", "plain ViT", "rules overridden"):
        assert text in shown
        assert text in markdown
    assert f"| {found['fps']:.3f} | {found['baseline']['fps']:.3f} |" in markdown
    assert "p90, p95, p99 left out: 4 samples, wanted are 64, 130, 662" in markdown


def test_a_kept_baseline_is_used_again(engine: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = ["--engine", str(engine), "--cache", str(cache), "--baseline", *QUICK]
    assert cli.main(quick) == 0
    (kept,) = cache.iterdir()
    written = (kept / "baseline.onnx").stat().st_mtime_ns
    monkeypatch.setattr("adapter_bench.child.call", lambda *_, **__: pytest.fail("exported again"))
    assert cli.main(quick) == 0
    assert (kept / "baseline.onnx").stat().st_mtime_ns == written
    assert list(cache.iterdir()) == [kept]


def test_several_batches_give_one_result_each(engine: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    command = ["--engine", str(engine), "--batch", "1", "3", "--fps", "--flops", "--json", str(out), *QUICK]
    assert cli.main(command) == 0
    found = report(out)
    assert [result["batch"] for result in found["results"]] == [1, 3]
    assert "fps" not in found
    one, three = found["results"]
    assert one["macs"] == three["macs"]  # per image
    assert one["memory"] is one["baseline"] is one["ratio_fps"] is None
    assert three["fps"] == pytest.approx(3e3 / three["latency_ms"]["mean"], rel=0.05)


def test_standard_output_carries_only_json_where_it_is_asked_for(engine: Path) -> None:
    command = [sys.executable, "-m", "adapter_bench.cli", "--engine", str(engine), "--flops", "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["fps"] is None
    assert found["rules"] is None
    assert sum(found["macs_by_operator"].values()) == found["macs"]
    assert done.stderr == ""


def test_flops_alone_need_no_runtime(exported: Export, capsys: Any) -> None:
    """A file for TensorRT has an operator that ONNX Runtime lacks; its multiply-adds can be counted all the same."""
    path = exported("beit_adapter", op="tensorrt", size=(64, 64))
    assert cli.main(["--engine", str(path), "--flops", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["msda_nodes"] == 6


def test_another_attention_is_counted_as_what_it_is(tmp_path: Path) -> None:
    found = {}
    for kind in ("deformable", "cswin"):
        preset = ["--preset", "semfpn_vit_adapter_tiny_512_ade20k", "--attention", kind, "--size", "128", "128"]
        assert cli.main([*preset, "--flops", "--json", str(tmp_path / kind)]) == 0
        found[kind] = json.loads((tmp_path / kind).read_text())
    assert (found["deformable"]["msda_nodes"], found["cswin"]["msda_nodes"]) == (10, 0)
    assert found["cswin"]["params"] > found["deformable"]["params"] == 12_167_750


def test_pytorch_eager_is_measured_beside_its_baseline(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    preset = "upernet_deit_adapter_tiny_512_160k_ade20k"
    command = ["--preset", preset, "--size", "32", "32", "--fps", "--flops", "--baseline", "--json", str(out), *QUICK]
    assert cli.main(command) == 0
    found = report(out)
    assert (found["runtime"]["name"], found["engine"]["path"], found["params"]) == ("pytorch", None, 35_580_998)
    assert found["baseline"]["params"] < found["params"]
    assert found["ratio_fps"] > 0


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A file of another maker: one convolution, any batch and size."""
    weight = numpy_helper.from_array(np.zeros((4, 3, 3, 3), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, "h", "w"])],
        [weight],
    )
    path = tmp_path / "foreign.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_a_file_of_another_maker_is_measured_as_far_as_it_goes(foreign: Path, capsys: Any) -> None:
    assert cli.main(["--engine", str(foreign), "--size", "8", "8", "--json", "-", *QUICK]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["macs"], found["macs_paper"], found["params"]) == (8 * 8 * 4 * 27, None, 108)
    assert found["baseline"] is None
    assert any("was not written by adapter-export" in remark for remark in found["remarks"])


REFUSALS = [
    (["--fps"], 2, "nothing to measure; give --engine FILE"),
    (["--engine", "absent.onnx"], 2, "absent.onnx"),
    (["--engine", "ENGINE", "--preset", "x"], 2, "--preset does not apply to"),
    (["--engine", "ENGINE", "--config", "x.py"], 2, "--config does not apply to"),
    (["--engine", "ENGINE", "--batch", "0"], 2, "--batch 0 holds no image"),
    (["--engine", "ENGINE", "--batch", "2", "2"], 2, "names a batch twice"),
    (["--engine", "ENGINE", "--size", "128", "96"], 2, "takes 64x96 only"),
    (["--engine", "ENGINE", "--size", "0", "96"], 2, "at least 1 pixel"),
    (["--engine", "ENGINE", "--flops", "--duration", "1"], 2, "--duration does not apply to --flops"),
    (["--engine", "ENGINE", "--fps", "--cache", "."], 2, "--cache does not apply to --fps"),
    (["--engine", "ENGINE", "--threads", "0"], 2, "threads"),
    (["--engine", "ENGINE", "--iterations", "0"], 2, "--iterations 0"),
    (["--engine", "ENGINE", "--json", "absent/report.json"], 2, "the folder absent does not exist"),
    (["--engine", "ENGINE", "--markdown", "."], 2, "is a folder"),
    (["--engine", "FOREIGN"], 2, "give --size H W"),
    (["--engine", "FOREIGN", "--size", "8", "8", "--baseline"], 3, "was not written by adapter-export"),
    (["--engine", "TEXT"], 3, "not an ONNX file"),
    (["--preset", "nonsense"], 2, "nonsense"),
    (["--engine", "ENGINE", "--attention", "pale"], 2, "--attention does not apply to"),
    (["--preset", "upernet_deit_adapter_tiny_512_160k_ade20k", "--size", "33", "32"], 2, "not a multiple of 32"),
    (
        ["--preset", "upernet_deit_adapter_tiny_512_160k_ade20k", "--provider", "cuda"],
        2,
        "--provider cuda does not apply",
    ),
    (
        ["--preset", "upernet_deit_adapter_tiny_512_160k_ade20k", "--config", "x.py"],
        2,
        "--config describes a checkpoint",
    ),
]


@pytest.mark.parametrize(("command", "code", "words"), REFUSALS, ids=[" ".join(refusal[0]) for refusal in REFUSALS])
def test_refusals_are_one_line_with_their_exit_code(
    engine: Path,
    foreign: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
    command: list,
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.onnx").write_text("this is not a model")
    names = {"ENGINE": str(engine), "FOREIGN": str(foreign), "TEXT": "text.onnx"}
    assert cli.main([names.get(word, word) for word in command]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("adapter-bench: ")
    assert said.err.count("\n") == 1
    assert words in said.err


def test_a_fixed_batch_cannot_be_changed(exported: Export, capsys: Any) -> None:
    path = exported("setr", size=(64, 96))
    assert cli.main(["--engine", str(path), "--batch", "2", "--fps"]) == 2
    assert "takes batches of 1 only" in capsys.readouterr().err


def test_a_plain_vit_has_no_baseline(exported: Export, capsys: Any) -> None:
    path = exported("setr", size=(64, 96))
    assert cli.main(["--engine", str(path), "--baseline"]) == 3
    assert "plain ViT already" in capsys.readouterr().err


def test_a_report_that_cannot_be_finished_leaves_the_old_one(
    engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "report.json"
    out.write_text("old")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    assert cli.main(["--engine", str(engine), "--flops", "--json", str(out)]) == 1
    assert "disk full" in capsys.readouterr().err
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def test_help_opens_without_heavy_imports() -> None:
    code = "import sys\nfrom adapter_bench import cli\ntry: cli.main(['--help'])\nexcept SystemExit: pass\n"
    heavy = "('torch', 'onnx', 'onnxruntime', 'numpy', 'rich')"
    check = f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code + check], capture_output=True, text=True, check=True)
    assert "--engine" in done.stdout
    assert done.stderr.strip() == "[]"


def test_an_official_checkpoint_is_measured_in_pytorch(capsys: Any) -> None:
    checkpoint = golden.folder("models", "upernet_vit_adapter") / "checkpoint.pth"
    command = ["--engine", str(checkpoint), "--size", "64", "96", "--fps", "--flops", "--json", "-", *QUICK]
    assert cli.main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["engine"]["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert (found["runtime"]["name"], found["precision"], found["msda_nodes"]) == ("pytorch", "fp32", 10)
    assert found["latency_ms"]["count"] == 4

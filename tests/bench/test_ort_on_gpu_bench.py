"""adapter-bench of ONNX files with --provider cuda: on the GPU's memory, with a CUDA graph and without, copies apart.

Against the stand-ins for CUDA and ONNX Runtime's CUDA provider: what is asserted is what was run and told, no time.
"""

from __future__ import annotations

import gc
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapter_bench import cli, plan_runs
from adapter_bench.engine_subject import EngineSubject
from adapter_bench.suites import command as suite_command
from adapter_engines import sessions
from adapter_infer.errors import EnvironmentMissing, UsageError
from engines import fake_cuda, fake_ort_cuda, fake_tensorrt

QUICK = ["--duration", "0", "--iterations", "2", "--warmup", "0"]


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("baselines")


@pytest.fixture
def files(exported, cache) -> dict[str, Path]:
    """All that is exported here, before the stand-ins are in the exporter's way."""
    paths = {
        "block": exported("one_block", size=(64, 64), output="features"),
        "detector": exported("atss", size=(96, 64)),
        "half": exported("vit_adapter_fpn", size=(64, 64), precision="fp16"),
    }
    EngineSubject(str(paths["half"])).baseline(cache)
    return paths


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, files) -> Iterator[fake_cuda.World]:
    made = fake_cuda.World()
    fake_tensorrt.install(monkeypatch, made)

    def here(target: str, **given: Any) -> Any:
        module, function = target.split(":")
        return getattr(importlib.import_module(module), function)(**given)

    monkeypatch.setattr("adapter_bench.child.call", here)  # the stand-ins are in this process
    yield made
    gc.collect()
    made.check()


@pytest.fixture
def made(monkeypatch, world) -> list[fake_ort_cuda.Session]:
    return fake_ort_cuda.install(monkeypatch, world)


def measured(tmp_path: Path, *command: str) -> dict[str, Any]:
    out = tmp_path / "report.json"
    quick = QUICK if {"--fps", "--baseline"} & set(command) else []
    assert cli.main([*command, "--provider", "cuda", "--json", str(out), *quick]) == 0
    return json.loads(out.read_text())


def test_runs_stay_on_the_gpu_and_both_graph_modes_and_whole_runs_stand_beside_each_other(
    made, files, tmp_path, capsys
):
    found = measured(tmp_path, "--engine", str(files["block"]), "--fps")
    assert (found["device"], found["runtime"]["provider"]) == ("Pretended GPU", "cuda")
    assert found["cuda_graph"] == {"in_use": True, "refusal": None}
    assert [way["name"] for way in found["ways"]] == [plan_runs.GRAPH, plan_runs.NO_GRAPH, plan_runs.WITH_COPIES]
    assert all(way["latency_ms"]["median"] > 0 and way["gpu_ms"] is None for way in found["ways"])
    (session,) = made
    assert session.launches > 4
    assert session.plain >= 1 + len(found["ways"][1]["latency_ms"]["samples"])
    assert "ways of running" in capsys.readouterr().out


def test_without_a_graph_nothing_is_recorded(made, files, tmp_path):
    found = measured(tmp_path, "--engine", str(files["block"]), "--fps", "--cuda-graph", "off")
    assert found["cuda_graph"] == {"in_use": False, "refusal": None}
    assert [way["name"] for way in found["ways"]] == [plan_runs.NO_GRAPH, plan_runs.WITH_COPIES]
    assert (made[0].graphs, made[0].launches) == (False, 0)


def test_a_model_that_no_graph_can_hold_is_measured_without_and_says_so(made, files, tmp_path, monkeypatch):
    original = fake_ort_cuda.Session.__init__

    def init(self: Any, *arguments: Any) -> None:
        original(self, *arguments)
        self.uncapturable = True

    monkeypatch.setattr(fake_ort_cuda.Session, "__init__", init)
    found = measured(tmp_path, "--engine", str(files["block"]), "--fps")
    assert found["cuda_graph"]["in_use"] is False
    assert any(remark.startswith("no CUDA graph: the model cannot be run") for remark in found["remarks"])
    assert [session.graphs for session in made] == [True, False]
    assert cli.main(["--engine", str(files["block"]), "--provider", "cuda", "--cuda-graph", "on", "--fps", *QUICK]) == 3


def test_memory_is_the_gpus(made, files, tmp_path):
    found = measured(tmp_path, "--engine", str(files["block"]), "--fps", "--memory")
    image, maps = 3 * 64 * 64 * 4, 32 * 4 * 4 * 4
    assert found["memory"]["method"].startswith("GPU memory")
    assert found["memory"]["loaded_bytes"] == 0  # the stand-in's weights are on the host
    assert found["memory"]["peak_bytes"] >= image + maps


def test_a_detectors_work_is_told_of_the_run_on_the_gpu(made, files, tmp_path):
    found = measured(tmp_path, "--engine", str(files["detector"]), "--fps")
    assert any("NMS and RoIAlign have as much work" in remark for remark in found["remarks"])


def test_the_plain_vit_runs_on_the_gpu_too_in_the_models_precision(made, files, cache, tmp_path):
    found = measured(tmp_path, "--engine", str(files["half"]), "--baseline", "--cache", str(cache))
    assert found["precision"] == found["baseline"]["precision"] == "fp16"
    assert (found["baseline"]["runtime"]["provider"], len(made)) == ("cuda", 2)
    assert found["ratio_fps"] > 0


def test_the_graph_option_needs_a_gpu(files, capsys):
    assert cli.main(["--engine", str(files["block"]), "--cuda-graph", "on", "--fps"]) == 2
    assert "--cuda-graph is for TensorRT plans and --provider cuda; leave it out" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), [("--provider", "cuda"), ("--precision", "fp16")])
def test_a_suite_of_one_place_refuses_another(tmp_path, option, value):
    with pytest.raises(
        UsageError, match=rf"{option} {value} does not apply to the suite parts; it is for segmentation"
    ):
        suite_command.main(["parts", "--out", str(tmp_path), option, value])


def test_a_suite_on_the_gpu_says_what_is_missing_before_it_begins(tmp_path, monkeypatch):
    monkeypatch.setattr(sessions, "unavailable", lambda provider: f"no {provider} here; install onnxruntime-gpu")
    with pytest.raises(EnvironmentMissing, match="no cuda here; install onnxruntime-gpu"):
        suite_command.main(["segmentation", "--out", str(tmp_path), "--provider", "cuda"])
    assert list(tmp_path.iterdir()) == []

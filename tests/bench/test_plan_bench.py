"""adapter-bench on TensorRT plans: the GPU's clock, both graph modes, copies, memory, layers, and what it refuses.

Against the stand-ins for TensorRT and CUDA, whose clock counts what was enqueued: a run is one operation, an event
another.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from adapter_bench import cli, plan_runs, plan_subject
from adapter_infer.files import sha256
from engines import fake_cuda, fake_tensorrt

QUICK = ["--duration", "0", "--iterations", "3", "--warmup", "0"]
PROPERTIES = "Pretended GPU"


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[fake_cuda.World]:
    made, plugin = fake_cuda.World(), tmp_path / "libmsda_trt10.so"
    plugin.write_bytes(b"a plugin library")
    fake_tensorrt.install(monkeypatch, made, plugin)
    # What would be measured in a process of its own is measured here, where the stand-ins are.
    monkeypatch.setattr(
        "adapter_bench.child.call", lambda target, **given: getattr(plan_subject, target.split(":")[1])(**given)
    )
    yield made
    gc.collect()
    made.check()


def write(path: Path, function: str = "double", size: tuple[int, int] | None = None, **described: Any) -> Path:
    """A plan over one picture, of any size of 32 to 128 pixels and batches to 4, or of one size and batch 2."""
    low, best, high = (1, 3, 32, 32), (1, 3, 64, 64), (4, 3, 128, 128)
    if size is not None:
        low = best = high = (2, 3, *size)
    shape = list(low) if size is not None else [-1, 3, -1, -1]
    inputs = [{"name": "x", "dtype": "FLOAT", "shape": shape, "ranges": [[low, best, high]]}]
    fake_tensorrt.write_plan(path, function, inputs=inputs, outputs=[{"name": "y", "dtype": "FLOAT", "shape": shape}])
    fake_tensorrt.write_sidecar(path, **described)
    return path


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    return write(tmp_path / "model.plan", precision={"fp16": 0.97, "fp32": 0.03}, plugin_layers=6)


def measured(tmp_path: Path, *command: str) -> dict[str, Any]:
    out = tmp_path / "report.json"
    quick = QUICK if "--fps" in command or "--flops" not in command else []
    assert cli.main([*command, "--json", str(out), *quick]) == 0
    return json.loads(out.read_text())


def test_a_plan_is_measured_by_the_gpus_clock(world, plan, tmp_path, capsys):
    found = measured(tmp_path, "--engine", str(plan), "--fps", "--size", "64", "64")
    assert found["latency_ms"]["count"] == found["gpu_ms"]["count"] == found["enqueue_ms"]["count"] == 4
    assert found["gpu_ms"]["samples"] == [2.0] * 4  # the run, and the event that ends it
    assert found["enqueue_ms"]["median"] > 0
    assert (found["runtime"]["name"], found["runtime"]["provider"]) == ("tensorrt", "tensorrt")
    assert (found["device"], found["precision"]) == (PROPERTIES, "fp16 in 97% of the layers")
    assert (found["msda_nodes"], found["threads"], found["weights_bytes"]) == (6, None, 1000)
    assert found["gpu_state"]["before"] == found["gpu_state"]["after"] == "nvidia-smi is not installed"
    shown = " ".join(capsys.readouterr().out.split())
    for text in ("GPU time, median", "enqueue time of the host", "ways of running", "GPU before: nvidia-smi is not"):
        assert text in shown


def test_both_graph_modes_and_the_copies_are_in_the_report(world, plan, tmp_path):
    found = measured(tmp_path, "--engine", str(plan), "--fps", "--size", "32", "64")
    ways = {way["name"]: way for way in found["ways"]}
    assert list(ways) == [plan_runs.GRAPH, plan_runs.NO_GRAPH, plan_runs.WITH_COPIES]
    assert found["cuda_graph"] == {"in_use": True, "refusal": None}
    assert world.calls.count("cudaGraphLaunch") > 4
    copies = ways[plan_runs.WITH_COPIES]
    assert copies["copy_in_ms"]["count"] == copies["copy_out_ms"]["count"] >= 4
    assert copies["latency_ms"]["median"] > copies["copy_in_ms"]["median"]
    assert ways[plan_runs.GRAPH]["copy_in_ms"] is None
    assert [way["gpu_ms"]["median"] for way in ways.values()] == [2.0] * 3


def test_without_a_graph_only_the_other_way_is_launched_as_one(world, plan, tmp_path):
    found = measured(tmp_path, "--engine", str(plan), "--fps", "--size", "64", "64", "--cuda-graph", "off")
    assert found["cuda_graph"] == {"in_use": False, "refusal": None}
    assert [way["refusal"] for way in found["ways"]] == [None, None, None]


def test_a_plan_that_cannot_be_captured_says_so_and_is_measured(world, tmp_path):
    plan = write(tmp_path / "model.plan", "uncapturable")
    found = measured(tmp_path, "--engine", str(plan), "--fps", "--size", "64", "64")
    assert found["cuda_graph"]["in_use"] is False
    assert "capturing" in found["cuda_graph"]["refusal"]
    assert "capturing" in found["ways"][0]["refusal"]
    assert found["gpu_ms"]["median"] == 2.0


def test_several_batches_do_not_run_out_of_contexts(world, plan, tmp_path):
    found = measured(tmp_path, "--engine", str(plan), "--fps", "--size", "64", "64", "--batch", "1", "2", "3", "4")
    assert [result["batch"] for result in found["results"]] == [1, 2, 3, 4]
    assert all(result["ways"] for result in found["results"])


def test_memory_is_split_into_what_it_is_for(world, plan, tmp_path, capsys):
    found = measured(tmp_path, "--engine", str(plan), "--fps", "--memory", "--size", "64", "64")["memory"]
    buffers = 2 * 3 * 64 * 64 * 4  # one picture in, one out
    assert (found["activations_bytes"], found["buffers_bytes"], found["weights_bytes"]) == (4096, buffers, 1000)
    assert found["peak_bytes"] == 1000 + 4096 + buffers + found["driver_bytes"]
    assert "driver, kernels and runtime" in capsys.readouterr().out


def test_every_layer_is_timed_where_it_is_asked_for(world, plan, tmp_path, capsys):
    pasted = tmp_path / "report.md"
    command = ["--engine", str(plan), "--fps", "--profile", "--size", "64", "64", "--markdown", str(pasted)]
    found = measured(tmp_path, *command)
    assert found["layers"] == [{"name": "first", "ms": 0.5}, {"name": "second", "ms": 1.5}]
    assert "2 slowest of 2 layers" in pasted.read_text()
    assert "| second | 1.500 ms | 75.0% |" in pasted.read_text()


def test_another_plan_is_measured_in_turns(world, plan, tmp_path, capsys):
    other = write(tmp_path / "other.plan", size=(64, 64))
    command = ["--engine", str(plan), "--fps", "--baseline", str(other), "--size", "64", "64", "--batch", "2"]
    found = measured(tmp_path, *command)
    assert found["baseline"]["engine"]["path"] == str(other)
    assert found["baseline"]["gpu_ms"]["median"] == 2.0
    assert found["ratio_fps"] == pytest.approx(found["fps"] / found["baseline"]["fps"])
    assert "other plan" in capsys.readouterr().out
    # The stand-in counts contexts and engines of all plans together, and takes one plan's end for the other's.
    assert all("was freed before its" in told for told in world.violations)
    world.violations.clear()


def test_multiply_adds_are_left_out_unless_the_onnx_file_is_given(world, plan, tmp_path, capsys):
    found = measured(tmp_path, "--engine", str(plan), "--size", "64", "64")
    assert found["macs"] is None
    assert any("--onnx" in remark for remark in found["remarks"])
    assert any("--baseline FILE.plan" in remark for remark in found["remarks"])


@pytest.fixture
def onnx(exported: Callable[..., Path]) -> Path:
    """Exported before the stand-ins are there: torch looks for a `tensorrt` of its own."""
    return exported("vit_adapter_fpn", size=(64, 96))


def test_multiply_adds_come_from_the_file_that_the_plan_was_built_from(onnx, world, tmp_path, capsys):
    right = write(tmp_path / "right.plan", onnx_sha256=sha256(onnx))
    command = ["--flops", "--onnx", str(onnx), "--size", "64", "96"]
    assert measured(tmp_path, "--engine", str(right), *command)["macs"] > 10**6
    wrong = write(tmp_path / "wrong.plan")
    assert cli.main(["--engine", str(wrong), *command]) == 2
    assert "is not the file that" in capsys.readouterr().err


def test_a_fixed_plan_names_its_own_size_and_refuses_others(world, tmp_path, capsys):
    plan = write(tmp_path / "fixed.plan", size=(32, 64))
    found = measured(tmp_path, "--engine", str(plan), "--fps")
    assert (found["batch"], found["height"], found["width"]) == (2, 32, 64)
    assert cli.main(["--engine", str(plan), "--fps", "--size", "64", "64"]) == 2
    assert "takes 32x64 only" in capsys.readouterr().err
    assert cli.main(["--engine", str(plan), "--fps", "--batch", "1"]) == 2
    assert "takes batches of 2 only" in capsys.readouterr().err


def test_a_size_beyond_the_profile_is_refused_with_the_profile(world, plan, capsys):
    assert cli.main(["--engine", str(plan), "--fps", "--size", "256", "256", *QUICK]) == 2
    assert "profile 0: x 1x3x32x32 to 4x3x128x128" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--threads", "1"], "--threads does not apply to a TensorRT plan"),
        (["--provider", "cuda"], "--provider does not apply"),
        (["--preset", "x"], "--preset does not apply"),
        (["--flops", "--profile"], "--profile belongs to the measurement of speed"),
    ],
)
def test_what_a_plan_has_no_use_for_is_refused(world, plan, options, named, capsys):
    command = ["--engine", str(plan), *options]
    if "--flops" not in options:
        command.append("--fps")
    assert cli.main(command) == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--cuda-graph", "on"], "--cuda-graph is for TensorRT plans"),
        (["--baseline", "x.plan"], "a file to compare with is for TensorRT plans"),
        (["--profile"], "--profile is for TensorRT plans"),
    ],
)
def test_what_only_a_plan_has_is_refused_elsewhere(options, named, capsys):
    assert cli.main(["--preset", "upernet_augreg_adapter_tiny_512_160k_ade20k", "--fps", *options]) == 2
    assert named in capsys.readouterr().err


class Clocked:
    """A context, and events, of known delays: `enqueue` takes 3 ms of the host, the run 8 ms of the GPU."""

    def __init__(self) -> None:
        self.host = self.gpu = self.marked = 0.0
        self.stream = self

    def clock(self) -> float:
        return self.host

    def enqueue(self) -> None:
        self.host += 0.003
        self.gpu += 8.0

    def record(self, stream: Any) -> None:
        self.host += 0.5  # what is between the two clocks' readings must not be counted

    def synchronize(self) -> None:
        self.marked = self.gpu

    def elapsed_ms(self, end: Any) -> float:
        return end.gpu_at_end - 0.0


def test_enqueueing_and_gpu_time_are_told_apart():
    context = Clocked()

    class End(Clocked):
        gpu_at_end = 0.0

        def synchronize(self) -> None:
            self.gpu_at_end = context.gpu

    told = plan_runs.timed(context, Clocked(), End(), context.clock)()
    assert told.enqueue_ms == pytest.approx(3.0)
    assert told.gpu_ms == 8.0

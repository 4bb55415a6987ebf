"""Builds of real exports by NVIDIA's own parser and builder (TensorRT-RTX, which needs no GPU to build).

Nothing here runs a plan: that takes a GPU.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import adapter_plugins
from adapter_infer.errors import EnvironmentMissing
from adapter_infer.metadata import from_props
from engines import plan_files
from engines.plan_files import RTX, built, command

pytestmark = pytest.mark.skipif(bool(plan_files.missing()), reason=plan_files.missing() or "-")
with_plugin = pytest.mark.skipif(bool(plan_files.plugin_missing()), reason=plan_files.plugin_missing() or "-")

Exporter = Callable[..., Path]
STATIC = {"size": (64, 96)}
MSDA_NODES = 10  # of the golden model, and of every ViT-Adapter with four interactions


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Exporter:
    # Workers share their parent's folder; without workers that folder outlives the run, and the code it came from.
    base = tmp_path_factory.getbasetemp()
    return plan_files.exporter((base if worker_id == "master" else base.parent) / "plan-exports")


@with_plugin
@pytest.mark.parametrize("op", ["fused", "standard"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_every_msda_node_becomes_a_plugin_layer(export: Exporter, tmp_path: Path, op: str, precision: str) -> None:
    onnx, plan = export(op=op, precision=precision, **STATIC), tmp_path / "m.plan"
    sidecar = built(onnx, plan)
    assert sidecar["plugin_layers"] == sidecar["layers"]["by_type"]["PLUGIN_V3"] == MSDA_NODES
    assert "GATHER" not in sidecar["layers"]["by_type"], "the function body was expanded"
    assert sidecar["plan_sha256"] == hashlib.sha256(plan.read_bytes()).hexdigest()
    assert sidecar["onnx_sha256"] == hashlib.sha256(onnx.read_bytes()).hexdigest()
    assert sidecar["plugin_sha256"] in plugin_hashes()
    assert (sidecar["toolkit"], sidecar["plugin_embedded"], sidecar["gpu"]) == ("tensorrt_rtx", False, None)
    assert sidecar["precision_source"] == "network" and sum(sidecar["precision"].values()) == pytest.approx(1, abs=1e-4)
    assert max(("fp32", "fp16", "bf16"), key=lambda name: sidecar["precision"].get(name, 0)) == precision
    metadata = from_props(sidecar["props"])
    assert metadata is not None and (metadata.op, metadata.precision) == (op, precision)


@with_plugin
@pytest.mark.slow
def test_a_dynamic_export_builds_with_two_profiles(export: Exporter, tmp_path: Path) -> None:
    """About 45 s, two thirds of it the export."""
    onnx = export(batch="dynamic", dynamic_size=True)
    ranges = ("--max-batch", 1, "--max-batch", 4, "--opt-batch", 1, "--opt-batch", 2)
    ranges += ("--min-size", 64, 64, "--opt-size", 64, 96, "--max-size", 128, 128)
    sidecar = built(onnx, tmp_path / "m.plan", *ranges)
    assert sidecar["plugin_layers"] == MSDA_NODES
    sizes = {"min": [1, 3, 64, 64], "opt": [1, 3, 64, 96], "max": [1, 3, 128, 128]}
    larger = {"min": [1, 3, 64, 64], "opt": [2, 3, 64, 96], "max": [4, 3, 128, 128]}
    assert sidecar["profiles"] == [{"image": sizes}, {"image": larger}]
    assert sidecar["inputs"] == [{"name": "image", "dtype": "float32", "shape": [-1, 3, -1, -1]}]


@with_plugin
def test_an_embedded_plugin_is_inside_the_plan(export: Exporter, tmp_path: Path) -> None:
    onnx = export(**STATIC)
    built(onnx, tmp_path / "plain.plan")
    sidecar = built(onnx, tmp_path / "embedded.plan", "--embed-plugin")
    library = next(path for path in plugins() if sha256(path) == sidecar["plugin_sha256"])
    grown = (tmp_path / "embedded.plan").stat().st_size - (tmp_path / "plain.plan").stat().st_size
    assert sidecar["plugin_embedded"]
    assert 0.9 * library.stat().st_size < grown < 2 * library.stat().st_size
    assert library.read_bytes()[:4096] in (tmp_path / "embedded.plan").read_bytes()


@with_plugin
def test_weights_in_a_second_file_are_found(export: Exporter, tmp_path: Path) -> None:
    onnx = export(external_data=True, **STATIC)
    assert onnx.with_name(f"{onnx.name}.data").exists()
    assert built(onnx, tmp_path / "m.plan")["plugin_layers"] == MSDA_NODES


def test_without_the_plugin_the_function_body_is_built(export: Exporter, tmp_path: Path) -> None:
    sidecar = built(export(**STATIC), tmp_path / "m.plan", "--without-plugin")
    kinds = sidecar["layers"]["by_type"]
    assert (sidecar["plugin_layers"], sidecar["plugin_sha256"]) == (0, None)
    assert "PLUGIN_V3" not in kinds and kinds["GATHER"] >= 4 * MSDA_NODES
    assert sidecar["layers"]["count"] > 1000


def test_a_plan_carries_no_prefix_and_nothing_is_left_over(make_toy, tmp_path: Path) -> None:
    toy, folder = make_toy(), tmp_path / "out"
    folder.mkdir()
    sidecar = built(toy.path, folder / "toy.plan")
    assert sorted(path.name for path in folder.iterdir()) == ["toy.plan", "toy.plan.json"]
    assert (folder / "toy.plan").read_bytes()[:4] == b"vtrt", "TensorRT's own magic comes first"
    assert sidecar["parity"] == {"done": False, "reason": "a TensorRT-RTX plan is only built here, not run"}
    assert sidecar["precision"] == {"fp32": 1.0}
    assert sidecar["outputs"] == [{"name": "logits", "dtype": "float32", "shape": [1, 5, 64, 64]}]


def test_options_reach_the_builder(make_toy, tmp_path: Path) -> None:
    options = ("--builder-level", 1, "--workspace", "64M", "--compute-capability", "8.9", "--weight-streaming")
    sidecar = built(make_toy().path, tmp_path / "toy.plan", *options, "--no-detailed-profiling")
    assert sidecar["options"] == {
        "workspace": 64 * 2**20,
        "builder_level": 1,
        "weight_streaming": True,
        "detailed": False,
        "with_plugin": True,
        "compute_capability": "8.9",
    }


def test_a_timing_cache_is_kept_and_a_broken_one_does_not_stop_a_build(make_toy, tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    built(make_toy().path, tmp_path / "a.plan", "--timing-cache", cache)
    kept = cache.stat().st_size
    assert kept > 0
    built(make_toy().path, tmp_path / "b.plan", "--timing-cache", cache)
    assert cache.stat().st_size >= kept
    cache.write_bytes(b"not a timing cache")
    built(make_toy().path, tmp_path / "c.plan", "--timing-cache", cache)
    assert cache.stat().st_size >= kept, "the next build starts it anew"


def test_builds_at_the_same_time_share_a_timing_cache(make_toy, tmp_path: Path) -> None:
    toy, cache = make_toy().path, tmp_path / "timing.cache"
    with ThreadPoolExecutor(3) as pool:
        plans = [tmp_path / f"{i}.plan" for i in range(3)]
        done = list(pool.map(lambda plan: command("build", toy, "--plan", plan, *RTX, "--timing-cache", cache), plans))
    assert [each.code for each in done] == [0, 0, 0], done[0].err
    assert cache.stat().st_size > 0
    built(toy, tmp_path / "last.plan", "--timing-cache", cache)


def test_the_report_as_json_stands_alone_on_standard_output(make_toy, tmp_path: Path) -> None:
    done = command("build", make_toy().path, "--plan", tmp_path / "toy.plan", *RTX, "--json", "-")
    assert done.code == 0
    document = json.loads(done.out)
    assert document["file_bytes"] == (tmp_path / "toy.plan").stat().st_size
    assert set(document["seconds"]) == {"read", "parse", "build", "parity"}
    assert "TensorRT-RTX" in done.err and "RTX PRO only" in done.err


def test_a_model_the_parser_refuses_leaves_the_older_plan_alone(make_msda, tmp_path: Path) -> None:
    """Its operator has no body, and the plugin is not to be used."""
    (tmp_path / "old.plan").write_bytes(b"older")
    done = command("build", make_msda(body=False), "--plan", tmp_path / "old.plan", *RTX, "--without-plugin")
    assert done.code == 3 and "no function body for MSDeformAttn" in done.err and done.err.count("\n") == 1
    assert (tmp_path / "old.plan").read_bytes() == b"older" and not (tmp_path / "old.plan.json").exists()


def test_hopper_is_refused_for_tensorrt_rtx(make_toy, tmp_path: Path) -> None:
    done = command("build", make_toy().path, "--plan", tmp_path / "t.plan", *RTX, "--compute-capability", "9.0")
    assert done.code == 2 and "9.0" in done.err and "8.9" in done.err
    assert not (tmp_path / "t.plan").exists()


def plugins() -> list[Path]:
    found = []
    for major in adapter_plugins.TENSORRT_MAJORS:
        with contextlib.suppress(EnvironmentMissing):
            found.append(adapter_plugins.tensorrt_plugin(major))
    return found


def plugin_hashes() -> set[str]:
    return {sha256(path) for path in plugins()}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

"""Sidecars: written whole, read back, and what of a plan, a plugin, a TensorRT or a GPU does not fit is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from adapter_engines.plans import sidecar
from adapter_infer.errors import UnsupportedModel
from adapter_infer.files import sha256
from engines.plan_files import described, tools

H100 = {"name": "NVIDIA H100", "compute_capability": "9.0"}
L4 = {"name": "NVIDIA L4", "compute_capability": "8.9"}
V100 = {"name": "Tesla V100", "compute_capability": "7.0"}


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "m.plan"
    path.write_bytes(b"ftrt and so on")
    return path


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "libmsda_trt10.so"
    path.write_bytes(b"a plugin")
    return path


def test_what_is_written_is_read(plan: Path) -> None:
    profiles = [{"image": {"min": [1, 3, 32, 32], "opt": [1, 3, 64, 64], "max": [2, 3, 64, 64]}}]
    written = described(plan, profiles=profiles, props={"adapter_infer.name": "größer"})
    sidecar.write(plan, written)
    assert sidecar.path_of(plan).name == "m.plan.json"
    assert sidecar.read(plan) == written
    assert sidecar.read(plan.with_name("other.plan")) is None


def test_fields_of_the_contract_are_in_the_file(plan: Path) -> None:
    sidecar.write(plan, described(plan))
    content = json.loads(sidecar.path_of(plan).read_text())
    assert content["format"] == 1
    assert {"plan_sha256", "onnx_sha256", "checkpoint_sha256", "plugin_sha256", "toolkit_version", "gpu"} <= set(
        content
    )
    assert {"precision", "profiles", "parity", "props", "layers", "weights_stripped"} <= set(content)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 1}', '{"format": 2}', '{"plan_sha256": "x"}'])
def test_damaged_and_newer_sidecars_are_refused(plan: Path, text: str) -> None:
    sidecar.path_of(plan).write_text(text)
    with pytest.raises(UnsupportedModel, match=r"m\.plan\.json"):
        sidecar.read(plan)


def test_a_field_of_a_later_version_is_overlooked(plan: Path) -> None:
    sidecar.write(plan, described(plan))
    content = json.loads(sidecar.path_of(plan).read_text()) | {"later": 1}
    sidecar.path_of(plan).write_text(json.dumps(content))
    assert sidecar.read(plan) == described(plan)


def test_nothing_is_said_where_everything_fits(plan: Path, plugin: Path) -> None:
    fits = described(plan, plugin_sha256=sha256(plugin), plugin_layers=10)
    assert sidecar.mismatch(plan, fits, tools(), plugin, H100) is None
    assert sidecar.mismatch(plan, fits, tools(), plugin, None) is None


def test_another_plan_under_the_name_is_seen(plan: Path) -> None:
    content = described(plan)
    plan.write_bytes(b"another plan")
    reason = sidecar.mismatch(plan, content, tools(), None, H100)
    assert reason is not None and "m.plan has the SHA-256" in reason and content.plan_sha256[:16] in reason


def test_another_toolkit_or_version_is_named(plan: Path) -> None:
    assert "built with tensorrt 10.14.1.48, and here is 11.1.0" in str(
        sidecar.mismatch(plan, described(plan), tools(version="11.1.0"), None, H100)
    )
    assert "built for tensorrt_rtx, and here runs tensorrt" in str(
        sidecar.mismatch(plan, described(plan, toolkit="tensorrt_rtx"), tools(), None, H100)
    )


def test_a_version_compatible_plan_runs_with_later_versions_only(plan: Path) -> None:
    content = described(plan, version_compatible=True)
    assert sidecar.mismatch(plan, content, tools(version="11.1.0"), None, H100) is None
    assert sidecar.mismatch(plan, content, tools(version="10.14.1.48.post1"), None, H100) is None
    assert "the same or a later version" in str(sidecar.mismatch(plan, content, tools(version="10.9.0"), None, H100))


def test_a_missing_or_other_plugin_is_named(plan: Path, plugin: Path) -> None:
    content = described(plan, plugin_sha256="a" * 64, plugin_layers=10)
    assert "10 plugin layers, and no plugin library" in str(sidecar.mismatch(plan, content, tools(), None, H100))
    assert "aaaaaaaaaaaaaaaa..., but libmsda_trt10.so here is" in str(
        sidecar.mismatch(plan, content, tools(), plugin, H100)
    )
    assert sidecar.mismatch(plan, replace(content, plugin_embedded=True), tools(), None, H100) is None


def test_another_gpu_is_named_unless_the_plan_is_compatible(plan: Path) -> None:
    reason = str(sidecar.mismatch(plan, described(plan), tools(), None, L4))
    assert "compute capability 9.0 (NVIDIA H100)" in reason and "NVIDIA L4 has 8.9" in reason
    compatible = described(plan, hardware_compatible=True)
    assert sidecar.mismatch(plan, compatible, tools(), None, L4) is None
    assert "need compute capability 8.0" in str(sidecar.mismatch(plan, compatible, tools(), None, V100))
    twin = {"name": "NVIDIA H200", "compute_capability": "9.0"}
    assert sidecar.mismatch(plan, described(plan), tools(), None, twin) is None


def test_a_plan_without_weights_is_not_loaded(plan: Path) -> None:
    reason = str(sidecar.mismatch(plan, described(plan, weights_stripped=True), tools(), None, H100))
    assert "adapter-engine refit" in reason

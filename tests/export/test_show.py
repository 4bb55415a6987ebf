"""What --inspect and --list-presets print: task and detector stand in it, and lines fit a terminal."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import golden
from adapter_export.cli import main
from adapter_infer import presets

NAMES = golden.names("models", "mask_rcnn_", "cascade_", "htc_", "atss_", "gfl_", "sparse_rcnn_")
PANOPTIC = "mask2former_beitv2_adapter_large_16x1_3x_coco-panoptic"


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 160
    return text


def test_presets_are_listed_with_task_detector_and_size(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [line.split() for line in printed(capsys, "--list-presets").splitlines()]
    assert [row[0] for row in rows] == presets.names()
    assert len({len(row) for row in rows}) == 1
    table = {row[0]: row[1:] for row in rows}
    assert table["htc++_beit_adapter_large_fpn_3x_coco"] == [
        *("detection", "BEiTAdapter", "HybridTaskCascade", "80", "classes", "whole", "1600x1400")
    ]
    assert table[PANOPTIC] == ["panoptic", "BEiTAdapter", "Mask2Former", "133", "classes", "whole", "1333x800"]
    assert table["semfpn_vit_tiny_512_ade20k"][0] == "semantic"
    assert table["semfpn_vit_tiny_512_ade20k"][-2:] == ["slide", "512x512"]


@pytest.mark.parametrize("name", NAMES)
def test_a_detectors_checkpoint_is_inspected_with_and_without_its_configuration(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    kind = golden.config("models", name)["model"]["type"]
    file = tmp_path / "whole.pth"
    shutil.copyfile(golden.folder("models", name) / "checkpoint.pth", file)
    text = printed(capsys, str(file), "--inspect")
    assert f"task detection, kind {kind}, num_classes" in text
    assert f"detector {kind}" in text
    assert "refusal" not in text

    content = torch.load(file, weights_only=True)
    torch.save({"state_dict": content["state_dict"]}, tmp_path / "bare.pth")
    text = " ".join(printed(capsys, str(tmp_path / "bare.pth"), "--inspect").split())
    assert f"detector {kind}" in text
    assert "has config no" in text
    assert "carries no configuration" in text
    assert "pass the training configuration with --config FILE, or --preset NAME (no preset has its shapes)" in text

    (tmp_path / "config.py").write_text(content["meta"]["config"])
    report = tmp_path / "r.json"
    arguments = [
        str(tmp_path / "bare.pth"),
        "--config",
        str(tmp_path / "config.py"),
        "--inspect",
        "--json",
        str(report),
    ]
    assert main(arguments) == 0
    model = json.loads(report.read_text())["model"]
    assert (model["task"], model["kind"], model["name"]) == ("detection", kind, "config")


@pytest.mark.parametrize("name", ["sparse_rcnn_deit_adapter_small_fpn_3x_coco", PANOPTIC])
def test_a_preset_is_inspected_part_by_part(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, "--preset", name, "--inspect").splitlines()
    starts = [line[:14].strip() for line in lines if not line.startswith(" ")]
    parts = ["panoptic head", "panoptic fusion head"] if name == PANOPTIC else ["neck", "rpn head", "roi head"]
    assert [start.partition("  ")[0] for start in starts] == [
        part[:14].strip() for part in ("model", "backbone", *parts, "pictures", "test")
    ]
    assert "scale 1333 800, keep_ratio yes, size_divisor 32, pad yes" in " ".join("\n".join(lines).split())

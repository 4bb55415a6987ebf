"""adapter-run and the segmenter over a plan: the same pictures give what the ONNX file gives."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from PIL import Image

from adapter_engines import Engine
from adapter_engines.cli import main
from adapter_infer.spec import Inference
from engines import fake_cuda, fake_tensorrt
from engines.fake_tensorrt import write_plan, write_sidecar


@pytest.fixture
def world(monkeypatch):
    with fake_tensorrt.installed(monkeypatch) as made:
        yield made


@pytest.fixture
def twins(make_toy):
    """An ONNX file and a plan of the same toy network, with the same metadata."""
    toy = make_toy(batch=None, size=None, inference=Inference("slide", (64, 64), (43, 43)))
    props = {entry.key: entry.value for entry in onnx.load(toy.path).metadata_props}
    path = toy.path.with_suffix(".plan")
    write_plan(
        path,
        "toy",
        inputs=[
            {
                "name": "image",
                "dtype": "FLOAT",
                "shape": [-1, 3, -1, -1],
                "ranges": [[(1, 3, 32, 32), (1, 3, 64, 64), (3, 3, 256, 256)]],
            }
        ],
        outputs=[{"name": "logits", "dtype": "FLOAT", "shape": [-1, 5, -1, -1], "like": [0, 0, 2, 3]}],
        weight=toy.weight.tolist(),
        context=toy.context.tolist(),
        bias=toy.bias.tolist(),
    )
    write_sidecar(path, props=props)
    return toy.path, path


def run(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.mark.parametrize("mode", ["slide", "whole"])
def test_a_plan_gives_the_label_map_of_its_onnx_file(world, twins, picture, tmp_path, mode, capsys):
    Image.fromarray(picture(90, 120)).save(tmp_path / "photo.png")
    labels = []
    for engine in twins:
        out = tmp_path / engine.suffix[1:]
        code = run(engine, tmp_path / "photo.png", "--out", out, "--mode", mode, "--json", out.with_suffix(".json"))
        assert code == 0, capsys.readouterr().err
        with Image.open(out / "photo_labels.png") as image:
            labels.append(np.array(image))
    assert labels[0].shape == (90, 120)
    assert len(np.unique(labels[0])) > 1
    assert np.mean(labels[0] == labels[1]) > 0.999
    report = json.loads((tmp_path / "plan.json").read_text())
    assert report["runtime"] == {"name": "tensorrt", "version": fake_tensorrt.VERSION}
    assert (report["provider"], report["threads"]) == ("tensorrt", None)
    assert "toy.plan" in capsys.readouterr().out


def test_the_batch_is_no_larger_than_the_plan_allows(world, twins):
    with Engine.load(twins[1]) as engine:
        assert engine.best_batch == 3
        assert engine.metadata.input.size_divisor == 32


def test_a_plan_on_the_command_line_is_refused_as_any_other_file(world, twins, picture, tmp_path, capsys):
    Image.fromarray(picture(64, 160)).save(tmp_path / "x.png")
    plan = twins[1]
    for arguments, code, message in (
        (["--provider", "cpu"], 2, "which provider does not apply to; leave provider out"),
        (["--threads", "1"], 2, "which threads does not apply to"),
        (["--batch", "9"], 1, "fits no profile"),
    ):
        assert run(plan, tmp_path / "x.png", "--out", tmp_path / "out", "--stride", 8, 8, *arguments) == code
        assert message in capsys.readouterr().err
    write_sidecar(plan, plugin_embedded=True)
    assert run(plan, tmp_path / "x.png", "--out", tmp_path / "out") == 2
    assert "--allow-embedded-code" in capsys.readouterr().err


def test_a_plan_without_a_gpu_is_exit_code_five(monkeypatch, twins, picture, tmp_path, capsys):
    fake_tensorrt.install(monkeypatch, fake_cuda.World(devices=0))
    Image.fromarray(picture(64, 64)).save(tmp_path / "x.png")
    assert run(twins[1], tmp_path / "x.png", "--out", tmp_path / "out") == 5
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "run it where an NVIDIA GPU" in error

"""The Fourier analysis against maps whose spectrum is known, and through an export."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

from adapter_bench import fourier_models
from adapter_bench.fourier import FLOOR, Spectrum, picture_of
from adapter_bench.fourier_command import main
from adapter_infer.models import build_model, random_weights
from adapter_infer.spec import ModelSpec


def wave(k: int, size: int = 32, amplitude: float = 1.0, mean: float = 2.0) -> np.ndarray:
    """(1, 1, size, size): one sinusoid along the diagonal, k periods each way, over a constant."""
    at = 2 * np.pi * k * np.arange(size) / size
    return (mean + amplitude * np.cos(at[:, None] + at[None]))[None, None]


@pytest.mark.parametrize("k", [1, 5, 11])
def test_one_sinusoid_is_one_peak_of_the_right_height(k: int) -> None:
    frequency, relative = Spectrum.of(wave(k)).relative()
    assert frequency.tolist() == [i / 16 for i in range(17)]
    # mean 2 gives 2 * 32 * 32 at frequency zero, cos(x) half its amplitude at +k and at -k
    assert relative[k] == pytest.approx(np.log(0.5 / 2), abs=1e-6)
    others = np.delete(relative, [0, k])
    assert (others < np.log(FLOOR)).all()


def test_the_highest_frequency_counts_whole() -> None:
    board = (-1.0) ** np.add.outer(np.arange(32), np.arange(32))
    _, relative = Spectrum.of((4 + board)[None, None]).relative()
    assert relative[-1] == pytest.approx(np.log(1 / 4), abs=1e-6)


def test_white_noise_is_flat_and_blurring_takes_the_high_frequencies() -> None:
    noise = np.random.default_rng(0).standard_normal((4, 64, 32, 32))
    frequency, relative = Spectrum.of(noise).relative()
    assert np.abs(relative[1:-1] - relative[1:-1].mean()).max() < 0.2
    spectrum = np.fft.fft2(noise)
    at = np.fft.fftfreq(32)
    kernel = np.exp(-8 * (at[:, None] ** 2 + at[None] ** 2))  # a Gaussian blur, exact in frequencies
    _, blurred = Spectrum.of(np.fft.ifft2(spectrum * kernel).real).relative()
    # ln of the kernel on the diagonal, frequency f of pi being f / 2 of a period
    assert blurred - relative == pytest.approx(-8 * 2 * (frequency / 2) ** 2, abs=1e-3)


def test_the_scale_of_the_maps_changes_nothing_relative() -> None:
    noise = np.random.default_rng(1).standard_normal((1, 8, 16, 16))
    assert Spectrum.of(1000 * noise).relative()[1] == pytest.approx(Spectrum.of(noise).relative()[1], abs=1e-5)


def test_channels_and_pictures_are_averaged_as_logs() -> None:
    one, other = (np.random.default_rng(seed).standard_normal((1, 3, 16, 16)) for seed in (2, 3))
    both = Spectrum.of(one).add(Spectrum.of(other))
    assert both.log_amplitude == pytest.approx(Spectrum.of(np.concatenate([one, other])).log_amplitude)
    assert both.count == 6
    expected = np.log(np.abs(np.fft.fft2(np.concatenate([one, other]))) + FLOOR).mean((0, 1))
    assert both.log_amplitude[8, 8] == pytest.approx(expected[0, 0])
    assert both.diagonal()[1][:8] == pytest.approx(np.diag(expected)[:8])


def test_a_map_that_is_not_square_is_read_along_its_own_diagonal() -> None:
    at_rows, at_columns = 2 * np.pi * 4 * np.arange(16) / 16, 2 * np.pi * 8 * np.arange(32) / 32
    maps = (2 + np.cos(at_rows[:, None] + at_columns[None]))[None, None]
    frequency, relative = Spectrum.of(maps).relative()
    assert len(frequency) == 9
    assert frequency[4] == 0.5
    assert relative[4] == pytest.approx(np.log(0.25), abs=1e-6)
    odd, _ = Spectrum.of(np.ones((1, 1, 7, 9))).diagonal()
    assert odd[-1] == pytest.approx(6 / 7)


@pytest.mark.parametrize(
    ("maps", "told"),
    [
        (np.zeros((3, 4, 4)), "are not"),
        (np.zeros((1, 0, 4, 4)), "are not"),
        (np.full((1, 1, 4, 4), np.nan), "not finite"),
        (np.full((1, 1, 4, 4), np.inf), "not finite"),
    ],
)
def test_what_has_no_spectrum_is_refused(maps: np.ndarray, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Spectrum.of(maps)
    with pytest.raises(ValueError, match="do not add up"):
        Spectrum.of(np.ones((1, 1, 4, 4))).add(Spectrum.of(np.ones((1, 1, 8, 8))))


def test_pictures_for_the_eye_stay_within_black_and_white() -> None:
    shown = picture_of(np.random.default_rng(0).standard_normal((8, 12, 12)))
    assert (shown.min(), shown.max()) == (0.0, 1.0)
    assert (picture_of(np.ones((3, 4, 4))) == 0).all()


def test_pictures_are_cut_in_the_middle_and_never_bent() -> None:
    picture = np.zeros((50, 200, 3), np.uint8)
    picture[:, 75:125] = 255
    assert (fourier_models.fitted(picture, (50, 50)) == 255).all()
    assert fourier_models.fitted(picture, (64, 96)).shape == (64, 96, 3)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def source(tiny: dict[str, ModelSpec], monkeypatch: pytest.MonkeyPatch) -> fourier_models.Source:
    """The tiny model that `exported` exports, with the same weights, in PyTorch."""
    spec = tiny["vit_adapter"]
    model = build_model(spec)
    random_weights(model)
    found = fourier_models._running(model.backbone, spec, None, 1)  # type: ignore[arg-type]
    bare = replace(spec, neck=None, decode_head=None)
    monkeypatch.setattr(fourier_models, "pytorch", lambda *args, **options: (found, bare))
    return found


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main([*map(str, arguments), "--json", "-", "--threads", "1"]) == 0
    return json.loads(capsys.readouterr().out)


def test_an_export_keeps_the_frequencies_of_its_model(
    source: fourier_models.Source, exported: Any, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = exported("vit_adapter", output="features")
    found = run(capsys, picture, "--preset", "tiny", "--engine", file)
    (difference,) = found["differences"]
    assert [one["stride"] for one in difference["maps"]] == [8, 16, 32]
    for one in difference["maps"]:
        assert one["largest_of_maps"] <= 1e-4 * max(1.0, one["largest_value_of_reference"])
        assert one["largest"] < 1e-3
    assert [(one["height"], one["width"]) for one in found["models"][0]["maps"]] == [(8, 8), (4, 4), (2, 2)]
    assert "random weights" in found["remarks"][0]


def test_an_export_of_other_weights_is_seen_to_differ(
    tiny: dict[str, ModelSpec],
    exported: Any,
    picture: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = tiny["vit_adapter"]
    model = build_model(spec)
    random_weights(model, seed=1)
    other = fourier_models._running(model.backbone, spec, None, 1)  # type: ignore[arg-type]
    monkeypatch.setattr(fourier_models, "pytorch", lambda *args, **options: (other, spec))
    found = run(capsys, picture, "--preset", "tiny", "--engine", exported("vit_adapter", output="features"))
    assert all(one["largest"] > 0.05 for one in found["differences"][0]["maps"][:2])


def test_a_model_stands_beside_its_plain_vit(
    source: fourier_models.Source, picture: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found = run(capsys, picture, picture, "--preset", "tiny", "--baseline", "--size", "64", "96")
    assert [one["name"] for one in found["models"]] == ["vit_adapter", "plain ViT of vit_adapter"]
    assert found["differences"] == []
    assert found["models"][1]["maps"][0]["channels_and_pictures"] == 2 * 32


def test_the_report_shows_the_curves(
    source: fourier_models.Source, picture: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from adapter_bench.reports import data, page, pick

    content = run(capsys, picture, "--preset", "tiny")
    (tmp_path / "fourier.json").write_text(json.dumps(content))
    (suite,) = data.read(tmp_path)
    assert [chart.key for chart in pick.charts(suite)] == ["stride-8", "stride-16", "stride-32"]
    assert "Frequencies at stride 8" in page.page([suite], "t")


def test_the_command_draws_curves_heat_maps_and_maps(
    source: fourier_models.Source, picture: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    run(capsys, picture, "--preset", "tiny", "--plots", tmp_path / "plots")
    written = sorted(path.name for path in (tmp_path / "plots").iterdir())
    stems = ("curve-stride-16", "curve-stride-32", "curve-stride-8", "heat-maps", "maps-1")
    assert written == sorted(f"{stem}.{form}" for stem in stems for form in ("png", "svg"))
    with Image.open(tmp_path / "plots" / "heat-maps.png") as drawn:
        assert len(drawn.convert("L").getcolors(256) or []) > 50


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["p.png"], "nothing to look at"),
        (["p.png", "--preset", "x", "--config", "y"], "--config describes a checkpoint"),
        (["p.png", "--engine", "x.onnx", "--baseline"], "--baseline needs a model in PyTorch"),
        (["p.png", "--preset", "x", "--size", "100", "64"], "multiples of 32"),
        (["p.png", "--preset", "x", "--json", "/nonexistent/x.json"], "does not exist"),
        (["/nonexistent/p.png", "--preset", "semfpn_vit_adapter_nano"], "no preset"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert told in capsys.readouterr().err


def test_a_file_that_gives_no_maps_is_refused_with_the_way_out(
    picture: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shape = [1, 3, 64, 64]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("image", "labels")]
    graph = helper.make_graph([helper.make_node("Identity", ["image"], ["labels"])], "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "x.onnx")
    assert main([str(picture), "--engine", str(tmp_path / "x.onnx")]) == 2
    assert "--output features" in capsys.readouterr().err


def test_a_preset_gets_the_weights_that_its_export_gets(picture: Path) -> None:
    source, spec = fourier_models.pytorch(preset="semfpn_vit_adapter_tiny_512_ade20k", threads=1)
    assert (spec.decode_head, spec.neck, source.default_size) == (None, None, (512, 512))
    model = build_model(spec)
    random_weights(model, 0)
    maps = source.run(np.zeros((64, 64, 3), np.uint8))
    assert spec.preprocessing is not None
    black = (-torch.tensor(spec.preprocessing.mean) / torch.tensor(spec.preprocessing.std))[None, :, None, None]
    with torch.inference_mode():
        expected = model(black.expand(1, 3, 64, 64))
    assert np.abs(maps[8] - expected[1].numpy()).max() < 1e-3

"""The charts as files: one PNG and one SVG each, whole, and the same for the same figures."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

import suite_files
from adapter_bench.reports import data, pick, plots
from adapter_bench.reports.command import main


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    folder = tmp_path_factory.mktemp("plots")
    results = tmp_path_factory.mktemp("results")
    suite_files.write(results)
    assert main([str(results), "--plots", str(folder)]) == 0
    return folder


def test_every_chart_becomes_a_picture_in_both_formats(written: Path) -> None:
    pngs, svgs = (sorted(written.glob(f"*.{form}")) for form in plots.FORMATS)
    assert len(pngs) == len(svgs) == 16
    for path in pngs:
        with Image.open(path) as drawn:
            assert drawn.width >= 1200
            assert len(drawn.convert("RGB").getcolors(2**24) or []) > 10
    for path in svgs:
        assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_text_of_an_svg_stays_text_and_names_stay_names(written: Path, tmp_path: Path) -> None:
    assert "ViT-Adapter-L Semantic FPN" in (written / "segmentation-speed.svg").read_text()
    columns = [suite_files.column("fps", "images per second", "1/s")]
    rows = [suite_files.row(r"$\frac{1}{0$ <b>&", fps=1.0), suite_files.row("_b", fps=2.0)]
    suite = data.READERS["suite"](suite_files.suite("s", "$x", columns, rows), "s")
    (chart,) = pick.charts(suite)
    stem = tmp_path / "odd"
    once = [path.read_bytes() for path in plots.save(plots.draw(chart, suite.title), stem)]
    assert once == [path.read_bytes() for path in plots.save(plots.draw(chart, suite.title), stem)]
    texts = [element.text for element in ElementTree.fromstring(once[1].decode()).iter() if element.text]
    assert r"$\frac{1}{0$ <b>&" in texts


def test_without_matplotlib_plots_are_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ImportError("No module named 'matplotlib'")
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    (tmp_path / "results").mkdir()
    suite_files.write(tmp_path / "results")
    page = tmp_path / "a.html"
    assert main([str(tmp_path / "results"), "--html", str(page), "--plots", str(tmp_path / "plots")]) == 5
    assert "leave --plots out" in capsys.readouterr().err
    assert not page.exists()
    assert main([str(tmp_path / "results"), "--html", str(page)]) == 0

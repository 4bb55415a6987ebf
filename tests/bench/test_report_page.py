"""The page, Markdown and CSV: complete, self-contained, and deaf to what names in files would have them do."""

from __future__ import annotations

import csv
import json
import random
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import suite_files
from adapter_bench.reports import data, page, pick, svg, text
from adapter_bench.reports.charts import XY, Bars, Stacks, Strips
from adapter_bench.reports.command import main
from adapter_bench.reports.numbers import ABSENT

HOSTILE = "</script></style><script>alert(1)</script><img src=x onerror=alert(2)>\"'&${title}`|[x](javascript:alert(3))"


class Page(HTMLParser):
    """Counts elements, and keeps the rows of tables and every attribute."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def suites(tmp_path_factory: pytest.TempPathFactory) -> list[data.Suite]:
    return data.read(suite_files.write(tmp_path_factory.mktemp("results")))


@pytest.fixture(scope="module")
def html(suites: list[data.Suite]) -> str:
    return page.page(suites, "A title")


def test_every_suite_has_its_table_and_charts(suites: list[data.Suite], html: str) -> None:
    found = Page(html)
    assert found.tags["section"] == len(suites) == 6
    assert found.tags["figure"] == sum(len(pick.charts(suite)) for suite in suites) == 16
    assert Counter(v for t, n, v in found.attributes if t == "svg" and n == "class") == {
        "chart wide": 16,
        "chart narrow": 16,
    }
    rows = sum(len(suite.rows) for suite in suites)
    assert len(re.findall(r'<th scope="row" data-v', html)) == rows


def test_the_page_needs_no_network(html: str) -> None:
    found = Page(html)
    assert not {"iframe", "object", "embed", "img", "base"} & found.tags.keys()
    assert [value for tag, name, value in found.attributes if name == "src"] == []
    assert all(
        value.startswith(("#", "data:")) for _, name, value in found.attributes if name in {"href", "xlink:href"}
    )
    policy = next(value for _, name, value in found.attributes if name == "content" and "default-src" in value)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "@import" not in html
    assert re.findall(r"url\(", html) == []


def test_what_failed_or_is_unavailable_stands_there_with_its_reason(html: str) -> None:
    for reason in ("timm imports torchvision, which is not installed", "out of memory after 3.1 GiB", "no NVIDIA GPU"):
        assert reason in html
    assert f"{ABSENT} means that it was not measured." in html
    assert "Invented CPU @ 2.6 GHz" in html


def test_the_charts_hold_what_the_issue_asks_for(suites: list[data.Suite]) -> None:
    by_suite = {suite.name: {chart.key: chart for chart in pick.charts(suite)} for suite in suites}
    assert {name: list(charts) for name, charts in by_suite.items()} == {
        "segmentation": ["speed", "paper-params", "paper-macs", "paper-ratio", "speed-macs", "latency"],
        "scaling": ["latency-ms-over-size", "memory-bytes-over-size", "latency"],
        "precision": ["speed", "speed-parity", "latency"],
        "parts": ["parts"],
        "tiny": ["latency"],
        "op": ["roofline", "latency"],
    }
    speed = by_suite["segmentation"]["speed-macs"]
    assert isinstance(speed, XY)
    assert speed.series[1].points[0].x == pytest.approx(182.6)
    paper = by_suite["segmentation"]["paper-macs"]
    assert isinstance(paper, Bars)
    assert (paper.bars[0].value, paper.bars[0].mark) == (pytest.approx(170.2), pytest.approx(170.0))
    parts = by_suite["parts"]["parts"]
    assert isinstance(parts, Stacks)
    assert [stack.name for stack in parts.stacks] == ["ViT-B", "ViT-Adapter-B"]
    assert sum(value for _, value in parts.stacks[0].parts) == pytest.approx(230.0)
    assert dict(parts.stacks[1].parts)["extractors"] == pytest.approx(29.0)
    runs = by_suite["tiny"]["latency"]
    assert isinstance(runs, Strips)
    assert len(runs.strips[0].samples) == 48


def test_the_roof_of_the_op_bends_where_memory_meets_arithmetic(suites: list[data.Suite]) -> None:
    (chart,) = (chart for chart in pick.charts(suites[-1]) if chart.key == "roofline")
    assert isinstance(chart, XY)
    roof = chart.series[-1]
    assert (roof.points[1].x, roof.points[1].y) == (pytest.approx(140 / 22), pytest.approx(140.0))
    work = suite_files.op()["work"]["injector D=32"]
    first = chart.series[0].points[0]
    assert first.x == pytest.approx(work["flops"] / work["bytes"])
    assert first.y == pytest.approx(work["flops"] / suites[-1].rows[0].values["latency_ms"] / 1e6)  # type: ignore[operator]


def test_a_row_that_agrees_exactly_is_named_where_ratios_cannot_show_it(suites: list[data.Suite]) -> None:
    (chart,) = (chart for chart in pick.charts(suites[2]) if chart.key == "speed-parity")
    assert isinstance(chart, XY)
    assert chart.x.log
    assert "since it is 0: PyTorch fp32" in chart.note


def test_missing_figures_draw_no_chart_and_break_nothing() -> None:
    columns = [suite_files.column("fps", "images per second", "images/s"), suite_files.column("macs", "MACs", "MACs")]
    empty = suite_files.suite("empty", "Empty", columns, [suite_files.row("a", fps=None, macs=None)])
    none = suite_files.suite("none", "None", [], [])
    for content in (empty, none):
        suite = data.READERS["suite"](content, "suite.json")
        assert pick.charts(suite) == []
        assert "</html>" in page.page([suite], "t")
        assert text.markdown([suite], "t")


FIGURES = (0, 0.0, 1, -1, 1e-12, 1e-58, 1e59, -1e59, 3, 1000, 2**53, None, 0.1)
UNITS = {
    "fps": "1/s",
    "latency_ms": "ms",
    "macs": "MACs",
    "parity": "",
    "side": "pixel",
    "batch": "",
    "peak_memory": "B",
}
UNITS |= {"share_a": "%", "share_b": "%", "wall_ms": "ms"}


def _any_suite(choose: random.Random) -> data.Suite:
    keys = choose.sample(list(UNITS), choose.randint(0, len(UNITS)))
    rows = [
        suite_files.row(
            f"row {choose.randint(0, 3)}",
            choose.choice(["", "a", "b"]),
            status=choose.choice(["ok", "ok", "failed"]),
            paper={key: 1.0 for key in keys if choose.random() < 0.3},
            results=[{"latency_ms": {"samples": choose.choices([1e-9, 1.0, 2.0, 1e58], k=choose.randint(0, 4))}}],
            **{key: choose.choice(FIGURES) for key in keys},
        )
        for _ in range(choose.randint(0, 6))
    ]
    columns = [suite_files.column(key, key, UNITS[key]) for key in keys]
    return data.READERS["suite"](suite_files.suite("s", "S", columns, rows), "suite.json")


def test_whatever_figures_there_are_every_chart_can_be_drawn() -> None:
    choose, drawn = random.Random(0), 0
    for _ in range(200):
        suite = _any_suite(choose)
        assert text.markdown([suite], "t") and text.comma_separated([suite])
        for chart in pick.charts(suite):
            for one in svg.draw(chart).split("</svg>")[:-1]:
                assert not {"nan", "inf"} & set(re.split(r"[^a-z]+", one))
                ElementTree.fromstring(f"{one}</svg>")
                drawn += 1
    assert drawn > 300


def _hostile(value: Any) -> Any:
    """Every text of JSON data replaced, but for keys and what must be one of few words."""
    if isinstance(value, dict):
        fixed = {"schema", "suite", "status", "key", "unit", "better"}
        return {key: one if key in fixed else _hostile(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_hostile(one) for one in value]
    return HOSTILE if isinstance(value, str) else value


def test_hostile_names_stay_text_everywhere(tmp_path: Path) -> None:
    for made in (suite_files.segmentation(), suite_files.scaling(), suite_files.precision(), suite_files.parts()):
        for column in made["columns"]:
            column["unit"] = HOSTILE if column["unit"] == "ms" else column["unit"]
        folder = tmp_path / made["suite"]
        folder.mkdir()
        (folder / "suite.json").write_text(json.dumps(_hostile(made) | {"remarks": [HOSTILE]}))
    (tmp_path / "op.json").write_text(json.dumps(_hostile(suite_files.op()) | {"roof": {}}))
    suites = data.read(tmp_path)
    html = page.page(suites, HOSTILE)
    found = Page(html)
    assert found.tags["script"] == 1
    assert found.tags["style"] == 1
    assert found.tags["img"] == 0
    assert not [name for _, name, _ in found.attributes if name.startswith("on")]
    assert not [value for _, name, value in found.attributes if name == "href" and "javascript" in value]
    assert any(HOSTILE in told for told in found.texts)
    for suite in suites:
        for chart in pick.charts(suite):
            for drawn in svg.draw(chart).split("</svg>")[:-1]:
                ElementTree.fromstring(f"{drawn}</svg>")  # well-formed, so nothing broke out of an attribute
    told = text.markdown(suites, HOSTILE)
    assert "<script" not in told
    assert "<img" not in told
    assert not re.search(r"(?<!\\)\[x(?<!\\)\]\(", told)


def test_csv_holds_every_figure_unrounded_and_no_formula(suites: list[data.Suite], tmp_path: Path) -> None:
    lines = list(csv.DictReader(text.comma_separated(suites).splitlines()))
    (macs,) = (one for one in lines if one["row"] == "ViT-Adapter-B Semantic FPN" and one["key"] == "macs")
    assert (float(macs["value"]), float(macs["paper"]), macs["unit"]) == (182.6e9, 183e9, "MACs")
    assert [one["value"] for one in lines if one["row"] == "Swin-B Semantic FPN"] == [""] * 6
    bad = suite_files.suite("s", "S", [suite_files.column("x", "x")], [suite_files.row('=HYPERLINK("http://x")', x=1)])
    written = text.comma_separated([data.READERS["suite"](bad, "s")])
    assert next(iter(csv.DictReader(written.splitlines())))["row"] == '\'=HYPERLINK("http://x")'


def test_markdown_has_a_line_for_every_row(suites: list[data.Suite]) -> None:
    told = text.markdown(suites, "A title")
    assert "| ViT-Adapter-B Semantic FPN | ViT-Adapter | 104.6 (105) | 182.6 (183) |" in told
    assert "- failed: Swin-B Semantic FPN: out of memory after 3.1 GiB" in told


def test_the_command_writes_what_was_asked_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    suite_files.write(folder)
    outputs = {
        option: tmp_path / name for option, name in (("--html", "a.html"), ("--markdown", "a.md"), ("--csv", "a.csv"))
    }
    assert main([str(folder), *(str(part) for pair in outputs.items() for part in pair)]) == 0
    assert all(path.stat().st_size > 1000 for path in outputs.values())
    assert capsys.readouterr().out.startswith("6 tables with 35 rows:")


def test_the_command_refuses_before_it_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "nothing to write" in capsys.readouterr().err
    assert main([str(tmp_path), "--html", str(tmp_path / "none" / "a.html")]) == 2
    assert main([str(tmp_path), "--html", str(tmp_path / "a.html")]) == 2
    assert list(tmp_path.iterdir()) == []

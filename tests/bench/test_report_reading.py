"""What a report is made from: what is read, passed over, and refused; figures as text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import suite_files
from adapter_bench.reports import data
from adapter_bench.reports.numbers import ABSENT, Scale, tick_text, ticks
from adapter_bench.reports.text import markdown
from adapter_infer.errors import UsageError


def test_a_folder_gives_its_suites_in_reading_order_then_documents(tmp_path: Path) -> None:
    suites = data.read(suite_files.write(tmp_path))
    assert [suite.name for suite in suites] == ["segmentation", "scaling", "precision", "parts", "tiny", "op"]
    table = suites[0]
    assert [row.status for row in table.rows[-2:]] == ["unavailable", "failed"]
    assert table.rows[0].paper["macs"] == 170e9
    assert len(table.rows[0].results[0]["latency_ms"]["samples"]) == 48
    document = suites[4]
    assert document.rows[0].values["macs"] == 10**10
    assert document.rows[0].values["peak_bytes"] == 7 * 2**28


def test_the_committed_report_can_be_made_again() -> None:
    (folder,) = (Path(__file__).parents[2] / "bench" / "reports").glob("cpu-*/")
    suites = data.read(folder)
    assert {suite.name for suite in suites} == {*data.ORDER, "op"}
    assert {row.status for suite in suites for row in suite.rows} == {"ok", "unavailable"}
    assert markdown(suites, "ViT-Adapter measured").strip() == (folder / "report.md").read_text().strip()


def test_rows_beside_a_suite_and_json_of_other_kinds_are_passed_over(tmp_path: Path) -> None:
    suite_files.write(tmp_path)
    rows = tmp_path / "segmentation" / "rows"
    rows.mkdir()
    (rows / "one.json").write_text(json.dumps(suite_files.plain_document()))
    (tmp_path / "other.json").write_text("[1, 2]")
    assert len(data.read(tmp_path)) == 6


def test_both_halves_of_a_document_with_a_baseline_are_rows(tmp_path: Path) -> None:
    content = suite_files.plain_document("adapter", 200.0)
    content["results"][0] |= {"baseline": suite_files.one_result("vit", 160.0, 10**10), "ratio_fps": 0.8}
    (tmp_path / "one.json").write_text(json.dumps(content))
    (suite,) = data.read(tmp_path)
    assert [row.group for row in suite.rows] == ["model", "plain ViT"]
    assert (suite.rows[0].values["ratio_fps"], suite.rows[1].values["ratio_fps"]) == (0.8, None)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schema": 2}, "schema 2"),
        ({"schema": None}, "schema None"),
        ({"rows": [{"group": "no name"}]}, "damaged"),
        ({"rows": [{"name": "x", "status": "great"}]}, "great"),
        ({"rows": [{"name": "x", "values": {"fps": "fast"}}]}, "not a number"),
        ({"rows": [{"name": "x", "values": {"fps": float("nan")}}]}, "not a number"),
        ({"rows": [{"name": "x", "values": {"fps": 1e300}}]}, "not a number"),
        ({"columns": 3}, "damaged"),
    ],
)
def test_a_suite_that_cannot_be_trusted_is_refused(tmp_path: Path, change: dict[str, object], told: str) -> None:
    path = tmp_path / "suite.json"
    path.write_text(json.dumps(suite_files.segmentation() | change))
    with pytest.raises(UsageError, match=told):
        data.read(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "\x00\xff", "[" * 200_000])
def test_what_is_no_json_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "suite.json").write_text(text)
    with pytest.raises(UsageError, match=r"suite\.json is no JSON"):
        data.read(tmp_path)


def test_an_empty_folder_and_no_folder_are_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="adapter-bench suite NAME"):
        data.read(tmp_path)
    with pytest.raises(UsageError, match="is not a folder"):
        data.read(tmp_path / "none")


def test_a_column_has_one_scale_so_that_digits_stand_below_each_other() -> None:
    scale = Scale.of([98e6, 104.6e6, 332e6, None], "parameters")
    assert [scale.text(v) for v in (98e6, 104.6e6, 332e6, None)] == ["98.0", "104.6", "332.0", ABSENT]
    assert scale.unit == "M parameters"
    scale = Scale.of([30.3, 14.0, 0.867], "images/s")
    assert [scale.text(v) for v in (30.3, 14.0, 0.867)] == ["30.30", "14.00", "0.87"]
    assert Scale.of([3 * 2**30], "B").with_unit(3 * 2**30) == "3 GiB"
    assert Scale.of([4.0, 16.0], "").text(16.0) == "16"


def test_figures_of_very_different_size_get_exponents() -> None:
    scale = Scale.of([1.9e-6, 3.1e-2], "")
    assert [scale.text(v) for v in (1.9e-6, 3.1e-2, 0.0)] == ["1.9e-06", "0.031", "0"]


def test_the_papers_figures_do_not_set_the_digits_of_ours() -> None:
    scale = Scale.of_column([1.368, 1.129, 0.867], [30.3, 12.9], "1/s")
    assert scale.text(1.368) == "1.368"
    assert [scale.as_printed(v) for v in (30.3, 14.0)] == ["30.3", "14"]
    assert Scale.of_column([None], [98e6, 105e6], "parameters").as_printed(105e6) == "105"


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0, 1000, False) == [0, 200, 400, 600, 800, 1000]
    assert ticks(8, 1200, True) == [10, 20, 50, 100, 200, 500, 1000]
    assert [tick_text(v) for v in (0.25, 1000, 2e6, 1e-6)] == ["0.25", "1,000", "2e6", "1e-6"]

"""The tables: figures with their units, remarks once, nothing without its circumstances."""

from __future__ import annotations

from typing import Any

import pytest

from adapter_bench import table
from adapter_bench.measure import Ratio, Rules, Trial
from adapter_bench.report import document, result, with_baseline
from adapter_bench.subject import Count

FACTS = {
    "engine": {"path": "model.onnx", "sha256": "0" * 64, "model": "adapter"},
    "runtime": {"name": "onnxruntime", "version": "1.32.0", "provider": "cpu", "custom_op_library": None},
    "device": "A CPU",
    "threads": 2,
    "precision": "fp32",
    "params": 104_578_166,
    "weights_bytes": 400 * 2**20,
    "msda_nodes": 10,
}
MACHINE = {"load_average": [0.25, 0.0, 0.0], "usable_cores": 2}


def build(batch: int = 2, **baseline: Any) -> dict[str, Any]:
    trial = Trial(batch, 10, [[0.25, 0.25], [0.25, 0.5]], [0.5, 0.75])
    plain = Trial(batch, 10, [[0.25, 0.25], [0.25, 0.25]], [0.5, 0.5])
    count = Count(2 * 182_642_442_240, {"Conv": 2 * 182_642_442_240}, 182_557_409_280, {})
    model = result(FACTS, batch, (512, 512), trial, count, None)
    other = result(FACTS | {"params": 97_985_430, "msda_nodes": 0} | baseline, batch, (512, 512), plain, None, None)
    full = with_baseline(model, other, Ratio.of(trial, plain))
    return document(["adapter-bench", "--engine", "model.onnx"], Rules(), MACHINE, [full])


def test_macs_are_per_image_and_flops_are_twice_as_many() -> None:
    report = build(batch=2)
    assert (report["macs"], report["flops"]) == (182_642_442_240, 365_284_884_480)
    assert report["macs_by_operator"] == {"Conv": 182_642_442_240}
    assert report["macs_paper"] == 182_557_409_280


def test_rows_give_both_figures_their_unit_and_their_ratio() -> None:
    rows = {title: cells for title, *cells in table.rows(build()["results"][0])}
    assert rows["parameters"] == ["104.58 M", "97.99 M", "1.067"]
    assert rows["MSDA nodes"] == ["10", "0", ""]
    assert rows["MACs per image, MSDA included"] == ["182.64 G", "-", ""]
    assert rows["latency, median"] == ["250.0 ms", "250.0 ms", "1.000"]
    assert rows["latency, p90"] == ["-", "-", ""]
    assert rows["images per second"] == ["6.400", "8.000", "0.800 (0.667 to 1.000 by turns)"]
    assert "peak memory" not in rows


def test_one_model_alone_has_no_empty_columns() -> None:
    report = build()
    report["results"][0]["baseline"] = None
    assert all(not baseline and not ratio for _, _, baseline, ratio in table.rows(report["results"][0]))
    lines = table.markdown(report).splitlines()
    assert lines[2] == "|  | model |"
    assert lines[3] == "| --- | ---: |"


def test_a_remark_on_both_is_given_once_and_the_others_by_name() -> None:
    report = build(remarks=["measured upside down"])
    assert table.remarks(report["results"][0]) == [
        "p90, p95, p99 left out: 4 samples, wanted are 64, 130, 662 (99 % confidence of two in the tail)",
        "model: coefficient of variation 40.0% is above 2.5%: the machine was not steady",
        "plain ViT: measured upside down",
    ]


def test_no_table_travels_without_its_circumstances() -> None:
    report = build()
    line = table.circumstances(report, report["results"][0])
    for part in ("A CPU", "onnxruntime 1.32.0, provider cpu", "2 threads", "fp32", "measured at least 3 s and 10 runs"):
        assert part in line
    for part in ("in turns in one process", "load average 0.25 at the start", "adapter-bench 0."):
        assert part in line
    assert line in table.markdown(report)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "-"), (0, "0"), (999, "999"), (1000, "1.00 k"), (104_578_166, "104.58 M"), (182_557_409_280, "182.56 G")],
)
def test_amounts(value: float | None, shown: str) -> None:
    assert table.amount(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "-"), (0.5, "0.500 ms"), (12.3456, "12.35 ms"), (123.456, "123.5 ms")]
)
def test_milliseconds(value: float | None, shown: str) -> None:
    assert table.milliseconds(value) == shown


def test_a_pipe_in_a_name_does_not_break_the_markdown() -> None:
    report = build()
    report["results"][0]["engine"] = report["results"][0]["engine"] | {"model": "a|b"}
    assert all(line.count("|") == 5 for line in table.markdown(report).splitlines() if line.startswith("|"))

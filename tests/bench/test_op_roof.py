"""The op's roofline: what a call has to do, and the roof's arithmetic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapter_bench import op_roof, op_speed
from adapter_bench.op_rivals import Workload, inputs


def test_work_is_the_published_rule_and_the_bytes_of_the_tensors() -> None:
    work = Workload("w", ((4, 4), (2, 2)), ((3, 5),), d=8, m=2, p=3)
    found = op_roof.work(work)
    assert found["flops"] == 2 * 15 * 2 * 2 * 3 * 8 * 5
    tensors = inputs(work)
    read = sum(tensors[name].nbytes for name in ("value", "reference", "offsets", "logits"))
    assert found["bytes"] == read + 15 * 2 * 8 * 4


def test_a_roof_is_work_over_the_best_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(op_roof, "COPY_BYTES", 2**16)
    monkeypatch.setattr(op_roof, "MATRIX", 16)
    monkeypatch.setattr(op_roof, "_best", lambda call: (call(), 0.5)[1])
    assert op_roof.roof() == {"bytes_per_s": 2 * 2**16 / 0.5, "flops_per_s": 2 * 16**3 / 0.5}


def test_op_speed_writes_both_for_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from adapter_bench.reports import data, pick

    small = Workload("small", ((4, 4), (2, 2)), ((4, 4),), d=8, m=2, p=2)
    monkeypatch.setattr(op_speed, "WORKLOADS", [small])
    monkeypatch.setattr(op_roof, "COPY_BYTES", 2**16)
    monkeypatch.setattr(op_roof, "MATRIX", 16)
    monkeypatch.setattr(
        op_speed,
        "measure",
        lambda work, included, threads, rounds: [op_speed.Timing("small", "this op", included, threads, [0.5, 0.25])],
    )
    monkeypatch.setattr(op_speed, "circumstances", lambda: {"cpu": "a CPU"})
    monkeypatch.setattr(op_speed, "show", lambda *arguments: None)
    assert op_speed.main(["--threads", "1", "--json", str(tmp_path / "op.json")]) == 0
    assert set(json.loads((tmp_path / "op.json").read_text())["roof"]) == {"1 thread"}
    (suite,) = data.read(tmp_path)
    assert suite.rows[0].values["flops_per_s"] == pytest.approx(op_roof.work(small)["flops"] / 0.375 * 1e3)
    assert [chart.key for chart in pick.charts(suite)] == ["roofline", "latency"]

"""Comparing reports: noise raises no alarm, a real slowdown does, and what cannot be compared is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suite_files
from adapter_bench.reports import compare, data
from adapter_bench.reports.compare import Timed, change, widening
from adapter_bench.reports.compare_command import main, percentage
from adapter_infer.errors import UsageError

LIMIT = 0.05


def timed(median_ms: float, seed: int, **options: Any) -> Timed:
    blocks = suite_files.trial(median_ms, seed, **options).blocks
    return Timed(f"row {seed // 2}", tuple(tuple(1e3 * sample for sample in block) for block in blocks))


def share_beyond(limit: float, slower: float, times: int, **options: Any) -> float:
    """In which share of comparisons a row counts as slower, whose new samples are `slower` times as long."""
    found = [change(timed(100, 2 * i, **options), timed(100 * slower, 2 * i + 1, **options)) for i in range(times)]
    return sum(one.slower(limit) for one in found) / times


# From run to run, from turn to turn; as on a steady and on a restless machine, with few and with many turns.
NOISE = [
    {"noise": 0.02, "drift": 0.0},
    {"noise": 0.02, "drift": 0.02},
    {"noise": 0.05, "drift": 0.05, "runs": 3},
    {"noise": 0.02, "drift": 0.02, "turns": 2},
    {"noise": 0.02, "drift": 0.02, "turns": 12},
]


@pytest.mark.parametrize("noise", NOISE, ids=str)
def test_noise_alone_hardly_ever_counts_as_slower(noise: dict[str, Any]) -> None:
    # 2.5 % are expected with no limit at all; more than 5 of 60 would be seen by chance once in two hundred tries.
    found = [change(timed(100, 2 * i, **noise), timed(100, 2 * i + 1, **noise)) for i in range(60)]
    assert sum(one.slower(0.0) for one in found) <= 5
    assert not any(one.slower(LIMIT) for one in found)


def test_an_interval_blind_to_turns_would_raise_false_alarms() -> None:
    """Dealt out anew, the samples of a turn no longer show that they share what the machine did meanwhile."""
    blind = seeing = 0
    for i in range(40):
        pair = [timed(100, 2 * i + side, noise=0.01, drift=0.04) for side in (0, 1)]
        seeing += change(*pair).slower(0.0)
        dealt = [np.array_split(np.random.default_rng(i).permutation(one.samples), 6) for one in pair]
        blind += change(*(Timed(pair[0].place, tuple(map(tuple, parts))) for parts in dealt)).slower(0.0)
    assert blind >= 5
    assert seeing <= 2


def test_a_slowdown_of_ten_percent_is_found() -> None:
    assert share_beyond(LIMIT, 1.10, 25, noise=0.02, drift=0.005) == 1.0
    assert share_beyond(0.0, 1.10, 25, noise=0.02, drift=0.02) >= 0.95
    assert share_beyond(LIMIT, 1.04, 25, noise=0.02, drift=0.005) == 0


def test_the_interval_holds_the_true_ratio_about_as_often_as_it_says() -> None:
    inside = 0
    for i in range(80):
        found = change(timed(100, 2 * i, drift=0.02), timed(120, 2 * i + 1, drift=0.02))
        assert found.low is not None and found.high is not None
        inside += found.low <= 1.2 <= found.high
    assert inside >= 72


def test_the_same_files_give_the_same_figures() -> None:
    once, again = (change(timed(100, 0), timed(105, 1)) for _ in range(2))
    assert once == again
    assert change(timed(100, 0), timed(100, 0)).ratio == 1.0


def test_too_few_samples_say_nothing_and_fail_nothing() -> None:
    found = change(Timed("a", ((100.0,),)), Timed("a", ((300.0, 301.0), (300.0, 299.0))))
    assert (found.ratio, found.low, found.verdict) == (3.0, None, "too few samples")
    assert not found.slower(0.0)


def test_rows_that_vary_too_much_to_judge_are_counted() -> None:
    steady = change(timed(100, 0, drift=0.002), timed(100, 1, drift=0.002))
    restless = change(timed(100, 0, drift=0.2), timed(100, 1, drift=0.2))
    assert not steady.blind(LIMIT)
    assert restless.blind(LIMIT)
    assert not restless.blind(5.0)


def test_few_turns_are_widened_by_students_t() -> None:
    assert widening(2) == pytest.approx(2**0.5 * 12.706 / 1.96, rel=1e-4)
    assert widening(6) == pytest.approx(1.2**0.5 * 2.571 / 1.96, rel=1e-4)
    assert 1 < widening(100) < 1.03


def test_samples_without_turns_are_cut_in_the_order_they_were_taken() -> None:
    assert compare._blocks({"samples": [1, 2, 3, 4, 5]}) == ((1.0, 2.0, 3.0), (4.0, 5.0))
    assert compare._blocks({"samples": [1, 2, 3, 4], "runs_per_turn": [1, 3]}) == ((1.0,), (2.0, 3.0, 4.0))
    assert compare._blocks({"samples": [1, 2, 3, 4], "runs_per_turn": [1, 7]}) == ((1.0, 2.0), (3.0, 4.0))
    assert compare._blocks({"samples": []}) == ()


def suite(path: Path, factor: float = 1.0, seed: int = 50, **change: Any) -> Path:
    """The scaling suite with all its latencies `factor` times as long, taken anew."""
    content = suite_files.scaling() | change
    for number, row in enumerate(content["rows"]):
        old = row["results"]
        row["results"] = [
            suite_files.one_result(one["engine"]["model"], factor * 20, 10**9, seed + number, size=one["height"])
            for one in old
        ]
    path.write_text(json.dumps(content))
    return path


def test_the_command_fails_only_beyond_the_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, same, slow = (
        suite(tmp_path / "a.json"),
        suite(tmp_path / "b.json", seed=90),
        suite(tmp_path / "c.json", 1.1, 90),
    )
    assert main([str(old), str(same), "--fail-if-slower", "5%"]) == 0
    told = capsys.readouterr().out
    assert "more than 5.0% slower, beyond noise: none of 10 rows" in told
    assert "vary too much" not in told
    assert main([str(old), str(slow), "--fail-if-slower", "5%"]) == 1
    assert main([str(old), str(slow), "--fail-if-slower", "20%"]) == 0
    assert main([str(old), str(slow)]) == 0
    assert main([str(slow), str(old), "--fail-if-slower", "0%"]) == 0


def test_the_commands_json_lists_rows_of_one_file_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = suite(tmp_path / "a.json")
    content = json.loads(suite(tmp_path / "b.json").read_text())
    content["rows"][0]["name"] = "another"
    content["circumstances"] = content["circumstances"] | {"versions": {"torch": "2.14.0"}, "machine": {"cpu": "Other"}}
    (tmp_path / "b.json").write_text(json.dumps(content))
    assert main([str(old), str(tmp_path / "b.json"), "--json", "-", "--markdown", str(tmp_path / "c.md")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["changes"]) == 9
    assert [one.split(" [")[0] for one in (*found["only_old"], *found["only_new"])] == [
        "deformable, 256x256",
        "another",
    ]
    assert "different version of torch: 2.13.0 and 2.14.0" in found["warnings"]
    assert "different CPU: Invented CPU @ 2.6 GHz and Other" in found["warnings"]
    assert {one["verdict"] for one in found["changes"]} == {"no difference seen"}
    assert "warning: different CPU" in (tmp_path / "c.md").read_text()


def test_documents_of_one_model_compare_with_each_other(tmp_path: Path) -> None:
    for name, median in (("a", 100.0), ("b", 130.0)):
        (tmp_path / f"{name}.json").write_text(json.dumps(suite_files.plain_document(median_ms=median)))
    read = [data.read_file(tmp_path / f"{name}.json") for name in ("a", "b")]
    assert read[0] is not None and read[1] is not None
    (found,) = compare.compare(read[0], read[1]).changes
    assert found.ratio == pytest.approx(1.3, abs=0.02)
    assert found.verdict == "slower"


@pytest.mark.parametrize("schema", [0, 2, "1", None])
def test_an_unknown_schema_is_refused(tmp_path: Path, schema: object, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = suite(tmp_path / "a.json"), suite(tmp_path / "b.json", schema=schema)
    assert main([str(old), str(new)]) == 2
    assert f"has schema {schema!r}" in capsys.readouterr().err


def test_files_with_nothing_in_common_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "b.json").write_text(json.dumps(suite_files.plain_document()))
    assert main([str(suite(tmp_path / "a.json")), str(tmp_path / "b.json")]) == 2
    (tmp_path / "c.json").write_text("{}")
    assert main([str(tmp_path / "b.json"), str(tmp_path / "c.json")]) == 2
    assert "nor a report" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["5", "-1%", "five%", "%", "nan%", "inf%"])
def test_a_limit_without_its_sign_or_sense_is_refused(text: str) -> None:
    with pytest.raises(Exception, match="not a percentage"):
        percentage(text)


def test_reading_a_missing_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.json cannot be read"):
        data.read_file(tmp_path / "none.json")

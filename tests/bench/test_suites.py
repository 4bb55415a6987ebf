"""Suites: what is kept, resumed and reported, row by row; with invented rows."""

import io
import json

import pytest

from adapter_bench.suites import command, layout, runner
from adapter_bench.suites.layout import Column, Row, Settings, Suite
from adapter_bench.suites.progress import Progress
from adapter_infer.errors import UsageError

COLUMNS = (
    Column("speed", "speed", "1/s", "higher"),
    Column("speed_residual", "speed less the published", "1/s"),
    Column("process", "process", ""),
)
FAST = Settings(in_process=True)


def row(name, work, **arguments):
    return Row(name, "invented", f"suite_rows:{work}", arguments, {"speed": 2.0})


def suite(*rows, **options):
    return Suite("invented", "An invented table", COLUMNS, rows, **options)


def run(table, folder, settings=FAST):
    return runner.run(table, settings, folder / table.name, ["adapter-bench suite"], Progress(io.StringIO()))


def log_of(path):
    return path.read_text().split() if path.exists() else []


def test_rows_that_are_done_are_not_done_again_and_failed_ones_are(tmp_path):
    log = tmp_path / "log"
    table = suite(
        row("a", "good", value=1.0, log=str(log)),
        row("b", "fails_once", marker=str(tmp_path / "marker"), log=str(log)),
        row("c", "good", value=3.0, log=str(log)),
    )
    first = run(table, tmp_path)
    assert [found["status"] for found in first["rows"]] == ["ok", "failed", "ok"]
    assert log_of(log) == ["1", "3"]
    second = run(table, tmp_path)
    assert [found["values"]["speed"] for found in second["rows"]] == [1.0, 7.0, 3.0]
    assert log_of(log) == ["1", "3", "7"]


@pytest.mark.parametrize(
    "change",
    [
        {"rules": {"duration": 1.0}},
        {"threads": 1},
        {"quick": True},
        {"provider": "cuda"},
        {"precision": "fp16"},
    ],
)
def test_rows_are_done_again_with_other_settings(tmp_path, change):
    log = tmp_path / "log"
    table = suite(row("a", "good", value=1.0, log=str(log)))
    run(table, tmp_path)
    run(table, tmp_path, Settings(**({"in_process": True} | change)))
    assert log_of(log) == ["1", "1"]


def test_models_that_ran_elsewhere_or_in_half_precision_are_not_taken_for_the_usual_ones(tmp_path):
    table, remark = suite(row("a", "good", value=1.0, log=str(tmp_path / "log"))), "Models in fp16, run by ONNX Runtime"
    assert not any(told.startswith("Models in") for told in run(table, tmp_path)["remarks"])
    found = run(table, tmp_path, Settings(in_process=True, provider="cuda", precision="fp16"))
    assert f"{remark}'s provider cuda." in found["remarks"]
    assert (found["circumstances"]["provider"], found["circumstances"]["precision"]) == ("cuda", "fp16")


def test_rows_are_done_again_where_their_arguments_changed_or_their_file_is_damaged(tmp_path):
    log = tmp_path / "log"
    run(suite(row("a", "good", value=1.0, log=str(log))), tmp_path)
    run(suite(row("a", "good", value=2.0, log=str(log))), tmp_path)
    assert log_of(log) == ["1", "2"]
    (kept,) = (tmp_path / "invented" / "rows").iterdir()
    kept.write_text(kept.read_text()[:40])
    run(suite(row("a", "good", value=2.0, log=str(log))), tmp_path)
    assert log_of(log) == ["1", "2", "2"]


def test_an_interrupted_suite_keeps_what_it_has(tmp_path):
    log = tmp_path / "log"
    table = suite(row("a", "good", value=1.0, log=str(log)), row("b", "interrupted"))
    with pytest.raises(KeyboardInterrupt):
        run(table, tmp_path)
    document = json.loads((tmp_path / "invented" / "suite.json").read_text())
    assert [found["name"] for found in document["rows"]] == ["a"]
    assert document["circumstances"]["finished"] is None
    run(suite(row("a", "good", value=1.0, log=str(log))), tmp_path)
    assert log_of(log) == ["1"]


def test_a_row_that_fails_costs_no_other_row(tmp_path):
    log = str(tmp_path / "log")
    names = ("refused", "broken", "missing", "infinite")
    table = suite(*(row(name, name) for name in names), row("last", "good", value=4.0, log=log))
    rows = {found["name"]: found for found in run(table, tmp_path)["rows"]}
    assert {name: found["status"] for name, found in rows.items()} == {
        "refused": "failed",
        "broken": "failed",
        "missing": "unavailable",
        "infinite": "ok",
        "last": "ok",
    }
    assert "too much" in rows["refused"]["reason"]
    assert "KeyError" in rows["broken"]["reason"]
    assert rows["missing"]["reason"] == "no such package here"
    assert rows["infinite"]["values"] == {"speed": None, "speed_residual": None, "process": None}
    assert rows["last"]["values"]["speed_residual"] == 2.0


def test_every_row_has_a_process_of_its_own_and_one_that_dies_is_reported(tmp_path):
    log = str(tmp_path / "log")
    table = suite(row("a", "good", value=1.0, log=log), row("dies", "killed"), row("b", "good", value=2.0, log=log))
    a, dies, b = run(table, tmp_path, Settings())["rows"]
    assert len({a["values"]["process"], b["values"]["process"]}) == 2
    assert dies["status"] == "failed"
    assert "signal 9" in dies["reason"]


def test_the_file_has_what_reports_read(tmp_path):
    table = suite(row("a", "good", value=1.0, log=str(tmp_path / "log")), remarks=("a remark",))
    run(table, tmp_path)
    document = json.loads((tmp_path / "invented" / "suite.json").read_text())
    assert document["schema"] == 1
    assert (document["suite"], document["title"]) == ("invented", "An invented table")
    assert {"machine", "versions", "rules", "command", "started", "finished"} <= set(document["circumstances"])
    assert document["columns"][0] == {"key": "speed", "title": "speed", "unit": "1/s", "better": "higher"}
    (found,) = document["rows"]
    assert found == {
        "name": "a",
        "group": "invented",
        "status": "ok",
        "reason": "",
        "values": {"speed": 1.0, "speed_residual": -1.0, "process": found["values"]["process"]},
        "paper": {"speed": 2.0},
        "results": [{"fps": 1.0}],
    }
    assert not list(tmp_path.rglob("*.part"))
    assert not (tmp_path / "invented" / "models").exists()


def test_rows_can_follow_from_rows(tmp_path):
    def total(rows):
        speed = sum(found["values"]["speed"] for found in rows)
        return [rows[0] | {"name": "total", "values": {"speed": speed, "speed_residual": None, "process": None}}]

    log = str(tmp_path / "log")
    table = suite(*(row(str(i), "good", value=float(i), log=log) for i in (1, 2)), derive=total)
    assert run(table, tmp_path)["rows"][-1]["values"]["speed"] == 3.0


@pytest.mark.parametrize(
    ("ours", "published", "expected"),
    [
        (104.578, 105, 0.0),
        (96.9, 98, -1.1),
        (50.26, 50.3, 0.0),
        (50.24, 50.3, -0.06),
        (None, 1, None),
        (1, None, None),
    ],
)
def test_residuals_are_those_of_the_printed_digits(ours, published, expected):
    assert layout.residual(ours, published) == expected


@pytest.mark.parametrize("name", list(layout.SUITES))
@pytest.mark.parametrize("quick", [False, True], ids=["full", "quick"])
def test_suites_are_tables_that_can_be_kept(name, quick):
    table = layout.make(name, quick)
    assert table.name == name
    assert len(table.rows) >= 3
    assert len({layout.file_name(entry) for entry in table.rows}) == len(table.rows)
    keys = [column.key for column in table.columns]
    assert len(set(keys)) == len(keys)
    assert all(column.better in {None, "higher", "lower"} for column in table.columns)
    for entry in table.rows:
        assert json.loads(json.dumps(entry.arguments)) == entry.arguments
        assert set(entry.paper) <= set(keys)
        assert len(layout.digest(entry, Settings())) == 24


def test_the_command_says_what_failed_and_ends_with_1(tmp_path, monkeypatch, capsys):
    log = str(tmp_path / "log")
    rows = [row("fine", "good", value=1.0, log=log), row("absent", "missing")]
    monkeypatch.setattr(layout, "make", lambda name, quick: suite(*rows))
    assert command.main(["x", "--out", str(tmp_path), "--in-process"]) == 0
    out, err = capsys.readouterr()
    assert "unavailable: no such package here" in " ".join(out.split())
    assert "[2/2] absent: unavailable (no such package here)" in err
    rows.append(row("bad", "refused"))
    assert command.main(["x", "--out", str(tmp_path), "--in-process"]) == 1
    out, err = capsys.readouterr()
    assert "[1/3] fine: done before" in err
    assert "invented, bad failed: this row asks for" in err


def test_the_command_refuses_what_cannot_be(tmp_path):
    for argv in (["segmentation"], ["--out", str(tmp_path)], ["tables", "--out", str(tmp_path)]):
        with pytest.raises(UsageError):
            command.main(argv)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        run(suite(row("a", "missing")), tmp_path / "file")


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_tells_rows_and_the_remaining_time(terminal):
    stream = io.StringIO()
    with Progress(stream, terminal) as progress:
        progress.begin("invented", 4, 1)
        progress.skipped("a")
        progress.row("b")
        progress.done("b", "ok", "", 60.0)
        progress.done("c", "failed", "no room", 120.0)
    told = " ".join(stream.getvalue().split())
    assert "4 rows, 1 of them done before" in told
    assert "[2/4] b: ok, 60.0 s, about 00:02:00 left" in told
    assert "[3/4] c: failed (no room), 120.0 s, about 00:01:30 left" in told

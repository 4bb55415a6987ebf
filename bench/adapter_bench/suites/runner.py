"""Runs a suite's rows one after the other and keeps each as soon as it is done.

DIR/NAME/rows holds a file for each finished row, DIR/NAME/suite.json all of them. A suite that was interrupted goes on
where it stopped: rows that succeeded with the same settings are not done again. A row that fails is reported, and the
others follow.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path
from typing import Any

from adapter_bench import child, files, machine
from adapter_bench.suites import layout
from adapter_bench.suites.layout import Data, Row, Settings, Suite
from adapter_bench.suites.progress import Progress
from adapter_infer.errors import AdapterError, EnvironmentMissing, UsageError

SCHEMA = 1
OK, FAILED, UNAVAILABLE = "ok", "failed", "unavailable"


def run(suite: Suite, settings: Settings, folder: Path, command: Sequence[str], progress: Progress) -> Data:
    """Does the rows that are not done yet; what `suite.json` in `folder` holds afterwards.

    Errors: UsageError where `folder` cannot be written; what goes wrong in a row is told of the row.
    """
    rows_folder, models = folder / "rows", folder / "models"
    try:
        rows_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {folder.parent} cannot be written ({error.strerror}); name another folder") from error
    document = _document(suite, settings, command)
    places = [rows_folder / layout.file_name(row) for row in suite.rows]
    kept = [_kept(place, layout.digest(row, settings)) for place, row in zip(places, suite.rows, strict=True)]
    others = machine.OtherPrograms()
    progress.begin(suite.name, len(suite.rows), sum(found is not None for found in kept))
    done: list[Data] = []
    for row, place, before in zip(suite.rows, places, kept, strict=True):
        found = before
        if found is None:
            progress.row(row.name)
            begin = time.monotonic()
            found = _do(suite, row, settings, models)
            seconds = time.monotonic() - begin
            _keep(place, found, layout.digest(row, settings), seconds)
            progress.done(row.name, found["status"], found["reason"], seconds)
        else:
            progress.skipped(row.name)
        done.append(found)
        _write(folder, document, suite, done)
    document["circumstances"]["finished"] = _now()
    after = {"load_average_after": machine.load_average(), "other_cores_meanwhile": others.cores()}
    document["circumstances"]["machine"] |= after
    document["remarks"] += machine.doubts(document["circumstances"]["machine"])
    _write(folder, document, suite, done)
    if all(row["status"] != FAILED for row in document["rows"]):
        shutil.rmtree(models, ignore_errors=True)  # exported models: gigabytes that nothing reads any more
    return document


def failures(document: Data) -> list[Data]:
    return [row for row in document["rows"] if row["status"] == FAILED]


def _document(suite: Suite, settings: Settings, command: Sequence[str]) -> Data:
    rules = layout.rules_of(settings)
    before = machine.describe()
    return {
        "schema": SCHEMA,
        "suite": suite.name,
        "title": suite.title,
        "circumstances": {
            "machine": before,
            "versions": machine.versions(),
            "rules": asdict(rules) | {"text": rules.describe()},
            "command": " ".join(command),
            "quick": settings.quick,
            "threads": settings.threads,
            "provider": settings.provider,
            "precision": settings.precision,
            "process_per_row": not settings.in_process,
            "started": _now(),
            "finished": None,
        },
        "remarks": [*suite.remarks, *_elsewhere(settings)],
        "columns": [asdict(column) for column in suite.columns],
        "rows": [],
    }


def _elsewhere(settings: Settings) -> list[str]:
    """A remark where the models are not what a table holds when nothing is said: fp32, on the CPU."""
    usual = Settings()
    if (settings.provider, settings.precision) == (usual.provider, usual.precision):
        return []
    return [f"Models in {settings.precision}, run by ONNX Runtime's provider {settings.provider}."]


def _write(folder: Path, document: Data, suite: Suite, done: list[Data]) -> None:
    derived = [] if suite.derive is None else suite.derive(done)
    document["rows"] = [*done, *derived]
    files.write(folder / "suite.json", json.dumps(document, indent=1, allow_nan=False) + "\n")


# --- one row ---


def _do(suite: Suite, row: Row, settings: Settings, models: Path) -> Data:
    given: Data = row.arguments | {"rules": layout.rule_arguments(settings), "threads": settings.threads}
    given["folder"] = str(models)
    if suite.name in layout.ANYWHERE:
        given |= {"provider": settings.provider, "precision": settings.precision}
    status, reason, answer = OK, "", {}
    try:
        models.mkdir(parents=True, exist_ok=True)
        if settings.in_process:
            module, function = row.work.split(":")
            answer = getattr(import_module(module), function)(**given)
        else:
            answer = child.call(row.work, **given)
    except EnvironmentMissing as error:
        status, reason = UNAVAILABLE, str(error)
    except AdapterError as error:
        status, reason = FAILED, str(error)
    except Exception as error:  # a bug of ours in one row must not cost the others
        status, reason = FAILED, f"{type(error).__name__}: {error}".strip()
    return layout.finished(row, suite.columns, status, reason, answer)


def _keep(path: Path, found: Data, digest: str, seconds: float) -> None:
    content = {"schema": SCHEMA, "settings": digest, "seconds": round(seconds, 3), "finished": _now(), "row": found}
    files.write(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _kept(path: Path, digest: str) -> Data | None:
    """The row in the file at `path`, None where it is not there, did not succeed or was made with other settings."""
    try:
        content: Any = json.loads(path.read_text())
        same = content["schema"] == SCHEMA and content["settings"] == digest and content["row"]["status"] == OK
        return content["row"] if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")

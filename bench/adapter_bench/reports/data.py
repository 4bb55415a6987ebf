"""What a report is made from: a folder of suite results and of documents that adapter-bench wrote with --json."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapter_bench.reports.numbers import Scale, is_number
from adapter_infer.errors import UsageError

Data = dict[str, Any]
SCHEMA = 1  # of suite.json, of adapter-bench --json and of adapter-bench fourier alike
SUITE_FILE = "suite.json"
LIMIT = 2**29  # bytes of one file: raw samples of a day of measuring are far below
STATES = ("ok", "failed", "unavailable")
KINDS = ("suite", "document", "op", "fourier")
# Suites as a reader meets them best; others follow by name.
ORDER = ("segmentation", "baselines", "interactions", "components", "attention", "scaling", "precision", "parts")


@dataclass(frozen=True)
class Column:
    """One figure of every row. `better` is "higher", "lower" or None."""

    key: str
    title: str
    unit: str = ""
    better: str | None = None


@dataclass(frozen=True)
class Row:
    """One model or setting: `values` by column key (None or absent: not measured), `paper` the published ones,
    `results` what `adapter_bench.report.result` made, with raw samples; `facts` what else the row says."""

    name: str
    group: str = ""
    status: str = "ok"
    reason: str = ""
    values: dict[str, float | None] = field(default_factory=dict)
    paper: dict[str, float] = field(default_factory=dict)
    results: tuple[Data, ...] = ()
    facts: Data = field(default_factory=dict)


@dataclass(frozen=True)
class Suite:
    """One table with its circumstances. `kind` is "suite", "document", "op" or "fourier"; `more` is the rest of the
    file."""

    name: str
    title: str
    kind: str
    circumstances: Data
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    source: str
    more: Data = field(default_factory=dict)

    def column(self, *keys: str) -> Column | None:
        """The first of these columns in which something was measured."""
        by_key = {column.key: column for column in self.columns}
        found = (by_key[key] for key in keys if key in by_key)
        return next(
            (column for column in found if any(is_number(row.values.get(column.key)) for row in self.rows)), None
        )

    @property
    def scales(self) -> dict[str, Scale]:
        """How each column is shown, by its key; the paper's figures share the column's scale."""
        return {
            column.key: Scale.of_column(
                (row.values.get(column.key) for row in self.rows),
                (row.paper.get(column.key) for row in self.rows),
                column.unit,
            )
            for column in self.columns
        }


def read(folder: Path) -> list[Suite]:
    """Every suite and document under `folder`, suites first, each by name.

    JSON files of other kinds are passed over. Errors: UsageError where the folder holds none, where a file that calls
    itself a result is damaged, or has a schema that this version does not know.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; give the folder that adapter-bench suite --out wrote")
    suites = [suite for path in _files(folder) if (suite := read_file(path, folder)) is not None]
    if not suites:
        raise UsageError(
            f"{folder} holds no {SUITE_FILE} and no report of adapter-bench --json; run adapter-bench suite NAME "
            f"--out {folder} first"
        )
    return sorted(suites, key=lambda one: (KINDS.index(one.kind), ([*ORDER, one.name]).index(one.name), one.name))


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        # Beside a suite's own file lie its rows, which the suite repeats.
        chosen = [SUITE_FILE] if SUITE_FILE in names else sorted(names)
        if SUITE_FILE in names:
            folders.clear()
        yield from (Path(parent, name) for name in chosen if name.endswith(".json") and not name.startswith("."))


def load(path: Path) -> Any:
    """The JSON data in a file. Errors: UsageError if it is not there, too large, or no JSON."""
    try:
        if path.stat().st_size > LIMIT:
            raise UsageError(
                f"{path} has {path.stat().st_size} bytes, more than the {LIMIT} of any report; leave it out"
            )
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no JSON ({error}); run the measurement again, or take the file away") from error


def read_file(path: Path, folder: Path | None = None) -> Suite | None:
    """The suite or document in a file, None where it is JSON of another kind. Errors: as `read`."""
    content = load(path)
    source = str(path if folder is None else path.relative_to(folder))
    kind = _kind(content)
    if kind is None:
        if path.name == SUITE_FILE:
            raise UsageError(f"{path} is no suite result: it has no suite, columns and rows; run the suite again")
        return None
    if kind != "op" and content.get("schema") != SCHEMA:
        raise UsageError(
            f"{path} has schema {content.get('schema')!r}, this adapter-bench reads schema {SCHEMA}; "
            "measure again, or use the version that wrote it"
        )
    try:
        return READERS[kind](content, source)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{path} is damaged ({type(error).__name__}: {error}); measure again") from error


def _kind(content: Any) -> str | None:
    if not isinstance(content, dict):
        return None
    if {"suite", "rows", "columns"} <= content.keys():
        return "suite"
    if {"results", "tool", "machine"} <= content.keys():
        return "document"
    if {"timings", "circumstances"} <= content.keys():
        return "op"
    return "fourier" if {"fourier", "models"} <= content.keys() else None


def _suite(content: Data, source: str) -> Suite:
    known = {"schema", "suite", "title", "circumstances", "columns", "rows"}
    name = str(content["suite"])
    return Suite(
        name=name,
        title=str(content.get("title") or name),
        kind="suite",
        circumstances=dict(content.get("circumstances") or {}),
        columns=tuple(
            Column(str(one["key"]), str(one.get("title") or one["key"]), str(one.get("unit") or ""), one.get("better"))
            for one in content["columns"]
        ),
        rows=tuple(_row(one) for one in content["rows"]),
        source=source,
        more={key: value for key, value in content.items() if key not in known},
    )


def _row(content: Data) -> Row:
    status = str(content.get("status", "ok"))
    if status not in STATES:
        raise ValueError(f"status {status!r} is none of {', '.join(STATES)}")
    known = {"name", "group", "status", "reason", "values", "paper", "results"}
    values = dict(content.get("values") or {})
    for key, value in values.items():
        if value is not None and not is_number(value):
            raise ValueError(f"row {content['name']!r}: {key} is {value!r}, not a number or null")
    return Row(
        name=str(content["name"]),
        group=str(content.get("group") or ""),
        status=status,
        reason=str(content.get("reason") or ""),
        values=values,
        paper={str(k): v for k, v in (content.get("paper") or {}).items() if is_number(v)},
        results=tuple(one for one in content.get("results") or () if isinstance(one, dict)),
        facts={key: value for key, value in content.items() if key not in known},
    )


DOCUMENT_COLUMNS = (
    Column("latency_ms", "latency, median", "ms", "lower"),
    Column("p90_ms", "latency, p90", "ms", "lower"),
    Column("p99_ms", "latency, p99", "ms", "lower"),
    Column("fps", "images per second", "images/s", "higher"),
    Column("ratio_fps", "speed against the plain ViT", "x", "higher"),
    Column("macs", "multiply-adds per image", "MACs", "lower"),
    Column("macs_paper", "multiply-adds, the paper's rule", "MACs", "lower"),
    Column("params", "parameters", "parameters", "lower"),
    Column("weights_bytes", "weights", "B", "lower"),
    Column("peak_bytes", "peak memory", "B", "lower"),
    Column("batch", "batch", "", None),
)


def figures_of(result: Data) -> dict[str, float | None]:
    """The figures of a result of `adapter_bench.report`, by the keys of DOCUMENT_COLUMNS."""
    latency, memory = result.get("latency_ms") or {}, result.get("memory") or {}
    found = {
        "latency_ms": latency.get("median"),
        "p90_ms": latency.get("p90"),
        "p99_ms": latency.get("p99"),
        "peak_bytes": memory.get("peak_bytes"),
    }
    found |= {
        key: result.get(key) for key in ("fps", "ratio_fps", "macs", "macs_paper", "params", "weights_bytes", "batch")
    }
    return {key: value if is_number(value) else None for key, value in found.items()}


def _document(content: Data, source: str) -> Suite:
    rows = []
    for result in content["results"]:
        title = str((result.get("engine") or {}).get("model") or "model")
        runtime = (result.get("runtime") or {}).get("name")
        where = ", ".join(
            str(part)
            for part in (
                runtime,
                result.get("precision"),
                f"{result['height']}x{result['width']}",
                f"batch {result['batch']}",
            )
            if part
        )
        rows.append(Row(f"{title}, {where}", "model", values=figures_of(result), results=(result,)))
        if isinstance(baseline := result.get("baseline"), dict):
            rows.append(
                Row(f"plain ViT of {title}, {where}", "plain ViT", values=figures_of(baseline), results=(baseline,))
            )
    stem = Path(source).with_suffix("").as_posix()
    return Suite(
        name=stem,
        title=f"{(content['results'][0].get('engine') or {}).get('model') or stem}" if content["results"] else stem,
        kind="document",
        circumstances={
            key: content.get(key) for key in ("machine", "versions", "rules", "command", "finished", "tool")
        },
        columns=_measured(DOCUMENT_COLUMNS, rows),
        rows=tuple(rows),
        source=source,
    )


OP_COLUMNS = (
    Column("latency_ms", "one call, median", "ms", "lower"),
    Column("min_ms", "one call, least", "ms", "lower"),
    Column("flops_per_s", "arithmetic done", "FLOP/s", "higher"),
    Column("threads", "threads", "", None),
)


def _op(content: Data, source: str) -> Suite:
    """What `adapter_bench.op_speed --json` wrote."""
    from statistics import median

    rows = []
    for timing in content["timings"]:
        samples = [float(sample) for sample in timing["samples_ms"]]
        work = (content.get("work") or {}).get(timing["workload"]) or {}
        middle = median(samples)
        form = "softmax and locations included" if timing["included"] else "from finished locations"
        values = {"latency_ms": middle, "min_ms": min(samples), "threads": timing["threads"]}
        values["flops_per_s"] = work["flops"] / middle * 1e3 if work else None
        name = f"{timing['rival']}: {timing['workload']}, {_threads(timing['threads'])}, {form}"
        result = {"latency_ms": {"samples": samples, "median": middle}}
        rows.append(Row(name, str(timing["rival"]), values=values, results=(result,), facts=timing | {"work": work}))
    return Suite(
        name=Path(source).with_suffix("").as_posix(),
        title="Multi-scale deformable attention, the op alone",
        kind="op",
        circumstances={"machine": content["circumstances"]},
        columns=_measured(OP_COLUMNS, rows),
        rows=tuple(rows),
        source=source,
        more={"roof": content.get("roof") or {}},
    )


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count != 1 else ''}"


def _fourier(content: Data, source: str) -> Suite:
    strides = sorted({int(one["stride"]) for model in content["models"] for one in model["maps"]})
    columns = tuple(
        Column(f"high_{stride}", f"stride {stride}, highest frequency", "ln", "higher") for stride in strides
    )
    rows = tuple(
        Row(
            str(model["name"]),
            values={f"high_{one['stride']}": one["relative_log_amplitude"][-1] for one in model["maps"]},
            facts=model,
        )
        for model in content["models"]
    )
    circumstances = {
        key: content.get(key) for key in ("machine", "versions", "command", "finished", "tool", "pictures")
    }
    name = Path(source).with_suffix("").as_posix()
    return Suite(name, "Frequencies of the feature maps", "fourier", circumstances, columns, rows, source, content)


def _measured(columns: tuple[Column, ...], rows: list[Row]) -> tuple[Column, ...]:
    return tuple(column for column in columns if any(row.values.get(column.key) is not None for row in rows))


READERS = {"suite": _suite, "document": _document, "op": _op, "fourier": _fourier}

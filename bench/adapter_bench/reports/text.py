"""The report as Markdown, to paste, and as CSV, one figure a line, to compute with."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from adapter_bench.reports.data import Suite
from adapter_bench.reports.numbers import is_number
from adapter_bench.reports.page import flat

# A spreadsheet would run what begins so.
FORMULAS = ("=", "+", "-", "@", "\t", "\r")


def markdown(suites: Sequence[Suite], title: str) -> str:
    """Every table with its circumstances; the paper's figures stand in brackets."""
    parts = [f"# {cell(title)}"]
    for suite in suites:
        parts += [f"## {cell(suite.title)}", _table(suite)]
        parts.append("\n".join(f"- {cell(str(remark))}" for remark in suite.more.get("remarks") or ()))
        parts.append(
            "\n".join(
                f"- {row.status}: {cell(row.name)}: {cell(row.reason)}" for row in suite.rows if row.status != "ok"
            )
        )
        parts.append("; ".join(f"{cell(name)}: {cell(value)}" for name, value in flat(suite.circumstances)))
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(suite: Suite) -> str:
    scales = suite.scales
    grouped = any(row.group for row in suite.rows)
    heads = ["name", *(["group"] if grouped else [])]
    heads += [f"{c.title} ({scales[c.key].unit})" if scales[c.key].unit else c.title for c in suite.columns]
    lines = [[cell(head) for head in heads], ["---"] * (2 if grouped else 1) + ["---:"] * len(suite.columns)]
    for row in suite.rows:
        line = [row.name if row.status == "ok" else f"{row.name} ({row.status})", *([row.group] if grouped else [])]
        for column in suite.columns:
            text = scales[column.key].text(row.values.get(column.key))
            paper = row.paper.get(column.key)
            line.append(text if paper is None else f"{text} ({scales[column.key].as_printed(paper)})")
        lines.append([cell(text) for text in line])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(text: str) -> str:
    """Text that stays text in Markdown: one line, no columns and no HTML of its own."""
    text = " ".join(text.split())
    for raw, safe in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("`", "\\`"), ("[", "\\["), ("]", "\\]")):
        text = text.replace(raw, safe)
    return text


def comma_separated(suites: Sequence[Suite]) -> str:
    """One figure a line: value and paper unrounded, empty where there is none."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["suite", "row", "group", "status", "reason", "key", "title", "unit", "value", "paper"])
    for suite in suites:
        for row in suite.rows:
            for column in suite.columns:
                texts = [suite.name, row.name, row.group, row.status, row.reason, column.key, column.title, column.unit]
                figures = [row.values.get(column.key), row.paper.get(column.key)]
                writer.writerow([*map(_inert, texts), *(repr(f) if is_number(f) else "" for f in figures)])
    return out.getvalue()


def _inert(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULAS) else text

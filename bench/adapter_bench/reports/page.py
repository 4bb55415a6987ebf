"""The report as one page that needs no network: tables that sort, charts, light and dark, on a phone and on paper.

Names come from files and are never trusted: everything is escaped, and a content security policy lets nothing run but
the page's own script and style, named by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from adapter_bench.reports import pick, svg
from adapter_bench.reports.data import Column, Row, Suite
from adapter_bench.reports.numbers import ABSENT, Scale, is_number
from adapter_infer import __version__

REMARKS = 30  # shown of one suite


def page(suites: Sequence[Suite], title: str) -> str:
    """The whole page as text."""
    folder = files("adapter_bench.reports") / "assets"
    style, script = ((folder / name).read_text("utf-8") for name in ("page.css", "page.js"))
    template = Template((folder / "page.html").read_text("utf-8"))
    anchors = [f"s{number}" for number in range(len(suites))]
    return template.substitute(
        title=escape(title),
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        summary=_summary(suites),
        links="".join(f'<a href="#{a}">{escape(s.title)}</a>' for a, s in zip(anchors, suites, strict=True)),
        body="".join(_section(suite, anchor) for suite, anchor in zip(suites, anchors, strict=True)),
        sources=", ".join(escape(suite.source) for suite in suites),
        made=f"adapter-bench {__version__}, {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _summary(suites: Sequence[Suite]) -> str:
    rows = [row for suite in suites for row in suite.rows]
    samples = sum(len((r.get("latency_ms") or {}).get("samples") or ()) for row in rows for r in row.results)
    tiles = [
        ("tables", f"{len(suites)}", ""),
        ("rows measured", f"{sum(row.status == 'ok' for row in rows)}", ""),
        ("timed runs", f"{samples:,}", ""),
        ("failed", f"{sum(row.status == 'failed' for row in rows)}", "bad"),
        ("unavailable", f"{sum(row.status == 'unavailable' for row in rows)}", "warn"),
    ]
    return "".join(
        f'<div class="tile {kind if value != "0" else ""}"><b>{value}</b><span>{name}</span></div>'
        for name, value, kind in tiles
    )


def _section(suite: Suite, anchor: str) -> str:
    parts = [
        f'<section id="{anchor}"><h2>{escape(suite.title)}</h2>',
        _where(suite),
        _notes(suite),
        _table(suite),
        _missing(suite),
    ]
    drawn = [_figure(chart) for chart in pick.charts(suite)]
    parts.append(f'<div class="charts">{"".join(drawn)}</div>' if drawn else "")
    parts += [_remarks(suite), _circumstances(suite), "</section>"]
    return "".join(parts)


def _figure(chart: Any) -> str:
    note = f"<figcaption>{escape(chart.note)}</figcaption>" if chart.note else ""
    return f"<figure><h3>{escape(chart.title)}</h3>{svg.legend(chart)}{svg.draw(chart)}{note}</figure>"


def _where(suite: Suite) -> str:
    """The machine in one line; a number never walks alone."""
    machine = suite.circumstances.get("machine") or {}
    cores = machine.get("usable_cores")
    parts = [machine.get("cpu"), f"{cores} cores" if cores else None, *_devices(suite), _date(suite)]
    found = dict.fromkeys(str(part) for part in parts if part)
    return f'<p class="where">{escape(" · ".join(found) or "The file does not say where this was measured.")}</p>'


def _notes(suite: Suite) -> str:
    """What the suite itself says a reader must know."""
    items = "".join(f"<li>{escape(str(remark))}</li>" for remark in suite.more.get("remarks") or ())
    return f'<ul class="notes">{items}</ul>' if items else ""


def _devices(suite: Suite) -> list[str]:
    found = [str(result["device"]) for row in suite.rows for result in row.results if result.get("device")]
    return list(dict.fromkeys(found))[:3]


def _date(suite: Suite) -> str | None:
    finished = suite.circumstances.get("finished") or suite.circumstances.get("started")
    return str(finished)[:10] if finished else None


def _table(suite: Suite) -> str:
    if not suite.columns:
        return '<p class="none">This suite names no figures.</p>'
    scales = suite.scales
    grouped = any(row.group for row in suite.rows)
    heads = [_head("name", "", "text", None)] + ([_head("group", "", "text", None)] if grouped else [])
    heads += [_head(c.title, scales[c.key].unit, "number", c.better) for c in suite.columns]
    body = "".join(_line(row, suite.columns, scales, grouped) for row in suite.rows)
    paper = any(row.paper for row in suite.rows)
    told = ["Small figures below are the paper's."] if paper else []
    absent = any(not is_number(row.values.get(c.key)) for row in suite.rows for c in suite.columns)
    told += [f"{ABSENT} means that it was not measured."] if absent else []
    return (
        f'<div class="scroll"><table><thead><tr>{"".join(heads)}</tr></thead><tbody>{body}</tbody></table></div>'
        f'<p class="told"><span class="screen">Press a heading to sort. </span>{escape(" ".join(told))}</p>'
    )


def _head(title: str, unit: str, kind: str, better: str | None) -> str:
    hint = {"higher": "↑", "lower": "↓"}.get(str(better), "")
    begin, _, last = title.rpartition(" ")
    said = f' <span class="better" title="{better} is better">{hint}</span>' if hint else ""
    small = f'<span class="unit">{escape(unit)}</span>' if unit else ""
    words = f'{escape(begin)} <span class="last">{escape(last)}{said}</span>'
    return f'<th scope="col" class="{kind}"><button type="button">{words}{small}</button></th>'


def _line(row: Row, columns: Sequence[Column], scales: dict[str, Scale], grouped: bool) -> str:
    badge = "" if row.status == "ok" else f' <span class="badge {row.status}">{row.status}</span>'
    cells = [f'<th scope="row" data-v="{escape(row.name)}">{escape(row.name)}{badge}</th>']
    if grouped:
        cells.append(f'<td class="group" data-v="{escape(row.group)}">{escape(row.group)}</td>')
    for column in columns:
        value, scale = row.values.get(column.key), scales[column.key]
        known = is_number(value)
        paper = row.paper.get(column.key)
        below = "" if paper is None else f'<span class="said">{scale.as_printed(paper)}</span>'
        cells.append(
            f'<td class="number{"" if known else " absent"}"{f" data-v={chr(34)}{value!r}{chr(34)}" if known else ""}>'
            f"{scale.text(value)}{below}</td>"
        )
    return f"<tr>{''.join(cells)}</tr>"


def _missing(suite: Suite) -> str:
    """What failed or cannot be had here, each with its reason."""
    rows = [row for row in suite.rows if row.status != "ok"]
    if not rows:
        return ""
    items = "".join(
        f'<li><span class="badge {row.status}">{row.status}</span> <b>{escape(row.name)}</b>: '
        f"{escape(row.reason or 'the file gives no reason')}</li>"
        for row in rows
    )
    return f'<ul class="missing">{items}</ul>'


def _remarks(suite: Suite) -> str:
    told: dict[str, list[str]] = {}
    for row in suite.rows:
        for result in row.results:
            for remark in result.get("remarks") or ():
                told.setdefault(str(remark), []).append(row.name)
    if not told:
        return ""
    items = "".join(_remark(text, list(dict.fromkeys(names))) for text, names in list(told.items())[:REMARKS])
    more = f"<li>and {len(told) - REMARKS} more in the file</li>" if len(told) > REMARKS else ""
    return f"<details><summary>Remarks on these figures ({len(told)})</summary><ul>{items}{more}</ul></details>"


def _remark(text: str, names: list[str]) -> str:
    whose = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return f"<li>{escape(text)} <small>{escape(whose)}</small></li>"


def _circumstances(suite: Suite) -> str:
    items = "".join(
        f"<tr><th scope=row>{escape(name)}</th><td>{escape(value)}</td></tr>"
        for name, value in flat(suite.circumstances)
    )
    if not items:
        return ""
    return (
        "<details><summary>Circumstances: machine, versions, rules</summary>"
        f'<div class="scroll"><table class="facts"><tbody>{items}</tbody></table></div></details>'
    )


def flat(data: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """("machine cpu", "A CPU") and so on, of nested JSON data; what is None is left out."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from flat(value, f"{name} {key}".strip().replace("_", " "))
    elif isinstance(data, list):
        if data:
            yield name, ", ".join(str(item) for item in data)
    elif data is not None:
        yield name, str(data)

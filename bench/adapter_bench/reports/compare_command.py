"""adapter-bench compare: two reports of the same suite or model, row by row, with confidence intervals."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from adapter_infer import command_line
from adapter_infer.errors import UsageError

if TYPE_CHECKING:
    from adapter_bench.reports.compare import Comparison
    from adapter_bench.reports.data import Suite

PROG = "adapter-bench compare"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 1 where a row is slower beyond the limit and noise cannot be why."""
    return command_line.run(PROG, _run, argv)


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser(
        PROG,
        "Compares two reports (suite.json, or adapter-bench --json) by median latencies; above 1 the new is slower.",
    )
    parser.add_argument("old", type=Path, metavar="OLD.json", help="the report to compare with")
    parser.add_argument("new", type=Path, metavar="NEW.json")
    parser.add_argument(
        "--fail-if-slower",
        type=percentage,
        metavar="P%",
        help="exit 1 where a row's whole 95 %% interval lies beyond this much slower, e.g. 5%%",
    )
    parser.add_argument(
        "--json", metavar="FILE", help="the comparison as data; - for standard output, then alone there"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the table, ready to paste")
    return parser


def percentage(text: str) -> float:
    """ "5%" as 0.05. Without the sign it could as well be a factor, and is refused."""
    try:
        value = float(text.removesuffix("%")) / 100
    except ValueError:
        value = -1.0
    if not text.endswith("%") or not 0 <= value < 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage from 0% up; give for example 5%")
    return value


def _run(argv: Sequence[str] | None) -> int:
    args = _parser().parse_args(argv)
    from adapter_bench import files
    from adapter_bench.reports import compare
    from adapter_infer.files import check_writable

    json_path = None if args.json in {None, "-"} else Path(args.json)
    for path, option in ((args.markdown, "--markdown"), (json_path, "--json")):
        if path is not None:
            check_writable(path, option)
    with command_line.step("comparing"):
        found = compare.compare(_read(args.old), _read(args.new))
    if not found.changes:
        raise UsageError(
            f"{args.old} and {args.new} have no row with samples in common; compare reports of the same suite or model"
        )
    failed = [one.place for one in found.changes if args.fail_if_slower is not None and one.slower(args.fail_if_slower)]
    document = {
        "schema": 1,
        "comparison": {"old": str(args.old), "new": str(args.new), "confidence": compare.CONFIDENCE},
        "limit": args.fail_if_slower,
        "beyond_limit": failed,
        "changes": [asdict(one) | {"verdict": one.verdict} for one in found.changes],
        "only_old": found.only_old,
        "only_new": found.only_new,
        "warnings": found.warnings,
    }
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    if json_path is not None:
        files.write(json_path, text)
    if args.markdown is not None:
        files.write(args.markdown, markdown(found, args.old, args.new))
    if args.json == "-":
        sys.stdout.write(text)
    else:
        _show(found, failed, args.fail_if_slower)
    return 1 if failed else 0


def _read(path: Path) -> Suite:
    from adapter_bench.reports import data

    suite = data.read_file(path)
    if suite is None or suite.kind == "fourier":
        raise UsageError(f"{path} is neither a suite.json nor a report of adapter-bench --json; give one of these")
    return suite


HEADS = ("row", "old", "new", "new / old", "95 % interval", "")


def lines(found: Comparison) -> list[list[str]]:
    """The table's cells."""
    return [
        [
            one.place,
            f"{one.old:.4g} ms",
            f"{one.new:.4g} ms",
            f"{one.ratio:.3f}",
            "-" if one.low is None else f"{one.low:.3f} to {one.high:.3f}",
            one.verdict,
        ]
        for one in found.changes
    ]


def notes(found: Comparison) -> list[str]:
    """What else a reader must know."""
    return [
        *(f"warning: {warning}" for warning in found.warnings),
        *(f"only in the old report: {place}" for place in found.only_old),
        *(f"only in the new report: {place}" for place in found.only_new),
    ]


def markdown(found: Comparison, old: Path, new: Path) -> str:
    from adapter_bench.reports.text import cell

    table = [list(HEADS), ["---", *["---:"] * 4, "---"], *([cell(text) for text in line] for line in lines(found))]
    parts = [f"{cell(str(new))} against {cell(str(old))}, median latencies"]
    parts.append("\n".join("| " + " | ".join(line) + " |" for line in table))
    parts.append("\n".join(f"- {cell(note)}" for note in notes(found)))
    return "\n\n".join(part for part in parts if part) + "\n"


def _show(found: Comparison, failed: Sequence[str], limit: float | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for number, head in enumerate(HEADS):
        table.add_column(head, justify="right" if 0 < number < 5 else "left", overflow="fold")
    for line in lines(found):
        table.add_row(*(Text(cell) for cell in line))
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    console.print(table)
    for note in notes(found):
        console.print(Text(f"- {note}"))
    if limit is not None:
        rows, blind = len(found.changes), sum(one.blind(limit) for one in found.changes)
        which = f": {', '.join(failed)}" if failed else f": none of {rows} rows"
        console.print(Text(f"more than {limit:.1%} slower, beyond noise{which}"))
        if blind:
            console.print(Text(f"{blind} of {rows} rows vary too much to show a change of {limit:.1%}; measure longer"))

"""`adapter-bench suite NAME --out DIR`: a whole table of measurements, resumed where it stopped."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from adapter_bench.suites import layout
from adapter_bench.suites.layout import Settings
from adapter_infer import command_line
from adapter_infer.errors import EnvironmentMissing, UsageError

PROG = "adapter-bench suite"
PLACED = f"for {', '.join(layout.ANYWHERE)}"


def main(argv: Sequence[str] | None = None) -> int:
    """0 where every row was measured or cannot be had here, 1 where one failed. Errors: UsageError."""
    args = _parser().parse_args(argv)
    if args.list:
        for name, (_, what) in layout.SUITES.items():
            print(f"{name:<13} {what}")
        return 0
    if not args.name or args.out is None:
        raise UsageError("name a suite and --out DIR; --list shows the suites")
    from adapter_bench.suites import runner
    from adapter_bench.suites.progress import Progress
    from adapter_engines import threads

    if args.threads is not None:
        threads.chosen(args.threads)
    rules = {"warmup": args.warmup, "duration": args.duration, "iterations": args.iterations}
    _check_place(args)
    settings = Settings(args.quick, rules, args.threads, args.in_process, args.provider, args.precision)
    layout.rules_of(settings)
    suite = layout.make(args.name, args.quick)
    words = sys.argv[2:] if argv is None else argv
    command = shlex.join([*PROG.split(), *words])
    folder = args.out / suite.name
    with Progress() as progress:
        document = runner.run(suite, settings, folder, [command], progress)
    _show(document)
    print(f"\nwritten to {folder / 'suite.json'}")
    failed = runner.failures(document)
    for row in failed:
        print(f"{PROG}: {row['group']}, {row['name']} failed: {row['reason']}", file=sys.stderr)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser(
        PROG, "Measures a whole table, row by row. A suite that was interrupted goes on where it stopped."
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "suites:\n" + "\n".join(f"  {name:<13} {what}" for name, (_, what) in layout.SUITES.items())
    parser.add_argument("name", nargs="?", metavar="NAME", help="the suite, one of those below")
    parser.add_argument("--out", type=Path, metavar="DIR", help="results go to DIR/NAME: suite.json and rows/")
    parser.add_argument("--quick", action="store_true", help="small models and pictures, short turns: a few minutes")
    parser.add_argument("--in-process", action="store_true", help="all rows in this process (default: one for each)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of one operator (default: the cores)")
    parser.add_argument("--provider", choices=("cpu", "cuda"), default="cpu", help=f"where to run: {PLACED}")
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp32", help=f"of the models: {PLACED}")
    parser.add_argument("--duration", type=float, metavar="S", help="measure each row at least this many seconds")
    parser.add_argument("--iterations", type=int, metavar="N", help="measure each row at least this many runs")
    parser.add_argument("--warmup", type=float, metavar="S", help="warm up this many seconds")
    parser.add_argument("--list", action="store_true", help="show the suites and end")
    return parser


def _check_place(args: argparse.Namespace) -> None:
    """Errors: UsageError where the suite is measured in one place only; EnvironmentMissing where that is not here."""
    for option, value, usual in (("--provider", args.provider, "cpu"), ("--precision", args.precision, "fp32")):
        if value != usual and args.name in layout.SUITES and args.name not in layout.ANYWHERE:
            raise UsageError(f"{option} {value} does not apply to the suite {args.name}; it is {PLACED}")
    if args.provider == "cuda":
        from adapter_engines import device, sessions

        if reason := sessions.unavailable("cuda") or device.unusable():
            raise EnvironmentMissing(reason)


def _show(document: layout.Data) -> None:
    """The table on standard output; a published figure stands behind ours in brackets."""
    from rich.console import Console
    from rich.table import Table

    columns = document["columns"]
    table = Table(title=document["title"])
    table.add_column("")
    for column in columns:
        table.add_column(f"{column['title']}, {column['unit']}" if column["unit"] else column["title"], justify="right")
    group = None
    for row in document["rows"]:
        if row["group"] != group:
            group = row["group"]
            table.add_section()
            table.add_row(group, style="bold")
        if row["status"] != "ok":
            table.add_row(row["name"], f"{row['status']}: {row['reason'][:120]}")
            continue
        cells = [_cell(row["values"][column["key"]], row["paper"].get(column["key"])) for column in columns]
        table.add_row(row["name"], *cells)
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    console.print(table)
    for remark in document["remarks"]:
        console.print(f"- {remark}", markup=False)


def _cell(value: float | None, published: float | None) -> str:
    ours = "-" if value is None else f"{value:,.2f}" if abs(value) < 1000 else f"{value:,.0f}"
    return ours if published is None else f"{ours} ({published:g})"


if __name__ == "__main__":
    sys.exit(command_line.run(PROG, main))

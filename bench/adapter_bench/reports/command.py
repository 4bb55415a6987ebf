"""adapter-bench report: what a folder of results holds, as one page, as Markdown, as CSV, as pictures."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from adapter_infer import command_line
from adapter_infer.errors import UsageError

PROG = "adapter-bench report"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command_line.run(PROG, _run, argv)


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser(PROG, __doc__ or "")
    parser.add_argument(
        "folder",
        type=Path,
        metavar="DIR",
        help="suite results, reports of adapter-bench --json, of op_speed --json, of adapter-bench fourier --json",
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="one page that needs no network")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the tables, ready to paste")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="one figure a line, unrounded")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="every chart as PNG and SVG (needs matplotlib)")
    parser.add_argument("--title", metavar="TEXT", help="heading (default: ViT-Adapter measured)")
    return parser


def _run(argv: Sequence[str] | None) -> int:
    args = _parser().parse_args(argv)
    if not any((args.html, args.markdown, args.csv, args.plots)):
        raise UsageError("nothing to write; give --html FILE, --markdown FILE, --csv FILE or --plots DIR")
    from adapter_bench import files
    from adapter_bench.reports import data, page, plots, text
    from adapter_infer.files import check_writable

    for path, option in ((args.html, "--html"), (args.markdown, "--markdown"), (args.csv, "--csv")):
        if path is not None:
            check_writable(path, option)
    if args.plots is not None:
        if args.plots.exists() and not args.plots.is_dir():
            raise UsageError(f"--plots {args.plots} is a file; name a folder")
        plots.check()
    with command_line.step(f"reading {args.folder}"):
        suites = data.read(args.folder)
    title = args.title or "ViT-Adapter measured"
    written = []
    with command_line.step("writing the report"):
        if args.html is not None:
            files.write(args.html, page.page(suites, title))
            written.append(str(args.html))
        if args.markdown is not None:
            files.write(args.markdown, text.markdown(suites, title))
            written.append(str(args.markdown))
        if args.csv is not None:
            files.write(args.csv, text.comma_separated(suites))
            written.append(str(args.csv))
        if args.plots is not None:
            written.append(f"{len(plots.write(suites, args.plots))} files in {args.plots}")
    rows = sum(len(suite.rows) for suite in suites)
    print(f"{len(suites)} tables with {rows} rows: {', '.join(written)}")
    return 0

"""adapter-bench fourier: how much detail feature maps keep, of a model, of its plain ViT, and of its export."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_infer import command_line
from adapter_infer.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from adapter_bench.fourier_models import Size, Source

PROG = "adapter-bench fourier"
DIVISOR = 32
SHOWN = 4  # pictures whose maps are drawn


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command_line.run(PROG, _run, argv)


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser(
        PROG,
        "Relative log amplitude over frequency of the feature maps at strides 8, 16 and 32. With a PyTorch model and "
        "an export the difference between the two is reported.",
    )
    parser.add_argument("pictures", type=Path, nargs="+", metavar="PICTURE", help="picture, or folder of pictures")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="a model in PyTorch")
    parser.add_argument("--config", type=Path, metavar="FILE", help="the checkpoint's mmcv-style configuration")
    parser.add_argument(
        "--preset", metavar="NAME", help="alone: with random weights; with a checkpoint: what the checkpoint is"
    )
    parser.add_argument(
        "--engine",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="exported with --output features: one or several .onnx or .plan",
    )
    parser.add_argument(
        "--baseline",
        nargs="?",
        const=True,
        metavar="FILE",
        help="the plain ViT too: a checkpoint, or without one the model's own ViT with random weights",
    )
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="pixels (default: the model's)")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads of one operator (default: the physical cores)"
    )
    parser.add_argument("--json", metavar="FILE", help="the figures; - for standard output, then alone there")
    parser.add_argument(
        "--plots", type=Path, metavar="DIR", help="curves, heat maps and maps side by side (needs matplotlib)"
    )
    return parser


def _run(argv: Sequence[str] | None) -> int:
    args = _parser().parse_args(argv)
    json_path = _check(args)
    from adapter_bench import files, fourier_models, fourier_report

    if args.plots is not None:
        from adapter_bench import fourier_plots
        from adapter_bench.reports import plots

        plots.check()
    paths = _pictures(args.pictures)
    with ExitStack() as open_files:
        sources, compared = _sources(args, open_files)
        size = _size(args, sources)
        found = [fourier_report.Found(source) for source in sources]
        distances = [fourier_report.Distance() for _ in sources]
        kept: list[np.ndarray] = []
        for path in paths:
            from adapter_engines.pictures import read_picture

            picture = fourier_models.fitted(read_picture(path), size)
            keep = len(kept) < SHOWN
            kept += [picture] if keep else []
            with command_line.step(f"looking at {path.name}"):
                _look(found, distances, picture, keep, compared)
    differences = [
        fourier_report.difference(found[i], found[0], distances[i]) for i in range(1, len(found)) if i in compared
    ]
    command = [*PROG.split(), *(sys.argv[1:] if argv is None else argv)]
    report = fourier_report.document(command, [str(path) for path in paths], size, found, differences)
    text = json.dumps(report, indent=1, allow_nan=False) + "\n"
    if json_path is not None:
        files.write(json_path, text)
    written = fourier_plots.write(report, found, kept, args.plots) if args.plots is not None else []
    if args.json == "-":
        sys.stdout.write(text)
    else:
        notes = [*report["remarks"], *([f"{len(written)} files in {args.plots}"] if written else [])]
        _show(fourier_report.tables(report), notes)
    return 0


def _check(args: argparse.Namespace) -> Path | None:
    """The JSON report's path. Errors: UsageError on what contradicts itself, before anything is loaded."""
    from adapter_infer.files import check_writable

    if args.checkpoint is None and args.preset is None and not args.engine:
        raise UsageError("nothing to look at; give --checkpoint FILE, --preset NAME or --engine FILE")
    if args.config is not None and args.checkpoint is None:
        raise UsageError("--config describes a checkpoint; give one with --checkpoint, or leave it out")
    if args.baseline is True and args.checkpoint is None and args.preset is None:
        raise UsageError("--baseline needs a model in PyTorch to know its plain ViT; give --checkpoint or --preset")
    if args.size is not None and any(side < DIVISOR or side % DIVISOR for side in args.size):
        raise UsageError(f"--size {args.size[0]} {args.size[1]}: both must be multiples of {DIVISOR}")
    path = None if args.json in {None, "-"} else Path(args.json)
    if path is not None:
        check_writable(path, "--json")
    if args.plots is not None and args.plots.exists() and not args.plots.is_dir():
        raise UsageError(f"--plots {args.plots} is a file; name a folder")
    return path


def _pictures(arguments: Sequence[Path]) -> list[Path]:
    """The pictures in order; a folder's sorted. Errors: UsageError if there are none."""
    from adapter_engines.pictures import SUFFIXES

    found: list[Path] = []
    for argument in arguments:
        if not argument.is_dir():
            found.append(argument)
            continue
        inside = sorted(path for path in argument.iterdir() if path.suffix.lower() in SUFFIXES)
        if not inside:
            raise UsageError(f"the folder {argument} holds no picture ({', '.join(sorted(SUFFIXES))})")
        found += inside
    return found


def _sources(args: argparse.Namespace, open_files: ExitStack) -> tuple[list[Source], set[int]]:
    """The models, the reference first, and the numbers of those that are the same model as it, otherwise run."""
    from adapter_bench import fourier_models

    sources: list[Source] = []
    if args.checkpoint is not None or args.preset is not None:
        given = {"checkpoint": args.checkpoint, "config": args.config, "preset": args.preset}
        with command_line.step("building the model"):
            own, spec = fourier_models.pytorch(
                **{name: None if value is None else str(value) for name, value in given.items()}, threads=args.threads
            )
        sources.append(own)
    engines = [open_files.enter_context(fourier_models.exported(path, args.threads)) for path in args.engine]
    compared = set(range(1, len(sources) + len(engines)))
    sources += engines
    if args.baseline is True:
        sources.append(fourier_models.plain_vit(spec, args.threads))
    elif args.baseline is not None:
        sources.append(fourier_models.pytorch(args.baseline, threads=args.threads)[0])
    return _named_apart(sources), compared


def _named_apart(sources: Sequence[Source]) -> list[Source]:
    """Two files of one model may have one name; then their paths tell them apart."""
    from dataclasses import replace

    names = [source.name for source in sources]
    return [
        replace(one, name=f"{one.name} ({one.facts['engine'].get('path') or index})")
        if names.count(one.name) > 1
        else one
        for index, one in enumerate(sources)
    ]


def _size(args: argparse.Namespace, sources: Sequence[Source]) -> Size:
    """The size of the pictures. Errors: UsageError where none is known, or a file takes another one only."""
    fixed = {source.name: source.size for source in sources if source.size is not None}
    asked = tuple(args.size) if args.size else None
    size = asked or next(iter(fixed.values()), None) or next((s.default_size for s in sources if s.default_size), None)
    if size is None:
        raise UsageError(f"{sources[0].name} names no size; give --size H W")
    for name, only in fixed.items():
        if only != size:
            raise UsageError(f"{name} takes {only[0]}x{only[1]} only, not {size[0]}x{size[1]}; export it at one size")
    return size[0], size[1]


def _look(found: Sequence[Any], distances: Sequence[Any], picture: np.ndarray, keep: bool, compared: set[int]) -> None:
    from adapter_infer.errors import AdapterError

    reference = None
    for index, (one, distance) in enumerate(zip(found, distances, strict=True)):
        maps = one.source.run(picture)
        try:
            one.add(maps, keep)
        except ValueError as error:
            raise AdapterError(f"{one.source.name}: {error}") from error
        if index == 0:
            reference = maps
        elif index in compared and reference is not None:
            same = all(maps[stride].shape == reference[stride].shape for stride in maps)
            if not same:
                raise UsageError(
                    f"{one.source.name} has maps of other sizes than {found[0].source.name}: not one model"
                )
            distance.add(maps, reference)


def _show(tables: Sequence[tuple[str, list[str], list[list[str]]]], notes: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    for title, heads, rows in tables:
        table = Table(title=Text(title), title_justify="left")
        for number, head in enumerate(heads):
            table.add_column(head, justify="right" if number else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
    for note in notes:
        console.print(Text(f"- {note}"))

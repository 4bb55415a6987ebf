"""adapter-run: runs an exported model over pictures; writes label maps, detections or segments, overlays, timings."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_infer import command_line
from adapter_infer.errors import UsageError

if TYPE_CHECKING:
    from adapter_engines.presenters.base import Outcome

PROG = "adapter-run"
PLAIN_WIDTH = 160  # columns of the table where the output is no terminal


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    with warnings.catch_warnings():  # Pillow's remarks on odd files: a picture is read, or refused in our own words
        warnings.filterwarnings("ignore", module=r"PIL\.")
        return command_line.run(PROG, _body, argv)


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser(PROG, __doc__ or "")
    parser.add_argument(
        "engine", type=Path, metavar="ENGINE", help="ONNX file of adapter-export, or plan of adapter-engine"
    )
    parser.add_argument(
        "images", type=Path, nargs="+", metavar="IMAGE", help="picture, or folder of pictures (with its sub-folders)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--backbone", type=Path, metavar="FILE", help="of a model that was exported with --split: the backbone's file"
    )
    parser.add_argument(
        "--provider", choices=("cpu", "cuda"), help="where to run an ONNX file (default: cpu); a plan runs on the GPU"
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads (default: the cores this process may use)"
    )
    parser.add_argument("--batch", type=int, metavar="N", help="windows per run, for a file with a dynamic batch")
    parser.add_argument(
        "--mode", choices=("auto", "whole", "slide"), help="default: the model's test configuration (auto)"
    )
    parser.add_argument("--crop", type=int, nargs=2, metavar=("H", "W"), help="window size, in place of the model's")
    parser.add_argument(
        "--stride", type=int, nargs=2, metavar=("H", "W"), help="window distance, in place of the model's"
    )
    parser.add_argument(
        "--stretch",
        action="store_true",
        help="resize pictures to the fixed size of a semantic segmentation run whole, at any proportions",
    )
    parser.add_argument(
        "--fit",
        action="store_true",
        help="scale pictures down into the fixed size of a detector or panoptic model, keeping their proportions",
    )
    parser.add_argument(
        "--score-threshold",
        type=float,
        metavar="SCORE",
        help="leave out a detector's objects with a lower score (default: keep what the test configuration keeps, draw "
        "from 0.3)",
    )
    parser.add_argument(
        "--overlay",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="draw what was found over the pictures (default: on)",
    )
    parser.add_argument(
        "--allow-embedded-code",
        action="store_true",
        help="run code that a plan holds (an embedded plugin, a lean runtime); only for plans you trust",
    )
    parser.add_argument("--json", metavar="FILE", help="write the results and timings as JSON; - for standard output")
    return parser


def _body(argv: Sequence[str] | None) -> int:
    options = _parser().parse_args(argv)

    from adapter_engines.engine import Engine
    from adapter_engines.inputs import tasks
    from adapter_engines.outputs import write_json
    from adapter_engines.presenters import Choices, presenter
    from adapter_engines.report import document, table
    from adapter_engines.runs import run

    pictures = tasks(options.images, options.out)
    _make_folder(options.out)
    if options.json not in (None, "-") and Path(options.json).is_dir():
        raise UsageError(f"--json {options.json} is a folder; name a file, or - for standard output")
    with command_line.step(f"loading {options.engine.name}"):
        engine = Engine.load(
            options.engine,
            backbone=options.backbone,
            provider=options.provider,
            threads=options.threads,
            allow_embedded_code=options.allow_embedded_code,
        )
    with engine:
        shower = presenter(engine, Choices(**{field.name: _given(options, field.name) for field in fields(Choices)}))
        if (
            shower.results is not None
            and Path(options.json or "").resolve() == (options.out / shower.results).resolve()
        ):
            raise UsageError(f"--json {options.json} is the file that COCO's results go to; name another one")
        outcomes = list(_watched(run(pictures, shower, draw=options.overlay), len(pictures), shower.doing))
        files = shower.finish(outcomes, options.out)
        report = document(outcomes, shower, draw=options.overlay, files=files)
        if options.json == "-":
            _print_json(report)
        else:
            if any(outcome.error is None for outcome in outcomes):
                from rich.console import Console

                Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH).print(table(outcomes, shower))
            if options.json is not None:
                write_json(Path(options.json), report)
    return 1 if any(outcome.error is not None for outcome in outcomes) else 0


def _given(options: argparse.Namespace, name: str) -> Any:
    value = getattr(options, name)
    return tuple(value) if isinstance(value, list) else value


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {folder} for the results: {error.strerror or error}") from error


def _print_json(content: dict[str, object]) -> None:
    import json

    print(json.dumps(content, indent=2, ensure_ascii=False))


def _watched(outcomes: Iterable[Outcome], count: int, doing: str) -> Iterator[Outcome]:
    """Passes the outcomes on and reports failures at once; on a terminal, with a progress bar on standard error."""
    if not sys.stderr.isatty():
        for outcome in outcomes:
            if outcome.error is not None:
                print(_complaint(outcome), file=sys.stderr)
            yield outcome
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=count)
        for outcome in outcomes:
            if outcome.error is not None:
                progress.console.print(_complaint(outcome), markup=False, highlight=False, soft_wrap=True)
            progress.advance(task)
            yield outcome


def _complaint(outcome: Outcome) -> str:
    """One line on a picture that failed, naming the picture once."""
    error, name = outcome.error or "", str(outcome.task.picture)
    return f"{PROG}: {error}" if name in error else f"{PROG}: {name}: {error}"


if __name__ == "__main__":
    raise SystemExit(main())

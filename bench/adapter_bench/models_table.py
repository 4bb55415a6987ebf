"""`adapter-bench models`: parameters, size and multiply-adds of every preset, counted without memory for weights."""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from adapter_infer import command_line
from adapter_infer.errors import AdapterError, UsageError

if TYPE_CHECKING:
    from adapter_bench.subject import Size
    from adapter_infer.spec import ModelSpec

PROG = "adapter-bench models"
ABSENT = "-"
HEADINGS = ("model", "size", "parameters (M)", "fp32 (MB)", "GMACs", "GMACs, paper's rule")
NOTE = (
    "One image of the size given. Parameters without auxiliary heads; fp32 is weights and norms' statistics at four "
    "bytes each, 1 MB = 1,000,000 bytes. GMACs: every product that is summed, the MSDA core included, but not layers "
    "whose results nothing reads; a detector's heads look at all their slots. The paper's rule calls MACs FLOPs and "
    "counts other things; it knows no DINO backbones."
)
TASKS = {
    "semantic": "semantic segmentation",
    "detection": "detection",
    "panoptic": "panoptic segmentation",
    "features": "backbone",
}


@dataclass(frozen=True)
class Row:
    """One model and all presets that are it. Counts are None where `error` says why, or where nothing defines them.

    `params_published` includes the auxiliary heads, as the paper's columns do; `fp32_bytes` are weights and buffers.
    """

    names: tuple[str, ...]
    family: str
    size: Size | None
    params: int | None = None
    params_published: int | None = None
    fp32_bytes: int | None = None
    macs: int | None = None
    macs_paper: int | None = None
    error: str | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 1 where a model could not be counted."""
    args = _parser().parse_args(argv)
    from adapter_bench import files
    from adapter_infer.files import check_writable

    outputs = {"--markdown": args.markdown, "--json": args.json}
    paths = {option: Path(place) for option, place in outputs.items() if place not in {None, "-"}}
    for option, path in paths.items():
        check_writable(path, option)
    if list(outputs.values()).count("-") > 1:
        raise UsageError("--markdown and --json cannot both go to standard output; give one of them a FILE")
    size = None if args.size is None else (args.size[0], args.size[1])
    if size is not None and min(size) < 1:
        raise UsageError(f"--size {size[0]} {size[1]}: both must be at least 1 pixel")
    found = list(rows(selected(args.names), size))
    texts = {"--markdown": markdown(found), "--json": json.dumps([asdict(row) for row in found], indent=1) + "\n"}
    for option, path in paths.items():
        files.write(path, texts[option])
    for option in (option for option, place in outputs.items() if place == "-"):
        sys.stdout.write(texts[option])
    if not any(outputs.values()):
        _show(found)
    return int(any(row.error for row in found))


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser(
        PROG,
        "Counts parameters and multiply-adds of presets. Presets that are one network with other weights share a row.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="a preset, or a pattern such as 'mask_rcnn_*'; or all")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("H", "W"), help="pixels (default: the model's crop, or its padded scale)"
    )
    parser.add_argument(
        "--markdown", nargs="?", const="-", metavar="FILE", help="tables to paste, on standard output or to a file"
    )
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="the same as data, whole numbers")
    return parser


def selected(patterns: Sequence[str]) -> list[str]:
    """Presets by name or pattern, all without any. Errors: UsageError for one that matches nothing."""
    from adapter_infer import presets

    for pattern in patterns:
        if not fnmatch.filter(presets.names(), pattern):
            presets.spec(pattern)  # its message names the nearest ones
    return [name for name in presets.names() if not patterns or any(fnmatch.fnmatch(name, p) for p in patterns)]


def rows(names: Iterable[str], size: Size | None = None) -> Iterator[Row]:
    """A row for each different network among the presets, in the order of their first names."""
    from adapter_bench.subject import default_size
    from adapter_infer import presets

    same: dict[tuple[str, Size | None], tuple[ModelSpec, list[str]]] = {}
    for name in names:
        spec = presets.spec(name)
        taken = size or default_size(spec)
        same.setdefault((_network(spec), taken), (spec, []))[1].append(name)
    for (_, taken), (spec, alike) in same.items():
        with command_line.step(f"counting {alike[0]}"):
            yield count(spec, taken, tuple(alike))


def _network(spec: ModelSpec) -> str:
    """What a spec computes, as text: without names, weights' normalisation and tests of several scales."""
    from adapter_infer import spec as model_spec

    detector = spec.detector
    if detector is not None:
        detector = detector | {"type": detector["type"].removesuffix("Aug")}
    bare = replace(spec, name="", source="", classes=None, palette=None, preprocessing=None, detector=detector)
    return model_spec.to_json(replace(bare, inference=model_spec.Inference()))


def count(spec: ModelSpec, size: Size | None, names: tuple[str, ...]) -> Row:
    """The row of one network; no weight takes memory."""
    from adapter_bench import macs_torch
    from adapter_infer.auxiliary import auxiliary_parameters
    from adapter_infer.models import build_model, count_parameters

    row = Row(names, family(spec), size)
    try:
        model = build_model(spec, "meta")
        params = count_parameters(model)
        numbers = [*model.parameters(), *(buffer for buffer in model.buffers() if buffer.is_floating_point())]
        row = replace(
            row,
            params=params,
            params_published=params + auxiliary_parameters(spec),
            fp32_bytes=4 * sum(tensor.numel() for tensor in numbers),
        )
        if size is not None:
            macs = sum(macs_torch.count(spec, size).values())
            row = replace(row, macs=macs, macs_paper=macs_torch.count_paper(spec, size))
    except AdapterError as error:
        row = replace(row, error=str(error))
    return row


def family(spec: ModelSpec) -> str:
    """ "detection, MaskRCNN", "semantic segmentation, UPerHead": by the official class names."""
    kind = spec.detector["type"] if spec.detector is not None else (spec.decode_head or spec.backbone)["type"]
    return f"{TASKS[spec.task]}, {str(kind).removesuffix('Aug')}"


def _families(found: Sequence[Row]) -> dict[str, list[Row]]:
    families: dict[str, list[Row]] = {}
    for row in found:
        families.setdefault(row.family, []).append(row)
    return families


def _cells(row: Row) -> list[str]:
    if row.error is not None:
        return [row.error, *[ABSENT] * 4]

    def text(value: int | None, unit: float, decimals: int) -> str:
        return ABSENT if value is None else f"{value / unit:.{decimals}f}"

    return [
        ABSENT if row.size is None else f"{row.size[0]}x{row.size[1]}",
        text(row.params, 1e6, 1),
        text(row.fp32_bytes, 1e6, 0),
        text(row.macs, 1e9, 1),
        text(row.macs_paper, 1e9, 1),
    ]


def markdown(found: Sequence[Row]) -> str:
    """A table for each family, and what the columns mean."""
    lines: list[str] = []
    for title, members in _families(found).items():
        lines += [f"### {title}", "", f"| {' | '.join(HEADINGS)} |", "|---|" + "---:|" * (len(HEADINGS) - 1)]
        for row in members:
            names = "<br>".join(f"`{name}`" for name in row.names)
            lines.append(f"| {names} | {' | '.join(cell.replace('|', chr(92) + '|') for cell in _cells(row))} |")
        lines.append("")
    return "\n".join([*lines, NOTE, ""])


def _show(found: Sequence[Row]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    for title, members in _families(found).items():
        table = Table(title=Text(title), title_justify="left")
        for number, heading in enumerate(HEADINGS):
            table.add_column(heading, justify="right" if number else "left", overflow="fold")
        for row in members:
            table.add_row(Text("\n".join(row.names)), *map(Text, _cells(row)))
        console.print(table)
    console.print(Text(NOTE))

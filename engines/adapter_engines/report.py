"""What adapter-run tells: a table for people, a JSON document for programs."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from adapter_engines.runs import STAGES, Outcome
from adapter_engines.segmentation import Segmenter

if TYPE_CHECKING:
    from rich.table import Table

TOP_CLASSES = 3


def document(outcomes: Sequence[Outcome], segmenter: Segmenter, *, draw: bool) -> dict[str, Any]:
    """Everything that was found, with the circumstances. Sizes are [height, width] in pixels, times in milliseconds."""
    engine, metadata = segmenter.engine, segmenter.metadata
    names = segmenter.class_names
    return {
        "engine": {
            "path": str(engine.path),
            "name": metadata.model.name,
            "version": metadata.version,
            "precision": metadata.precision,
            "output": metadata.output,
        },
        "runtime": dict(zip(("name", "version"), engine.runtime, strict=True)),
        "provider": engine.provider,
        "threads": engine.threads,
        "library": None if engine.library is None else str(engine.library),
        "mode": segmenter.mode,
        "crop": segmenter.crop,
        "stride": segmenter.stride,
        "batch": segmenter.batch,
        "label_resize": "nearest" if metadata.output == "labels" else None,
        "pictures": [
            {
                "path": str(outcome.task.picture),
                "labels": str(outcome.task.labels),
                "overlay": str(outcome.task.overlay) if draw else None,
                "size": outcome.size,
                "network_size": outcome.network_size,
                "windows": outcome.windows,
                "time_ms": {stage: round(seconds * 1e3, 3) for stage, seconds in _stages(outcome)},
                "classes": [{"index": index, "name": names[index], "share": share} for index, share in outcome.shares],
            }
            for outcome in outcomes
            if outcome.error is None
        ],
        "failed": [
            {"path": str(outcome.task.picture), "error": outcome.error}
            for outcome in outcomes
            if outcome.error is not None
        ],
    }


def table(outcomes: Sequence[Outcome], segmenter: Segmenter) -> Table:
    """One line a picture with the milliseconds of every stage, and the median of all where there are several."""
    from rich.table import Table
    from rich.text import Text

    engine = segmenter.engine
    windows = f", {segmenter.crop[0]}x{segmenter.crop[1]} windows" if segmenter.crop else ""
    library = "" if engine.library is None else f", {engine.library.name}"
    nearest = (
        "; label maps resized to the pictures by nearest neighbour" if segmenter.metadata.output == "labels" else ""
    )
    count = engine.threads
    threads = "" if count is None else f", {count} thread{'s' if count > 1 else ''}"
    result = Table(
        title=Text(f"{engine.path.name}: {segmenter.mode}{windows}, {engine.provider}{threads}{library}"),
        caption=f"sizes as height x width, times in milliseconds{nearest}",
        title_justify="left",
        caption_justify="left",
    )
    result.add_column("picture", overflow="fold", min_width=12)
    result.add_column("size", no_wrap=True)
    result.add_column("largest classes", overflow="ellipsis")
    for column in ("windows", *STAGES, "total"):
        result.add_column(column, justify="right", no_wrap=True)
    short_names = [name.partition(",")[0] for name in segmenter.class_names]  # ADE20K lists synonyms
    done = [outcome for outcome in outcomes if outcome.error is None]
    for outcome in done:
        largest = ", ".join(f"{short_names[index]} {share:.0%}" for index, share in outcome.shares[:TOP_CLASSES])
        result.add_row(
            Text(str(outcome.task.picture)),
            f"{outcome.size[0]}x{outcome.size[1]}",
            Text(largest),
            str(outcome.windows),
            *(f"{seconds * 1e3:.1f}" for _, seconds in _stages(outcome)),
        )
    if len(done) > 1:
        result.add_section()
        columns = zip(*([seconds for _, seconds in _stages(outcome)] for outcome in done), strict=True)
        result.add_row("median", "", "", "", *(f"{median(column) * 1e3:.1f}" for column in columns), style="bold")
    return result


def _stages(outcome: Outcome) -> list[tuple[str, float]]:
    return [*((stage, outcome.seconds[stage]) for stage in STAGES), ("total", sum(outcome.seconds.values()))]

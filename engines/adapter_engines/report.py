"""What adapter-run tells: a table for people, a JSON document for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from adapter_engines.presenters.base import Outcome, Presenter
from adapter_engines.runs import STAGES

if TYPE_CHECKING:
    from rich.table import Table


def document(
    outcomes: Sequence[Outcome], presenter: Presenter, *, draw: bool, files: Mapping[str, str]
) -> dict[str, Any]:
    """Everything that was found, with the circumstances. Sizes are [height, width] in pixels, times in milliseconds.

    `files` are those of the whole run, by what they hold.
    """
    engine, metadata = presenter.engine, presenter.feeding.metadata
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
        "task": metadata.model.task,
        **presenter.settings,
        **files,
        "pictures": [
            {
                "path": str(outcome.task.picture),
                **presenter.files(outcome.task, draw),
                "size": outcome.size,
                "network_size": outcome.shown.network_size,
                "time_ms": {stage: round(seconds * 1e3, 3) for stage, seconds in _stages(outcome)},
                **outcome.shown.facts,
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


def table(outcomes: Sequence[Outcome], presenter: Presenter) -> Table:
    """One line a picture with the milliseconds of every stage, and the median of all where there are several."""
    from rich.table import Table
    from rich.text import Text

    engine = presenter.engine
    library = "" if engine.library is None else f", {engine.library.name}"
    note = f"; {presenter.note}" if presenter.note else ""
    count = engine.threads
    threads = "" if count is None else f", {count} thread{'s' if count > 1 else ''}"
    result = Table(
        title=Text(f"{engine.path.name}: {presenter.title}, {engine.provider}{threads}{library}"),
        caption=f"sizes as height x width, times in milliseconds{note}",
        title_justify="left",
        caption_justify="left",
    )
    result.add_column("picture", overflow="fold", min_width=12)
    result.add_column("size", no_wrap=True)
    result.add_column(presenter.summary_title, overflow="ellipsis")
    for column in (presenter.count_title, *STAGES, "total"):
        result.add_column(column, justify="right", no_wrap=True)
    done = [outcome for outcome in outcomes if outcome.error is None]
    for outcome in done:
        result.add_row(
            Text(str(outcome.task.picture)),
            f"{outcome.size[0]}x{outcome.size[1]}",
            Text(outcome.shown.summary),
            str(outcome.shown.count),
            *(f"{seconds * 1e3:.1f}" for _, seconds in _stages(outcome)),
        )
    if len(done) > 1:
        result.add_section()
        columns = zip(*([seconds for _, seconds in _stages(outcome)] for outcome in done), strict=True)
        result.add_row("median", "", "", "", *(f"{median(column) * 1e3:.1f}" for column in columns), style="bold")
    return result


def _stages(outcome: Outcome) -> list[tuple[str, float]]:
    return [*((stage, outcome.seconds[stage]) for stage in STAGES), ("total", sum(outcome.seconds.values()))]

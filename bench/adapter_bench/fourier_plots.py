"""The Fourier analysis as pictures: curves, spectra as heat maps, and the maps themselves side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

import numpy as np

from adapter_bench.fourier import picture_of
from adapter_bench.fourier_report import Data, Found
from adapter_bench.reports import pick, plots
from adapter_bench.reports.data import READERS

NAME = 30  # letters of one line of a model's name


def write(report: Data, found: Sequence[Found], pictures: Sequence[np.ndarray], folder: Path) -> list[Path]:
    """curves (the report's own charts), heat-maps and, for each picture, maps; PNG and SVG. Returns the files.

    Errors: EnvironmentMissing without matplotlib, AdapterError where the folder cannot be written.
    """
    written = []
    suite = READERS["fourier"](report, "fourier.json")
    for chart in pick.charts(suite):
        written += plots.save(plots.draw(chart, suite.title), folder / f"curve-{chart.key}")
    written += plots.save(_spectra(found), folder / "heat-maps")
    for number, picture in enumerate(pictures):
        written += plots.save(_maps(found, picture, number), folder / f"maps-{number + 1}")
    return written


def _lines(name: str) -> str:
    return "\n".join(wrap(name, NAME)[:3])


def _spectra(found: Sequence[Found]) -> object:
    """One row a model, one column a stride, on one colour scale a column: frequency zero in the middle."""
    strides = list(found[0].spectra)
    drawn = plots.figure(3.1 * len(strides) + 1.2, 2.9 * len(found) + 0.5)
    grid = drawn.subplots(len(found), len(strides), squeeze=False)
    for column, stride in enumerate(strides):
        values = [one.spectra[stride].log_amplitude for one in found]
        relative = [value - value[value.shape[0] // 2, value.shape[1] // 2] for value in values]
        low, high = min(v.min() for v in relative), max(v.max() for v in relative)
        for row, (one, value) in enumerate(zip(found, relative, strict=True)):
            axes = grid[row][column]
            image = axes.imshow(value, cmap="cividis", vmin=low, vmax=high, extent=(-1, 1, 1, -1))
            axes.set_xticks([-1, 0, 1], ["-pi", "0", "pi"], fontsize=7)
            axes.set_yticks([-1, 0, 1], ["-pi", "0", "pi"], fontsize=7)
            if row == 0:
                axes.set_title(f"stride {stride}", fontsize=10)
            if column == 0:
                axes.set_ylabel(_lines(one.source.name), fontsize=7)
        drawn.colorbar(image, ax=[grid[row][column] for row in range(len(found))], shrink=0.8)
    drawn.suptitle("log amplitude relative to frequency zero (ln)", fontsize=11)
    return drawn


def _maps(found: Sequence[Found], picture: np.ndarray, number: int) -> object:
    """The picture, then each model's maps: how far every cell is from the mean of the map."""
    strides = list(found[0].spectra)
    drawn = plots.figure(2.7 * (len(strides) + 1), 2.7 * len(found) + 0.5)
    grid = drawn.subplots(len(found), len(strides) + 1, squeeze=False)
    for row, one in enumerate(found):
        grid[row][0].imshow(picture)
        grid[row][0].set_ylabel(_lines(one.source.name), fontsize=7)
        for column, stride in enumerate(strides, 1):
            grid[row][column].imshow(picture_of(one.shown[number][stride][0]), cmap="gray", vmin=0, vmax=1)
            if row == 0:
                grid[row][column].set_title(f"stride {stride}", fontsize=10)
        for axes in grid[row]:
            axes.set_xticks([])
            axes.set_yticks([])
    return drawn

"""What the Fourier analysis found: as JSON data, as tables, and how far an export is from its model."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import numpy as np

from adapter_bench import machine
from adapter_bench.fourier import Spectrum
from adapter_bench.fourier_models import Maps, Size, Source
from adapter_infer import __version__

SCHEMA = 1
HIGH = 0.5  # of pi; from here on a frequency counts as high

Data = dict[str, Any]


@dataclass
class Found:
    """One model's spectra by stride, and the maps of the first pictures for the eye."""

    source: Source
    spectra: dict[int, Spectrum] = field(default_factory=dict)
    shown: list[Maps] = field(default_factory=list)

    def add(self, maps: Maps, keep: bool) -> None:
        for stride, one in maps.items():
            spectrum = Spectrum.of(one)
            self.spectra[stride] = spectrum if stride not in self.spectra else self.spectra[stride].add(spectrum)
        if keep:
            self.shown.append(maps)


@dataclass
class Distance:
    """How far one model's maps are from the reference's, gathered picture by picture."""

    largest: dict[int, float] = field(default_factory=dict)
    scale: dict[int, float] = field(default_factory=dict)

    def add(self, maps: Maps, reference: Maps) -> None:
        for stride in maps.keys() & reference.keys():
            apart = float(np.abs(maps[stride] - reference[stride]).max())
            self.largest[stride] = max(self.largest.get(stride, 0.0), apart)
            self.scale[stride] = max(self.scale.get(stride, 0.0), float(np.abs(reference[stride]).max()))


def document(
    command: Sequence[str], pictures: Sequence[str], size: Size, found: Sequence[Found], differences: Sequence[Data]
) -> Data:
    """The whole report. Amplitudes are natural logarithms, frequencies shares of pi along the diagonal."""
    return {
        "schema": SCHEMA,
        "fourier": "log amplitude over frequency along the diagonal, averaged over channels and pictures",
        "tool": f"adapter-bench {__version__}",
        "command": shlex.join(command),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine.describe(timed=False),
        "versions": machine.versions(),
        "pictures": list(pictures),
        "height": size[0],
        "width": size[1],
        "models": [_model(one) for one in found],
        "differences": list(differences),
        "remarks": _remarks(found),
    }


def _remarks(found: Sequence[Found]) -> list[str]:
    names = [one.source.name for one in found if "random" in str(one.source.facts["engine"].get("weights"))]
    told = f"{', '.join(names)}: random weights, whose curves say nothing of a trained model"
    return [f"{told}; the difference from an export holds all the same"] if names else []


def _model(found: Found) -> Data:
    return {"name": found.source.name, **found.source.facts, "maps": [_map(s, one) for s, one in found.spectra.items()]}


def _map(stride: int, spectrum: Spectrum) -> Data:
    frequency, relative = spectrum.relative()
    high = relative[frequency >= HIGH]
    return {
        "stride": stride,
        "height": spectrum.total.shape[0],
        "width": spectrum.total.shape[1],
        "channels_and_pictures": spectrum.count,
        "frequency": frequency.tolist(),
        "relative_log_amplitude": relative.tolist(),
        "log_amplitude_at_zero": float(spectrum.diagonal()[1][0]),
        "high_frequencies": float(high.mean()) if len(high) else None,
    }


def difference(model: Found, reference: Found, distance: Distance) -> Data:
    """Model minus reference: of the curves, and the largest of the maps themselves."""
    maps = []
    for stride, spectrum in model.spectra.items():
        other = reference.spectra[stride]
        if spectrum.total.shape != other.total.shape:
            continue
        frequency, ours = spectrum.relative()
        apart = ours - other.relative()[1]
        everywhere = np.abs(spectrum.log_amplitude - other.log_amplitude)
        maps.append(
            {
                "stride": stride,
                "frequency": frequency.tolist(),
                "log_amplitude_difference": apart.tolist(),
                "largest": float(np.abs(apart).max()),
                "largest_of_spectrum": float(everywhere.max()),
                "largest_of_maps": distance.largest.get(stride),
                "largest_value_of_reference": distance.scale.get(stride),
            }
        )
    return {"model": model.source.name, "reference": reference.source.name, "maps": maps}


def tables(report: Data) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, headings, rows: how much of the high frequencies each model's maps hold, and each difference."""
    strides = [str(one["stride"]) for one in report["models"][0]["maps"]]
    rows = [
        [
            model["name"],
            *("-" if one["high_frequencies"] is None else f"{one['high_frequencies']:.3f}" for one in model["maps"]),
        ]
        for model in report["models"]
    ]
    told = f"log amplitude from {HIGH} pi up, relative to frequency zero"
    found = [(told, ["model", *(f"stride {stride}" for stride in strides)], rows)]
    for one in report["differences"]:
        lines = [
            [
                f"stride {m['stride']}",
                f"{m['largest']:.2e}",
                f"{m['largest_of_maps']:.2e}",
                f"{m['largest_value_of_reference']:.3g}",
            ]
            for m in one["maps"]
        ]
        heads = ["", "of the curve, ln", "of the maps", "largest value"]
        found.append((f"{one['model']} minus {one['reference']}: largest difference", heads, lines))
    return found

"""What adapter-engine prints: the finished build, the inspected plan, the packaged model; as lines or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adapter_engines.outputs import write_json
from adapter_engines.plans.build import BuildReport
from adapter_engines.plans.inspect import Inspection
from adapter_engines.plans.parity import FIGURES
from adapter_engines.plans.sidecar import Sidecar, path_of
from adapter_engines.plans.toolkit import RTX, TITLES
from adapter_engines.plans.triton import Package

MOST_TYPES = 8  # of layers, on one line


def build_report(report: BuildReport, target: str | None) -> None:
    """The summary; as JSON too where asked, and then the lines go to standard error if JSON takes standard output."""
    steps = ", ".join(f"{name} {seconds:.1f}" for name, seconds in report.seconds.items())
    lines = {
        "plan": f"{report.path} ({report.file_bytes / 1e6:.1f} MB)",
        "described in": str(path_of(report.path)),
        **_described(report.sidecar),
        "time": f"{sum(report.seconds.values()):.1f} s ({steps})",
    }
    document = {"path": str(report.path), "file_bytes": report.file_bytes, "seconds": report.seconds}
    _out(lines, document | {"sidecar": asdict(report.sidecar)}, target)


def inspection(found: Inspection, target: str | None) -> None:
    """What `adapter_engines.plans.inspect` found, one line a fact."""
    lines = {"plan": f"{found.path} ({found.file_bytes / 1e6:.1f} MB)"}
    if found.described is None:
        lines["sidecar"] = f"there is no {path_of(found.path).name} beside it"
    else:
        lines |= _described(found.described)
    if found.engine is not None:
        lines |= _engine(found.engine)
    lines["engine"] = "loaded here" if found.engine is not None else f"not loaded: {found.unseen}"
    if found.unchecked is not None:
        lines["not compared"] = found.unchecked
    if found.mismatch is not None:
        lines["mismatch"] = found.mismatch
    _out(lines, found.to_dict(), target)


def _described(sidecar: Sidecar) -> dict[str, str]:
    where = "" if sidecar.gpu is None else f" on {sidecar.gpu['name']} ({sidecar.gpu['compute_capability']})"
    for_rtx = ", for GeForce RTX and RTX PRO only" if sidecar.toolkit == RTX else ""
    traits = {
        "version compatible": sidecar.version_compatible,
        "hardware compatible": sidecar.hardware_compatible,
        "without weights": sidecar.weights_stripped,
        "plugin embedded": sidecar.plugin_embedded,
    }
    return {
        "built with": f"{TITLES.get(sidecar.toolkit, sidecar.toolkit)} {sidecar.toolkit_version}{where}{for_rtx}",
        "is": ", ".join(name for name, true in traits.items() if true),
        "input": "; ".join(map(_tensor, sidecar.inputs)),
        "output": "; ".join(map(_tensor, sidecar.outputs)),
        **_profile_lines(sidecar.profiles),
        "precision": f"{_shares(sidecar.precision)} of layers, found in the {sidecar.precision_source}",
        "layers": _layers(sidecar.layers),
        "plugin layers": str(sidecar.plugin_layers),
        "parity": _parity(sidecar.parity),
    }


def _engine(engine: Mapping[str, Any]) -> dict[str, str]:
    lines = {f"engine, {name}": f"{size / 1e6:.1f} MB of device memory" for name, size in engine["memory"].items()}
    if engine["layers"] is not None:
        lines |= {"engine, precision": f"{_shares(engine['precision'])} of layers"}
        lines |= {"engine, layers": _layers(engine["layers"])}
    return lines


def _parity(parity: Mapping[str, Any] | None) -> str:
    if parity is None:
        return "nothing is known"
    if not parity["done"]:
        return f"not compared: {parity['reason']}"
    worst = parity["worst"]
    figures = ", ".join(f"{key} {worst[key]:.2e}" for key in FIGURES if key in worst)
    return f"{worst['output']} at {_shape(worst['shape'])}: {figures} ({worst['share']:.2g} of what is allowed)"


def _profile_lines(profiles: Sequence[Mapping[str, Mapping[str, Sequence[int]]]]) -> dict[str, str]:
    return {
        f"profile {i}": "; ".join(
            f"{name} {', '.join(f'{kind} {_shape(shape)}' for kind, shape in shapes.items())}"
            for name, shapes in profile.items()
        )
        for i, profile in enumerate(profiles)
    }


def _tensor(tensor: Mapping[str, Any]) -> str:
    return f"{tensor['name']} {tensor['dtype']} {_shape(tensor['shape'])}"


def _shape(shape: Sequence[int]) -> str:
    return "x".join("?" if size == -1 else str(size) for size in shape)


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share:.1%}" for name, share in shares.items()) or "nothing"


def _layers(layers: Mapping[str, Any]) -> str:
    if not layers:
        return ""
    kinds = [f"{count} {kind}" for kind, count in layers["by_type"].items()]
    rest = f", {len(kinds) - MOST_TYPES} more types" if len(kinds) > MOST_TYPES else ""
    return f"{layers['count']} in the {layers['source']}: {', '.join(kinds[:MOST_TYPES])}{rest}"


def _out(lines: Mapping[str, str], document: dict[str, Any], target: str | None) -> None:
    shown = {key: value for key, value in lines.items() if value}
    width = max(map(len, shown))
    for key, value in shown.items():
        print(f"{key.ljust(width)}  {value}", file=sys.stderr if target == "-" else sys.stdout)
    if target == "-":
        print(json.dumps(document, indent=2, ensure_ascii=False))
    elif target is not None:
        write_json(Path(target), document)


def package(made: Package, target: str | None) -> None:
    """Where the model lies and how the server is started."""
    lines = {
        "model": f"{made.folder}, version {made.version}",
        "library": "" if made.library is None else str(made.library),
        "start": made.command,
    }
    document = {"folder": str(made.folder), "version": made.version, "command": made.command}
    _out(lines, document | {"library": None if made.library is None else str(made.library)}, target)

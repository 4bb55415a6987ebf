"""What a suite is: its columns, and its rows as work that a process of its own can do. Imports no torch."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from importlib import import_module
from typing import Any

from adapter_bench import machine
from adapter_bench.measure import Rules
from adapter_infer import __version__
from adapter_infer.errors import UsageError

Data = dict[str, Any]
RESIDUAL = "_residual"  # ends the key of a column that holds what `residual` says of the column before

# Name of a suite: the module that makes it, and a line for the help.
SUITES = {
    "segmentation": ("segmentation", "the paper's table: plain ViT and ViT-Adapter with SETR-PUP and Semantic FPN"),
    "baselines": ("baselines", "ViT, ViTDet, ViT-Adapter and hierarchical backbones with the same head"),
    "interactions": ("ablations", "0, 1, 2, 4 and 6 interactions"),
    "components": ("ablations", "plain ViT, + spatial prior, + injectors, + extractors"),
    "attention": ("ablations", "deformable, global, CSwin and Pale attention in injectors and extractors"),
    "scaling": ("scaling", "larger pictures and batches, deformable against global attention"),
    "precision": ("precision", "every precision and runtime at hand: parity, latency, memory"),
    "parts": ("parts", "where the time goes, by part of the model"),
}


# The suites whose models are exported and run by ONNX Runtime: they can do that on a GPU and in fp16 as well.
ANYWHERE = ("segmentation", "interactions", "components", "attention", "scaling")


@dataclass(frozen=True)
class Column:
    """`better` is "higher", "lower" or None; values stand in `unit`."""

    key: str
    title: str
    unit: str
    better: str | None = None


@dataclass(frozen=True)
class Row:
    """One row. `work` is "module:function", called with `arguments` (JSON data), `rules`, `threads` and `folder`, and
    in the suites of ANYWHERE with `provider` and `precision`; it returns {"values": {key: number or None}, "results":
    [documents of `report.result`]}.

    It raises EnvironmentMissing where the row cannot be had on this machine. `paper` holds published figures by column.
    """

    name: str
    group: str
    work: str
    arguments: Data
    paper: dict[str, float] = field(default_factory=dict)


# From the finished rows to further ones (group, values ..), as JSON data: fits over what was measured.
Derive = Callable[[Sequence[Data]], list[Data]]


@dataclass(frozen=True)
class Suite:
    """A table. `remarks` say what a reader must know of it."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    remarks: tuple[str, ...] = ()
    derive: Derive | None = None


@dataclass(frozen=True)
class Settings:
    """How a suite is run; the same for all its rows."""

    quick: bool = False
    rules: Data = field(default_factory=dict)  # what Rules.of takes
    threads: int | None = None
    in_process: bool = False
    provider: str = "cpu"
    precision: str = "fp32"


QUICK_RULES = {"warmup": 0.1, "duration": 0.5, "iterations": 5}


def rules_of(settings: Settings) -> Rules:
    return Rules.of(**rule_arguments(settings))


def rule_arguments(settings: Settings) -> Data:
    """What the user asked, before what `quick` asks, before the defaults."""
    asked = {key: value for key, value in settings.rules.items() if value is not None}
    return (QUICK_RULES if settings.quick else {}) | asked


def make(name: str, quick: bool) -> Suite:
    """Errors: UsageError on an unknown name."""
    if name not in SUITES:
        raise UsageError(f"there is no suite {name!r}; there are {', '.join(SUITES)}")
    module = import_module(f"adapter_bench.suites.{SUITES[name][0]}")
    suite: Suite = module.suite(name, quick)
    return suite


def digest(row: Row, settings: Settings) -> str:
    """Of all that a row's figures depend on but the machine: a row with the same one need not be done again."""
    told = {
        "work": row.work,
        "arguments": row.arguments,
        "rules": asdict(rules_of(settings)),
        "threads": settings.threads,
        "in_process": settings.in_process,
        "provider": settings.provider,
        "precision": settings.precision,
        "tool": __version__,
        "versions": machine.versions(),
    }
    return sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:24]


def file_name(row: Row) -> str:
    """Of the row's JSON file; rows of one suite have different ones."""
    words = re.sub(r"[^a-z0-9.]+", "-", f"{row.group} {row.name}".lower()).strip("-")
    return f"{words}.json"


def residual(ours: float | None, published: float | None) -> float | None:
    """Ours minus a published figure, 0 where ours rounds to it at the digits that it is printed with."""
    if ours is None or published is None:
        return None
    digits = len(f"{published:g}".partition(".")[2])
    return 0.0 if round(ours, digits) == published else round(ours - published, 3)


def finished(row: Row, columns: Sequence[Column], status: str, reason: str, answer: Data) -> Data:
    """A row as `suite.json` has it: a value, or None, for each column."""
    found = {
        key: value for key, value in answer.get("values", {}).items() if value is not None and math.isfinite(value)
    }
    values: dict[str, float | None] = {}
    for column in columns:
        base = column.key.removesuffix(RESIDUAL)
        if base != column.key:
            values[column.key] = residual(found.get(base), row.paper.get(base))
        else:
            values[column.key] = found.get(column.key)
    return {
        "name": row.name,
        "group": row.group,
        "status": status,
        "reason": reason,
        "values": values,
        "paper": row.paper,
        "results": answer.get("results", []),
    }

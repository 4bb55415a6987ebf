"""Two reports against each other: which rows became slower or faster, and how sure the samples are of it.

The interval of a ratio of medians comes from a bootstrap that respects how the samples were taken: in turns. Samples of
one turn share what the machine did meanwhile, so whole turns are drawn, then samples within them. Few turns know too
little of their own spread; what they say is widened by sqrt(k / (k - 1)) and by Student's t for k turns.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapter_bench import machine
from adapter_bench.reports.data import Suite
from adapter_bench.reports.numbers import is_number

if TYPE_CHECKING:
    import numpy as np

Data = dict[str, Any]
CONFIDENCE = 0.95
DRAWS = 2000
SEED = 0
FEWEST = 2  # blocks of each side without which nothing is known of the spread
PIECES = 6  # into which samples without turns are cut, in the order in which they were taken
NORMAL = 1.959964
# Student's t for 95 % in the middle, by degrees of freedom; beyond them the normal distribution plus 2.4 / degrees.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True)
class Timed:
    """One row's samples in milliseconds by the turns in which they were taken. `place` tells rows apart."""

    place: str
    blocks: tuple[tuple[float, ...], ...]

    @property
    def samples(self) -> list[float]:
        return [sample for block in self.blocks for sample in block]


@dataclass(frozen=True)
class Change:
    """One row in both reports. `ratio` is new over old median latency (above 1: slower), between `low` and `high` with
    95 % confidence; these are None where the samples are too few to say."""

    place: str
    old: float
    new: float
    ratio: float
    low: float | None
    high: float | None

    def slower(self, limit: float) -> bool:
        """Whether the whole interval lies beyond `limit` (0.05: five percent slower)."""
        return self.low is not None and self.low > 1 + limit

    def blind(self, limit: float) -> bool:
        """Whether the samples vary too much to tell a change of `limit` from none."""
        return self.low is None or self.high is None or self.high / self.low > (1 + limit) ** 2

    @property
    def verdict(self) -> str:
        if self.low is None or self.high is None:
            return "too few samples"
        return "slower" if self.low > 1 else "faster" if self.high < 1 else "no difference seen"


@dataclass(frozen=True)
class Comparison:
    """`only_old` and `only_new` name what the other report does not have, or did not measure."""

    changes: tuple[Change, ...]
    only_old: tuple[str, ...]
    only_new: tuple[str, ...]
    warnings: tuple[str, ...]


def compare(old: Suite, new: Suite) -> Comparison:
    """Every row that both have, in the old one's order."""
    before, after = timed(old), timed(new)
    changes = [change(one, after[place]) for place, one in before.items() if place in after]
    return Comparison(
        tuple(changes),
        tuple(place for place in before if place not in after),
        tuple(place for place in after if place not in before),
        tuple(warnings(old, new)),
    )


def timed(suite: Suite) -> dict[str, Timed]:
    """The rows with samples, by what they measure: row, model, runtime, precision, threads, size, batch."""
    found: dict[str, Timed] = {}
    for row in suite.rows:
        for result in row.results:
            blocks = _blocks(result.get("latency_ms") or {})
            if not blocks:
                continue
            place = f"{row.name} [{', '.join(_setting(result))}]" if suite.kind == "suite" else row.name
            while place in found:
                place += " again"
            found[place] = Timed(place, blocks)
    return found


def _setting(result: Data) -> list[str]:
    runtime = result.get("runtime") or {}
    parts = [
        (result.get("engine") or {}).get("model"),
        runtime.get("name"),
        runtime.get("provider"),
        result.get("precision"),
    ]
    found = [str(part) for part in parts if part]
    if result.get("height") and result.get("width"):
        found.append(f"{result['height']}x{result['width']}")
    return [*found, f"batch {result['batch']}"] if result.get("batch") else found


def _blocks(latency: Data) -> tuple[tuple[float, ...], ...]:
    """The samples turn by turn; without turns, or with a single one, in pieces of consecutive runs."""
    samples = [float(sample) for sample in latency.get("samples") or () if is_number(sample) and sample > 0]
    sizes = [int(size) for size in latency.get("runs_per_turn") or () if is_number(size) and size > 0]
    if len(sizes) < FEWEST or sum(sizes) != len(samples):
        pieces = max(1, min(PIECES, len(samples) // 2))
        sizes = [len(samples) // pieces + (index < len(samples) % pieces) for index in range(pieces)]
    blocks, at = [], 0
    for size in sizes:
        blocks.append(tuple(samples[at : at + size]))
        at += size
    return tuple(block for block in blocks if block)


def change(old: Timed, new: Timed) -> Change:
    """The ratio of medians with its interval. The draws are seeded by the row: the same files give the same figures."""
    import numpy as np

    before, after = (float(np.median(one.samples)) for one in (old, new))
    ratio = after / before
    if min(len(old.blocks), len(new.blocks)) < FEWEST:
        return Change(old.place, before, after, ratio, None, None)
    seed = int.from_bytes(hashlib.sha256(old.place.encode()).digest()[:4], "big")
    generator = np.random.default_rng([SEED, seed])
    apart = [_deviations(one.blocks, median, generator) for one, median in ((old, before), (new, after))]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(apart[1] - apart[0], [tail, 1 - tail])
    return Change(old.place, before, after, ratio, ratio * math.exp(low), ratio * math.exp(high))


def _deviations(blocks: Sequence[Sequence[float]], median: float, generator: np.random.Generator) -> np.ndarray:
    """(DRAWS,) log of the medians of resampled turns over the real median, widened for the number of turns."""
    import numpy as np

    count, sizes = len(blocks), [len(block) for block in blocks]
    turns = generator.multinomial(count, [1 / count] * count, DRAWS)
    # How often each sample is in each draw: a turn drawn twice gives twice its number of samples.
    often = np.concatenate(
        [generator.multinomial(turns[:, i] * size, [1 / size] * size) for i, size in enumerate(sizes)], axis=1
    )
    samples = np.concatenate([np.asarray(block) for block in blocks])
    order = np.argsort(samples)
    reached, half = often[:, order].cumsum(1), (turns @ np.array(sizes))[:, None] / 2
    lower, upper = (reached >= half).argmax(1), (reached > half).argmax(1)
    medians = (samples[order[lower]] + samples[order[upper]]) / 2
    return np.log(medians / median) * widening(count)


def widening(blocks: int) -> float:
    """By how much the spread that a bootstrap of so many blocks shows is too small."""
    degrees = blocks - 1
    student = STUDENT[degrees - 1] if degrees <= len(STUDENT) else NORMAL + 2.4 / degrees
    return math.sqrt(blocks / degrees) * student / NORMAL


# --- circumstances ---

_MACHINE = {"cpu": "CPU", "usable_cores": "usable cores", "memory_bytes": "memory", "system": "system"}


def warnings(old: Suite, new: Suite) -> list[str]:
    """What differs between the two besides the code: machine, versions, rules, devices, threads, precision."""
    told = []
    before, after = (suite.circumstances.get("machine") or {} for suite in (old, new))
    for key, name in _MACHINE.items():
        if before.get(key) != after.get(key):
            told.append(f"different {name}: {before.get(key)} and {after.get(key)}")
    before, after = (suite.circumstances.get("versions") or {} for suite in (old, new))
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            told.append(f"different version of {name}: {before.get(name, 'none')} and {after.get(name, 'none')}")
    rules = [(suite.circumstances.get("rules") or {}) for suite in (old, new)]
    texts = [str(one.get("text") or one) if isinstance(one, dict) else str(one) for one in rules]
    if texts[0] != texts[1]:
        told.append(f"different rules: {texts[0]}; {texts[1]}")
    for key in ("device", "threads", "precision"):
        values = [
            sorted({str(r.get(key)) for row in suite.rows for r in row.results if key in r}) for suite in (old, new)
        ]
        if values[0] != values[1]:
            told.append(f"different {key}: {', '.join(values[0]) or 'none'}; {', '.join(values[1]) or 'none'}")
    for suite, which in ((old, "old"), (new, "new")):
        if (remark := machine.disturbance(suite.circumstances.get("machine") or {})) is not None:
            told.append(f"of the {which} report: {remark}")
    return told

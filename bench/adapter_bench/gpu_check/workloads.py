"""The calls that are timed, what they must move at least, and how fast they have to be. Arithmetic only.

Letters as everywhere: N batch, S cells of all levels, M heads, D channels per head, Q queries, L levels, P points.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Shapes = tuple[tuple[int, int], ...]
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
CORNERS = 4
P = 4


@dataclass(frozen=True)
class Workload:
    """One call of the fused op, batch 1. `shapes` are the levels of the value, `grids` the grids the queries stand on;
    `calls` is how often a forward pass makes it."""

    name: str
    shapes: Shapes
    grids: Shapes
    m: int
    d: int
    calls: int

    @property
    def s(self) -> int:
        return _cells(self.shapes)

    @property
    def q(self) -> int:
        return _cells(self.grids)

    @property
    def levels(self) -> int:
        return len(self.shapes)

    @property
    def samples(self) -> int:
        """Points that are sampled, Q*M*L*P."""
        return self.q * self.m * self.levels * P

    def gather_bytes(self, dtype: str) -> int:
        """Read from the value by all samples together, four corners each: what passes through the L1."""
        return self.samples * CORNERS * self.d * BYTES[dtype]

    def io_bytes(self, dtype: str) -> int:
        """Value, output, offsets and logits, each once: what passes through the device's memory at least."""
        return (self.s * self.m * self.d + self.q * self.m * self.d + 3 * self.samples) * BYTES[dtype]


def _cells(shapes: Shapes) -> int:
    return sum(h * w for h, w in shapes)


def _square(*sides: int) -> Shapes:
    return tuple((side, side) for side in sides)


def adapter(name: str, size: int, width: int, heads: int, ratio: float = 0.5) -> tuple[Workload, Workload]:
    """Injector and extractor of a ViT-Adapter on a picture of size x size: 4 and 6 calls in a forward pass."""
    pyramid, vit = _square(size // 8, size // 16, size // 32), _square(size // 16)
    d = int(width * ratio) // heads
    return (
        Workload(f"{name} {size} injector", pyramid, vit, heads, d, 4),
        Workload(f"{name} {size} extractor", vit, pyramid, heads, d, 6),
    )


def pixel_decoder(name: str, size: int, width: int, heads: int) -> Workload:
    """One of the six layers of Mask2Former's pixel decoder: every cell asks all levels."""
    levels = _square(size // 32, size // 16, size // 8)
    return Workload(f"{name} {size}", levels, levels, heads, width // heads, 6)


ADAPTER_B = "ViT-Adapter-B"
ADAPTER_L = "ViT-Adapter-L"
MASK2FORMER = "Mask2Former C=1024"


@dataclass(frozen=True)
class Forward:
    """All MSDA calls of one forward pass. `goal_us` is what they may take together in fp16, on an H200."""

    name: str
    parts: tuple[Workload, ...]
    goal_us: float


FORWARDS = (
    Forward(f"{ADAPTER_B} 512", adapter(ADAPTER_B, 512, 768, 12), 48.0),
    Forward(f"{ADAPTER_L} 896", adapter(ADAPTER_L, 896, 1024, 16), 200.0),
    Forward(f"{MASK2FORMER} 896", (pixel_decoder(MASK2FORMER, 896, 1024, 32),), 600.0),
)
GOALS_STATED_FOR = "H200"
WORKLOADS = tuple(part for forward in FORWARDS for part in forward.parts)


@dataclass(frozen=True)
class Rates:
    """Bandwidths of a GPU in bytes per second, as measured: copy (read plus written), reads from L2, reads from L1."""

    dram: float
    l2: float
    l1: float

    @staticmethod
    def of(measured: Mapping[str, float]) -> Rates:
        """From the probe's figures."""
        return Rates(measured["copy_bytes_per_s"], measured["l2_bytes_per_s"], measured["l1_bytes_per_s"])


@dataclass(frozen=True)
class Floors:
    """Least times of one call in microseconds. `bound` is the larger of the first two, which no kernel undercuts; `l2`
    is what a kernel takes whose gathers all miss the L1."""

    dram: float
    l1: float
    l2: float

    @property
    def bound(self) -> float:
        return max(self.dram, self.l1)

    @staticmethod
    def of(work: Workload, dtype: str, rates: Rates) -> Floors:
        gather = work.gather_bytes(dtype)
        return Floors(1e6 * work.io_bytes(dtype) / rates.dram, 1e6 * gather / rates.l1, 1e6 * gather / rates.l2)


def allowed_ratio(work: Workload) -> float:
    """How many times its floor a call may take: 2, or 3 with a single level, whose prologue weighs more."""
    return 3.0 if work.levels == 1 else 2.0


def sets_needed(work: Workload, dtype: str, l2_bytes: int) -> int:
    """Input sets to rotate through so that a call finds nothing of its own in the L2: three times its size, 2 to 64."""
    return min(max(-(-3 * l2_bytes // work.io_bytes(dtype)), 2), 64)

"""The one table of cases for the MSDeformAttn op: inputs, and what they give in exact arithmetic. Needs numpy only.

Every way of computing the op is tested over this table: the PyTorch reference, the torch op, the ONNX function body and
the native libraries. Letters as everywhere: N batch, S cells of all levels, M heads, D channels per head, Q queries,
L levels, P points per level.

What is defined where inputs are not ordinary numbers (the `hostile` cases; plugins/DESIGN.md says why):
- a sample whose position is NaN or infinite, or lies a cell or more outside its level, adds nothing;
- logits go through an ordinary softmax: a NaN or +inf logit, or all of them -inf, makes the D channels of that
  (query, head) NaN; a -inf logit beside finite ones has weight exactly 0;
- `value` is finite. Whatever else it holds never causes a bad read, but how far a NaN in it spreads is not defined.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DTYPES = ("fp32", "fp16", "bf16")
#: Largest allowed difference from `expected`, as a share of the largest |value| (about 4 for these inputs): one
#: rounding of the output to the type, and for fp32 the rounding of positions in levels up to 64 cells wide.
TOLERANCE = {"fp32": 1e-5, "fp16": 1e-3, "bf16": 8e-3}

Array = NDArray[np.generic]
Shapes = tuple[tuple[int, int], ...]


def to_bf16(x: Array) -> NDArray[np.uint16]:
    """Bit patterns of fp32 rounded to bf16, to nearest and ties to even; NaN stays NaN."""
    x = np.ascontiguousarray(x, np.float32)
    bits = x.view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FC0), rounded)


def from_bf16(bits: Array) -> NDArray[np.float32]:
    """The fp32 numbers that bf16 bit patterns stand for."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def encode(x: Array, dtype: str) -> Array:
    """fp32 numbers stored as `dtype`; numpy has no bf16, so that is the uint16 bit pattern."""
    if dtype == "bf16":
        return to_bf16(x)
    with np.errstate(over="ignore"):
        return np.asarray(x, {"fp32": np.float32, "fp16": np.float16}[dtype])


def decode(x: Array) -> NDArray[np.float64]:
    """What `encode` stored, as fp64."""
    return np.asarray(from_bf16(x) if x.dtype == np.uint16 else x, np.float64)


@dataclass(frozen=True)
class Case:
    """One set of sizes and the kind of numbers in it.

    `offsets`: "normal" (a few cells around the reference point), "wide" (many outside), "centres" (exactly on cell
    centres), "borders" (exactly at -1, -0.5, 0, W-1, W-0.5, W in cell units), "huge" (+-1e9), "nonfinite" (NaN, +-inf
    among ordinary ones). `logits`: "normal", "huge" (+-1e4), "masked" (some -inf), "all_masked" (all -inf in
    some heads), "nan" (some NaN), "inf" (some +inf). `reference`: "inside" [0, 1], "outside" [-1, 2], "nonfinite".
    """

    name: str
    shapes: Shapes = ((6, 5), (3, 4), (2, 1))
    n: int = 1
    q: int = 7
    m: int = 3
    d: int = 16
    p: int = 4
    reference_batch: int = 1
    reference_levels: int = 1
    offsets: str = "normal"
    logits: str = "normal"
    reference: str = "inside"

    @property
    def s(self) -> int:
        return sum(h * w for h, w in self.shapes)

    @property
    def levels(self) -> int:
        return len(self.shapes)

    @property
    def hostile(self) -> bool:
        """Holds NaN, infinite or huge numbers: for the op's own implementations, not for GridSample."""
        return self.offsets in {"huge", "nonfinite"} or self.logits != "normal" or self.reference == "nonfinite"

    def inputs(self, dtype: str = "fp32", samples: str | None = None) -> dict[str, Array]:
        """Inputs of the fused op by name; `value` in `dtype`, `samples` in its own (default: the same)."""
        rng = np.random.default_rng(zlib.crc32(self.name.encode()))
        value = rng.standard_normal((self.n, self.s, self.m, self.d)).astype(np.float32)
        reference = self._reference(rng)
        offsets = self._offsets(rng, reference)
        logits = self._logits(rng)
        rows, lp = (self.n, self.q, self.m), self.levels * self.p
        packed = np.concatenate([offsets.reshape(*rows, 2 * lp), logits], -1)
        return {
            "value": encode(value, dtype),
            "spatial_shapes": np.array(self.shapes, np.int64).reshape(-1, 2),
            "reference_points": reference,
            "samples": encode(packed, samples or dtype),
        }

    def standard_inputs(self, dtype: str = "fp32", locations: str = "fp32") -> dict[str, Array]:
        """Inputs of the standard op by name: `locations` is the type of `sampling_locations`, `dtype` of the others."""
        fused = self.inputs("fp32")
        offsets, logits = self.split(decode(fused["samples"]))
        reference = fused["reference_points"].astype(np.float64)[:, :, None, :, None, :]
        reference = np.broadcast_to(reference, (self.n, self.q, 1, self.levels, 1, 2))
        size = np.array([(w, h) for h, w in self.shapes], np.float64)[:, None, :]
        cells = np.array([h * w for h, w in self.shapes], np.int64)
        with np.errstate(invalid="ignore"):
            sampling_locations = reference + offsets / size
        return {
            "value": encode(decode(fused["value"]), dtype),
            "spatial_shapes": fused["spatial_shapes"],
            "level_start_index": np.cumsum(cells) - cells,
            "sampling_locations": encode(sampling_locations, locations),
            "attention_weights": encode(softmax(logits), dtype),
        }

    def split(self, samples: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """`samples` (N, Q, M, 3*L*P) as offsets (N, Q, M, L, P, 2) and logits (N, Q, M, L, P)."""
        lp = self.levels * self.p
        rows = (self.n, self.q, self.m, self.levels, self.p)
        return samples[..., : 2 * lp].reshape(*rows, 2), samples[..., 2 * lp :].reshape(rows)

    def _reference(self, rng: np.random.Generator) -> NDArray[np.float32]:
        shape = (self.reference_batch, self.q, self.reference_levels, 2)
        low, high = (-1.0, 2.0) if self.reference == "outside" else (0.0, 1.0)
        reference = rng.uniform(low, high, shape).astype(np.float32)
        if self.reference == "nonfinite":
            flat = reference.reshape(-1)
            flat[::3] = np.resize(np.array([np.nan, np.inf, -np.inf, 1e38], np.float32), flat[::3].size)
        return reference

    def _offsets(self, rng: np.random.Generator, reference: NDArray[np.float32]) -> NDArray[np.float64]:
        shape = (self.n, self.q, self.m, self.levels, self.p, 2)
        offsets = rng.standard_normal(shape) * (8.0 if self.offsets == "wide" else 1.5)
        size = np.array([(w, h) for h, w in self.shapes], np.float64)[:, None, :]
        centre = reference.astype(np.float64)[:, :, None, :, None, :] * size
        if self.offsets == "centres":
            return np.floor(rng.uniform(-1, size + 1, shape)) + 0.5 - centre
        if self.offsets == "borders":
            ends = np.stack(np.broadcast_arrays(-0.5, 0.0, 0.5, size - 0.5, size, size + 0.5), -1)
            pick = rng.integers(0, 6, (*shape, 1))
            chosen = np.take_along_axis(np.broadcast_to(ends, (*shape, 6)), pick, -1)[..., 0]
            return chosen - centre
        if self.offsets == "huge":
            return np.where(rng.random(shape) < 0.5, rng.choice([-1e9, 1e9], shape), offsets)
        if self.offsets == "nonfinite":
            return np.where(rng.random(shape) < 0.3, rng.choice([np.nan, np.inf, -np.inf, 3e38], shape), offsets)
        return offsets

    def _logits(self, rng: np.random.Generator) -> NDArray[np.float64]:
        shape = (self.n, self.q, self.m, self.levels * self.p)
        logits = rng.standard_normal(shape) * 2
        spots = rng.random(shape)
        heads = rng.random((*shape[:-1], 1))
        if self.logits == "huge":
            return np.where(spots < 0.3, rng.choice([-1e4, 1e4], shape), logits * 100)
        if self.logits == "masked":
            spots[..., 0] = 1.0  # one finite logit stays in every head
            return np.where(spots < 0.5, -np.inf, logits)
        if self.logits == "all_masked":
            return np.where(heads < 0.5, -np.inf, logits)
        if self.logits in {"nan", "inf"}:
            return np.where(spots < 0.05, {"nan": np.nan, "inf": np.inf}[self.logits], logits)
        return logits


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the last two axes (L, P), as any framework does it: NaN where there is no finite maximum."""
    with np.errstate(invalid="ignore"):
        powers = np.exp(logits - logits.max((-1, -2), keepdims=True))
        return powers / powers.sum((-1, -2), keepdims=True)


def expected(case: Case, dtype: str = "fp32", samples: str | None = None) -> NDArray[np.float64]:
    """The fused op in fp64 from the inputs as stored in `dtype`: (N, Q, M*D), not rounded to it."""
    inputs = case.inputs(dtype, samples)
    offsets, logits = case.split(decode(inputs["samples"]))
    size = np.array([(w, h) for h, w in case.shapes], np.float64)[:, None, :]
    reference = decode(inputs["reference_points"])[:, :, None, :, None, :]
    with np.errstate(invalid="ignore"):
        position = reference * size + offsets - 0.5
    return _sampled(case, decode(inputs["value"]), position, softmax(logits))


def expected_standard(case: Case, dtype: str = "fp32", locations: str = "fp32") -> NDArray[np.float64]:
    """The standard op in fp64 from the inputs as stored: (N, Q, M*D)."""
    inputs = case.standard_inputs(dtype, locations)
    size = np.array([(w, h) for h, w in case.shapes], np.float64)[:, None, :]
    position = decode(inputs["sampling_locations"]) * size - 0.5
    return _sampled(case, decode(inputs["value"]), position, decode(inputs["attention_weights"]))


def _sampled(
    case: Case, value: NDArray[np.float64], position: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Sum of weight * bilinear sample, zero outside; `position` (N, Q, M, L, P, 2) in cells, x first."""
    output = np.zeros((case.n, case.q, case.m, case.d))
    batch = np.arange(case.n)[:, None, None, None]
    head = np.arange(case.m)[:, None]
    start = 0
    for level, (h, w) in enumerate(case.shapes):
        x, y = np.moveaxis(position[:, :, :, level], -1, 0)
        inside = (x > -1) & (x < w) & (y > -1) & (y < h)
        x, y = np.where(inside, x, 0.0), np.where(inside, y, 0.0)
        sample = np.zeros((*x.shape, case.d))
        for row in (np.floor(y), np.floor(y) + 1):
            for column in (np.floor(x), np.floor(x) + 1):
                there = inside & (row >= 0) & (row < h) & (column >= 0) & (column < w)
                share = np.where(there, (1 - np.abs(x - column)) * (1 - np.abs(y - row)), 0.0)
                cell = start + np.where(there, row * w + column, 0).astype(np.int64)
                sample += share[..., None] * value[batch, cell, head]
        output += (weights[:, :, :, level, :, None] * sample).sum(3)
        start += h * w
    return output.reshape(case.n, case.q, case.m * case.d)


_ONE: Shapes = ((5, 7),)
_FOUR: Shapes = ((8, 6), (4, 3), (2, 2), (1, 1))

CASES: list[Case] = [
    Case("plain"),
    *(Case(f"d{d}", d=d) for d in (1, 3, 5, 8, 12, 24, 32, 40, 48, 64, 72, 128, 150)),
    *(Case(f"d{d}_one_level", d=d, shapes=_ONE, n=2) for d in (12, 16, 32, 64)),
    *(Case(f"levels{len(s)}_points{p}", shapes=s, p=p) for s in (_ONE, _FOUR) for p in (1, 4, 8)),
    Case("five_levels_three_points", shapes=((3, 2), (2, 3), (4, 1), (1, 4), (1, 1)), p=3),
    Case("batch3", n=3),
    Case("batch3_reference_each", n=3, reference_batch=3),
    Case("reference_of_each_level", reference_levels=3),
    Case("reference_each_and_levels", n=2, reference_batch=2, reference_levels=3),
    Case("one_head", m=1, q=5),
    Case("many_heads", m=17, q=3, d=8),
    Case("one_query", q=1),
    Case("many_queries", q=131, m=2, d=32),
    Case("one_cell", shapes=((1, 1),)),
    Case("one_cell_levels", shapes=((1, 1), (1, 1), (1, 1)), offsets="wide"),
    Case("one_row_one_column", shapes=((1, 9), (9, 1)), offsets="wide"),
    Case("larger_levels", shapes=((64, 48), (32, 24), (16, 12)), m=2, d=8, q=9, offsets="wide"),
    Case("no_query", q=0),
    Case("no_batch", n=0),
    Case("offsets_wide", offsets="wide"),
    Case("offsets_centres", offsets="centres"),
    Case("offsets_borders", offsets="borders", q=20),
    Case("reference_outside", reference="outside"),
    Case("offsets_huge", offsets="huge"),
    Case("offsets_nonfinite", offsets="nonfinite", q=20),
    Case("reference_nonfinite", reference="nonfinite", q=12, n=2),
    Case("logits_huge", logits="huge"),
    Case("logits_masked", logits="masked"),
    Case("logits_all_masked", logits="all_masked", q=12),
    Case("logits_nan", logits="nan", q=12),
    Case("logits_inf", logits="inf", q=12),
    Case("everything_nonfinite", offsets="nonfinite", logits="nan", reference="nonfinite", q=40, n=2),
]

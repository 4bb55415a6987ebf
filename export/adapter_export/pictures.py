"""Seeded pictures that an export is compared on: smooth fields and noise, as pixels and as the network's input."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from adapter_infer.spec import Preprocessing

KINDS = ("smooth", "noise")


def pixels(n: int, h: int, w: int, kinds: tuple[str, ...], seed: int) -> NDArray[np.uint8]:
    """(N, H, W, 3) uint8; the pictures take turns among `kinds`. Smooth: a few waves, and edges where they saturate."""
    rng = np.random.default_rng(seed)
    pictures = [_smooth(rng, h, w) if kinds[i % len(kinds)] == "smooth" else _noise(rng, h, w) for i in range(n)]
    return np.stack(pictures)


def _noise(rng: np.random.Generator, h: int, w: int) -> NDArray[np.uint8]:
    return rng.integers(0, 256, (h, w, 3), dtype=np.uint8)


def _smooth(rng: np.random.Generator, h: int, w: int) -> NDArray[np.uint8]:
    y, x = np.arange(h)[:, None, None], np.arange(w)[None, :, None]
    field = np.zeros((h, w, 3))
    for _ in range(6):
        periods = rng.uniform(16, 160, 2) * rng.choice([-1, 1], 2)
        phase, height = rng.uniform(0, 2 * np.pi, 3), rng.uniform(10, 60, 3)
        field += height * np.sin(2 * np.pi * (y / periods[0] + x / periods[1]) + phase)
    return np.clip(field + 128, 0, 255).astype(np.uint8)


def normalise(image: NDArray[np.uint8], settings: Preprocessing) -> NDArray[np.float32]:
    """RGB pixels (N, H, W, 3) to the network's input (N, 3, H, W), in numpy and apart from what an export embeds."""
    ordered = image if settings.to_rgb else image[..., ::-1]
    scaled = (ordered.astype(np.float64) - np.array(settings.mean)) / np.array(settings.std)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), dtype=np.float32)

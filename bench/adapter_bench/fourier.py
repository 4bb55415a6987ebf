"""Which frequencies feature maps hold: the Fourier analysis of the ViT-Adapter paper.

The measure is that of Park and Kim, How Do Vision Transformers Work?, 2022: the 2-D Fourier transform of every channel,
the log of its amplitude averaged over channels and pictures, read along the diagonal from frequency zero to pi in both
directions, relative to frequency zero. Nothing is windowed or resized before the transform. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FLOOR = 1e-6  # added to amplitudes before the log, as in the published analysis; of an empty map nothing else is left


@dataclass
class Spectrum:
    """The log amplitudes of maps of one stride, gathered picture by picture. `total` (H, W) sums them over `count`
    channels of all pictures, frequency zero in the middle."""

    total: np.ndarray
    count: int

    @staticmethod
    def of(maps: np.ndarray) -> Spectrum:
        """Of `maps` (N, C, H, W). Errors: ValueError on other shapes, empty maps, and what is not finite."""
        if maps.ndim != 4 or 0 in maps.shape:
            raise ValueError(f"feature maps of shape {maps.shape} are not (N, C, H, W)")
        values = maps.astype(np.float64)
        if not np.isfinite(values).all():
            raise ValueError("the feature maps hold values that are not finite")
        n, c = maps.shape[:2]
        amplitude = np.abs(np.fft.fft2(values))
        return Spectrum(np.fft.fftshift(np.log(amplitude + FLOOR).sum((0, 1))), n * c)

    def add(self, other: Spectrum) -> Spectrum:
        """Both together. Errors: ValueError where the maps are of different size."""
        if self.total.shape != other.total.shape:
            raise ValueError(f"spectra of maps of {self.total.shape} and {other.total.shape} cells do not add up")
        return Spectrum(self.total + other.total, self.count + other.count)

    @property
    def log_amplitude(self) -> np.ndarray:
        """(H, W) natural log of the amplitude, averaged; frequency zero at (H // 2, W // 2)."""
        return self.total / self.count

    def diagonal(self) -> tuple[np.ndarray, np.ndarray]:
        """Frequencies as shares of pi, from 0 to 1, and the log amplitude there.

        Of a square map with even sides these are the cells (k, k). Otherwise the diagonal is read between the cells,
        linearly, at as many places as the shorter side has frequencies; an odd side ends just below pi.
        """
        spectrum = np.fft.ifftshift(self.log_amplitude)
        h, w = spectrum.shape
        steps = min(h, w) // 2
        frequency = np.arange(steps + 1) / max(steps, 1) * min(1.0, 2 * (h // 2) / h, 2 * (w // 2) / w)
        rows, columns = frequency * h / 2, frequency * w / 2
        return frequency, _between(spectrum, rows, columns)

    def relative(self) -> tuple[np.ndarray, np.ndarray]:
        """The paper's curve: frequencies as shares of pi, and the log amplitude less that of frequency zero."""
        frequency, amplitude = self.diagonal()
        return frequency, amplitude - amplitude[0]


def _between(spectrum: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Bilinear in (rows, columns), whose ends are within the spectrum; frequency zero is at (0, 0)."""
    h, w = spectrum.shape
    top, left = np.floor(rows + 1e-9).astype(int), np.floor(columns + 1e-9).astype(int)
    down, right = np.maximum(rows - top, 0.0), np.maximum(columns - left, 0.0)
    bottom, beside = (top + 1) % h, (left + 1) % w
    top, left = top % h, left % w
    upper = spectrum[top, left] * (1 - right) + spectrum[top, beside] * right
    lower = spectrum[bottom, left] * (1 - right) + spectrum[bottom, beside] * right
    return upper * (1 - down) + lower * down


def picture_of(maps: np.ndarray) -> np.ndarray:
    """(H, W) from 0 to 1: how far each cell's channels (C, H, W) are from their mean over the map, for the eye."""
    values = maps.astype(np.float64)
    strength = np.sqrt(((values - values.mean((1, 2), keepdims=True)) ** 2).mean(0))
    low, high = np.quantile(strength, [0.01, 0.99])
    return np.clip((strength - low) / (high - low), 0, 1) if high > low else np.zeros_like(strength)

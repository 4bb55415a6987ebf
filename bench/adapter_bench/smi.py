"""What nvidia-smi says of the first GPU: clocks, temperature, power, and why its clocks are held down."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

# field of nvidia-smi: name here, whether it is a number
FIELDS: dict[str, tuple[str, bool]] = {
    "name": ("name", False),
    "driver_version": ("driver", False),
    "compute_cap": ("compute_capability", False),
    "clocks.sm": ("sm_mhz", True),
    "clocks.max.sm": ("sm_max_mhz", True),
    "clocks.mem": ("memory_mhz", True),
    "temperature.gpu": ("celsius", True),
    "power.draw": ("watts", True),
    "utilization.gpu": ("busy_percent", True),
    "memory.used": ("memory_used_mib", True),
    "memory.total": ("memory_mib", True),
}
ABSENT = "nvidia-smi is not installed"
Reading = dict[str, Any]


def query() -> Reading | str:
    """The reading, or one sentence that says why there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ABSENT
    command = [program, f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return "nvidia-smi did not answer within 20 seconds"
    if done.returncode:
        return f"nvidia-smi failed: {' '.join((done.stdout + done.stderr).split())[:300]}"
    return parse(done.stdout)


def parse(text: str) -> Reading | str:
    """The first line of `--format=csv,noheader,nounits`; None for a field that the GPU does not report."""
    lines = text.strip().splitlines()
    cells = [cell.strip() for cell in lines[0].split(",")] if lines else []
    if len(cells) != len(FIELDS):
        return f"nvidia-smi answered {text.strip()[:100]!r}, which is not one value for each of {len(FIELDS)} fields"
    return {name: _value(cell, number) for cell, (name, number) in zip(cells, FIELDS.values(), strict=True)}


def _value(cell: str, number: bool) -> float | str | None:
    if cell.startswith("[") or cell in {"N/A", ""}:
        return None
    if not number:
        return cell
    try:
        return float(cell)
    except ValueError:
        return None


def sentence(reading: Reading | str) -> str:
    """ "1980 MHz (of 1980), memory 2619 MHz, 41 C, 120 W"."""
    if isinstance(reading, str):
        return reading
    shown = [
        ("{:.0f} MHz", "sm_mhz"),
        ("of at most {:.0f} MHz", "sm_max_mhz"),
        ("memory {:.0f} MHz", "memory_mhz"),
        ("{:.0f} C", "celsius"),
        ("{:.0f} W", "watts"),
    ]
    return ", ".join(form.format(reading[name]) for form, name in shown if reading.get(name) is not None)

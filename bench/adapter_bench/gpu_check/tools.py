"""Reads what NVIDIA's tools print: compute-sanitizer's summary, ncu's table of metrics."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

# metric of ncu: name here
METRICS = {
    "gpu__time_duration.sum": "duration_us",
    "l1tex__t_sector_hit_rate.pct": "l1_hit_percent",
    "lts__t_sector_hit_rate.pct": "l2_hit_percent",
    "lts__throughput.avg.pct_of_peak_sustained_elapsed": "l2_throughput_percent",
    "l1tex__throughput.avg.pct_of_peak_sustained_active": "l1_throughput_percent",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": "sm_throughput_percent",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "occupancy_percent",
    "dram__bytes.sum": "dram_bytes",
    "launch__registers_per_thread": "registers",
}
_SCALE = {"byte": 1.0, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9}
_SCALE |= {"nsecond": 1e-3, "usecond": 1.0, "msecond": 1e3, "second": 1e6, "ns": 1e-3, "us": 1.0, "ms": 1e3, "s": 1e6}
_SUMMARY = re.compile(r"ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazards? displayed")
_REFUSED = re.compile(r"Device not supported|ERR_NVGPUCTRPERM|LibraryNotLoaded|Failed to initialize")


def sanitizer_errors(text: str) -> int | None:
    """Errors or hazards in compute-sanitizer's summary line; None where it printed none."""
    found = [int(first or second) for first, second in _SUMMARY.findall(text)]
    return sum(found) if found else None


def refusal(text: str) -> str | None:
    """The line in which a tool says that it cannot work here, without its "==PROF==" and the like."""
    for line in text.splitlines():
        if _REFUSED.search(line):
            return re.sub(r"^[=\s]+[A-Z]*[=\s]+", "", line).strip()
    return None


def ncu_rows(text: str) -> list[dict[str, Any]]:
    """One entry per profiled launch of `ncu --csv`, in order: kernel, and the metrics of METRICS that it has.

    Time in microseconds, sizes in bytes, whatever unit ncu chose.
    """
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        return []
    launches: dict[str, dict[str, Any]] = {}
    for row in csv.DictReader(io.StringIO("\n".join(lines[start:]))):
        name = METRICS.get(row.get("Metric Name") or "")
        if name is None:
            continue
        entry = launches.setdefault(row["ID"], {"kernel": row["Kernel Name"][:160]})
        try:
            value = float((row["Metric Value"] or "").replace(",", ""))
        except ValueError:
            continue
        entry[name] = value * _SCALE.get(row["Metric Unit"] or "", 1.0)
    return list(launches.values())

"""Rows of invented suites: work that succeeds, fails, is not to be had or dies, told apart by what it leaves behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from adapter_infer.errors import AdapterError, EnvironmentMissing

Data = dict[str, Any]


def good(value: float, log: str, **_: Any) -> Data:
    with Path(log).open("a") as file:
        file.write(f"{value:g}\n")
    return {"values": {"speed": value, "process": os.getpid(), "unknown": 1.0}, "results": [{"fps": value}]}


def fails_once(marker: str, log: str, **_: Any) -> Data:
    if not Path(marker).exists():
        Path(marker).touch()
        raise AdapterError("the first attempt fails")
    return good(7.0, log)


def refused(**_: Any) -> Data:
    raise AdapterError("this row asks for\n too much")


def broken(**_: Any) -> Data:
    return {"values": {}["absent"]}


def missing(**_: Any) -> Data:
    raise EnvironmentMissing("no such package here")


def killed(**_: Any) -> Data:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def interrupted(**_: Any) -> Data:
    raise KeyboardInterrupt


def infinite(**_: Any) -> Data:
    return {"values": {"speed": float("inf"), "process": float("nan")}}

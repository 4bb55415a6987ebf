"""Sweeps over kinds and types of which a few stand for all: the others run by `make test-long`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def sweep(kept: Iterable[Any], long: Iterable[Any]) -> list[Any]:
    """Parameters of a test: those that always run, and those marked `long`; a tuple holds one case's arguments."""
    marked = [pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.long) for case in long]
    return [*kept, *marked]

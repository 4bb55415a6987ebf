"""What every command shares: the user's mistake is one line and an exit code, progress only on a terminal."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from adapter_infer import __version__
from adapter_infer.errors import AdapterError


def parser(prog: str, description: str) -> argparse.ArgumentParser:
    """An argument parser with the options that every command has."""
    result = argparse.ArgumentParser(prog=prog, description=description, allow_abbrev=False)
    result.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return result


def run(prog: str, body: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Runs `body(argv)`; an AdapterError becomes one line on standard error and its exit code."""
    try:
        return body(argv)
    except AdapterError as error:
        print(f"{prog}: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (head, less) has gone; Python would complain again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


@contextmanager
def step(text: str) -> Iterator[None]:
    """A spinner with the elapsed time around one step, on standard error; silent where that is no terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        progress.add_task(text)
        yield

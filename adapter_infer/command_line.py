"""What every command shares: the user's mistake is one line and an exit code, progress is for terminals, and a command
that is told to end cleans up first."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from adapter_infer import __version__
from adapter_infer.errors import AdapterError


def parser(prog: str, description: str) -> argparse.ArgumentParser:
    """An argument parser with the options that every command has."""
    result = argparse.ArgumentParser(prog=prog, description=description, allow_abbrev=False)
    result.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return result


class Ended(KeyboardInterrupt):
    """A signal other than Ctrl-C asked the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.exit_code = 128 + number


def run(prog: str, body: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Runs `body(argv)`; an AdapterError becomes one line on standard error and its exit code.

    SIGTERM and SIGHUP unwind as Ctrl-C does: gigabytes of temporary files and the child processes go first.
    """
    try:
        with _signals_unwind():
            return body(argv)
    except AdapterError as error:
        print(f"{prog}: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except Ended as end:
        print(f"{prog}: {end}", file=sys.stderr)
        return end.exit_code
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (head, less) has gone; Python would complain again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


@contextmanager
def _signals_unwind() -> Iterator[None]:
    def end(number: int, _: FrameType | None) -> NoReturn:
        raise Ended(number)

    replaced = []
    if threading.current_thread() is threading.main_thread():  # no other thread may set handlers
        # A signal that is ignored (nohup) or handled by the caller stays so.
        replaced = [s for s in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(s) is signal.SIG_DFL]
    for number in replaced:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in replaced:
            signal.signal(number, signal.SIG_DFL)


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

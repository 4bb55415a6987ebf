"""`python -m adapter_plugins` prints what was built, why the rest was not, and what this processor and GPU get."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from adapter_infer import command_line
from adapter_infer.errors import EnvironmentMissing
from adapter_plugins import LIBRARIES, build_info, cuda_architectures, cuda_unusable, instruction_set, library

PROG = "python -m adapter_plugins"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 0 also where nothing was built, 5 where ADAPTER_MSDA_ISA asks for what the processor lacks."""
    command_line.parser(PROG, "Lists the native libraries of this installation.").parse_args(argv)
    folder: Path | None = None
    for name, serves in LIBRARIES.items():
        try:
            folder, mark, how = library(name).parent, "yes", build_info().get(name, "unknown")
        except EnvironmentMissing as error:
            mark, how = "no", str(error).rpartition("installation: ")[2]
        print(f"{mark:4} lib{name}.so")
        say(f"for {serves}", indent=5)
        say(how, indent=5)
    print()
    if folder:
        print(f"They are in {folder}.")
        say(f"This processor takes the code path {instruction_set()} (ADAPTER_MSDA_ISA forces another).")
    try:
        say(f"The CUDA libraries hold code for {cuda_architectures()}.")
    except EnvironmentMissing:
        return 0
    unusable = cuda_unusable()
    say("This GPU can run them." if unusable is None else f"They cannot run here: {unusable}.")
    return 0


def say(text: str, indent: int = 0) -> None:
    """One paragraph, wrapped to the terminal; a file or a pipe gets it in one line."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    margin = " " * indent
    print(textwrap.fill(text, max(width, 30), initial_indent=margin, subsequent_indent=margin))


if __name__ == "__main__":
    raise SystemExit(command_line.run(PROG, main))

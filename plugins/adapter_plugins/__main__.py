"""`python -m adapter_plugins` prints what was built, why the rest was not, and what this processor gets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adapter_infer import command_line
from adapter_infer.errors import EnvironmentMissing
from adapter_plugins import LIBRARIES, build_info, instruction_set, library

PROG = "python -m adapter_plugins"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 0 also where nothing was built, 5 where ADAPTER_MSDA_ISA asks for what the processor lacks."""
    command_line.parser(PROG, "Lists the native libraries of this installation.").parse_args(argv)
    from rich.console import Console
    from rich.table import Table

    table = Table("library", "serves", "here", "how, or why not")
    found: Path | None = None
    for name, serves in LIBRARIES.items():
        try:
            path = library(name)
        except EnvironmentMissing as error:
            table.add_row(name, serves, "no", str(error).rpartition("installation: ")[2])
            continue
        found = path.parent
        table.add_row(name, serves, "yes", build_info().get(name, "unknown"))
    console = Console(soft_wrap=True)
    console.print(table)
    if found:
        console.print(f"They are in {found}.", highlight=False)
        console.print(f"This processor takes the code path {instruction_set()} (ADAPTER_MSDA_ISA forces another).")
    return 0


if __name__ == "__main__":
    raise SystemExit(command_line.run(PROG, main))

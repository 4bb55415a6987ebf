"""The process that `steps.in_child` starts: runs one step and leaves its result in a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from adapter_bench.gpu_check.steps import STEPS, Context, finite, here


def serve(name: str, asked: Path, answer: Path) -> None:
    """`asked` holds a Context as JSON; `answer` appears whole or not at all."""
    step = next(step for step in STEPS if step.name == name)
    result = finite(here(step, Context(**json.loads(asked.read_text()))))
    draft = answer.with_suffix(".part")
    draft.write_text(json.dumps(result))
    draft.rename(answer)


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))

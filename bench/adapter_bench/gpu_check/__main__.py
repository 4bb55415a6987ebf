"""`python -m adapter_bench.gpu_check`: the whole check of the CUDA kernels on this machine's GPU, as one command."""

from __future__ import annotations

import argparse
import ctypes.util
import importlib.util
import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from adapter_bench import files
from adapter_bench.gpu_check import build, goals, report, steps
from adapter_bench.gpu_check.steps import Context
from adapter_infer import __version__, command_line
from adapter_infer.errors import EnvironmentMissing

PROG = "gpu-check"
BUDGET_S, QUICK_BUDGET_S = 500.0, 150.0


def main(argv: Sequence[str] | None = None) -> int:
    return command_line.run(PROG, _run, argv)


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser(PROG, "Builds, checks and times the CUDA kernels on the GPU of this machine.")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the two reports are written")
    parser.add_argument("--quick", action="store_true", help="fp16 alone, fewer turns, one model; under two minutes")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=steps.NAMES,
        metavar="STEP",
        help=f"of {', '.join(steps.NAMES)}; with what they need",
    )
    parser.add_argument(
        "--budget",
        type=float,
        metavar="S",
        help=f"seconds for all (default: {BUDGET_S:.0f}, quick {QUICK_BUDGET_S:.0f})",
    )
    parser.add_argument(
        "--device",
        choices=("cuda", "cpu"),
        default="cuda",
        help="cpu rehearses what can run without a GPU, at toy sizes",
    )
    return parser


def _run(argv: Sequence[str] | None) -> int:
    args = _parser().parse_args(argv)
    if args.device == "cuda":
        check_machine()
    started = _now()
    budget = args.budget or (QUICK_BUDGET_S if args.quick else BUDGET_S)
    chosen = steps.with_needs(tuple(args.only or steps.NAMES))
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        context = Context(args.device, args.quick, folder, {}, budget)
        results = steps.run_all(chosen, context, steps.in_child, _say, budget)
    document = {
        "schema": 1,
        "tool": f"adapter-infer {__version__}",
        "command": shlex.join([PROG, *(sys.argv[1:] if argv is None else argv)]),
        "device": args.device,
        "quick": args.quick,
        "started": started,
        "finished": _now(),
        "steps": results,
        "verdicts": [],
    }
    stem = args.out / report.name(document)
    _write(stem, ".json", json.dumps(steps.finite(document), indent=1))  # before anything is concluded from it
    verdicts = goals.verdicts(results)
    document["verdicts"] = [vars(verdict) for verdict in verdicts]
    for suffix, text in ((".json", json.dumps(steps.finite(document), indent=1)), (".md", report.markdown(document))):
        _write(stem, suffix, text)
        _say(f"written: {stem.name}{suffix}")
    for verdict in verdicts:
        _say(f"{report.MARKS[verdict.met]:7}{verdict.goal}: {verdict.found} (wanted: {verdict.wanted})")
    return 1 if any(result["status"] == steps.FAILED for result in results.values()) else 0


def _write(stem: Path, suffix: str, text: str) -> None:
    files.write(stem.with_name(stem.name + suffix), text.rstrip("\n") + "\n")


def check_machine() -> None:
    """Errors: EnvironmentMissing that names everything that is not here."""
    missing = []
    if importlib.util.find_spec("torch") is None:
        missing.append("PyTorch with CUDA")
    else:
        import torch

        if torch.version.cuda is None:
            missing.append(f"a CUDA build of PyTorch (torch {torch.__version__} is not one)")
        if not torch.cuda.is_available():
            missing.append(
                "an NVIDIA GPU with its driver" if not ctypes.util.find_library("cuda") else "a usable NVIDIA GPU"
            )
    try:
        build.nvcc()
        build.sources()
    except EnvironmentMissing as error:
        missing.append(str(error).partition(";")[0])
    if missing:
        raise EnvironmentMissing(
            f"this machine lacks {', and '.join(missing)}; run it where there is an NVIDIA GPU with CUDA 13, "
            "or rehearse with --device cpu"
        )


def _say(text: str) -> None:
    print(text, flush=True)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


if __name__ == "__main__":
    sys.exit(main())

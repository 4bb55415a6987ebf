"""adapter-bench: speed, multiply-adds and memory of a model, beside its plain ViT."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib import import_module, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_infer import command_line
from adapter_infer.errors import UsageError
from adapter_infer.spec import ATTENTION

if TYPE_CHECKING:
    from adapter_bench.session import Plan
    from adapter_bench.subject import Subject

PROG = "adapter-bench"
CHECKPOINTS = (".pth", ".pt", ".tar", ".zip", ".bin", ".safetensors")

# First word: the module whose main(argv) does it (0 or None: well), imported only then, and a line for the help.
COMMANDS = {
    "models": ("adapter_bench.models_table", "parameters, size and multiply-adds of every preset"),
    "suite": ("adapter_bench.suites.command", "a whole table of measurements"),
    "report": ("adapter_bench.reports.command", "a page, Markdown and CSV of what suites measured"),
    "compare": ("adapter_bench.reports.compare_command", "two reports row by row, with confidence intervals"),
    "fourier": ("adapter_bench.fourier_command", "frequencies in the feature maps of a model and of its plain ViT"),
}


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in _commands():
        module, _ = COMMANDS[words[0]]
        body = lambda rest: int(import_module(module).main(rest) or 0)  # noqa: E731
        return command_line.run(f"{PROG} {words[0]}", body, words[1:])
    return command_line.run(PROG, _run, argv)


def _commands() -> dict[str, str]:
    """The commands that are there, and what they do."""
    return {word: what for word, (module, what) in COMMANDS.items() if _is_there(module)}


def _is_there(module: str) -> bool:
    try:
        return util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package around it
        return False


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser(
        PROG, "Measures a model beside the plain ViT of its size. Without a selection: everything."
    )
    if commands := _commands():
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        width = max(map(len, commands))
        parser.epilog = "\n".join(
            [
                f"commands besides ({PROG} COMMAND --help says more):",
                *(f"  {word:<{width}}  {what}" for word, what in commands.items()),
            ]
        )
    model = parser.add_argument_group("what is measured")
    model.add_argument(
        "--engine",
        type=Path,
        metavar="FILE",
        help="an exported .onnx, a TensorRT .plan, or a checkpoint for PyTorch eager",
    )
    model.add_argument(
        "--preset",
        metavar="NAME",
        help="alone: this model in PyTorch eager with random weights; with a checkpoint: what the checkpoint is",
    )
    model.add_argument("--config", type=Path, metavar="FILE", help="with a checkpoint: its mmcv-style configuration")
    model.add_argument(
        "--attention", choices=ATTENTION, help="with a preset alone: what its injectors and extractors attend by"
    )
    what = parser.add_argument_group("selection")
    what.add_argument("--fps", action="store_true", help="latency and images per second")
    what.add_argument("--flops", action="store_true", help="multiply-adds, MSDA included; and the paper's")
    what.add_argument("--memory", action="store_true", help="peak memory of a process that does nothing else")
    what.add_argument(
        "--baseline",
        nargs="?",
        const=True,
        metavar="FILE.plan",
        help="the plain ViT too, in turns with the model, and the ratio; with a plan: the plan to compare with",
    )
    what.add_argument("--profile", action="store_true", help="of a plan: the time of every layer as well")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--size", type=int, nargs=2, metavar=("H", "W"), help="pixels (default: the model's crop, or its padded scale)"
    )
    how.add_argument("--batch", type=int, nargs="+", metavar="N", help="images per run, one or several (default: 1)")
    how.add_argument("--threads", type=int, metavar="N", help="threads of one operator (default: the physical cores)")
    how.add_argument("--provider", choices=("cpu", "cuda"), help="execution provider of an ONNX file (default: cpu)")
    how.add_argument("--duration", type=float, metavar="S", help="measure at least this many seconds (default: 3)")
    how.add_argument("--iterations", type=int, metavar="N", help="measure at least this many runs (default: 10)")
    how.add_argument(
        "--warmup", type=float, metavar="S", help="warm up this many seconds (default: 0.2 and at least 10 runs)"
    )
    how.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="where exported baselines are kept (default: adapter-infer/baselines in the user's cache)",
    )
    how.add_argument(
        "--cuda-graph",
        choices=("on", "off"),
        help="of a plan, or with --provider cuda: how the main figures are taken; the other follows (default: on, "
        "where the model can be run so)",
    )
    plan = parser.add_argument_group("TensorRT plans")
    plan.add_argument("--onnx", type=Path, metavar="FILE", help="what the plan was built from, to count multiply-adds")
    plan.add_argument("--allow-embedded-code", action="store_true", help="run code that the plan carries (a plugin)")
    out = parser.add_argument_group("output")
    out.add_argument(
        "--json", metavar="FILE", help="the report with every sample; - for standard output, then alone there"
    )
    out.add_argument("--markdown", type=Path, metavar="FILE", help="the tables, ready to paste")
    return parser


def _run(argv: Sequence[str] | None) -> int:
    words = sys.argv[1:] if argv is None else argv
    if words and not words[0].startswith("-"):
        raise UsageError(
            f"{words[0]} is no command of {PROG} (there are: {', '.join(_commands())}); a model is named with "
            "--engine FILE or --preset NAME"
        )
    args = _parser().parse_args(argv)
    plan = _plan(args)
    from adapter_bench import machine, report, session, table
    from adapter_infer.files import check_writable

    for path, option in ((args.markdown, "--markdown"), (_json_path(args), "--json")):
        if path is not None:
            check_writable(path, option)
    before = machine.describe(plan.timed)
    subject = _subject(args, plan)
    doubts = machine.doubts(before) if plan.timed else []
    results = session.run(subject, plan, doubts)
    command = [PROG, *(sys.argv[1:] if argv is None else argv)]
    _write(args, report.document(command, plan.rules if plan.timed else None, before, results), table)
    return 0


def _plan(args: argparse.Namespace) -> Plan:
    """Errors: UsageError on what contradicts itself or cannot apply."""
    from adapter_bench import baseline
    from adapter_bench.measure import Rules
    from adapter_bench.session import MEASUREMENTS, Plan
    from adapter_engines import threads

    asked = {name for name in MEASUREMENTS if getattr(args, name)}
    selected = asked or set(MEASUREMENTS)
    if "baseline" in selected:
        selected = selected | {"fps"}
    _refuse_idle_options(args, selected)
    for number in args.size or ():
        if number < 1:
            raise UsageError(f"--size {args.size[0]} {args.size[1]}: both must be at least 1 pixel")
    for batch in args.batch or ():
        if batch < 1:
            raise UsageError(f"--batch {batch} holds no image; give at least 1")
    if args.batch and len(set(args.batch)) < len(args.batch):
        raise UsageError(f"--batch {' '.join(map(str, args.batch))} names a batch twice; name each once")
    if args.threads is not None:
        threads.chosen(args.threads)
    return Plan(
        selected=frozenset(selected),
        implied=frozenset(selected - asked),
        rules=Rules.of(warmup=args.warmup, duration=args.duration, iterations=args.iterations),
        size=None if args.size is None else (args.size[0], args.size[1]),
        batches=args.batch,
        provider=args.provider or "cpu",
        threads=args.threads,
        cache=args.cache or baseline.default_cache(),
    )


def _refuse_idle_options(args: argparse.Namespace, selected: set[str]) -> None:
    """What the user gave must change something."""
    timed = ("--duration", "--iterations", "--warmup")
    needs = {option: {"fps"} for option in timed}
    needs |= {"--threads": {"fps", "memory"}, "--provider": {"fps", "memory"}, "--cache": {"baseline"}}
    for option, needed in needs.items():
        if getattr(args, option[2:]) is not None and not needed & selected:
            raise UsageError(
                f"{option} does not apply to {' '.join(f'--{name}' for name in sorted(selected))}; "
                f"add {' or '.join(f'--{name}' for name in sorted(needed))}, or leave it out"
            )


def _subject(args: argparse.Namespace, plan: Plan) -> Subject:
    """Errors: UsageError where it is not clear what to measure, and those of opening it."""
    if args.engine is None and args.preset is None:
        raise UsageError("nothing to measure; give --engine FILE (.onnx or a checkpoint) or --preset NAME")
    from adapter_engines.engine import PLAN_SUFFIXES

    if args.engine is not None:
        _refuse(args, f"does not apply to {args.engine}, which has its own", "attention")
    if args.engine is not None and args.engine.suffix.lower() in PLAN_SUFFIXES:
        return _plan_subject(args)
    _refuse(args, "is for TensorRT plans", "onnx", "allow_embedded_code", "profile")
    if plan.provider != "cuda":
        _refuse(args, "is for TensorRT plans and --provider cuda", "cuda_graph")
    if isinstance(args.baseline, str):
        raise UsageError(f"--baseline {args.baseline}: a file to compare with is for TensorRT plans; leave it out")
    if args.engine is not None and args.engine.suffix.lower() not in CHECKPOINTS:
        for option, value in (("--preset", args.preset), ("--config", args.config)):
            if value is not None:
                raise UsageError(
                    f"{option} does not apply to {args.engine}, which says itself what it is; leave it out"
                )
        from adapter_bench.engine_subject import EngineSubject

        with command_line.step(f"reading {args.engine}"):
            graph = None if args.cuda_graph is None else args.cuda_graph == "on"
            return EngineSubject(str(args.engine), plan.provider, plan.threads, cuda_graph=graph)
    if args.engine is None and args.config is not None:
        raise UsageError("--config describes a checkpoint; give one with --engine, or measure a preset without it")
    if plan.provider != "cpu":
        raise UsageError(f"--provider {plan.provider} does not apply to PyTorch eager, which is measured on the CPU")
    if args.cache is not None:
        raise UsageError("--cache does not apply to PyTorch eager, whose baseline is not exported; leave it out")
    from adapter_bench.torch_subject import TorchSubject

    source = {"checkpoint": args.engine, "config": args.config, "preset": args.preset, "attention": args.attention}
    with command_line.step("building the model"):
        return TorchSubject({k: str(v) for k, v in source.items() if v is not None}, plan.threads)


def _plan_subject(args: argparse.Namespace) -> Subject:
    """Errors: UsageError on what does not apply to a plan, and those of opening it."""
    _refuse(args, "does not apply to a TensorRT plan", "preset", "config", "provider", "threads", "cache")
    if args.profile and not (args.fps or args.baseline) and (args.flops or args.memory):
        raise UsageError("--profile belongs to the measurement of speed; add --fps, or leave it out")
    from adapter_bench.plan_subject import PlanSubject

    with command_line.step(f"loading {args.engine}"):
        return PlanSubject(
            str(args.engine),
            cuda_graph=args.cuda_graph != "off",
            allow_embedded_code=args.allow_embedded_code,
            onnx=None if args.onnx is None else str(args.onnx),
            baseline_plan=args.baseline if isinstance(args.baseline, str) else None,
            profile=args.profile,
        )


def _refuse(args: argparse.Namespace, why: str, *names: str) -> None:
    for name in names:
        if getattr(args, name) not in (None, False):
            raise UsageError(f"--{name.replace('_', '-')} {why}; leave it out")


def _json_path(args: argparse.Namespace) -> Path | None:
    return None if args.json in {None, "-"} else Path(args.json)


def _write(args: argparse.Namespace, document: dict[str, Any], table: Any) -> None:
    from rich.console import Console

    from adapter_bench import files

    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    if (path := _json_path(args)) is not None:
        files.write(path, text)
    if args.markdown is not None:
        files.write(args.markdown, table.markdown(document))
    if args.json == "-":
        sys.stdout.write(text)
        return
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    for part in table.terminal(document):
        console.print(part)


if __name__ == "__main__":
    sys.exit(main())

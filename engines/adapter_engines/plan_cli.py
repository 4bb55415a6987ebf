"""adapter-engine: builds TensorRT plans from exported models, inspects and refits them, packages models for Triton."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from adapter_infer import command_line
from adapter_infer.errors import UsageError
from adapter_infer.files import check_writable

PROG = "adapter-engine"
BATCHES = ("min_batch", "opt_batch", "max_batch")
SIZES = ("min_size", "opt_size", "max_size")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command_line.run(PROG, _body, argv)


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser(PROG, __doc__ or "")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _build_options(commands.add_parser("build", help="ONNX to plan", allow_abbrev=False))
    inspect = commands.add_parser("inspect", help="say what a plan is", allow_abbrev=False)
    inspect.add_argument("plan", type=Path, metavar="PLAN")
    _allow_code(inspect)
    refit = commands.add_parser("refit", help="fill weights into a plan built without them", allow_abbrev=False)
    refit.add_argument("stripped", type=Path, metavar="PLAN", help="built with --strip-weights")
    refit.add_argument("--onnx", type=Path, required=True, metavar="FILE", help="the file it was built from")
    refit.add_argument("--plan", type=Path, required=True, metavar="OUT.plan", help="the plan to write")
    _allow_code(refit)
    _check_options(refit)
    package = commands.add_parser("package", help="lay a model out for a server", allow_abbrev=False)
    package.add_argument("model", type=Path, metavar="MODEL", help="a plan or an ONNX file")
    package.add_argument("--triton", type=Path, required=True, metavar="DIR", help="Triton's model repository")
    package.add_argument("--name", metavar="NAME", help="of the model (default: the file's name)")
    package.add_argument("--model-version", type=int, metavar="N", help="default: one more than there is")
    package.add_argument(
        "--max-batch", type=int, metavar="N", help="for a dynamic batch (default: the plan's; ONNX: 8)"
    )
    package.add_argument("--server-path", metavar="PATH", help="where the server sees DIR (default: where it is here)")
    for command in (inspect, refit, package):
        command.add_argument("--json", metavar="FILE", help="write the result as JSON too; - for standard output")
    return parser


def _build_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("onnx", type=Path, metavar="ONNX", help="file that adapter-export wrote")
    parser.add_argument("--plan", type=Path, required=True, metavar="OUT.plan", help="the plan to write")
    ranges = parser.add_argument_group(
        "optimization profiles, for dynamic axes",
        "An option given several times makes as many profiles; one given once holds for all of them.",
    )
    defaults = {"min_batch": "1", "opt_batch": "the largest", "max_batch": "the optimum"}
    for name in BATCHES:
        ranges.add_argument(
            _option(name), type=int, action="append", metavar="N", help=f"pictures (default: {defaults[name]})"
        )
    for name, default in zip(SIZES, ("the optimum", "the largest", "the optimum"), strict=True):
        ranges.add_argument(
            _option(name), type=int, nargs=2, action="append", metavar=("H", "W"), help=f"pixels (default: {default})"
        )
    how = parser.add_argument_group("how it is built")
    how.add_argument("--timing-cache", type=Path, metavar="FILE", help="measurements kept between builds")
    how.add_argument("--workspace", metavar="SIZE", help="most scratch memory of a layer, as 4G (default: all)")
    how.add_argument("--builder-level", type=int, metavar="0-5", help="effort of the search (default: TensorRT's, 3)")
    how.add_argument("--version-compatible", action="store_true", help="runs with later versions of TensorRT too")
    how.add_argument("--hardware-compatible", action="store_true", help="runs on every GPU from Ampere on")
    how.add_argument("--strip-weights", action="store_true", help="without weights; `refit` fills them in")
    how.add_argument("--weight-streaming", action="store_true", help="weights may stay in host memory")
    how.add_argument(
        "--detailed-profiling",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep the layers' details in the plan, where the precision is looked up (default: on)",
    )
    plugin = parser.add_argument_group("the plugin")
    plugin.add_argument("--plugin", type=Path, metavar="FILE", help="a plugin library in place of the installed one")
    plugin.add_argument("--without-plugin", action="store_true", help="build through the function bodies")
    plugin.add_argument("--embed-plugin", action="store_true", help="put the plugin library into the plan")
    other = parser.add_argument_group("other")
    other.add_argument(
        "--toolkit",
        choices=("tensorrt", "tensorrt_rtx"),
        default="tensorrt",
        help="tensorrt_rtx: a build for RTX GPUs, also as a check on a machine without a GPU",
    )
    other.add_argument("--compute-capability", metavar="X.Y", help="GPU that TensorRT-RTX builds for, as 8.9")
    _check_options(other)
    other.add_argument("--json", metavar="FILE", help="write the report as JSON too; - for standard output")


def _check_options(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--no-check", action="store_true", help="skip the comparison with ONNX Runtime")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the compared pictures")


def _allow_code(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-embedded-code", action="store_true", help="load a plan that holds code, which runs it; if you trust it"
    )


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _body(argv: Sequence[str] | None) -> int:
    args = _parser().parse_args(argv)
    if args.json not in (None, "-"):
        check_writable(Path(args.json), "--json")
    return {"build": _build, "inspect": _inspect, "refit": _refit, "package": _package}[args.command](args)


def _build(args: argparse.Namespace) -> int:
    from adapter_engines.plans import show
    from adapter_engines.plans.build import build
    from adapter_engines.plans.options import BuildOptions, size
    from adapter_engines.plans.profiles import ranges

    if args.json not in (None, "-") and Path(args.json).resolve() in (args.onnx.resolve(), args.plan.resolve()):
        raise UsageError(f"--json {args.json} names another file of this build; choose a different one")
    asked = {name: getattr(args, name) or [] for name in BATCHES}
    asked |= {name: [tuple(each) for each in getattr(args, name) or []] for name in SIZES}
    options = BuildOptions(
        workspace=None if args.workspace is None else size(args.workspace),
        builder_level=args.builder_level,
        timing_cache=args.timing_cache,
        version_compatible=args.version_compatible,
        hardware_compatible=args.hardware_compatible,
        strip_weights=args.strip_weights,
        weight_streaming=args.weight_streaming,
        detailed=args.detailed_profiling,
        with_plugin=not args.without_plugin,
        plugin=args.plugin,
        embed_plugin=args.embed_plugin,
        compute_capability=args.compute_capability,
        check=not args.no_check,
        seed=args.seed,
    )
    show.build_report(build(args.onnx, args.plan, ranges(asked), options, toolkit_name=args.toolkit), args.json)
    return 0


def _inspect(args: argparse.Namespace) -> int:
    from adapter_engines.plans import show
    from adapter_engines.plans.inspect import inspect

    found = inspect(args.plan, allow_embedded_code=args.allow_embedded_code)
    show.inspection(found, args.json)
    if found.mismatch is not None:
        print(f"{PROG}: {found.mismatch}", file=sys.stderr)
    return found.exit_code


def _refit(args: argparse.Namespace) -> int:
    from adapter_engines.plans import show
    from adapter_engines.plans.refit import refit

    report = refit(
        args.stripped,
        args.onnx,
        args.plan,
        allow_embedded_code=args.allow_embedded_code,
        check=not args.no_check,
        seed=args.seed,
    )
    show.build_report(report, args.json)
    return 0


def _package(args: argparse.Namespace) -> int:
    from adapter_engines.plans import show
    from adapter_engines.plans.triton import package

    made = package(
        args.model,
        args.triton,
        name=args.name,
        version=args.model_version,
        max_batch=args.max_batch,
        server_path=args.server_path,
    )
    show.package(made, args.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

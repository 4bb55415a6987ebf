"""`adapter-export CHECKPOINT --onnx OUT.onnx`: a trained model to a checked ONNX file."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_export import flavours, show
from adapter_export.precision import PRECISIONS
from adapter_export.precision import choose as choose_precision
from adapter_infer import command_line
from adapter_infer.errors import UsageError
from adapter_infer.files import check_writable
from adapter_infer.spec import ATTENTION, with_attention

if TYPE_CHECKING:
    from torch import nn

    from adapter_infer.spec import ModelSpec

PROG = "adapter-export"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return command_line.run(PROG, _body, argv)


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser(PROG, "Exports a ViT-Adapter model to ONNX and checks the file against PyTorch.")
    parser.add_argument(
        "checkpoint", nargs="?", type=Path, metavar="CHECKPOINT", help=".pth, .pth.tar, .zip, .safetensors"
    )
    parser.add_argument("--onnx", type=Path, metavar="OUT.onnx", help="the file to write")

    model = parser.add_argument_group("which model it is (default: the configuration inside the checkpoint)")
    model.add_argument("--config", type=Path, metavar="FILE", help="training configuration, mmcv-style .py or .json")
    model.add_argument("--preset", metavar="NAME", help="a released model by name, see --list-presets")
    model.add_argument("--weights-key", metavar="KEY", help="entry of the checkpoint that holds the weights")
    model.add_argument(
        "--backbone-checkpoint",
        type=Path,
        metavar="FILE",
        help="DINOv3's frozen ViT, where CHECKPOINT holds its adapter and head",
    )
    model.add_argument("--random-weights", action="store_true", help="random weights instead of a checkpoint")
    model.add_argument(
        "--attention",
        choices=ATTENTION,
        help="with random weights: what injectors and extractors attend by (a checkpoint's configuration says its own)",
    )
    model.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of random weights and of the compared pictures"
    )

    graph = parser.add_argument_group("the graph")
    graph.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="pixels (default: the model's crop, or what a detector pads to)",
    )
    graph.add_argument("--dynamic-size", action="store_true", help="any height and width that the model takes")
    graph.add_argument("--batch", type=_batch, default=1, metavar="N|dynamic", help="pictures in a batch (default: 1)")
    graph.add_argument(
        "--op", choices=list(flavours.FLAVOURS), default="fused", help="how deformable attention is written"
    )
    graph.add_argument(
        "--output",
        choices=("logits", "labels", "queries", "detections", "dense", "features"),
        help="default: logits, of a detector detections, of a panoptic model queries, of a backbone features",
    )
    graph.add_argument(
        "--split",
        action="store_true",
        help="DINOv3: its frozen ViT in a file of its own, OUT.backbone.onnx, which several heads can share",
    )
    graph.add_argument(
        "--embed-preprocess",
        action="store_true",
        help="take uint8 RGB pictures (N, H, W, 3) and normalise in the graph",
    )
    graph.add_argument(
        "--opset",
        type=int,
        metavar="N",
        help=f"{flavours.FIRST_OPSET} to {flavours.LAST_OPSET} (default: 18, 22 for bf16)",
    )
    graph.add_argument(
        "--external-data",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="weights in a second file (default: above 2 GB)",
    )

    types = parser.add_argument_group("types; nothing is ever written in another type than asked for")
    types.add_argument(
        "--precision", choices=PRECISIONS, default="fp32", help="of weights and activations (default: fp32)"
    )
    types.add_argument(
        "--io-precision", choices=PRECISIONS, default="fp32", help="of float inputs and outputs (default: fp32)"
    )
    types.add_argument("--attention-fp32", action="store_true", help="keep the softmax of attention in fp32")

    other = parser.add_argument_group("other")
    other.add_argument("--inspect", action="store_true", help="say what the checkpoint is, and stop")
    other.add_argument("--list-presets", action="store_true", help="list the presets, and stop")
    other.add_argument("--no-check", action="store_true", help="skip the comparison with PyTorch")
    other.add_argument("--json", type=Path, metavar="FILE|-", help="write the report as JSON")
    return parser


def _batch(text: str) -> int | str:
    if text == "dynamic":
        return text
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a positive number nor 'dynamic'")
    return number


def _body(argv: Sequence[str] | None) -> int:
    args = _parser().parse_args(argv)
    if args.list_presets:
        show.presets()
        return 0
    _check_sources(args)
    if args.json is not None and not _is_stdout(args.json):
        check_writable(args.json, "--json")
    if args.inspect:
        show.inspection(_inspect(args), args.json)
        return 0
    if args.onnx is None:
        raise UsageError("nothing says where to write; pass --onnx OUT.onnx")
    _check_files(args)
    _export(args)
    return 0


def _check_sources(args: argparse.Namespace) -> None:
    named = args.preset is not None or args.config is not None
    if args.random_weights and args.checkpoint is not None:
        raise UsageError(f"--random-weights and the checkpoint {args.checkpoint} exclude each other; pass one of them")
    if args.random_weights and not named:
        raise UsageError("--random-weights needs to know the model; pass --preset NAME or --config FILE")
    if args.checkpoint is None and not args.random_weights and not (args.inspect and named):
        raise UsageError(
            "no checkpoint given; pass CHECKPOINT, or --random-weights with --preset NAME or --config FILE"
        )
    if args.attention is not None and not args.random_weights:
        raise UsageError("--attention builds a model to measure and needs --random-weights; a checkpoint has its own")
    if args.weights_key is not None and args.checkpoint is None:
        raise UsageError("--weights-key names an entry of a checkpoint, but there is none")
    if args.backbone_checkpoint is not None and args.checkpoint is None:
        raise UsageError("--backbone-checkpoint completes a checkpoint of DINOv3's adapter and head, but there is none")


def _check_files(args: argparse.Namespace) -> None:
    """Before the minutes that reading and tracing take: can the result be written, and does it overwrite a source?"""
    results = {"--onnx": args.onnx}
    check_writable(args.onnx, "--onnx")
    if args.json is not None and not _is_stdout(args.json):
        results["--json"] = args.json
        check_writable(args.json, "--json")
        if args.json.resolve() == args.onnx.resolve():
            raise UsageError(f"--json and --onnx both name {args.onnx}; choose different files")
    for option, target in results.items():
        for source in (args.checkpoint, args.backbone_checkpoint, args.config):
            if source is not None and source.resolve() == target.resolve():
                raise UsageError(f"{option} {target} would overwrite the file that is read; choose another name")


def _is_stdout(path: Path) -> bool:
    return str(path) == "-"


def _inspect(args: argparse.Namespace) -> dict[str, Any]:
    from adapter_infer import checkpoints

    with command_line.step("reading the checkpoint"):
        if args.checkpoint is not None:
            return checkpoints.inspect(args.checkpoint, args.config, args.preset, backbone=args.backbone_checkpoint)
        return show.as_inspection(checkpoints.identify(None, args.config, args.preset))


def _load(args: argparse.Namespace) -> tuple[nn.Module, ModelSpec, str | None]:
    """The model, what it is, and the checkpoint's SHA-256."""
    from adapter_infer import checkpoints, models

    features_only = args.output == "features"
    if args.random_weights:
        with command_line.step("building the model"):
            spec = checkpoints.identify(None, args.config, args.preset, features_only=features_only)
            spec = spec if args.attention is None else with_attention(spec, args.attention)
            model = models.build_model(spec).requires_grad_(False)
            models.random_weights(model, args.seed)
        return model, spec, None
    with command_line.step("reading the checkpoint"):
        model, spec, checkpoint = checkpoints.load_model(
            args.checkpoint,
            args.config,
            args.preset,
            features_only=features_only,
            weights_key=args.weights_key,
            backbone=args.backbone_checkpoint,
        )
    for note in checkpoint.notes:
        print(f"{PROG}: note: {note}", file=sys.stderr)
    return model, spec, checkpoint.sha256


def _export(args: argparse.Namespace) -> None:
    choose_precision(args.precision, args.io_precision, args.attention_fp32)
    flavours.choose(args.op, args.opset, args.precision)  # what needs no model is refused before it is read
    start = time.perf_counter()
    model, spec, sha256 = _load(args)
    seconds = time.perf_counter() - start
    from adapter_export import exporter, split

    export: Any = split.export if args.split else exporter.export
    report = export(
        model,
        spec,
        args.onnx,
        size=None if args.size is None else tuple(args.size),
        batch=args.batch,
        dynamic_size=args.dynamic_size,
        op=args.op,
        output=args.output,
        embed_preprocess=args.embed_preprocess,
        opset=args.opset,
        external_data=args.external_data,
        precision=args.precision,
        io_precision=args.io_precision,
        attention_fp32=args.attention_fp32,
        check=not args.no_check,
        checkpoint_sha256=sha256,
        seed=args.seed,
    )
    if args.split:
        print(f"{PROG}: the frozen ViT is in {split.backbone_path(report.path)}", file=sys.stderr)
    show.export_report(replace(report, seconds={"read": seconds, **report.seconds}), args.json)


if __name__ == "__main__":
    sys.exit(main())

"""The product in five commands on a sample checkpoint with random weights: `python -m adapter_bench.demo FOLDER`.

The checkpoint has the official layout (state_dict, meta with the configuration's text), so the same commands work on a
trained one. Random weights give meaningless labels and exact parity, sizes and speed.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from pprint import pformat
from typing import TYPE_CHECKING, Any

from adapter_infer import command_line
from adapter_infer.errors import AdapterError
from adapter_infer.files import replacing

if TYPE_CHECKING:
    from adapter_infer.spec import ModelSpec

PRESET = "semfpn_vit_adapter_tiny_512_ade20k"


def write_sample_checkpoint(path: Path, preset: str, seed: int = 0) -> None:
    """Saves `preset` with random weights as the official training code would save it."""
    import torch

    from adapter_infer import models, presets

    spec = presets.spec(preset)
    model = models.build_model(spec)
    models.random_weights(model, seed)
    assert spec.preprocessing is not None
    settings = spec.preprocessing
    normalise: dict[str, Any] = {"type": "Normalize", "mean": list(settings.mean), "std": list(settings.std)}
    normalise |= {"to_rgb": settings.to_rgb}
    fit: dict[str, Any] = {"type": "Pad" if settings.pad else "ResizeToMultiple"}
    fit |= {"size_divisor": settings.size_divisor}
    steps: list[dict[str, Any]] = [{"type": "Resize", "keep_ratio": True}]
    steps += [normalise, fit] if settings.pad else [fit, normalise]
    config = {
        "model": _official_model(spec),
        "test_pipeline": [
            {"type": "LoadImageFromFile"},
            {"type": "MultiScaleFlipAug", "img_scale": settings.scale, "flip": False, "transforms": steps},
        ],
    }
    text = "\n".join(f"{key} = {pformat(value, sort_dicts=False)}" for key, value in config.items())
    meta = {"config": text, "CLASSES": spec.classes, "PALETTE": spec.palette, "epoch": 0, "iter": 0}
    with replacing(path) as stream:
        torch.save({"meta": meta, "state_dict": model.state_dict()}, stream)


def _official_model(spec: ModelSpec) -> dict[str, Any]:
    """The `model` dictionary of an official configuration."""
    if spec.detector is not None:
        return spec.detector | {"backbone": spec.backbone}
    inference = {"mode": spec.inference.mode, "crop_size": spec.inference.crop, "stride": spec.inference.stride}
    parts = {"backbone": spec.backbone, "neck": spec.neck, "decode_head": spec.decode_head, "test_cfg": inference}
    return {"type": "EncoderDecoder"} | {name: part for name, part in parts.items() if part is not None}


def write_sample_picture(path: Path) -> None:
    """Saves a colourful picture of 640 x 480 pixels."""
    import numpy as np
    from PIL import Image

    y, x = np.mgrid[0:480, 0:640] / 80.0
    waves = [np.sin(x + phase) * np.cos(y - phase) for phase in (0.0, 2.1, 4.2)]
    Image.fromarray((127.5 + 127.5 * np.stack(waves, -1)).astype(np.uint8)).save(path)


def run(*words: str | Path) -> None:
    """Prints a command and runs it. Errors: AdapterError with the command's own exit code."""
    print(f"\n$ {' '.join(map(str, words))}", flush=True)
    program = Path(sys.executable).parent / str(words[0])
    code = subprocess.run([str(program), *map(str, words[1:])], check=False).returncode
    if code:
        error = AdapterError(f"{words[0]} ended with exit code {code}; its message stands above")
        error.exit_code = code
        raise error


def body(argv: Sequence[str] | None = None) -> int:
    parser = command_line.parser("adapter-demo", "Shows export, check, run and measurement on a sample checkpoint.")
    parser.add_argument("folder", type=Path, help="where the sample checkpoint and what is made of it go")
    parser.add_argument("--preset", default=PRESET, help="the model to sample (default: %(default)s)")
    options = parser.parse_args(argv)
    folder: Path = options.folder
    checkpoint, model = folder / f"{options.preset}.pth", folder / f"{options.preset}.onnx"
    picture, table = folder / "picture.png", folder / "table.md"
    with command_line.step("making a sample checkpoint in the official format"):
        write_sample_checkpoint(checkpoint, options.preset)
        write_sample_picture(picture)
    print(f"sample checkpoint with random weights: {checkpoint}")
    run("adapter-export", checkpoint, "--inspect")
    run("adapter-export", checkpoint, "--onnx", model)
    run("adapter-run", model, picture, "--out", folder / "labels")
    run("adapter-bench", "--engine", model, "--markdown", table)
    print(f"\nThe checked model is {model}, the label map lies in {folder / 'labels'}, the table in {table}.")
    return 0


if __name__ == "__main__":
    sys.exit(command_line.run("adapter-demo", body))

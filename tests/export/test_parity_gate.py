"""The parity gate: it lets right exports pass and stops wrong ones, whatever is wrong, and leaves no file behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import adapter_infer.geometry
from adapter_export import bodies, export, exporter, files, parity, tolerance
from adapter_export.report import Difference, Parity
from adapter_infer.errors import AdapterError, EnvironmentMissing, ParityError

NAME = "seg_vit_adapter_light"  # one interaction: the quickest to trace


def points(shapes: Sequence[tuple[int, int]], centres: Callable[[int], torch.Tensor]) -> torch.Tensor:
    """Reference points as in adapter_infer.geometry, from the relative positions of the cells of a row or column."""
    levels = []
    for h, w in shapes:
        grid = torch.stack((centres(w)[None, :].expand(h, w), centres(h)[:, None].expand(h, w)), -1)
        levels.append(grid.reshape(1, h * w, 1, 2))
    return torch.cat(levels, 1)


def traced_size(size: int) -> int:
    """The number that a symbolic size stands for while it is traced: what a careless model bakes in."""
    return size.node.hint if isinstance(size, torch.SymInt) else size


BAKED = {
    # The official spelling. It is right in PyTorch, but fixes the traced graph to one size.
    "linspace": lambda size: torch.linspace(0.5, size - 0.5, size) / size,
    # Leaves the graph dynamic and makes it wrong.
    "divisor": lambda size: (torch.arange(size) + 0.5) / traced_size(size),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spelling", "message"),
    [
        ("linspace", "fixed to 128 along axis 2 of the image"),
        ("divisor", "parity failed: output feature_[0-9]+ differs"),
    ],
)
def test_a_baked_size_is_caught_and_an_existing_file_survives(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str, message: str
) -> None:
    model, spec = load("backbones", NAME)
    monkeypatch.setattr(
        adapter_infer.geometry, "reference_points", lambda shapes, device: points(shapes, BAKED[spelling])
    )
    target = tmp_path / "out.onnx"
    target.write_bytes(b"an earlier export")
    with pytest.raises(ParityError, match=message) as caught:
        export(model, spec, target, dynamic_size=True)
    assert caught.value.exit_code == 4
    assert target.read_bytes() == b"an earlier export"
    assert [file.name for file in tmp_path.iterdir()] == ["out.onnx"]


def test_a_wrong_body_is_caught_and_named(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, spec = load("backbones", NAME)
    monkeypatch.setattr(
        bodies, "_SAMPLING", bodies._SAMPLING.replace("Less (x_cells, widths_k)", "Less (x_cells, unit)")
    )
    with pytest.raises(
        ParityError, match=r"output feature_\d+ differs from torch by .* at input 1x3x64x64 through the body"
    ):
        export(model, spec, tmp_path / "out.onnx", size=(64, 64))
    assert list(tmp_path.iterdir()) == []


def test_without_the_library_the_body_alone_is_checked_and_the_report_says_so(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Path:
        raise EnvironmentMissing(f"lib{name}.so was not built: no compiler")

    monkeypatch.setattr("adapter_plugins.library", missing)
    model, spec = load("backbones", NAME)
    report = export(model, spec, tmp_path / "out.onnx", size=(64, 64))
    assert report.parity is not None
    assert report.parity.paths() == ["body"]
    assert report.parity.unchecked == {"library": "libmsda_ort_cpu.so was not built: no compiler"}


@pytest.mark.parametrize(("code", "reason"), [(28, "No space left on device"), (5, "Input/output error")])
def test_a_failing_disk_leaves_nothing(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, reason: str
) -> None:
    def fail(model: Any, place: files.Staging, external_data: bool | None) -> None:
        place.model.write_bytes(b"half a file")
        raise OSError(code, reason)

    monkeypatch.setattr(files, "save", fail)
    monkeypatch.setattr(exporter, "_trace", lambda *_: _small_graph())
    monkeypatch.setattr(exporter, "_count", lambda *_: (1, 0))
    model, spec = load("backbones", NAME)
    with pytest.raises(AdapterError, match=f"writing .*out.onnx failed: {reason}; nothing was kept"):
        export(model, spec, tmp_path / "out.onnx", size=(64, 64), check=False)
    assert list(tmp_path.iterdir()) == []


def _small_graph() -> Any:
    import onnx_ir as ir

    image = ir.val("image", ir.DataType.FLOAT, [1])
    return ir.Model(ir.Graph([image], [image], nodes=[], opset_imports={"": 18}), ir_version=10)


def test_tolerance_follows_the_outputs_scale() -> None:
    noise = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    assert tolerance.tolerance(noise) == pytest.approx(1e-3, rel=0.1)
    assert tolerance.tolerance(1000 * noise) == pytest.approx(1, rel=0.1)
    assert tolerance.tolerance(np.full(100, 5.0, np.float32)) == pytest.approx(5e-5)
    assert tolerance.tolerance(np.zeros(100, np.float32)) < 1e-30


def differences(outputs: str, got: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    gap = (tolerance.labels_gap if outputs == "labels" else tolerance.gap)(got, expected)
    return gap.largest, gap.limit


def test_outputs_that_are_not_numbers_or_have_another_shape_fail() -> None:
    expected = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)
    broken = expected.copy()
    broken[0, 0, 0, 0] = np.nan
    for got in (broken, expected[:, :3], np.full_like(expected, np.inf)):
        assert differences("logits", got, expected)[0] == np.inf
    assert differences("logits", expected, expected)[0] == 0


def test_labels_may_differ_only_where_two_classes_are_as_good() -> None:
    logits = np.random.default_rng(0).standard_normal((1, 5, 16, 16)).astype(np.float32)
    logits[0, 1, 0, 0] = logits[0, :, 0, 0].max()
    labels = logits.argmax(1)
    assert differences("labels", labels, logits)[0] == 0
    tie = labels.copy()
    tie[0, 0, 0] = 1
    assert differences("labels", tie, logits)[0] == 0
    wrong = labels.copy()
    wrong[0, 3, 3] = logits[0, :, 3, 3].argmin()
    largest, limit = differences("labels", wrong, logits)
    assert largest == pytest.approx(np.ptp(logits[0, :, 3, 3])) and largest > limit
    for label in (-1, 5):
        wrong[0, 3, 3] = label
        assert differences("labels", wrong, logits)[0] == np.inf


def test_a_dynamic_export_is_compared_where_it_was_not_traced() -> None:
    shapes = parity.shapes(None, None, 32)
    assert len({(h, w) for _, h, w in shapes}) == 3
    assert all(h != w and h % 32 == w % 32 == 0 for _, h, w in shapes)
    assert {n for n, _, _ in shapes} == {1, 3}  # traced at 2
    assert (128, 192) not in {(h, w) for _, h, w in shapes}
    assert parity.shapes((64, 96), None, 32) == [(1, 64, 96), (3, 64, 96)]
    assert parity.shapes((64, 96), 1, 32) == [(1, 64, 96), (1, 64, 96)]
    assert parity.shapes((64, 96), 4, 32) == [(4, 64, 96)]


def test_the_worst_output_is_the_one_that_used_up_most_of_its_tolerance() -> None:
    result = Parity(
        (
            Difference("library", "feature_4", (1, 3, 64, 64), largest=0.5, limit=1.0),
            Difference("body", "feature_32", (1, 3, 64, 64), largest=0.02, limit=0.01),
        )
    )
    worst = result.worst()
    assert worst is not None and worst.output == "feature_32"
    assert result.largest() == {"library": 0.5, "body": 0.02}
    with pytest.raises(ParityError, match=r"output feature_32 differs from torch by 0\.02 .* tolerance of 0\.01"):
        parity.judge(worst)
    parity.judge(result.worst("library"))

"""The gate of a Mask2Former: the graph decides where its queries look, and every fault behind and before that shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from adapter_export import export, exporter, parity, prepare, query_steps
from adapter_export.plan import Plan
from adapter_export.precision import Precision
from adapter_infer.errors import ParityError
from adapter_infer.heads.mask2former import AttentionMask, Mask2FormerHead
from adapter_infer.models import random_weights
from adapter_infer.panoptic import PanopticModel
from adapter_infer.presets.parts import mask2former
from adapter_infer.segmentor import Segmentor
from adapter_infer.spec import ModelSpec, Preprocessing
from small_detectors import Backbone

SIZE = (64, 96)
DIM, QUERIES = 64, 8


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def noise(seed: int) -> Tensor:
    return torch.randn((1, 3, 256, 384), generator=torch.Generator().manual_seed(seed))


def small(task: str = "semantic", flat: bool = False) -> tuple[nn.Module, ModelSpec]:
    """Two layers of the pixel decoder, four of masked attention, over four convolutions.

    Masks have borders, unless `flat`: then each query's is full or empty.
    """
    config = mask2former(16, DIM, QUERIES, "ade20k", (64, 64))
    config["pixel_decoder"]["encoder"]["num_layers"] = 2
    config["transformer_decoder"]["num_layers"] = 4
    head = Mask2FormerHead(**{key: value for key, value in config.items() if key != "type"})
    backbone = {"type": "ViTAdapter"}
    if task == "panoptic":
        model: nn.Module = PanopticModel(Backbone(16), head)
        detector = {"type": "Mask2Former", "panoptic_head": config}
        spec = ModelSpec(backbone, "detection", detector=detector, preprocessing=Preprocessing(pad=True))
    else:
        model = Segmentor(Backbone(16), None, head)
        spec = ModelSpec(backbone, decode_head=config, preprocessing=Preprocessing())
    random_weights(model.eval(), 0)
    drawn = head.pixel_decoder.mask_feature
    with torch.no_grad():
        if flat:
            drawn.weight.zero_()
            drawn.bias.fill_(1)
        else:
            features, _ = head.pixel_decoder(model.features(noise(1)))
            drawn.bias.sub_(features.mean((0, 2, 3)))
    return model.requires_grad_(False), spec


@pytest.mark.parametrize(("task", "output"), [("semantic", "logits"), ("semantic", "labels"), ("panoptic", "queries")])
def test_every_output_is_compared_with_every_decision(tmp_path: Path, task: str, output: str) -> None:
    report = export(*small(task), tmp_path / "m.onnx", size=SIZE, output=output)
    assert report.parity is not None
    found = {difference.output for difference in report.parity.differences}
    steps = {f"attention_logits_{k}" for k in range(4)}
    assert found == steps | ({"class_logits", "mask_logits"} if output == "queries" else {output})
    worst = report.parity.worst()
    assert worst is not None and worst.share < 0.1


def answer(model: nn.Module, image: np.ndarray, shift: float) -> list[np.ndarray]:
    """Logits and decisions of a graph whose rounding moves every decision's logits by `shift`."""
    moved: list[Tensor] = []

    def look(_module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        moved.append(given[0] + shift)
        return (moved[-1],)

    (mask,) = (module for module in model.modules() if isinstance(module, AttentionMask))
    hook = mask.register_forward_pre_hook(look)
    try:
        logits = model(torch.from_numpy(image))
    finally:
        hook.remove()
    return [each.numpy() for each in (logits, *moved)]


@torch.no_grad()
def test_decisions_that_rounding_turns_do_not_cry_wolf() -> None:
    model, _ = small()
    image = noise(0).numpy()
    with query_steps.watched(model) as seen:
        right = model(torch.from_numpy(image)).numpy()
    spread = min(float(each.std()) for each in seen)
    moved = answer(model, image, 5e-4 * spread)
    case = parity.Case(image, (), picture=image)
    naive = parity.Case(image, (right,))
    (blind,) = parity._compared("torch", naive, ("logits",), moved[:1])
    found = list(parity.compare_queries("torch", [moved], [case], model, ("logits",), Precision()))
    assert blind.share > 1  # another cell is looked at, and the outputs are others
    assert [difference.output for difference in found] == ["logits", *query_steps.names(model)]
    assert max(difference.share for difference in found) < 1
    assert found[0].share < 0.1


def resized_wrongly(module: AttentionMask, mask_logits: Tensor) -> Tensor:
    return AttentionMask.forward(module, torch.roll(mask_logits, 1, 3))


def decided_wrongly(module: AttentionMask, mask_logits: Tensor) -> Tensor:
    return AttentionMask.forward(module, mask_logits - 0.3)


def empty_looks_nowhere_else(module: AttentionMask, mask_logits: Tensor) -> Tensor:
    inside = mask_logits.flatten(2) >= 0
    first = torch.arange(inside.shape[2]) == 0
    return inside | (~inside.any(-1, keepdim=True) & first)


@pytest.mark.parametrize("fault", [resized_wrongly, decided_wrongly, empty_looks_nowhere_else])
def test_a_wrong_decision_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Any) -> None:
    right = prepare.traceable

    def faulty(*arguments: Any) -> prepare.Graph:
        graph = right(*arguments)
        (mask,) = (module for module in graph.modules() if isinstance(module, AttentionMask))
        mask.forward = fault.__get__(mask)  # type: ignore[method-assign]
        return graph

    monkeypatch.setattr(exporter.prepare, "traceable", faulty)
    with pytest.raises(ParityError, match="parity failed"):
        export(*small(flat=fault is empty_looks_nowhere_else), tmp_path / "m.onnx", size=SIZE)
    assert list(tmp_path.iterdir()) == []


def test_features_and_models_without_queries_have_no_such_steps() -> None:
    model, spec = small()
    assert query_steps.names(model.backbone) == ()  # type: ignore[arg-type]
    asked: Plan = exporter.plan(model, spec, SIZE, 1, False, "fused", "features", False, None, Precision())
    assert asked.probes == ()

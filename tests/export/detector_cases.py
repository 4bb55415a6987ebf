"""Detectors to export: small ones with every part of a released one, and the golden ones."""

from __future__ import annotations

from typing import Any

from torch import nn

import golden
import golden_detectors
import small_detectors
from adapter_infer.detectors.detector import Detector
from adapter_infer.spec import ModelSpec, Preprocessing
from small_detectors import Backbone, dictionary

SLOTS = 40


def small(kind: str, **rcnn: Any) -> tuple[Detector, ModelSpec]:
    """A released detector with every width made small, over `Backbone`; `rcnn` overrides its test configuration."""
    return with_weights(Backbone(), dictionary(kind, SLOTS, proposals=60, queries=20, **rcnn), kind)


def with_weights(backbone: nn.Module, config: dict[str, Any], name: str) -> tuple[Detector, ModelSpec]:
    """A detector with seeded weights whose boxes stay in proportion, and its spec."""
    preprocessing = Preprocessing(scale=(128, 96), pad=True)
    spec = ModelSpec({"type": "ViTAdapter"}, "detection", detector=config, preprocessing=preprocessing, name=name)
    return small_detectors.with_weights(config, backbone).requires_grad_(False), spec


def from_golden(name: str) -> tuple[Detector, ModelSpec]:
    """A golden detector with its weights, and a spec made of its configuration."""
    detector = dict(golden.config("models", name)["model"])
    preprocessing = Preprocessing(scale=(224, 160), pad=True)
    backbone = detector.pop("backbone")
    spec = ModelSpec(backbone, "detection", detector=detector, preprocessing=preprocessing, name=name)
    return golden_detectors.build(name).requires_grad_(False), spec

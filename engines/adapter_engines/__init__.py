"""Runs exported ViT-Adapter models: ONNX in, predictions out. Never imports torch, so that a service can embed it."""

from adapter_engines.engine import Engine, TensorInfo

__all__ = ["Engine", "TensorInfo"]

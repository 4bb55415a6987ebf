"""The ViT-Adapter model family in PyTorch. Importing this package alone does not import torch."""

__version__ = "0.1.0"

"""What Mask2Former's queries say, in numpy: class probabilities, and the sum of their votes for every class."""

from __future__ import annotations

import numpy as np

from adapter_infer.errors import AdapterError


def softmax(logits: np.ndarray) -> np.ndarray:
    """(Q, C + 1) -> probabilities of the same shape; the last class is "no object". Errors: AdapterError on NaN."""
    if not np.isfinite(logits).all():
        raise AdapterError("the network's class logits are not numbers (NaN or infinite); run it in fp32")
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow at large negative x, of float32 of any shape."""
    with np.errstate(over="ignore"):  # exp(100) is infinite in float32, and 1 / infinity the right answer
        return np.float32(1) / (np.float32(1) + np.exp(-logits))


def semantic_scores(class_logits: np.ndarray, mask_logits: np.ndarray) -> np.ndarray:
    """(Q, C + 1), (Q, h, w) -> (C, h, w): queries vote for their classes where their mask is.

    As the official code: the masks' sigmoid comes before any resizing. Not logits, but never negative.
    """
    votes = softmax(class_logits)[:, :-1].T
    flat = votes @ sigmoid(mask_logits).reshape(len(mask_logits), -1)
    return flat.reshape(-1, *mask_logits.shape[1:])

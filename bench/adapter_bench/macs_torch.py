"""Multiply-adds (MACs) of the PyTorch model, in two conventions, on the meta device: no weights, no arithmetic.

`count` is the convention of `macs_onnx` (torch's flop counter halved, MSDA included) and agrees with it exactly.
`count_paper` is the rule behind the published tables, which call MACs "FLOPs".
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from adapter_infer.heads.layers import ConvModule
from adapter_infer.heads.upernet import UPerHead
from adapter_infer.models import build_model
from adapter_infer.spec import ModelSpec
from adapter_infer.vit import per_block


def count(spec: ModelSpec, size: tuple[int, int], batch: int = 1) -> dict[str, int]:
    """MACs by torch operator of one forward pass over `batch` images of `size` (height, width).

    Layers whose results nothing reads (a SETR-PUP head takes one of its backbone's four maps) are not counted: an
    export drops them. The meta device is not a shortcut: on the CPU torch's counter silently omits fused attention.
    """
    model = build_model(spec, device="meta")
    image = torch.empty(batch, 3, *size, device="meta")
    idle = idle_modules(model, image)
    model.requires_grad_(False)  # the counter cannot follow views of parameters that want gradients
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    flops = counter.get_flop_counts()
    result = Counter(flops.get("Global", {}))
    for name in idle:
        result.subtract(flops.get(f"{type(model).__name__}.{name}", {}))
    return {str(operator): total // 2 for operator, total in result.items() if total}


def count_paper(spec: ModelSpec, size: tuple[int, int]) -> int:
    """MACs of one image of `size` (height, width) by the rule behind the published tables.

    The rule is that of the official scripts (mmcv 1.4.2's counter plus a term for self-attention), its oddities kept,
    because only so do the tables come out:
    - Linear: input elements times outputs, no bias. BEiT's qkv is not counted: the official code calls it as a
      function, which the counter does not see.
    - Conv: C_in/groups * kernel area * output elements, plus output elements where there is a bias.
    - ConvTranspose: C_in * C_out/groups * kernel area * input positions, plus C_out * H_out * H_out where there is a
      bias (the height twice: mmcv's slip, mended in 1.4.7).
    - LayerNorm, GroupNorm, BatchNorm2d: two per input element. SyncBatchNorm is not in the counter's list: nothing for
      the backbone's norms, which always are, nor for necks and heads whose norm_cfg says so.
    - ReLU: its elements. MaxPool and adaptive pooling: their input's elements.
    - Self-attention, only where the backbone's class name has "ViT" in it: 2*T*T*C for a global block, 2*T*w*w*C for
      one with windows of w, T = H/16*W/16 without the windows' padding. BEiT and Uni-Perceiver get nothing.
    - Nothing: GELU, softmax, interpolation, additions, and the MSDA core (its four Linears are counted).
    The auxiliary heads do not run.
    """
    model = build_model(spec, device="meta")
    total: Counter[str] = Counter()
    for name, module in model.named_modules():
        _watch(module, total, counts_batch_norm=_has_plain_batch_norm(spec, name))
    with torch.no_grad():
        model(torch.empty(1, 3, *size, device="meta"))
    return sum(total.values()) + _self_attention(spec, size)


def idle_modules(model: nn.Module, image: Tensor) -> list[str]:
    """The outermost modules none of whose parameters the model's output depends on, by autograd's own graph."""
    with torch.enable_grad():
        outputs = model(image)
    waiting: list[Any] = [output.grad_fn for output in ([outputs] if isinstance(outputs, Tensor) else outputs)]
    seen, used = set(waiting), set()
    while waiting:
        function = waiting.pop()
        used.add(id(getattr(function, "variable", None)))  # a leaf of autograd's graph knows its parameter
        fresh = {source for source, _ in function.next_functions if source is not None} - seen
        seen |= fresh
        waiting += fresh
    idle: list[str] = []
    for name, module in model.named_modules():  # parents come before their children
        parameters = list(module.parameters())
        inside = any(name.startswith(f"{outer}.") for outer in idle)
        if parameters and not inside and not any(id(parameter) in used for parameter in parameters):
            idle.append(name)
    return idle


def _has_plain_batch_norm(spec: ModelSpec, module_name: str) -> bool:
    """Whether a BatchNorm of ours stands for an official BatchNorm2d rather than a SyncBatchNorm."""
    part = {"neck": spec.neck, "decode_head": spec.decode_head}.get(module_name.partition(".")[0])
    return part is not None and (part.get("norm_cfg") or {}).get("type", "BN") in {"BN", "BN2d"}


def _watch(module: nn.Module, total: Counter[str], counts_batch_norm: bool) -> None:
    """Adds to `total` whenever `module` runs."""

    def watch(kind: str, macs: Any) -> None:
        def hook(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            total[kind] += macs(inputs[0], output)

        module.register_forward_hook(hook)

    if isinstance(module, nn.Linear):
        watch("Linear", lambda x, y: x.numel() * y.shape[-1])
    elif isinstance(module, nn.ConvTranspose2d):
        per_position = math.prod(module.weight.shape)
        watch("ConvTranspose", lambda x, y: per_position * x[:, 0].numel() + _deconvolution_bias(module, y))
    elif isinstance(module, nn.Conv2d):
        per_output = math.prod(module.weight.shape[1:]) + (module.bias is not None)
        watch("Conv", lambda x, y: per_output * y.numel())
    elif isinstance(module, (nn.LayerNorm, nn.GroupNorm)) or (isinstance(module, nn.BatchNorm2d) and counts_batch_norm):
        watch("Norm", lambda x, y: 2 * x.numel())
    elif isinstance(module, nn.ReLU) or (isinstance(module, ConvModule) and module.act):
        watch("ReLU", lambda x, y: y.numel())
    elif isinstance(module, nn.MaxPool2d):
        watch("Pool", lambda x, y: x.numel())
    elif isinstance(module, UPerHead):  # its adaptive poolings are no modules here
        watch("Pool", lambda maps, y: len(module.pool_scales) * maps[module.in_index[-1]].numel())


def _deconvolution_bias(module: nn.ConvTranspose2d, output: Tensor) -> int:
    n, c, h, _ = output.shape
    return 0 if module.bias is None else n * c * h * h


def _self_attention(spec: ModelSpec, size: tuple[int, int]) -> int:
    backbone = spec.backbone
    if "ViT" not in backbone["type"]:
        return 0
    tokens, depth = (size[0] // 16) * (size[1] // 16), backbone.get("depth", 12)
    windowed = per_block(backbone.get("window_attn", False), depth)
    windows = per_block(backbone.get("window_size", 14), depth)
    keys = [w * w if is_windowed else tokens for is_windowed, w in zip(windowed, windows, strict=True)]
    return sum(2 * tokens * k * backbone.get("embed_dim", 768) for k in keys)

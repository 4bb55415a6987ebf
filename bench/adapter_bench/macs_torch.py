"""Multiply-adds (MACs) of the PyTorch model, in two conventions, on the meta device: no weights, no arithmetic.

`count` is the convention of `macs_onnx` (torch's flop counter halved, MSDA included) and agrees with it exactly.
`count_paper` is the rule behind the published tables, which call MACs "FLOPs".
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from adapter_bench import operations
from adapter_bench.operations import Operation
from adapter_export import prepare
from adapter_infer.detectors.htc import FusedSemanticHead
from adapter_infer.detectors.roi_heads import BBoxHead, FCNMaskHead
from adapter_infer.detectors.sparse_rcnn import DynamicConv
from adapter_infer.heads.layers import ConvModule
from adapter_infer.heads.pixel_decoder import FFN
from adapter_infer.heads.upernet import UPerHead
from adapter_infer.models import build_model
from adapter_infer.spec import ModelSpec
from adapter_infer.vit import per_block

# Backbones of the paper and its official code.
PAPERS = ("ViTAdapter", "BEiTAdapter", "UniPerceiverAdapter", "ViTBaseline", "BEiTBaseline")


def count(spec: ModelSpec, size: tuple[int, int], batch: int = 1, output: str | None = None) -> dict[str, int]:
    """MACs by torch operator of one forward pass over `batch` images of `size` (height, width).

    `output`, as `Metadata.output` names it, is what is asked of the model; None its own forward pass. Layers whose
    results nothing reads (a SETR-PUP head takes one of its backbone's four maps) are not counted: an export drops them.
    The meta device is not a shortcut: on the CPU torch's counter silently omits fused attention.

    A detector's heads look at every slot: as many proposals and detections as its configuration allows, whether the
    picture fills them or not, so the count does not depend on the picture. RoIAlign counts nothing: it interpolates,
    like a resize, and how many samples it takes depends on the boxes (16 in each of 7x7 bins of 1000 boxes would be two
    thousandths of a Mask R-CNN). Neither do NMS, TopK and the decoding of boxes, which compare and move numbers and sum
    no products.
    """
    return operations.total(_live(spec, size, batch, output))


def count_constant(spec: ModelSpec, size: tuple[int, int], batch: int = 1, output: str | None = None) -> int:
    """Those MACs of `count` that do not depend on the picture: what learnt queries ask before they have seen it. An
    export may hold their result instead."""
    return sum(operation.macs for operation in _live(spec, size, batch, output) if not operation.depends)


def meta_inputs(spec: ModelSpec, size: tuple[int, int], batch: int = 1) -> tuple[Tensor, ...]:
    """What the model takes: images, and for a detector also their sizes; without memory."""
    image = torch.empty(batch, 3, *size, device="meta")
    if spec.task != "detection":
        return (image,)
    return image, torch.empty(batch, 2, dtype=torch.int64, device="meta")


def _live(spec: ModelSpec, size: tuple[int, int], batch: int, output: str | None) -> list[Operation]:
    model, inputs = build_model(spec, device="meta").requires_grad_(False), meta_inputs(spec, size, batch)
    with torch.no_grad(), operations.Recorder(inputs) as recorder:
        outputs = model(*inputs) if output is None else prepare.outputs(model, output, *inputs)
    return recorder.live(outputs)


def count_paper(spec: ModelSpec, size: tuple[int, int]) -> int | None:
    """MACs of one image of `size` (height, width) by the rule behind the published tables; None for a backbone that is
    not the paper's (DINOv2, DINOv3), of which the rule says nothing.

    The rule is that of the official scripts (mmcv 1.4.2's counter plus a term for self-attention), its oddities kept,
    because only so do the tables come out:
    - Linear: input elements times outputs, no bias. BEiT's qkv is not counted: the official code calls it as a
      function, which the counter does not see; neither are the projections of torch's MultiheadAttention.
    - Conv: C_in/groups * kernel area * output elements, plus output elements where there is a bias.
    - ConvTranspose: C_in * C_out/groups * kernel area * input positions, plus C_out * H_out * H_out where there is a
      bias (the height twice: mmcv's slip, mended in 1.4.7).
    - LayerNorm, GroupNorm, BatchNorm2d: two per input element. SyncBatchNorm is not in the counter's list: nothing for
      the backbone's norms, which always are, nor for necks and heads whose norm_cfg says so.
    - ReLU: its elements. MaxPool and adaptive pooling: their input's elements.
    - Self-attention, only where the backbone's class name has "ViT" in it: 2*T*T*C for a global block, 2*T*w*w*C for
      one with windows of w, T = H/16*W/16 without the windows' padding. BEiT and Uni-Perceiver get nothing.
    - Nothing: GELU, softmax, interpolation, additions, RoIAlign, NMS, and the MSDA core (its four Linears are counted).
    - A detector's box heads see 1000 proposals and its mask heads 100 boxes, as its configuration allows.
    The auxiliary heads do not run; the class logits of HTC's semantic head do.
    """
    if spec.backbone["type"] not in PAPERS:
        return None
    model = build_model(spec, device="meta")
    total: Counter[str] = Counter()
    for name, module in model.named_modules():
        _watch(module, total, counts_batch_norm=_has_plain_batch_norm(spec, name))
    with torch.no_grad():
        model(*meta_inputs(spec, size))
    return sum(total.values()) + _self_attention(spec, size)


def idle_modules(model: nn.Module, *inputs: Tensor) -> list[str]:
    """The outermost modules none of whose parameters the model's output depends on."""
    with torch.no_grad(), operations.Recorder(inputs) as recorder:
        outputs = model(*inputs)
    used = set[int]().union(*(operation.leaves for operation in recorder.live(outputs)))
    idle: list[str] = []
    for name, module in model.named_modules():  # parents come before their children
        parameters = list(module.parameters())
        inside = any(name.startswith(f"{outer}.") for outer in idle)
        if parameters and not inside and not any(id(parameter) in used for parameter in parameters):
            idle.append(name)
    return idle


def _has_plain_batch_norm(spec: ModelSpec, module_name: str) -> bool:
    """Whether a BatchNorm of ours stands for an official BatchNorm2d rather than a SyncBatchNorm."""
    parts: Mapping[str, Any] = spec.detector or {"neck": spec.neck, "decode_head": spec.decode_head}
    part: Any = parts
    for word in module_name.split("."):  # "roi_head.bbox_head.0.shared_convs.0.bn" leads to the first box head's entry
        if isinstance(part, Mapping) and word in part:
            part = part[word]
        elif isinstance(part, (list, tuple)) and word.isdigit():
            part = part[int(word)]
        else:
            break
    if part is parts or not isinstance(part, Mapping):
        return False
    return (part.get("norm_cfg") or {}).get("type", "BN") in {"BN", "BN2d"}


def _watch(module: nn.Module, total: Counter[str], counts_batch_norm: bool) -> None:
    """Adds to `total` whenever `module` runs."""

    def watch(kind: str, macs: Any) -> None:
        def hook(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            total[kind] += macs(inputs[0], output)

        module.register_forward_hook(hook)

    if type(module) is nn.Linear:  # MultiheadAttention's out_proj is of another class
        watch("Linear", lambda x, y: x.numel() * y.shape[-1])
    elif isinstance(module, nn.ConvTranspose2d):
        per_position = math.prod(module.weight.shape)
        watch("ConvTranspose", lambda x, y: per_position * x[:, 0].numel() + _deconvolution_bias(module, y))
    elif isinstance(module, nn.Conv2d):
        per_output = _per_output(module)
        watch("Conv", lambda x, y: per_output * y.numel())
    elif isinstance(module, (nn.LayerNorm, nn.GroupNorm)) or (isinstance(module, nn.BatchNorm2d) and counts_batch_norm):
        watch("Norm", lambda x, y: 2 * x.numel())
    elif isinstance(module, nn.ReLU) or (isinstance(module, ConvModule) and module.act):
        watch("ReLU", lambda x, y: y.numel())
    elif isinstance(module, nn.MaxPool2d):
        watch("Pool", lambda x, y: x.numel())
    elif isinstance(module, UPerHead):  # its adaptive poolings are no modules here
        watch("Pool", lambda maps, y: len(module.pool_scales) * maps[module.in_index[-1]].numel())
    elif isinstance(module, FusedSemanticHead):  # the official one computes its logits though nobody reads them
        logits = module.conv_logits
        watch("Conv", lambda maps, y: _per_output(logits) * logits.out_channels * y[:, 0].numel())
    for layer in _before_relu(module):
        layer.register_forward_hook(lambda _, inputs, output: total.update({"ReLU": output.numel()}))


def _before_relu(module: nn.Module) -> list[nn.Module]:
    """Layers of `module` whose ReLU is a module in the official code and a function here."""
    if isinstance(module, BBoxHead):
        return list(module.shared_fcs)
    if isinstance(module, FCNMaskHead):
        return [module.upsample]
    if isinstance(module, FFN):
        return [module.layers[0]]
    return [module.norm_in, module.norm_out, module.fc_norm] if isinstance(module, DynamicConv) else []


def _per_output(conv: nn.Conv2d) -> int:
    return math.prod(conv.weight.shape[1:]) + (conv.bias is not None)


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

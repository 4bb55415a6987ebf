"""Builds a model from its ModelSpec, gives it random weights, and names its plain-ViT baseline."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import nn

from adapter_infer.ablation import PARTIAL, PartialAdapter
from adapter_infer.beit import BEiT, BEiTBaseline
from adapter_infer.detectors import build_detector
from adapter_infer.dinov2 import DINOv2, DINOv2Adapter, DINOv2Baseline
from adapter_infer.dinov3.adapter import DINOv3Adapter
from adapter_infer.dinov3.mask2former import DINOv3Mask2FormerHead
from adapter_infer.dinov3.segmentor import DINOv3Segmentor
from adapter_infer.dinov3.vit import DINOv3ViT
from adapter_infer.errors import AdapterError, UnsupportedModel
from adapter_infer.heads.mask2former import Mask2FormerHead
from adapter_infer.heads.semantic_fpn import FPN, FPNHead
from adapter_infer.heads.setr_pup import SETRUPHead
from adapter_infer.heads.upernet import UPerHead
from adapter_infer.msda import MSDeformAttn
from adapter_infer.panoptic import PanopticModel, head_config
from adapter_infer.segmentor import Segmentor
from adapter_infer.spec import BACKBONES, NO_EFFECT, ModelSpec
from adapter_infer.uniperceiver import UniPerceiver
from adapter_infer.vit import ViT, ViTBaseline
from adapter_infer.vit_adapter import AdapterSettings, BEiTAdapter, UniPerceiverAdapter, ViTAdapter

Config = Mapping[str, Any]

# Arguments that are supported at one value only (the official default).
ONLY: dict[str, tuple[Any, ...]] = {
    "in_chans": (3,),
    "patch_size": (16,),
    "qk_scale": (None,),
    "conv_cfg": (None,),
    "input_transform": ("multiple_select", None),
    "start_level": (0,),
    "end_level": (-1,),
    "add_extra_convs": (False,),
    "upsample_cfg": ({"mode": "nearest"},),
    "pos_embed_rope_normalize_coords": ("separate",),
}
BATCH_NORMS = frozenset({"BN", "BN2d", "SyncBN", "MMSyncBN", "naiveSyncBN"})

HEADS: dict[str, Callable[..., nn.Module]] = {
    "UPerHead": UPerHead,
    "FPNHead": FPNHead,
    "SETRUPHead": SETRUPHead,
    "Mask2FormerHead": Mask2FormerHead,
    "DINOv3Mask2FormerHead": DINOv3Mask2FormerHead,
}
NECKS: dict[str, Callable[..., nn.Module]] = {"FPN": FPN}


def build_model(spec: ModelSpec, device: str = "cpu") -> nn.Module:
    """The model in eval mode: a Segmentor, a Detector or a PanopticModel by `spec.task`, otherwise the backbone alone.

    Parameters are freshly initialised; on device "meta" they take no memory. Errors: UnsupportedModel.
    """
    with torch.device(device):
        backbone = build_backbone(spec.backbone, spec.half)
        if spec.detector is not None:
            if spec.task == "panoptic":
                head = _build({"Mask2FormerHead": Mask2FormerHead}, head_config(spec.detector), "panoptic_head")
                assert isinstance(head, Mask2FormerHead)
                return PanopticModel(backbone, head).eval()
            return build_detector(backbone, spec.detector)
        if spec.decode_head is None:
            return backbone.eval()
        neck = None if spec.neck is None else _build(NECKS, spec.neck, "neck")
        head = _build(HEADS, spec.decode_head, "decode_head")
        if isinstance(backbone, DINOv3Adapter) or isinstance(head, DINOv3Mask2FormerHead):
            return _dinov3_segmentor(backbone, neck, head).eval()
        return Segmentor(backbone, neck, head).eval()


def build_backbone(config: Config, half: str) -> nn.Module:
    """A backbone from its mmcv-style arguments, with the forward pass of that half of the official code."""
    name = config.get("type")
    own_patches = str(name).startswith("DINOv2")  # the other families have patches of 16 pixels
    fixed = {key: value for key, value in config.items() if key != "patch_size" or not own_patches}
    _check_fixed_values(fixed, "backbone")
    if name == "ViTBaseline":
        if half == "detection" and config.get("out_indices") is None:
            raise UnsupportedModel("a ViTBaseline of the detection code needs out_indices, e.g. [2, 5, 8, 11]")
        own = {key: config[key] for key in ("out_indices", "upsample") if key in config}
        return ViTBaseline(**own, **_known(config, ViT, "backbone", {"out_indices", "upsample"}))
    if name == "BEiTBaseline":
        settings = _known(config, BEiT, "backbone", {"out_indices", "pretrain_size"})
        if config.get("out_indices") is not None:
            settings["out_indices"] = config["out_indices"]
        # The baseline's own defaults: absolute positions and no bias table, which no released model has.
        return BEiTBaseline(**({"use_abs_pos_emb": True, "use_rel_pos_bias": False} | settings))
    if name == "ViTAdapter":
        adapter = _adapter_settings(config, half)
        build = PartialAdapter if adapter.components in PARTIAL else ViTAdapter
        return build(adapter, **_known(config, ViT, "backbone", _ADAPTER_KEYS))
    if name == "BEiTAdapter":
        settings = _known(config, BEiT, "backbone", _ADAPTER_KEYS | {"pretrain_size"})
        return BEiTAdapter(_adapter_settings(config, half), class_token=half == "segmentation", **settings)
    if name == "UniPerceiverAdapter":
        settings = _known(config, UniPerceiver, "backbone", _ADAPTER_KEYS | {"pretrain_size"})
        return UniPerceiverAdapter(_adapter_settings(config, half), **settings)
    if str(name) in DINO:
        return DINO[str(name)](config)
    raise UnsupportedModel(f"backbone type {name!r} is not supported; supported: {', '.join(BACKBONES)}")


def _dinov2_adapter(config: Config) -> nn.Module:
    # Its code has one forward pass, that of the segmentation half.
    return DINOv2Adapter(_adapter_settings(config, "segmentation"), **_known(config, DINOv2, "backbone", _ADAPTER_KEYS))


def _dinov2_baseline(config: Config) -> nn.Module:
    own = {key: config[key] for key in ("out_indices",) if key in config}
    return DINOv2Baseline(**own, **_known(config, DINOv2, "backbone", {"out_indices"}))


def _dinov3_adapter(config: Config) -> nn.Module:
    if not config.get("interaction_indexes"):
        raise UnsupportedModel(_NO_INDEXES)
    own = set(inspect.signature(DINOv3Adapter).parameters) - {"vit"}
    vit = DINOv3ViT(**_known(config, DINOv3ViT, "backbone", own | _DINOV3_TRAINING))
    return DINOv3Adapter(vit, **{key: value for key, value in config.items() if key in own})


DINO: dict[str, Callable[[Config], nn.Module]] = {
    "DINOv2Adapter": _dinov2_adapter,
    "DINOv2Baseline": _dinov2_baseline,
    "DINOv3Adapter": _dinov3_adapter,
}


def _dinov3_segmentor(backbone: nn.Module, neck: nn.Module | None, head: nn.Module) -> DINOv3Segmentor:
    if neck is not None or not (isinstance(backbone, DINOv3Adapter) and isinstance(head, DINOv3Mask2FormerHead)):
        raise UnsupportedModel(
            "a DINOv3Adapter goes with a DINOv3Mask2FormerHead and no neck, as in the official segmentor; "
            f"the configuration has {type(backbone).__name__} with {type(head).__name__}"
        )
    return DINOv3Segmentor(backbone, head)


def baseline_spec(spec: ModelSpec) -> ModelSpec:
    """The plain ViT with the same width, depth, heads, windows and the same neck and head or detector: its measure.

    A segmentation BEiTAdapter's baseline is BEiTBaseline, a DINOv2Adapter's is DINOv2Baseline, every other adapter's is
    ViTBaseline. Errors: UnsupportedModel where `spec` is a plain ViT already.
    """
    config, name = spec.backbone, spec.backbone.get("type")
    if name == "DINOv3Adapter":
        raise UnsupportedModel(
            "a DINOv3Adapter has no separate baseline: the plain ViT is in it, unchanged; export it with --split"
        )
    if name not in {"ViTAdapter", "BEiTAdapter", "UniPerceiverAdapter", "DINOv2Adapter"}:
        raise UnsupportedModel(f"{name} is a plain ViT already and has no baseline; measure a ViT-Adapter model")
    depth = int(config.get("depth", 12))
    plain: dict[str, Any]
    if name == "BEiTAdapter" and spec.half == "segmentation":
        kept = set(inspect.signature(BEiT).parameters)
        outs = [depth // 3 - 1, depth // 2 - 1, 2 * depth // 3 - 1, depth - 1]
        # Stated, since the baseline class has other defaults than the adapter's.
        plain = {"type": "BEiTBaseline", "out_indices": outs, "use_abs_pos_emb": False}
        plain |= {"use_rel_pos_bias": config.get("use_rel_pos_bias", True), "img_size": config.get("img_size", 512)}
    elif name == "DINOv2Adapter":
        kept, plain = set(inspect.signature(DINOv2).parameters), {"type": "DINOv2Baseline"}
    else:
        kept = set(inspect.signature(ViT).parameters)
        plain = {"type": "ViTBaseline"}
        if spec.half == "detection":
            plain["out_indices"] = [depth * group // 4 - 1 for group in (1, 2, 3, 4)]
        if name == "UniPerceiverAdapter":  # its position embedding's size is called img_size alone
            plain["pretrain_size"] = config.get("img_size", 224)
        elif name == "BEiTAdapter":  # windows instead of positions; any grid serves
            plain |= {"img_size": 224, "pretrain_size": 224}
    return replace(
        spec,
        backbone={key: value for key, value in config.items() if key in kept} | plain,
        name=f"{spec.name} baseline".strip(),
        source=f"plain ViT of the same size as {spec.name or 'the model'}",
    )


@torch.no_grad()
def random_weights(model: nn.Module, seed: int = 0) -> None:
    """Fills a model with seeded random weights under which every branch matters.

    The published initialisation is no test of anything: injectors start at gamma = 0 and offsets at a constant star.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(parameter: torch.Tensor, mean: float, std: float) -> None:
        parameter.normal_(mean, std, generator=generator)

    for name, parameter in model.named_parameters():
        leaf = name.rpartition(".")[2]
        if leaf.startswith("gamma"):
            normal(parameter, 0.7, 0.2)
        elif parameter.dim() > 1 and leaf.endswith("weight"):  # in_proj_weight too
            normal(parameter, 0.0, parameter[0].numel() ** -0.5)
        elif leaf == "weight":
            normal(parameter, 1.0, 0.1)
        else:
            normal(parameter, 0.0, 0.1 if leaf.endswith("bias") else 0.3)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None and module.running_var is not None
            normal(module.running_mean, 0.0, 0.2)
            module.running_var.uniform_(0.6, 1.4, generator=generator)
        elif isinstance(module, MSDeformAttn):
            module.reset_star()


def count_parameters(model: nn.Module) -> int:
    """Numbers of all parameters; buffers are not counted."""
    return sum(parameter.numel() for parameter in model.parameters())


# --- from mmcv-style arguments to constructor arguments ---

_NO_INDEXES = "the adapter's interaction_indexes are missing; they are not in a checkpoint's tensors"
# Arguments of DINOv3's official classes for training, or for weights that the checkpoint replaces.
_DINOV3_TRAINING = {"img_size", "pretrain_size", "init_values", "pos_embed_rope_dtype"} | {
    f"pos_embed_rope_{change}_coords" for change in ("shift", "jitter", "rescale")
}
_ADAPTER_KEYS = {field.name for field in fields(AdapterSettings)} - {"vit_features"} | {"add_vit_feature", "version"}


def _adapter_settings(config: Config, half: str) -> AdapterSettings:
    if config.get("interaction_indexes") is None:
        raise UnsupportedModel(_NO_INDEXES)
    settings = {key: config[key] for key in _ADAPTER_KEYS & set(config) - {"add_vit_feature", "version"}}
    if not settings["interaction_indexes"]:  # no interaction at all is the plain ViT
        settings["components"] = PARTIAL[0]
    stages = half == "segmentation" or config.get("version", "new") == "old"
    features = "none" if not config.get("add_vit_feature", True) else "stages" if stages else "final"
    return AdapterSettings(vit_features=features, **settings)


def _known(config: Config, cls: Callable[..., Any], where: str, others: set[str]) -> dict[str, Any]:
    """The entries that are arguments of `cls`. Errors: UnsupportedModel on an entry nobody knows."""
    parameters = set(inspect.signature(cls).parameters) - {"class_token"}
    unknown = set(config) - parameters - others - NO_EFFECT - {"type"} - set(ONLY)
    if unknown:
        raise UnsupportedModel(f"{where} {config.get('type')} has unsupported settings: {', '.join(sorted(unknown))}")
    return {key: value for key, value in config.items() if key in parameters - others}


def _check_fixed_values(config: Config, where: str) -> None:
    for key, supported in ONLY.items():
        if key in config and config[key] not in supported:
            raise UnsupportedModel(f"{where} has {key}={config[key]!r}; only {supported[0]!r} is supported")


def _build(builders: Mapping[str, Callable[..., nn.Module]], config: Config, where: str) -> nn.Module:
    """A neck or head from its mmcv-style arguments."""
    name = str(config.get("type"))
    if name not in builders:
        raise UnsupportedModel(f"{where} type {name!r} is not supported; supported: {', '.join(builders)}")
    _check_fixed_values(config, where)
    norm, act = config.get("norm_cfg"), config.get("act_cfg")
    if norm is not None and norm.get("type") not in BATCH_NORMS:
        raise UnsupportedModel(f"{where} {name} has norm_cfg type {norm.get('type')!r}; supported: batch normalisation")
    if act is not None and act.get("type") != "ReLU":
        raise UnsupportedModel(f"{where} {name} has act_cfg type {act.get('type')!r}; supported: ReLU")
    settings = _known(config, builders[name], where, {"norm_cfg", "act_cfg", "norm"})
    if "norm" in inspect.signature(builders[name]).parameters:
        settings["norm"] = norm is not None
    try:
        return builders[name](**settings)
    except AdapterError:
        raise
    except (TypeError, ValueError) as error:
        raise UnsupportedModel(f"{where} {name} cannot be built from its configuration: {error}") from error

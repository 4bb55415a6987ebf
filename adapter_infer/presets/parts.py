"""What presets are made of: the record of one model, and the backbones that segmentors and detectors share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from adapter_infer import datasets
from adapter_infer.spec import IMAGENET_MEAN, IMAGENET_STD, Inference, ModelSpec, Preprocessing

Module = dict[str, Any]  # mmcv-style constructor arguments with `type`

HALF_MEAN = HALF_STD = (127.5, 127.5, 127.5)  # pictures to -1..1, as the AugReg weights were trained
BATCH_NORM = {"type": "SyncBN", "requires_grad": True}

# size: ViT width, depth, heads; MSDA heads, ratio of the MSDA's value width to the ViT's
SIZES = {
    "tiny": (192, 12, 3, 6, 1.0),
    "small": (384, 12, 6, 6, 1.0),
    "base": (768, 12, 12, 12, 0.5),
    "large": (1024, 24, 16, 16, 0.5),
}
# data set: its class in mmseg or mmdet, and its class count
DATASETS = {
    "ade20k": ("ADE20KDataset", 150),
    "coco-stuff": ("COCOStuffDataset", 171),
    "pascal-context": ("PascalContextDataset59", 59),
    "cityscapes": ("CityscapesDataset", 19),
    "chase-db1": ("ChaseDB1Dataset", 2),
    "potsdam": ("PotsdamDataset", 6),
    "coco": ("CocoDataset", 80),
    "coco-panoptic": ("CocoPanopticDataset", 133),
}
# data set: how Mask2Former's configuration divides its classes into things and stuff
THINGS = {"ade20k": 100, "coco-stuff": 80, "pascal-context": 29, "cityscapes": 8, "chase-db1": 0, "potsdam": 1}
THINGS |= {"coco-panoptic": 80}


@dataclass(frozen=True)
class Preset:
    """One model: a backbone with a decode head or with a detector, which is mmdet's model dictionary without backbone.

    `crop` and `stride` are pixels of a square; without a crop the network sees the whole picture. `scale` is mmcv's
    img_scale (long edge, short edge), None leaves the picture's size; `keep_ratio`, `divisor` and `pad` are as in
    `Preprocessing`, `half` as in `ModelSpec`. `released` says whether the authors published weights or a configuration.
    """

    backbone: Module
    decode_head: Module | None = None
    neck: Module | None = None
    auxiliary_heads: tuple[Module, ...] = ()
    detector: Module | None = None
    half: str = "segmentation"
    dataset: str = "ade20k"
    crop: int | None = 512
    stride: int = 341
    scale: tuple[int, int] | None = (2048, 512)
    keep_ratio: bool = True
    divisor: int = 32
    pad: bool = False
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    released: bool = True

    def spec(self, name: str) -> ModelSpec:
        """The ModelSpec under that name; it shares its dictionaries with this record."""
        classes, palette = datasets.of_type(*DATASETS[self.dataset])
        pictures = Preprocessing(
            self.mean,
            self.std,
            scale=self.scale,
            keep_ratio=self.keep_ratio,
            size_divisor=self.divisor,
            pad=self.pad,
        )
        crop, stride = self.crop, self.stride
        return ModelSpec(
            backbone=self.backbone,
            half=self.half,
            neck=self.neck,
            decode_head=self.decode_head,
            detector=self.detector,
            auxiliary_heads=self.auxiliary_heads,
            preprocessing=pictures,
            inference=Inference() if crop is None else Inference("slide", (crop, crop), (stride, stride)),
            classes=classes,
            palette=palette,
            name=name,
            source=f"preset {name}",
        )


def normalised(pretrain: int, **settings: Any) -> Preset:
    """AugReg weights at 384 pixels go with pictures in -1..1, the others with ImageNet's mean and std."""
    mean, std = (HALF_MEAN, HALF_STD) if pretrain == 384 else (IMAGENET_MEAN, IMAGENET_STD)
    return Preset(**settings, mean=mean, std=std)


# --- backbones ---


def split(depth: int, parts: int = 4) -> list[list[int]]:
    """Blocks in equal groups, each as its first and last block."""
    size = depth // parts
    return [[first, first + size - 1] for first in range(0, depth, size)]


def vit(size: str, pretrain: int = 224) -> Module:
    """A plain ViT; `pretrain` is the picture size of its position embedding."""
    width, depth, heads, _, _ = SIZES[size]
    plain = {"type": "ViTBaseline", "patch_size": 16, "embed_dim": width, "depth": depth, "num_heads": heads}
    plain |= {"mlp_ratio": 4, "window_attn": [False] * depth, "window_size": [None] * depth}
    return plain if pretrain == 224 else plain | {"img_size": pretrain, "pretrain_size": pretrain}


def beit(img_size: int, size: str = "large") -> Module:
    """A plain BEiT, whose bias tables are made for pictures of `img_size`; without its `type`."""
    width, depth, heads, _, _ = SIZES[size]
    plain = {"img_size": img_size, "patch_size": 16, "embed_dim": width, "depth": depth, "num_heads": heads}
    plain |= {"mlp_ratio": 4, "qkv_bias": True, "use_abs_pos_emb": False, "use_rel_pos_bias": True}
    return plain | {"init_values": 1e-6}


def adapter(size: str, **changes: Any) -> Module:
    """What an adapter adds to the arguments of its plain ViT."""
    _, depth, _, heads, ratio = SIZES[size]
    settings = {"conv_inplane": 64, "n_points": 4, "deform_num_heads": heads, "cffn_ratio": 0.25}
    return settings | {"deform_ratio": ratio, "interaction_indexes": split(depth)} | changes


# --- heads ---


def mask2former(width: int, dim: int, queries: int, dataset: str, hidden: tuple[int, int]) -> Module:
    """Six layers of MSDA in the pixel decoder, nine of masked attention; `hidden` are the two FFNs' widths."""
    heads, things = dim // 32, THINGS[dataset]
    sine = {"type": "SinePositionalEncoding", "num_feats": dim // 2, "normalize": True}
    sampling = {"type": "MultiScaleDeformableAttention", "embed_dims": dim, "num_heads": heads}
    encoder_layer = {
        "type": "BaseTransformerLayer",
        "attn_cfgs": sampling | {"num_levels": 3, "num_points": 4},
        "ffn_cfgs": {"type": "FFN", "embed_dims": dim, "feedforward_channels": hidden[0], "num_fcs": 2},
        "operation_order": ["self_attn", "norm", "ffn", "norm"],
    }
    decoder_layer = {
        "type": "DetrTransformerDecoderLayer",
        "attn_cfgs": {"type": "MultiheadAttention", "embed_dims": dim, "num_heads": heads},
        "ffn_cfgs": {"embed_dims": dim, "feedforward_channels": hidden[1], "num_fcs": 2},
        "operation_order": ["cross_attn", "norm", "self_attn", "norm", "ffn", "norm"],
    }
    pixel_decoder = {
        "type": "MSDeformAttnPixelDecoder",
        "num_outs": 3,
        "norm_cfg": {"type": "GN", "num_groups": 32},
        "act_cfg": {"type": "ReLU"},
        "encoder": {"type": "DetrTransformerEncoder", "num_layers": 6, "transformerlayers": encoder_layer},
        "positional_encoding": sine,
    }
    decoder = {"type": "DetrTransformerDecoder", "num_layers": 9, "transformerlayers": decoder_layer}
    head = {"type": "Mask2FormerHead", "in_channels": [width] * 4, "feat_channels": dim, "out_channels": dim}
    head |= {"num_things_classes": things, "num_stuff_classes": DATASETS[dataset][1] - things, "num_queries": queries}
    return head | {"pixel_decoder": pixel_decoder, "positional_encoding": sine, "transformer_decoder": decoder}

"""What classifies, refines and draws the box of a proposal: mmdet's box heads and mask heads, by their module names."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from adapter_infer.heads.layers import ConvModule


class BBoxHead(nn.Module):
    """Features of R boxes (R, C, P, P) -> class logits (R, num_classes + 1), the last one background, and box deltas.

    Convolutions, then fully connected layers, shared by both outputs. The deltas are (R, 4 * num_classes), or (R, 4)
    for all classes together where `reg_class_agnostic`; `stds` are their units.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        convs: int = 0,
        fcs: int = 2,
        conv_out_channels: int = 256,
        fc_out_channels: int = 1024,
        roi_feat_size: int = 7,
        reg_class_agnostic: bool = False,
        norm: bool = False,
        groups: int | None = None,
        stds: Sequence[float] = (0.1, 0.1, 0.2, 0.2),
    ) -> None:
        super().__init__()
        self.num_classes, self.stds, self.reg_class_agnostic = num_classes, list(stds), reg_class_agnostic
        widths = [in_channels] + [conv_out_channels] * convs
        self.shared_convs = nn.ModuleList(
            ConvModule(width, conv_out_channels, 3, norm, groups=groups) for width in widths[:-1]
        )
        flat = [widths[-1] * roi_feat_size**2] + [fc_out_channels] * fcs
        self.shared_fcs = nn.ModuleList(nn.Linear(width, fc_out_channels) for width in flat[:-1])
        self.fc_cls = nn.Linear(flat[-1], num_classes + 1)
        self.fc_reg = nn.Linear(flat[-1], 4 if reg_class_agnostic else 4 * num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for conv in self.shared_convs:
            x = conv(x)
        x = x.flatten(1)
        for fc in self.shared_fcs:
            x = F.relu(fc(x))
        return self.fc_cls(x), self.fc_reg(x)


class FCNMaskHead(nn.Module):
    """Features of R boxes (R, C, P, P) -> mask logits (R, num_classes, 2P, 2P), or one class where `class_agnostic`.

    With `conv_res` (HTC) the convolved features of the mask head before are added first: mask information flow.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        num_convs: int = 4,
        conv_out_channels: int = 256,
        class_agnostic: bool = False,
        norm: bool = False,
        groups: int | None = None,
        conv_res: bool = False,
    ) -> None:
        super().__init__()
        self.class_agnostic = class_agnostic
        widths = [in_channels] + [conv_out_channels] * num_convs
        self.convs = nn.ModuleList(
            ConvModule(width, conv_out_channels, 3, norm, groups=groups) for width in widths[:-1]
        )
        self.upsample = nn.ConvTranspose2d(widths[-1], conv_out_channels, 2, 2)
        self.conv_logits = nn.Conv2d(conv_out_channels, 1 if class_agnostic else num_classes, 1)
        self.conv_res = ConvModule(conv_out_channels, conv_out_channels, 1, norm, groups=groups) if conv_res else None

    def features(self, x: Tensor, before: Tensor | None = None) -> Tensor:
        """The convolved features (R, C, P, P); `before` are those of the mask head before."""
        if self.conv_res is not None and before is not None:
            x = x + self.conv_res(before)
        for conv in self.convs:
            x = conv(x)
        return x

    def logits(self, features: Tensor) -> Tensor:
        """Mask logits of convolved features."""
        return self.conv_logits(F.relu(self.upsample(features)))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.features(x))

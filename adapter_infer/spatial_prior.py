"""The spatial prior module (SPM): a small convolutional stem that adds local detail at strides 4, 8, 16 and 32.

Chen et al., Vision Transformer Adapter for Dense Predictions, 2022, section 3.2.
"""

from __future__ import annotations

from torch import Tensor, nn


def _conv_bn_relu(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


class SpatialPriorModule(nn.Module):
    """(N, 3, H, W) -> maps (N, C, H/s, W/s) for s = 4, 8, 16, 32; `inplanes` channels in the stem."""

    def __init__(self, inplanes: int, embed_dim: int) -> None:
        super().__init__()
        p = inplanes
        self.stem = nn.Sequential(
            *_conv_bn_relu(3, p, 2), *_conv_bn_relu(p, p, 1), *_conv_bn_relu(p, p, 1), nn.MaxPool2d(3, 2, 1)
        )
        self.conv2 = nn.Sequential(*_conv_bn_relu(p, 2 * p, 2))
        self.conv3 = nn.Sequential(*_conv_bn_relu(2 * p, 4 * p, 2))
        self.conv4 = nn.Sequential(*_conv_bn_relu(4 * p, 4 * p, 2))
        self.fc1 = nn.Conv2d(p, embed_dim, 1)
        self.fc2 = nn.Conv2d(2 * p, embed_dim, 1)
        self.fc3 = nn.Conv2d(4 * p, embed_dim, 1)
        self.fc4 = nn.Conv2d(4 * p, embed_dim, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        c1 = self.stem(image)
        c2 = self.conv2(c1)
        c3 = self.conv3(c2)
        c4 = self.conv4(c3)
        return self.fc1(c1), self.fc2(c2), self.fc3(c3), self.fc4(c4)

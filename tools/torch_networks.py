"""The ResNets of ImageNet and ResNeXt-50 with GLMC's heads, in plain PyTorch: part of the oracle (glmc_torch.py).

Tensors are named as torchvision's. Of any width, with the stem of ImageNet (7x7, stride 2, then a pool) or of CIFAR (3x3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Makes the normalisation for a number of channels.
Norm = Callable[[int], nn.Module]


class Outputs(NamedTuple):
    """What the network says about one view of N images."""

    #: N,C: the conventional classifier, `fc`.
    logits: Tensor
    #: N,C: the rebalanced classifier, `fc_cb`.
    logits_cb: Tensor
    #: N,h: `projection_head`.
    h: Tensor
    #: N,h: `contrast_head` of `h`.
    u: Tensor


class Design(NamedTuple):
    """What distinguishes the networks."""

    #: Blocks of each stage.
    blocks: tuple[int, int, int, int]
    #: Three convolutions a block, the last with four times the planes; else two.
    bottleneck: bool
    #: Groups of the 3x3 convolution, and its channels over the planes.
    groups: int = 1
    inner: int = 1


DESIGNS: dict[str, Design] = {
    "resnet18": Design((2, 2, 2, 2), False),
    "resnet34": Design((3, 4, 6, 3), False),
    "resnet50": Design((3, 4, 6, 3), True),
    "resnet101": Design((3, 4, 23, 3), True),
    "resnet152": Design((3, 8, 36, 3), True),
    "resnext50_32x4d": Design((3, 4, 6, 3), True, 32, 2),
}

#: Size of `projection_head` and `contrast_head` in these networks.
WIDE_HIDDEN = 256


class Block(nn.Module):
    """Convolutions with BatchNorm and ReLU, plus the shortcut before the last ReLU; the stride is in the 3x3 convolution."""

    def __init__(self, design: Design, inputs: int, planes: int, stride: int, norm: Norm) -> None:
        super().__init__()
        inner = planes * design.inner
        outputs = 4 * planes if design.bottleneck else planes
        if design.bottleneck:
            layers = [(inputs, inner, 1, 1, 1), (inner, inner, 3, stride, design.groups), (inner, outputs, 1, 1, 1)]
        else:
            layers = [(inputs, planes, 3, stride, 1), (planes, planes, 3, 1, 1)]
        self.layers = len(layers)
        for number, (from_, to, kernel, step, groups) in enumerate(layers, 1):
            convolution = nn.Conv2d(from_, to, kernel, step, kernel // 2, groups=groups, bias=False)
            setattr(self, f"conv{number}", convolution)
            setattr(self, f"bn{number}", norm(to))
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for number in range(1, self.layers + 1):
            y = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(y))
            if number < self.layers:
                y = F.relu(y)
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ImageNetResNet(nn.Module):
    """A network of `DESIGNS` with GLMC's heads.

    With the ImageNet stem convolutions start Kaiming-normal (fan out); everything else as PyTorch's layers by themselves. The heads
    `projection_head` and `contrast_head` exist where `hidden` is not 0, `fc_cb` where `rebalanced`.
    """

    def __init__(
        self,
        arch: str,
        width: int = 64,
        classes: int = 1000,
        hidden: int = WIDE_HIDDEN,
        stem: str = "imagenet",
        norm: Norm = nn.BatchNorm2d,
        rebalanced: bool = True,
    ) -> None:
        super().__init__()
        design = DESIGNS[arch]
        if width * design.inner % design.groups:
            raise ValueError(f"{arch}: {design.groups} groups do not divide {width * design.inner} channels")
        self.pool = stem == "imagenet"
        kernel, stride = (7, 2) if self.pool else (3, 1)
        self.conv1 = nn.Conv2d(3, width, kernel, stride, kernel // 2, bias=False)
        self.bn1 = norm(width)
        channels = width
        for stage, count in enumerate(design.blocks):
            blocks = []
            for index in range(count):
                blocks.append(Block(design, channels, width << stage, 2 if stage and not index else 1, norm))
                channels = (width << stage) * (4 if design.bottleneck else 1)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, classes)
        if rebalanced:
            self.fc_cb = nn.Linear(channels, classes)
        if hidden:
            self.projection_head = nn.Sequential(nn.Linear(channels, hidden))
            self.contrast_head = nn.Sequential(nn.Linear(hidden, hidden))
        if self.pool:
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: Tensor) -> Tensor:
        """N,3,H,W -> N,features: the encoder, ending in global average pooling."""
        x = F.relu(self.bn1(self.conv1(x)))
        if self.pool:
            x = F.max_pool2d(x, 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean((2, 3))

    def forward(self, x: Tensor) -> Outputs:
        """All four heads on one view. In training mode this view has its own BatchNorm statistics."""
        r = self.features(x)
        h = self.projection_head(r)
        return Outputs(self.fc(r), self.fc_cb(r), h, self.contrast_head(h))

    def predict(self, x: Tensor, head: str = "fc_cb") -> Tensor:
        """N,C logits of the one head that inference keeps: `fc_cb` (long-tailed data) or `fc`."""
        return getattr(self, head)(self.features(x))


def check_torchvision() -> None:
    """Compares every network with torchvision's: names, shapes, and logits of one image in float64."""
    import torchvision  # here alone: nothing else needs it

    for arch in DESIGNS:
        theirs = getattr(torchvision.models, arch)(weights=None).double()
        ours = ImageNetResNet(arch, hidden=0, rebalanced=False).double()
        ours.load_state_dict(theirs.state_dict(), strict=True)
        x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
        with torch.no_grad():
            error = (theirs.eval()(x) - ours.eval().predict(x, "fc")).norm() / theirs(x).norm()
        print(f"{arch}: relative L2 {float(error):.1e}")
        if not error < 1e-12:
            raise RuntimeError(f"{arch} is not torchvision's")


if __name__ == "__main__":
    check_torchvision()

"""Fixtures of BBN's network (Zhou et al., CVPR 2020): its two ops, and one whole step, from PyTorch in float64.

Layout and keys as in `reference_ops.py`. The network is that of the repository Megvii-Nanjing/BBN: the last block
exists twice, each view goes through one of them.
"""

from __future__ import annotations

import torch
from glmc_torch import BasicBlock, GlmcResNet
from reference_ops import Fixtures, nchw, randn
from torch import Tensor, nn
from torch.nn import functional as F


class BbnResNet(nn.Module):
    """A CIFAR ResNet whose last block is `cb_block` and `rb_block`, with one classifier of both branches' features."""

    def __init__(self, arch: str, width: int, classes: int) -> None:
        super().__init__()
        whole = GlmcResNet(arch, width, classes)
        self.conv1, self.bn1 = whole.conv1, whole.bn1
        self.layer1, self.layer2, self.layer3 = whole.layer1, whole.layer2, whole.layer3[:-1]
        self.cb_block, self.rb_block = (BasicBlock(4 * width, 4 * width, 1) for _ in range(2))
        self.fc = nn.Linear(8 * width, classes)

    def shared(self, x: Tensor) -> Tensor:
        """What both branches see of an image."""
        return self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))

    def train_logits(self, first: Tensor, second: Tensor, alpha: float) -> Tensor:
        """N,C logits of a pair of batches, each of which has a forward, and so statistics, of its own."""
        f_c = self.cb_block(self.shared(first)).mean((2, 3))
        f_r = self.rb_block(self.shared(second)).mean((2, 3))
        return self.fc(2 * torch.cat((alpha * f_c, (1 - alpha) * f_r), 1))

    def eval_logits(self, x: Tensor) -> Tensor:
        """N,C logits of images that both branches see."""
        x = self.shared(x)
        return self.fc(torch.cat([block(x).mean((2, 3)) for block in (self.cb_block, self.rb_block)], 1))


def split_views(out: Fixtures) -> None:
    """x 2N,H,W,C; first and second N,H,W,C."""
    for name, n, h, w, c in [("small", 2, 3, 2, 5), ("aligned", 3, 2, 2, 16), ("one", 1, 1, 1, 1)]:
        case = f"split_views.{name}"
        (x,) = randn(case, (2 * n, h, w, c))
        first, second = x.requires_grad_().chunk(2)
        dfirst, dsecond = randn(case + ".dy", *[(n, h, w, c)] * 2)
        (dx,) = torch.autograd.grad((first, second), x, (dfirst, dsecond))
        out.add(case, {}, x=x, first=first, second=second, dy=dfirst, dy2=dsecond, dx=dx)


def join_branches(out: Fixtures) -> None:
    """first, second N,D; shares N, absent where both factors are 1; y N,2D."""
    for name, n, d, weighed in [("small", 4, 3, True), ("wide", 3, 65, True), ("evaluation", 5, 4, False)]:
        case = f"join_branches.{name}"
        first, second = (t.requires_grad_() for t in randn(case, *[(n, d)] * 2))
        # Shares are singles on every device: eighths are singles.
        shares = torch.arange(n, dtype=torch.float64)[:, None] / 8 if weighed else torch.full((n, 1), 0.5)
        y = 2 * torch.cat((shares * first, (1 - shares) * second), 1)
        (dy,) = randn(case + ".dy", (n, 2 * d))
        dfirst, dsecond = torch.autograd.grad(y, (first, second), dy)
        extra = {"shares": shares[:, 0]} if weighed else {}
        out.add(case, {}, first=first, second=second, y=y, dy=dy, dfirst=dfirst, dsecond=dsecond, **extra)


def step(out: Fixtures) -> None:
    """One step's forward and backward: `param.NAME`, images 2N,H,W,3, label and label2 N (originals', partners'), logits,
    loss, `grad.NAME`, the running statistics after it as `after.NAME`, and then logits of the first N images in evaluation."""
    n, size, classes, width, alpha = 6, 8, 5, 2, 0.625
    case = "bbn.step"
    torch.manual_seed(9)
    model = BbnResNet("resnet20", width, classes)
    # What was drawn, as singles, so that all devices start from the same numbers.
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.add_(0.2 * torch.randn_like(module.weight))
                module.bias.add_(0.1 * torch.randn_like(module.bias))
                module.running_mean.add_(0.1 * torch.randn_like(module.running_mean))
                module.running_var.mul_(0.5 + torch.rand_like(module.running_var))
    model = model.double()

    def state(prefix: str) -> dict[str, Tensor]:
        values = model.state_dict().items()
        return {f"{prefix}.{name}": v.clone() for name, v in values if not name.endswith("num_batches_tracked")}

    tensors = state("param")
    (images,) = randn(case, (2 * n, size, size, 3))
    images = images.float().double()
    label, label2 = (torch.arange(n, dtype=torch.int32) * factor % classes for factor in (1, 3))
    first, second = nchw(images).chunk(2)
    logits = model.train_logits(first, second, alpha)
    loss = alpha * F.cross_entropy(logits, label.long()) + (1 - alpha) * F.cross_entropy(logits, label2.long())
    loss.backward()
    tensors |= {f"grad.{name}": parameter.grad for name, parameter in model.named_parameters()}
    after = state("after")
    tensors |= {name: value for name, value in after.items() if "running" in name}
    evaluated = model.eval().eval_logits(first)
    attributes = {"arch": "resnet20", "width": width, "classes": classes, "alpha": alpha}
    out.add(
        case, attributes, images=images, label=label, label2=label2, logits=logits, loss=loss.reshape(1),
        eval_logits=evaluated, **tensors,
    )  # fmt: skip


def bbn_fixtures() -> tuple[dict[str, Tensor], dict[str, str]]:
    """All cases: tensors by key, attributes by case."""
    out = Fixtures()
    for add in (split_views, join_branches, step):
        add(out)
    return out.tensors, out.metadata

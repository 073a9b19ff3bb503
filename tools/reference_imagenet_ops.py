"""Single-op fixtures of what the ImageNet networks have and the CIFAR ones have not, from PyTorch in float64.

Layout and names are those of reference_ops.py.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from reference_ops import Fixtures, nchw, nhwc, randn


def conv2d(out: Fixtures) -> None:
    """x N,H,W,I; w O,I/groups,K,K; y N,P,Q,O."""
    for name, n, h, w, i, o, kernel, stride, padding, groups in [
        # Bottlenecks: 1x1, and 3x3 in groups.
        ("k1_reduce", 2, 4, 4, 24, 8, 1, 1, 0, 1),
        ("k1_expand_odd", 1, 7, 7, 9, 20, 1, 1, 0, 1),
        ("k1_downsample", 2, 7, 6, 8, 16, 1, 2, 0, 1),
        ("k3_groups_of_4", 2, 5, 4, 16, 16, 3, 1, 1, 4),
        ("k3_groups_of_8_s2", 1, 7, 6, 16, 16, 3, 2, 1, 2),
        ("k3_groups_of_16", 1, 4, 5, 32, 32, 3, 1, 1, 2),
        # Groups that no network has: one channel each, odd ones, more filters than channels.
        ("k3_depthwise", 1, 5, 5, 5, 5, 3, 1, 1, 5),
        ("k3_groups_odd_s2", 2, 6, 5, 9, 15, 3, 2, 1, 3),
        ("k1_groups", 1, 4, 3, 12, 8, 1, 1, 0, 4),
        # The stem.
        ("k7_s2_p3", 1, 15, 14, 3, 8, 7, 2, 3, 1),
        ("k7_s2_p3_padded", 1, 12, 16, 4, 5, 7, 2, 3, 1),
    ]:
        case = f"conv2d.{name}"
        x, weight = randn(case, (n, h, w, i), (o, i // groups, kernel, kernel))
        x.requires_grad_()
        weight.requires_grad_()
        y = nhwc(F.conv2d(nchw(x), weight, None, stride, padding, groups=groups))
        (dy,) = randn(case + ".dy", tuple(y.shape))
        dx, dw = torch.autograd.grad(y, (x, weight), dy)
        out.add(case, {"stride": stride, "padding": padding, "groups": groups}, x=x, w=weight, y=y, dy=dy, dx=dx, dw=dw)


def imagenet_op_fixtures() -> tuple[dict[str, Tensor], dict[str, str]]:
    """All cases: tensors and metadata."""
    out = Fixtures()
    conv2d(out)
    return out.tensors, out.metadata

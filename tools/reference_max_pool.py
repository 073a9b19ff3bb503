"""Fixtures of the largest values of windows, from PyTorch in float64: where several are equal, and where NaN or infinities are
among them, what `torch.nn.functional.max_pool2d` takes and to whom it gives the gradient.

Layout as in reference_ops.py.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from reference_ops import Fixtures, nchw, nhwc, randn


def max_pool(out: Fixtures) -> None:
    """x N,H,W,C; y N,P,Q,C; dy, dx. With `exact` all are small integers, NaN or infinite."""
    for name, n, h, w, c, kernel, stride, padding in [
        ("k3_s2_p1", 2, 8, 6, 5, 3, 2, 1),
        ("k3_s2_p1_odd", 2, 7, 5, 8, 3, 2, 1),
        ("k3_s1_p1", 1, 4, 5, 3, 3, 1, 1),
        ("k2_s2_p0", 2, 5, 6, 4, 2, 2, 0),
        ("k5_s3_p2", 1, 9, 7, 2, 5, 3, 2),
        ("k2_s3_p1", 1, 8, 7, 3, 2, 3, 1),
        ("one_pixel", 2, 1, 1, 3, 3, 2, 1),
        ("ties", 2, 6, 7, 8, 3, 2, 1),
        ("special", 2, 6, 5, 8, 3, 2, 1),
    ]:
        case = f"max_pool.{name}"
        exact = name in ("ties", "special")
        (x,) = randn(case, (n, h, w, c))
        if exact:
            x = x.round()
        if name == "special":
            (draws,) = randn(case + ".draws", (n, h, w, c))
            x[draws > 1] = torch.nan
            x[draws < 0] = -torch.inf
            x[(draws > 0) & (draws < 0.1)] = torch.inf
            x[0, :3, :3] = -torch.inf
        x.requires_grad_()
        y = nhwc(F.max_pool2d(nchw(x), kernel, stride, padding))
        (dy,) = randn(case + ".dy", tuple(y.shape))
        dy = dy.round() if exact else dy
        attributes = {"kernel": kernel, "stride": stride, "padding": padding, "exact": exact}
        out.add(case, attributes, x=x, y=y, dy=dy, dx=torch.autograd.grad(y, x, dy)[0])


def max_pool_fixtures() -> tuple[dict[str, Tensor], dict[str, str]]:
    """All cases: tensors by key, attributes by case."""
    out = Fixtures()
    max_pool(out)
    return out.tensors, out.metadata

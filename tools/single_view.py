"""The losses of methods that train on one plain view, for `bench_pytorch.py --train`: an oracle beside the engine's.

`ce` is cross-entropy, `bs` balanced softmax (Ren et al. 2020: logits plus the logarithm of the class counts),
`ldam-drw` the label-distribution-aware margins of Cao et al. (2019) on a cosine classifier, with class weights by the
effective number of images (Cui et al. 2019) from a late epoch on, as in their code (kaidic/LDAM-DRW).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: The methods by their names on the command line.
METHODS = ("ce", "bs", "ldam-drw")

#: LDAM's scale of the logits and largest margin.
SCALE, LARGEST_MARGIN = 30.0, 0.5
#: Beta of the effective number of images.
EFFECTIVE_BETA = 0.9999


class CosineLinear(nn.Module):
    """N,d -> N,C cosines of features and class vectors; no bias. Vectors start uniform in -1..1, scaled to length 1."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.empty(classes, features).uniform_(-1, 1), dim=1))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(x, dim=1), F.normalize(self.weight, dim=1))


def effective_weights(counts: list[int]) -> Tensor:
    """C weights: w_c = (1 - beta) / (1 - beta^n_c), scaled to sum C."""
    n = torch.tensor(counts, dtype=torch.float64)
    weights = (1 - EFFECTIVE_BETA) / (1 - EFFECTIVE_BETA**n)
    return len(counts) * weights / weights.sum()


def margins(counts: list[int]) -> Tensor:
    """C margins proportional to n_c^(-1/4), the largest 0.5."""
    inverse = torch.tensor(counts, dtype=torch.float64).pow(-0.25)
    return LARGEST_MARGIN * inverse / inverse.max()


class SingleView:
    """The loss of one method on the logits of `fc`. What changes between epochs is changed in place (CUDA graphs)."""

    def __init__(self, method: str, counts: list[int], drw_epoch: int, device: torch.device) -> None:
        """`drw_epoch`: from which 0-based epoch `ldam-drw` weights the classes."""
        if method not in METHODS:
            raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
        self.method, self.drw_epoch = method, drw_epoch
        self.log_counts = torch.tensor(counts, dtype=torch.float64).log().float().to(device)
        self.margins = margins(counts).float().to(device)
        self.late_weights = effective_weights(counts).float().to(device)
        self.weights = torch.ones_like(self.late_weights)

    def head(self, features: int, classes: int) -> nn.Module | None:
        """The classifier that takes the place of `fc`, if the method has one of its own."""
        return CosineLinear(features, classes) if self.method == "ldam-drw" else None

    def begin_epoch(self, epoch: int) -> None:
        """Sets what depends on the 0-based epoch."""
        if self.method == "ldam-drw":
            self.weights.copy_(self.late_weights if epoch >= self.drw_epoch else torch.ones_like(self.weights))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """logits N,C; labels N int64 -> scalar. A weighted mean is divided by the sum of its weights, as in PyTorch."""
        if self.method == "ce":
            return F.cross_entropy(logits, labels)
        if self.method == "bs":
            return F.cross_entropy(logits + self.log_counts, labels)
        own = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
        return F.cross_entropy(SCALE * (logits - own * self.margins), labels, self.weights)

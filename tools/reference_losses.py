"""Fixtures of `supervised_loss`: losses and gradients of the methods' own formulas, from PyTorch in float64.

Each case is written as the method's public code computes it, not as the engine's op states it: one-hot margins taken off
the logits, `F.cross_entropy` with its own weighted mean, `F.binary_cross_entropy` of probabilities. A case's tensors are
`supervised_loss.CASE.NAME`: first, second N (classes of originals and partners, int32), shares N (the originals', exact in
float32), logits V*N,C and vectors 5,C (scale, offset, margin, weight, smoothing) of the first head, logits_cb and vectors_cb of
the second, loss (heads), and dlogits, dlogits_cb of `sum_k coefficients[k] * loss[k]`. Attributes: forms (heads: "softmax",
"bce_on_softmax" or "sigmoid_focal"), focal, reductions ("n" or "sum_w"), scales (S), coefficients, each a list over heads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from glmc_torch import class_weights
from reference_ops import Fixtures, randn

CLASSES, BATCH = 7, 6
COUNTS = torch.tensor([500, 241, 100, 53, 20, 11, 5], dtype=torch.float64)
PRIOR = COUNTS / COUNTS.sum()
EFFECTIVE = (1 - 0.999) / (1 - 0.999**COUNTS)
EFFECTIVE = CLASSES * EFFECTIVE / EFFECTIVE.sum()
POWER = class_weights([int(n) for n in COUNTS], 1.2)
MARGINS = 0.5 * (COUNTS / COUNTS.min()) ** -0.25
SMOOTHING = 0.1 + 0.3 * torch.sin(0.5 * torch.pi * (COUNTS - COUNTS.min()) / (COUNTS.max() - COUNTS.min()))

#: logits, first, second, shares -> loss
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def ldam(z: Tensor, y: Tensor, weight: Tensor | None, scale: float = 30.0) -> Tensor:
    """LDAM-DRW's `LDAMLoss`: the margin taken off the logit of the label, then the scale, then torch's weighted mean."""
    index = F.one_hot(y, CLASSES)
    margin = (MARGINS * index).sum(1, keepdim=True)
    return F.cross_entropy(scale * torch.where(index.bool(), z - margin, z), y, weight=weight)


def focal(z: Tensor, y: Tensor, weight: Tensor, gamma: float) -> Tensor:
    """LDAM-DRW's `FocalLoss`: the weight inside."""
    ce = F.cross_entropy(z, y, weight=weight, reduction="none")
    p = torch.exp(-ce)
    return ((1 - p) ** gamma * ce).mean()


def cb_focal(z: Tensor, y: Tensor, weight: Tensor, gamma: float) -> Tensor:
    """Class-balanced focal loss over sigmoids, divided by the positives, of which each sample has one."""
    target = F.one_hot(y, CLASSES).to(z.dtype)
    bce = F.binary_cross_entropy_with_logits(z, target, reduction="none")
    modulator = torch.exp(-gamma * target * z - gamma * torch.log1p(torch.exp(-z)))
    return (weight[y].unsqueeze(1) * modulator * bce).sum() / target.sum()


def wb(z: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """The second stage of weight balancing: binary cross-entropies of the softmax."""
    target = F.one_hot(y, CLASSES).to(z.dtype)
    return F.binary_cross_entropy(z.softmax(1), target, weight=weight[y].unsqueeze(1).expand(-1, CLASSES))


def mislas(z: Tensor, y: Tensor) -> Tensor:
    """Label-aware smoothing."""
    log_p = z.log_softmax(1)
    eps = SMOOTHING[y]
    own = log_p.gather(1, y.unsqueeze(1)).squeeze(1)
    return (-(1 - eps) * own - eps * log_p.mean(1)).mean()


def single(loss: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    """A loss of the originals' labels alone."""
    return lambda z, first, second, shares: loss(z, first)


def mixed(loss: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    """Two losses by one share, each with its own mean, as mixing methods' code has it."""
    return lambda z, first, second, shares: shares[0] * loss(z, first) + (1 - shares[0]) * loss(z, second)


def each(loss: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    """A share for each sample; `loss` is that of one sample."""

    def total(z: Tensor, first: Tensor, second: Tensor, shares: Tensor) -> Tensor:
        rows = [
            share * loss(z[n : n + 1], first[n : n + 1]) + (1 - share) * loss(z[n : n + 1], second[n : n + 1])
            for n, share in enumerate(shares)
        ]
        return torch.stack(rows).mean()

    return total


@dataclass(frozen=True)
class Head:
    """A head: its loss by the method's formula, and what the engine is told to get the same."""

    loss: Loss
    form: str = "softmax"
    focal: float = 0.0
    reduction: str = "n"
    scale: float = 1.0
    vectors: dict[str, Tensor] = field(default_factory=dict)
    #: Factor of the normal logits.
    spread: float = 2.0


def rows(given: dict[str, Tensor]) -> Tensor:
    """5,C: the neutral vectors but for those given."""
    neutral = {"scale": 1.0, "offset": 0.0, "margin": 0.0, "weight": 1.0, "smoothing": 0.0}
    return torch.stack([given.get(name, torch.full((CLASSES,), value, dtype=torch.float64)) for name, value in neutral.items()])


def weighted_mean(z: Tensor, y: Tensor) -> Tensor:
    """torch's weighted cross-entropy, by effective numbers."""
    return F.cross_entropy(z, y, weight=EFFECTIVE)


def balanced_softmax(z: Tensor, y: Tensor) -> Tensor:
    """Balanced softmax."""
    return F.cross_entropy(z + COUNTS.log(), y)


LDAM = {"margin": MARGINS, "weight": EFFECTIVE}
BALANCED = {"offset": COUNTS.log()}
VS = {"scale": (COUNTS / COUNTS.max()) ** 0.2, "offset": 1.2 * PRIOR.log()}
WEIGHTED = {"weight": EFFECTIVE}

ONE = "one"  # a label a sample
SHARE = "share"  # one share a batch
SHARES = "shares"  # a share a sample, some of them 0 and 1

#: name -> (labels, heads)
CASES: dict[str, tuple[str, list[Head]]] = {
    "ce": (ONE, [Head(single(F.cross_entropy))]),
    "cb_ce": (ONE, [Head(single(weighted_mean), reduction="sum_w", vectors=WEIGHTED)]),
    "weights_over_n": (
        ONE,
        [Head(single(lambda z, y: (POWER[y] * F.cross_entropy(z, y, reduction="none")).mean()), vectors={"weight": POWER})],
    ),
    "focal": (ONE, [Head(single(lambda z, y: focal(z, y, EFFECTIVE, 1.0)), focal=1.0, vectors=WEIGHTED)]),
    "focal_2": (ONE, [Head(single(lambda z, y: focal(z, y, EFFECTIVE, 2.0)), focal=2.0, vectors=WEIGHTED)]),
    "cb_focal": (
        ONE,
        [Head(single(lambda z, y: cb_focal(z, y, EFFECTIVE, 1.0)), "sigmoid_focal", focal=1.0, vectors=WEIGHTED)],
    ),
    "cb_focal_half_mixed": (
        SHARES,
        [Head(each(lambda z, y: cb_focal(z, y, EFFECTIVE, 0.5)), "sigmoid_focal", focal=0.5, vectors=WEIGHTED)],
    ),
    "bs": (ONE, [Head(single(balanced_softmax), vectors=BALANCED)]),
    "la": (
        ONE,
        [Head(single(lambda z, y: F.cross_entropy(z + 1.5 * PRIOR.log(), y)), vectors={"offset": 1.5 * PRIOR.log()})],
    ),
    "vs": (ONE, [Head(single(lambda z, y: F.cross_entropy(VS["scale"] * z + VS["offset"], y)), vectors=VS)]),
    "ldam": (
        ONE,
        [Head(single(lambda z, y: ldam(z, y, None)), reduction="sum_w", scale=30.0, vectors={"margin": MARGINS}, spread=0.4)],
    ),
    "ldam_drw": (
        ONE,
        [Head(single(lambda z, y: ldam(z, y, EFFECTIVE)), reduction="sum_w", scale=30.0, vectors=LDAM, spread=0.4)],
    ),
    "ldam_drw_cmo": (
        SHARE,
        [Head(mixed(lambda z, y: ldam(z, y, EFFECTIVE)), reduction="sum_w", scale=30.0, vectors=LDAM, spread=0.4)],
    ),
    "ldam_mixed": (SHARES, [Head(each(lambda z, y: ldam(z, y, None)), scale=30.0, vectors={"margin": MARGINS}, spread=0.4)]),
    "drw_cmo": (SHARE, [Head(mixed(weighted_mean), reduction="sum_w", vectors=WEIGHTED)]),
    "bs_cmo": (SHARE, [Head(mixed(balanced_softmax), reduction="sum_w", vectors=BALANCED)]),
    "mixup": (SHARE, [Head(mixed(F.cross_entropy))]),
    "remix": (SHARES, [Head(each(F.cross_entropy))]),
    "mislas": (ONE, [Head(single(mislas), vectors={"smoothing": SMOOTHING})]),
    "mislas_mixed": (SHARES, [Head(each(mislas), vectors={"smoothing": SMOOTHING})]),
    "wb": (ONE, [Head(single(lambda z, y: wb(z, y, EFFECTIVE)), "bce_on_softmax", vectors=WEIGHTED)]),
    "wb_mixed": (SHARES, [Head(each(lambda z, y: wb(z, y, EFFECTIVE)), "bce_on_softmax", vectors=WEIGHTED)]),
    "glmc": (
        SHARE,
        [
            Head(mixed(F.cross_entropy)),
            Head(
                mixed(lambda z, y: (POWER[y] * F.cross_entropy(z, y, reduction="none")).mean()), vectors={"weight": POWER}
            ),
        ],
    ),
    "glmc_large_logits": (
        SHARE,
        [
            Head(mixed(F.cross_entropy), spread=300.0),
            Head(
                mixed(lambda z, y: (POWER[y] * F.cross_entropy(z, y, reduction="none")).mean()),
                vectors={"weight": POWER},
                spread=300.0,
            ),
        ],
    ),
}


def loss_fixtures() -> tuple[dict[str, Tensor], dict[str, str]]:
    """All cases: tensors by key, attributes by case."""
    out = Fixtures()
    for name, (labels, heads) in CASES.items():
        case = f"supervised_loss.{name}"
        generator = torch.Generator().manual_seed(sum(ord(c) * 31**i for i, c in enumerate(name)) % 2**31)
        first, second = (torch.randint(CLASSES, (BATCH,), generator=generator) for _ in range(2))
        second[3] = first[3]
        shares = {
            ONE: torch.ones(BATCH, dtype=torch.float64),
            SHARE: torch.full((BATCH,), 0.375, dtype=torch.float64),
            SHARES: torch.tensor([0.75, 0.0, 1.0, 0.25, 0.5, 0.0625], dtype=torch.float64),
        }[labels]
        views = 2 if len(heads) > 1 else 1
        coefficients = [0.75, 0.25][: len(heads)]
        suffixes = ["", "_cb"][: len(heads)]
        drawn = randn(case, *[(views * BATCH, CLASSES)] * len(heads))
        logits = [(head.spread * z).requires_grad_() for head, z in zip(heads, drawn, strict=True)]
        losses = [
            sum(head.loss(view, first, second, shares) for view in z.split(BATCH))
            for head, z in zip(heads, logits, strict=True)
        ]
        total = sum(c * loss for c, loss in zip(coefficients, losses, strict=True))
        gradients = torch.autograd.grad(total, logits)
        tensors = {"first": first.int(), "second": second.int(), "shares": shares, "loss": torch.stack(losses)}
        for suffix, head, z, gradient in zip(suffixes, heads, logits, gradients, strict=True):
            tensors |= {"logits" + suffix: z, "vectors" + suffix: rows(head.vectors), "dlogits" + suffix: gradient}
        attributes = {
            "forms": [head.form for head in heads],
            "focal": [head.focal for head in heads],
            "reductions": [head.reduction for head in heads],
            "scales": [head.scale for head in heads],
            "coefficients": coefficients,
        }
        out.add(case, attributes, **tensors)
    return out.tensors, out.metadata

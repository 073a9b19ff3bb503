"""Single-op fixtures: inputs, outputs and gradients of every op that the engine has, from PyTorch in float64.

Layout: activations NHWC, as in the engine; weights OIHW, as in PyTorch; float64 throughout, labels and indices int32,
images uint8. A case's tensors are `OP.CASE.NAME`; its attributes are the JSON string under `OP.CASE` in the file's
metadata. `dy` is always the given gradient of the output, `dX` the resulting gradient of X.
"""

from __future__ import annotations

import json
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from glmc_torch import (
    class_weights,
    cutmix,
    cutmix_box,
    mixup,
    negative_cosine,
    shortcut_a,
)

EPS = 1e-5
BN_MOMENTUM = 0.1


class Fixtures:
    """Collects cases; hands each its own generator, so that adding one leaves the others as they are."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.metadata: dict[str, str] = {}

    def add(self, case: str, attributes: dict[str, object], **tensors: Tensor) -> None:
        """Stores one case; values are detached and made contiguous."""
        self.metadata[case] = json.dumps(attributes)
        for name, value in tensors.items():
            self.tensors[f"{case}.{name}"] = value.detach().clone().contiguous()


def randn(case: str, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Normal float64 tensors, seeded by the case's name."""
    generator = torch.Generator().manual_seed(sum(ord(c) * 31**i for i, c in enumerate(case)) % 2**31)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def nhwc(x: Tensor) -> Tensor:
    """N,C,H,W -> N,H,W,C."""
    return x.permute(0, 2, 3, 1)


def nchw(x: Tensor) -> Tensor:
    """N,H,W,C -> N,C,H,W."""
    return x.permute(0, 3, 1, 2)


def conv2d(out: Fixtures) -> None:
    """x N,H,W,I; w O,I,K,K; y N,P,Q,O."""
    for name, n, h, w, i, o, kernel, stride, padding in [
        ("k3_s1_p1", 2, 5, 7, 3, 4, 3, 1, 1),
        ("k3_s2_p1", 2, 7, 5, 4, 6, 3, 2, 1),
        ("k3_s2_p1_even", 2, 8, 6, 5, 3, 3, 2, 1),
        ("k3_s1_p0", 1, 6, 5, 2, 5, 3, 1, 0),
        ("k3_s2_p0", 2, 7, 9, 3, 2, 3, 2, 0),
        ("k1_s1_p0", 3, 5, 3, 7, 9, 1, 1, 0),
        ("k1_s2_p0", 2, 5, 6, 4, 8, 1, 2, 0),
        ("k1_s1_p1", 1, 3, 4, 2, 3, 1, 1, 1),
        ("k3_one_pixel", 1, 1, 1, 3, 2, 3, 1, 1),
        ("k3_wide", 1, 4, 4, 33, 17, 3, 1, 1),
    ]:
        case = f"conv2d.{name}"
        x, weight = randn(case, (n, h, w, i), (o, i, kernel, kernel))
        x.requires_grad_()
        weight.requires_grad_()
        y = nhwc(F.conv2d(nchw(x), weight, None, stride, padding))
        (dy,) = randn(case + ".dy", tuple(y.shape))
        dx, dw = torch.autograd.grad(y, (x, weight), dy)
        out.add(case, {"stride": stride, "padding": padding}, x=x, w=weight, y=y, dy=dy, dx=dx, dw=dw)


def fused(normalised: Tensor, source: Tensor | None, residual: str | None, relu: bool) -> Tensor:
    """What the engine fuses to BatchNorm's output: the shortcut's addition and ReLU."""
    if source is not None:
        normalised = normalised + (source if residual == "identity" else shortcut_a(source, normalised.shape[1]))
    return F.relu(normalised) if relu else normalised


def batch_norm(out: Fixtures) -> None:
    """Training on `views` stacked views, each with its own statistics, then evaluation; with what is fused to it.

    y = act(bn(x) + shortcut(residual)). x views*N,H,W,C with view 0 first; mean, var (biased) and invstd views,C.
    Running statistics take view 0, then view 1, momentum 0.1, unbiased variance.
    """
    for name, views, n, h, w, c, relu, residual in [
        ("plain", 2, 3, 4, 3, 5, False, None),
        ("one_view", 1, 3, 3, 5, 4, True, None),
        ("relu", 2, 2, 5, 3, 6, True, None),
        ("relu_identity", 2, 3, 3, 3, 4, True, "identity"),
        ("relu_option_a", 2, 2, 3, 4, 8, True, "option_a"),
        ("relu_option_a_odd", 2, 1, 4, 3, 10, True, "option_a"),
        ("no_relu_identity", 2, 1, 2, 5, 3, False, "identity"),
    ]:
        case = f"batch_norm.{name}"
        x, weight, bias, mean, var = randn(case, (views * n, h, w, c), *[(c,)] * 4)
        # x is off centre and off scale, so that a two-pass variance is told from a careless one-pass one.
        x = (2.0 * x + 3.0).requires_grad_()
        weight = (1 + 0.3 * weight).requires_grad_()
        bias = (0.5 * bias).requires_grad_()
        running = {"mean": 0.1 * mean, "var": 0.5 + var.abs()}
        start = {key: value.clone() for key, value in running.items()}
        inputs = [x, weight, bias]
        extra: dict[str, Tensor] = {}
        if residual is not None:
            # Option A comes from half the channels; heights 2h and 2h - 1 both halve to h.
            shape = (views * n, h, w, c) if residual == "identity" else (views * n, 2 * h - 1, 2 * w, c // 2)
            (source,) = randn(case + ".residual", shape)
            extra["residual"] = source.requires_grad_()
            inputs.append(source)

        parts, means, variances = [], [], []
        for index in range(views):
            rows = slice(index * n, (index + 1) * n)
            part = nchw(x[rows])
            means.append(part.mean((0, 2, 3)))
            variances.append(part.var((0, 2, 3), unbiased=False))
            normalised = F.batch_norm(part, running["mean"], running["var"], weight, bias, True, BN_MOMENTUM, EPS)
            shortcut = nchw(extra["residual"][rows]) if extra else None
            parts.append(nhwc(fused(normalised, shortcut, residual, relu)))
        y = torch.cat(parts)
        (dy,) = randn(case + ".dy", tuple(y.shape))
        gradients = torch.autograd.grad(y, inputs, dy)
        names = ["dx", "dweight", "dbias", "dresidual"]
        evaluated = F.batch_norm(nchw(x), start["mean"], start["var"], weight, bias, False, BN_MOMENTUM, EPS)
        out.add(
            case,
            {"views": views, "relu": relu, "residual": residual, "eps": EPS, "momentum": BN_MOMENTUM},
            x=x,
            weight=weight,
            bias=bias,
            running_mean=start["mean"],
            running_var=start["var"],
            y=y,
            mean=torch.stack(means),
            var=torch.stack(variances),
            invstd=(torch.stack(variances) + EPS).rsqrt(),
            running_mean_after=running["mean"],
            running_var_after=running["var"],
            y_eval=nhwc(fused(evaluated, nchw(extra["residual"]) if extra else None, residual, relu)),
            dy=dy,
            **extra,
            **dict(zip(names, gradients, strict=False)),
        )


def shortcut_and_pool(out: Fixtures) -> None:
    """Option-A shortcut alone and global average pooling."""
    for name, n, h, w, c, to in [("even", 2, 4, 6, 4, 8), ("odd_size", 2, 5, 3, 2, 4), ("odd_channels", 1, 4, 4, 3, 6)]:
        case = f"shortcut_a.{name}"
        (x,) = randn(case, (n, h, w, c))
        x.requires_grad_()
        y = nhwc(shortcut_a(nchw(x), to))
        (dy,) = randn(case + ".dy", tuple(y.shape))
        out.add(case, {"channels": to}, x=x, y=y, dy=dy, dx=torch.autograd.grad(y, x, dy)[0])
    for name, n, h, w, c in [("odd", 3, 5, 3, 7), ("one_pixel", 2, 1, 1, 4)]:
        case = f"global_avg_pool.{name}"
        (x,) = randn(case, (n, h, w, c))
        x.requires_grad_()
        y = x.mean((1, 2))
        (dy,) = randn(case + ".dy", tuple(y.shape))
        out.add(case, {}, x=x, y=y, dy=dy, dx=torch.autograd.grad(y, x, dy)[0])


def linear(out: Fixtures) -> None:
    """x N,I; weight O,I; bias O; y N,O."""
    for name, n, i, o in [("small", 5, 7, 3), ("batch_one", 1, 4, 10), ("wide", 3, 33, 17)]:
        case = f"linear.{name}"
        x, weight, bias = randn(case, (n, i), (o, i), (o,))
        inputs = [x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()]
        y = F.linear(*inputs)
        (dy,) = randn(case + ".dy", (n, o))
        dx, dweight, dbias = torch.autograd.grad(y, inputs, dy)
        out.add(case, {}, x=x, weight=weight, bias=bias, y=y, dy=dy, dx=dx, dweight=dweight, dbias=dbias)


def normalize_rows(out: Fixtures) -> None:
    """x N,D; y = x / max(|x|, 1e-12) for each row. In "short" one row is shorter than that, one is zero."""
    for name, n, d in [("small", 4, 5), ("wide", 3, 33), ("short", 4, 3)]:
        case = f"normalize_rows.{name}"
        (x,) = randn(case, (n, d))
        if name == "short":
            x[1] *= 1e-13 / x[1].norm()
            x[2] = 0
        x.requires_grad_()
        y = F.normalize(x)
        (dy,) = randn(case + ".dy", (n, d))
        out.add(case, {}, x=x, y=y, dy=dy, dx=torch.autograd.grad(y, x, dy)[0])


def scale_columns(out: Fixtures) -> None:
    """x N,C; scales C; y = scales * x."""
    for name, n, c in [("small", 4, 5), ("wide", 3, 33), ("tall", 40, 2)]:
        case = f"scale_columns.{name}"
        x, scales = (tensor.requires_grad_() for tensor in randn(case, (n, c), (c,)))
        y = scales * x
        (dy,) = randn(case + ".dy", (n, c))
        dx, dscales = torch.autograd.grad(y, (x, scales), dy)
        out.add(case, {}, x=x, scales=scales, y=y, dy=dy, dx=dx, dscales=dscales)


def cosines(out: Fixtures) -> None:
    """negative_cosine, both views stacked: u and h 2N,D; loss = -mean cos(u_0, h_1) - mean cos(u_1, h_0); du is that of
    gamma * loss, and the gradient of h is zero; dh is the gradient where it is not stopped, dh_own that of h in the place
    of u as well.
    """
    for name, n, d, gamma in [("small", 3, 8, 1.0), ("odd", 5, 33, 4.0), ("batch_one", 1, 2, 0.5)]:
        case = f"negative_cosine.{name}"
        u, h = randn(case, (2 * n, d), (2 * n, d))
        u.requires_grad_()
        h.requires_grad_()
        loss = negative_cosine(u[:n], h[n:]) + negative_cosine(u[n:], h[:n])
        du = torch.autograd.grad(gamma * loss, u)[0]
        # negative_cosine itself stops the gradient; the ablations do not.
        views = [(u[:n], h[n:]), (u[n:], h[:n])]
        dh = torch.autograd.grad(-gamma * sum(F.cosine_similarity(a, b).mean() for a, b in views), h)[0]
        views = [(h[:n], h[n:]), (h[n:], h[:n])]
        dh_own = torch.autograd.grad(-gamma * sum(F.cosine_similarity(a, b).mean() for a, b in views), h)[0]
        out.add(case, {"gamma": gamma}, u=u, h=h, loss=loss.reshape(1), du=du, dh=dh, dh_own=dh_own)


def sgd(out: Fixtures) -> None:
    """Three steps, the learning rate changing between them; paramS and momentumS are the state after step S."""
    sgd_steps(out, [("momentum_decay", 0.9, 5e-3), ("plain", 0.0, 0.0), ("no_decay", 0.9, 0.0)], nesterov=False)


def sgd_steps(out: Fixtures, settings: list[tuple[str, float, float]], *, nesterov: bool) -> None:
    """The cases of `sgd`: name, momentum, weight decay."""
    for name, momentum, decay in settings:
        case = f"sgd.{name}"
        start, *gradients = randn(case, *[(11,)] * 4)
        rates = [0.1, 0.05, 0.2]
        parameter = start.clone().requires_grad_()
        optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=momentum, weight_decay=decay, nesterov=nesterov)
        tensors = {"param": start}
        for step, (rate, gradient) in enumerate(zip(rates, gradients, strict=True)):
            optimizer.param_groups[0]["lr"] = rate
            parameter.grad = gradient.clone()
            optimizer.step()
            tensors[f"grad{step}"] = gradient
            tensors[f"param{step}"] = parameter.detach().clone()
            if momentum:
                tensors[f"momentum{step}"] = optimizer.state[parameter]["momentum_buffer"].clone()
        attributes: dict[str, object] = {"lr": rates, "momentum": momentum, "weight_decay": decay}
        out.add(case, attributes | ({"nesterov": True} if nesterov else {}), **tensors)


def sam(out: Fixtures) -> None:
    """Two steps of SAM by autograd on f(w) = sum (A w)^2 / 2 + sum w^4 / 4; the step has weight decay, the ascent none.

    climbedS is w + eps, gradS and aboveS the gradients at w and there, paramS the weights after step S.
    """
    for name, rho, momentum, decay in [("momentum_decay", 0.05, 0.9, 5e-3), ("far", 2.0, 0.0, 0.0)]:
        case = f"sam.{name}"
        start, matrix = randn(case, (11,), (11, 11))
        parameter = start.clone().requires_grad_()
        optimizer = torch.optim.SGD([parameter], lr=0.01, momentum=momentum, weight_decay=decay)
        tensors = {"param": start}

        def gradient(w: Tensor, by: Tensor = matrix) -> Tensor:
            loss = ((by @ w) ** 2).sum() / 2 + (w**4).sum() / 4
            return torch.autograd.grad(loss, w)[0]

        for step in range(2):
            at = gradient(parameter)
            climbed = (parameter + rho * at / (at.norm() + 1e-12)).detach().requires_grad_()
            parameter.grad = gradient(climbed)
            tensors |= {f"grad{step}": at, f"climbed{step}": climbed, f"above{step}": parameter.grad.clone()}
            optimizer.step()
            tensors[f"param{step}"] = parameter.detach().clone()
        out.add(case, {"rho": rho, "lr": 0.01, "momentum": momentum, "weight_decay": decay}, **tensors)


def optimizer_fixtures() -> tuple[dict[str, Tensor], dict[str, str]]:
    """The cases of the optimiser's options, in a file of their own: tensors by key, attributes by case."""
    out = Fixtures()
    sgd_steps(out, [("nesterov", 0.9, 5e-3), ("nesterov_no_decay", 0.5, 0.0)], nesterov=True)
    sam(out)
    return out.tensors, out.metadata


def augment(image: Tensor, corner: list[int], flip: bool, mean: Tensor, std: Tensor) -> Tensor:
    """H,W,3 u8 -> H,W,3 float64: pad 4 with black, crop at (row, column) of the padded image, flip, normalise."""
    row, column = corner
    height, width, _ = image.shape
    padded = F.pad(image, (0, 0, 4, 4, 4, 4))
    crop = padded[row : row + height, column : column + width]
    crop = crop.flip(1) if flip else crop
    return (crop.double() / 255 - mean) / std


def mixtures(out: Fixtures) -> None:
    """augment_mix: from resident u8 images to both mixtures.

    images M,H,W,3 u8; original and partner: N indices; crops 4,N,2 (row, column in 0..=8) and flips 4,N in the order
    o1, o2, r1, r2; views 4,N,H,W,3 (augmented and normalised); mixup and cutmix N,H,W,3.
    """
    mean = torch.tensor([0.49139968, 0.48215827, 0.44653124], dtype=torch.float64)
    std = torch.tensor([0.24703233, 0.24348505, 0.26158768], dtype=torch.float64)
    for name, images, n, size, lam, centre in [
        ("inner_box", 5, 3, 12, 0.75, (6, 5)),
        ("clipped_box", 4, 2, 8, 0.25, (0, 7)),
        ("empty_box", 2, 1, 8, 1.0, (3, 3)),
        ("odd_size", 3, 3, 7, 0.5, (3, 6)),
    ]:
        case = f"augment_mix.{name}"
        generator = torch.Generator().manual_seed(len(case) + size)

        def draw(limit: int, *shape: int, dtype: torch.dtype = torch.int32, by: torch.Generator = generator) -> Tensor:
            return torch.randint(limit, shape, generator=by, dtype=dtype)

        pixels = draw(256, images, size, size, 3, dtype=torch.uint8)
        indices = draw(images, 2, n)
        crops, flips = draw(9, 4, n, 2), draw(2, 4, n)
        views = torch.stack(
            [
                augment(pixels[indices[v // 2, s]], crops[v, s].tolist(), bool(flips[v, s]), mean, std)
                for v in range(4)
                for s in range(n)
            ]
        ).unflatten(0, (4, n))
        box = cutmix_box(lam, centre, size, size)
        out.add(
            case,
            {"lambda": lam, "centre": centre, "padding": 4, "mean": mean.tolist(), "std": std.tolist()},
            images=pixels,
            original=indices[0],
            partner=indices[1],
            crops=crops,
            flips=flips,
            box=torch.tensor(box, dtype=torch.int32),
            views=views,
            mixup=mixup(views[0], views[2], lam),
            cutmix=nhwc(cutmix(nchw(views[1]), nchw(views[3]), box)),
        )


def boxes_and_weights(out: Fixtures) -> None:
    """cutmix_box: lambda K, centre K,2 (row, column), size K,2 -> box K,4. class_weights: w of counts."""
    rows = []
    for height, width in [(32, 32), (7, 12), (1, 1)]:
        for lam in [0.0, 0.03125, 0.25, 0.4375, 0.5, 0.75, 0.99, 1.0]:
            for row, column in {(0, 0), (height - 1, width - 1), (height // 2, width // 3)}:
                rows.append((lam, row, column, height, width))
    rows = sorted(set(rows))
    ints = torch.tensor([row[1:] for row in rows], dtype=torch.int32)
    box = torch.tensor([cutmix_box(lam, (r, c), h, w) for lam, r, c, h, w in rows], dtype=torch.int32)
    lams = torch.tensor([row[0] for row in rows], dtype=torch.float64)
    out.add("cutmix_box.table", {}, **{"lambda": lams, "centre": ints[:, :2], "size": ints[:, 2:], "box": box})
    cifar10 = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    for name, counts, k in [
        ("cifar10_lt_100", cifar10, 1.2),
        ("k1", cifar10, 1.0),
        ("k0", cifar10, 0.0),
        ("two_classes", [7, 7000], 2.0),
        ("hundred", [int(500 * 0.01 ** (c / 99)) for c in range(100)], 1.2),
    ]:
        counted = torch.tensor(counts, dtype=torch.int32)
        out.add(f"class_weights.{name}", {"k": k}, counts=counted, w=class_weights(counts, k))
    epochs = 10
    rates = [0.05 * 0.5 * (1 + math.cos(math.pi * epoch / epochs)) for epoch in range(epochs)]
    out.add("cosine.per_epoch", {"lr": 0.05, "epochs": epochs}, lr=torch.tensor(rates, dtype=torch.float64))


def op_fixtures() -> tuple[dict[str, Tensor], dict[str, str]]:
    """All cases: tensors by key, attributes by case."""
    out = Fixtures()
    for add in (conv2d, batch_norm, shortcut_and_pool, linear, normalize_rows, scale_columns, cosines, sgd, mixtures, boxes_and_weights):
        add(out)
    return out.tensors, out.metadata

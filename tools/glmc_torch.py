#!/usr/bin/env python3
"""GLMC (CVPR 2023, arXiv 2305.08661) in plain PyTorch: the independent oracle of glmc-engine.

Everything that the engine computes is written here once more in the most readable way that PyTorch allows: the CIFAR
ResNets with GLMC's four heads, both mixtures, soft labels, class weights, the three losses and SGD. Nothing in this
file shares code with the engine. Activations are NCHW, weights OIHW, and the parameter names are those of the
published model, so that checkpoints travel both ways.

Run as a script, it recomputes reference step files (what `glmc-engine verify` reads) and prints the relative L2 error
of every group, in float64 by default:

    python tools/glmc_torch.py tests/fixtures/step_*.safetensors
    python tools/glmc_torch.py --dtype f32 FILE
    python tools/glmc_torch.py --dtype bf16 FILE    # torch.autocast: what PyTorch makes of the file in bf16
    python tools/glmc_torch.py --round param. FILE  # how far rounding the start to bf16, and nothing else, carries
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from torch_networks import DESIGNS, WIDE_HIDDEN, ImageNetResNet, Norm, Outputs

#: Blocks in each of the three stages, by architecture name (depth = 6 * blocks + 2).
DEPTHS: dict[str, int] = {"resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9, "resnet110": 18}

#: Size of `projection_head` and `contrast_head` in the CIFAR networks.
HIDDEN = 128


# ---------------------------------------------------------------------------------------------------------- network


def shortcut_a(x: Tensor, channels: int) -> Tensor:
    """Option-A shortcut (He et al. 2016): every second pixel, zero channels padded on both sides.

    N,c,H,W -> N,channels,ceil(H/2),ceil(W/2). Where the missing channels are odd in number, the extra one is at the
    end.
    """
    missing = channels - x.shape[1]
    return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, missing // 2, missing - missing // 2))


class BasicBlock(nn.Module):
    """conv3x3 - bn - relu - conv3x3 - bn, plus the shortcut, then relu."""

    def __init__(self, inputs: int, channels: int, stride: int, norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False)
        self.bn1 = norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = norm(channels)
        self.channels = channels
        self.downsample = stride != 1

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (shortcut_a(x, self.channels) if self.downsample else x))


class GlmcResNet(nn.Module):
    """A CIFAR ResNet of any depth in `DEPTHS` and any width, with GLMC's heads.

    The three stages have `width`, 2 `width` and 4 `width` channels; the published "ResNet-32" has width 64, He's has
    width 16. Convolutions and linear weights start Kaiming-normal, linear biases as PyTorch's `nn.Linear`.
    """

    def __init__(
        self,
        arch: str = "resnet32",
        width: int = 64,
        classes: int = 10,
        hidden: int = HIDDEN,
        norm: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        if arch not in DEPTHS:
            raise ValueError(f"unknown architecture {arch!r}; known: {', '.join(DEPTHS)}")
        blocks = DEPTHS[arch]
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = norm(width)
        self.layer1 = self._stage(width, width, blocks, 1, norm)
        self.layer2 = self._stage(width, 2 * width, blocks, 2, norm)
        self.layer3 = self._stage(2 * width, 4 * width, blocks, 2, norm)
        features = 4 * width
        self.fc = nn.Linear(features, classes)
        self.fc_cb = nn.Linear(features, classes)
        # Sequential only because the published names have the index: `projection_head.0.weight`.
        self.projection_head = nn.Sequential(nn.Linear(features, hidden))
        self.contrast_head = nn.Sequential(nn.Linear(hidden, hidden))
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _stage(inputs: int, channels: int, blocks: int, stride: int, norm: Norm) -> nn.Sequential:
        first = BasicBlock(inputs, channels, stride, norm)
        return nn.Sequential(first, *(BasicBlock(channels, channels, 1, norm) for _ in range(blocks - 1)))

    def features(self, x: Tensor) -> Tensor:
        """N,3,H,W -> N,4*width: the encoder, ending in global average pooling."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return x.mean((2, 3))

    def forward(self, x: Tensor) -> Outputs:
        """All four heads on one view. In training mode this view has its own BatchNorm statistics."""
        r = self.features(x)
        h = self.projection_head(r)
        return Outputs(self.fc(r), self.fc_cb(r), h, self.contrast_head(h))

    def predict(self, x: Tensor, head: str = "fc_cb") -> Tensor:
        """N,C logits of the one head that inference keeps: `fc_cb` (long-tailed data) or `fc`."""
        return getattr(self, head)(self.features(x))


def network(
    arch: str, width: int, classes: int, hidden: int | None = None, stem: str = "cifar", norm: Norm = nn.BatchNorm2d
) -> GlmcResNet | ImageNetResNet:
    """The network of that name, with all four heads; without `hidden`, of the published width."""
    if arch in DESIGNS:
        return ImageNetResNet(arch, width, classes, hidden or WIDE_HIDDEN, stem, norm)
    if stem != "cifar":
        raise ValueError(f"{arch} has no {stem} stem")
    return GlmcResNet(arch, width, classes, hidden or HIDDEN, norm)


# ------------------------------------------------------------------------------------------- mixtures, labels, weights


def mixup(original: Tensor, partner: Tensor, lam: float | Tensor) -> Tensor:
    """Global mixture: lam * original + (1 - lam) * partner."""
    return lam * original + (1 - lam) * partner


def cutmix_box(lam: float, centre: tuple[int, int], height: int, width: int) -> tuple[int, int, int, int]:
    """The box (rows [b0,b1), columns [b2,b3)) that the partner's pixels fill.

    Both sides are scaled by sqrt(1 - lam) and rounded up; the centre (row, column) is any pixel; a side of s reaches
    s // 2 to both sides of it, clipped to the image.
    """
    ratio = math.sqrt(1.0 - lam)
    rows, columns = math.ceil(height * ratio), math.ceil(width * ratio)
    row, column = centre
    return (
        max(row - rows // 2, 0),
        min(row + rows // 2, height),
        max(column - columns // 2, 0),
        min(column + columns // 2, width),
    )


def cutmix(original: Tensor, partner: Tensor, box: Sequence[int]) -> Tensor:
    """Local mixture of N,C,H,W batches: `original` with one box per batch replaced from `partner`."""
    b0, b1, b2, b3 = box
    mixed = original.clone()
    mixed[:, :, b0:b1, b2:b3] = partner[:, :, b0:b1, b2:b3]
    return mixed


def class_weights(counts: Sequence[int], k: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """C weights: w_c = C * (1/n_c)^k / sum_c (1/n_c)^k."""
    inverse = torch.tensor(counts, dtype=torch.float64).pow(-k)
    return (len(counts) * inverse / inverse.sum()).to(dtype)


def soft_labels(first: Tensor, second: Tensor, lam: float | Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The two N,C labels of mixtures of classes `first` (share lam) and `second` (1 - lam): (plain, weighted).

    The weighted one multiplies each term by its class weight and is not normalised, as in the published code.
    """
    one_first = F.one_hot(first.long(), len(weights)).to(weights.dtype)
    one_second = F.one_hot(second.long(), len(weights)).to(weights.dtype)
    plain = lam * one_first + (1 - lam) * one_second
    return plain, plain * weights


# ------------------------------------------------------------------------------------------------- losses, optimiser


class Losses(NamedTuple):
    """The three terms and their weighted sum, each a scalar."""

    c: Tensor
    cb: Tensor
    sim: Tensor
    total: Tensor


def soft_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """-mean_n sum_c label * log softmax(logits); labels need not sum to 1."""
    return -(label * F.log_softmax(logits, 1)).sum(1).mean()


def negative_cosine(u: Tensor, h: Tensor) -> Tensor:
    """-mean_n cos(u, h) with no gradient through `h` (SimSiam's loss)."""
    return -F.cosine_similarity(u, h.detach(), 1).mean()


def glmc_loss(
    mixup_out: Outputs,
    cutmix_out: Outputs,
    label: Tensor,
    label_weighted: Tensor,
    alpha: float | Tensor,
    gamma: float,
    half: bool = False,
) -> Losses:
    """alpha * L_c + (1 - alpha) * L_cb + gamma * L_sim.

    `half` puts the paper's factor 1/2 on L_c and L_cb; the published code, and so the default, has none.
    """
    scale = 0.5 if half else 1.0
    c = scale * (soft_cross_entropy(mixup_out.logits, label) + soft_cross_entropy(cutmix_out.logits, label))
    cb = scale * (
        soft_cross_entropy(mixup_out.logits_cb, label_weighted)
        + soft_cross_entropy(cutmix_out.logits_cb, label_weighted)
    )
    sim = negative_cosine(mixup_out.u, cutmix_out.h) + negative_cosine(cutmix_out.u, mixup_out.h)
    return Losses(c, cb, sim, alpha * c + (1 - alpha) * cb + gamma * sim)


def alpha_at(epoch: int, epochs: int) -> float:
    """alpha = 1 - (T / Tmax)^2 for the 0-based epoch T."""
    return 1.0 - (epoch / epochs) ** 2


def cosine_lr(base: float, epoch: int, epochs: int) -> float:
    """Cosine from `base` to 0, per epoch: torch's CosineAnnealingLR(T_max=epochs) before epoch `epoch`."""
    return base * 0.5 * (1.0 + math.cos(math.pi * epoch / epochs))


def make_sgd(model: nn.Module, lr: float, momentum: float, weight_decay: float, **options: bool) -> torch.optim.SGD:
    """GLMC's optimiser: coupled weight decay on every parameter, momentum, without Nesterov unless asked for."""
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay, **options)


# -------------------------------------------------------------------------------------------- reference step files


@dataclass(frozen=True)
class StepSetup:
    """The metadata of a reference step file, parsed."""

    arch: str
    width: int
    classes: int
    batch: int
    size: int
    steps: int
    alpha: float
    gamma: float
    k: float
    counts: tuple[int, ...]
    lr: float
    momentum: float
    weight_decay: float
    #: SAM's rho; its ascent leaves out gamma * L_sim.
    sam: float | None = None
    nesterov: bool = False
    #: `imagenet`, where a network has that stem.
    stem: str = "cifar"

    @staticmethod
    def parse(metadata: dict[str, str]) -> StepSetup:
        """From safetensors metadata, whose values are all strings."""
        integers = {key: int(metadata[key]) for key in ("width", "classes", "batch", "size", "steps")}
        reals = {key: float(metadata[key]) for key in ("alpha", "gamma", "k", "lr", "momentum", "weight_decay")}
        fields: dict[str, Any] = {**integers, **reals, "nesterov": metadata.get("nesterov") == "true"}
        fields["sam"] = float(metadata["sam"]) if "sam" in metadata else None
        fields["stem"] = metadata.get("stem", "cifar")
        return StepSetup(arch=metadata["arch"], counts=tuple(json.loads(metadata["counts"])), **fields)

    def metadata(self) -> dict[str, str]:
        """The reverse of `parse`."""
        fields = {key: str(value) for key, value in vars(self).items() if key not in ("counts", "sam", "nesterov", "stem")}
        optional = {"sam": str(self.sam)} if self.sam is not None else {}
        optional |= {"nesterov": "true"} if self.nesterov else {}
        optional |= {"stem": self.stem} if self.arch in DESIGNS else {}
        return {**fields, **optional, "counts": json.dumps(list(self.counts))}


def sam_climb(model: nn.Module, loss: Tensor, rho: float) -> Callable[[], None]:
    """Takes the parameters to w + rho g / (|g| + 1e-12), g the gradient of `loss`; returns what takes them back."""
    parameters = list(model.parameters())
    before = [parameter.detach().clone() for parameter in parameters]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradients if g is not None))
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.add_(rho / (norm + 1e-12) * gradient)

    def back() -> None:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)

    return back


def run_steps(setup: StepSetup, tensors: dict[str, Tensor], dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Trains `setup.steps` steps from the inputs of a reference file; returns its expected outputs, in `dtype`.

    With `torch.bfloat16`, parameters, losses and results are float32 and the network runs under `torch.autocast`.
    `tensors` must hold `param.*`, `stepS.{original,reversed,original_label,reversed_label,lambda,box}` and
    `eval.input`; whatever else it holds is not looked at.
    """
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16)
    dtype = torch.float32 if dtype == torch.bfloat16 else dtype
    hidden = tensors["param.projection_head.0.weight"].shape[0]
    model = network(setup.arch, setup.width, setup.classes, hidden, setup.stem).to(dtype)
    start = {key[len("param.") :]: value.to(dtype) for key, value in tensors.items() if key.startswith("param.")}
    missing, unexpected = model.load_state_dict(start, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(f"parameters do not fit {setup.arch}: missing {missing}, unexpected {unexpected}")
    optimizer = make_sgd(model, setup.lr, setup.momentum, setup.weight_decay, nesterov=setup.nesterov)
    weights = class_weights(setup.counts, setup.k, dtype)
    out: dict[str, Tensor] = {}
    losses = []
    model.train()
    for step in range(setup.steps):
        key = f"step{step}."
        lam = tensors[key + "lambda"].to(dtype)
        original, reversed_ = tensors[key + "original"].to(dtype), tensors[key + "reversed"].to(dtype)
        global_view = mixup(original[0], reversed_[0], lam)
        local_view = cutmix(original[1], reversed_[1], tensors[key + "box"].tolist())
        label, weighted = soft_labels(tensors[key + "original_label"], tensors[key + "reversed_label"], lam, weights)
        out[key + "mixup"], out[key + "cutmix"] = global_view, local_view
        out[key + "label"], out[key + "label_weighted"] = label, weighted

        def forward(
            inputs: tuple[Tensor, Tensor] = (global_view, local_view), labels: tuple[Tensor, Tensor] = (label, weighted)
        ) -> tuple[Outputs, Outputs, Losses]:
            with autocast:
                views = tuple(model(view) for view in inputs)
            first, second = (Outputs(*(value.to(dtype) for value in view)) for view in views)
            return first, second, glmc_loss(first, second, *labels, setup.alpha, setup.gamma)

        optimizer.zero_grad()
        mixup_out, cutmix_out, loss = forward()
        if setup.sam is None:
            loss.total.backward()
        else:
            back = sam_climb(model, loss.total - setup.gamma * loss.sim, setup.sam)
            optimizer.zero_grad()
            forward()[2].total.backward()
            back()
        if step == 0:
            for view, result in (("mixup", mixup_out), ("cutmix", cutmix_out)):
                out[f"step0.logits_{view}"], out[f"step0.logits_cb_{view}"] = result.logits, result.logits_cb
                out[f"step0.h_{view}"], out[f"step0.u_{view}"] = result.h, result.u
            for name, parameter in model.named_parameters():
                # Zeros, not None, where gamma is 0 or alpha 1: every parameter is part of the total.
                assert parameter.grad is not None
                out["grad." + name] = parameter.grad.clone()
        losses.append(torch.stack(list(loss)).detach().double())
        optimizer.step()
    out["losses"] = torch.stack(losses)
    for name, value in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            out["after." + name] = value.clone()
    model.eval()
    with torch.no_grad(), autocast:
        out["eval.logits"] = model.predict(tensors["eval.input"].to(dtype))
    return {key: value.detach() for key, value in out.items()}


def relative(got: Iterable[Tensor], expected: Iterable[Tensor]) -> float:
    """Relative L2 error of concatenated tensors."""
    pairs = [(a.double().flatten(), b.double().flatten()) for a, b in zip(got, expected, strict=True)]
    difference = math.sqrt(sum(float((a - b).square().sum()) for a, b in pairs))
    return difference / max(math.sqrt(sum(float(b.square().sum()) for _, b in pairs)), 1e-300)


def check_file(path: Path, dtype: torch.dtype, rounded: str | None = None) -> dict[str, float]:
    """Recomputes one reference file; errors by group: relative L2, losses absolute.

    Floating-point inputs whose names start with `rounded` are rounded to bfloat16 first.
    """
    with safe_open(path, "pt") as file:
        setup = StepSetup.parse(file.metadata())
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    inputs = {
        key: value.bfloat16().float() if rounded and key.startswith(rounded) and value.is_floating_point() else value
        for key, value in tensors.items()
    }
    got = run_steps(setup, inputs, dtype)

    def group(select: list[str]) -> float:
        return relative((got[key] for key in select), (tensors[key] for key in select))

    absent = sorted(set(got) - set(tensors))
    if absent:
        raise ValueError(f"{path}: lacks {absent[0]} and {len(absent) - 1} more")
    mixtures = [key for key in got if key.split(".")[-1] in ("mixup", "cutmix", "label", "label_weighted")]
    heads = [key for key in got if key.startswith(("step0.logits", "step0.h_", "step0.u_"))]
    loss_error = (got["losses"] - tensors["losses"].double()).abs().amax(1)
    return {
        "mixtures": max(group([key]) for key in mixtures),
        "heads": max(group([key]) for key in heads),
        "first losses": float(loss_error[0]),
        "gradient": group([key for key in got if key.startswith("grad.")]),
        "later losses": float(loss_error[1:].max()) if setup.steps > 1 else 0.0,
        "after": group([key for key in got if key.startswith("after.")]),
        "eval": group(["eval.logits"]),
    }


#: Largest errors that mean "the same computation" in float64 against a file stored as float32.
F64_LIMITS = {"losses": 1e-6, "other": 3e-7}


def main() -> int:
    """Recomputes the files named on the command line; exit status 1 where float64 does not agree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--dtype", choices=["f64", "f32", "bf16"], default="f64")
    parser.add_argument("--round", metavar="PREFIX", help="round inputs to bf16 first: `param.` or `step`")
    options = parser.parse_args()
    dtype = {"f64": torch.float64, "f32": torch.float32, "bf16": torch.bfloat16}[options.dtype]
    failed = False
    for path in options.files:
        errors = check_file(path, dtype, options.round)
        bad = [
            name
            for name, error in errors.items()
            if not error <= (F64_LIMITS["losses"] if "losses" in name else F64_LIMITS["other"])
        ]
        print(f"{path.name}: " + ", ".join(f"{name} {error:.1e}" for name, error in errors.items()))
        if bad and dtype == torch.float64 and not options.round:
            failed = True
            print(f"  differs in {', '.join(bad)}", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

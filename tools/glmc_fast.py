"""The GLMC training step as fast as PyTorch does it, for timing against glmc-engine and for training beside it.

The work is the engine's, no less: u8 images resident on the device -> four augmented views (crop, flip, normalise) ->
both mixtures -> forward of both views, each with its own BatchNorm statistics -> losses -> backward -> SGD. Whatever
changes from step to step (indices, crops, flips, lambda, box, alpha, learning rate) sits in two small rows of device
memory, so that the whole step can be one CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glmc_torch import Outputs, class_weights, glmc_loss, network, soft_labels
from single_view import SingleView

#: Black border of the CIFAR augmentation, in pixels.
PADDING = 4


class JointNorm(nn.BatchNorm2d):
    """BatchNorm of two views stacked in one batch, each half with its own statistics (eager form)."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        first, second = x.chunk(2)
        return torch.cat((super().forward(first), super().forward(second)))


class JointNormFusable(nn.BatchNorm2d):
    """The same in reductions and pointwise operations, which `torch.compile` fuses with their neighbours."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        n, c, height, width = x.shape
        views = x.view(2, n // 2, c, height, width)
        momentum, running_mean, running_var = self.momentum, self.running_mean, self.running_var
        assert momentum is not None and running_mean is not None and running_var is not None  # the defaults
        var, mean = torch.var_mean(views.float(), (1, 3, 4), correction=0, keepdim=True)
        with torch.no_grad():
            count = n // 2 * height * width
            for view in range(2):
                running_mean.lerp_(mean[view].flatten(), momentum)
                running_var.lerp_(var[view].flatten() * (count / (count - 1)), momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(2)
        scale = torch.rsqrt(var + self.eps) * self.weight.view(1, 1, c, 1, 1)
        y = (views - mean) * scale + self.bias.view(1, 1, c, 1, 1)
        return y.to(x.dtype).view(n, c, height, width)


@dataclass(frozen=True)
class Form:
    """One way to run the step; the benchmark tries several and keeps the fastest."""

    #: Both views in one batch (with per-view BatchNorm), or one after the other.
    joined: bool
    #: `torch.compile` of everything from the u8 images to the loss.
    compiled: bool
    #: "f32", "autocast" (bf16) or "bf16" (bf16 convolution and linear weights with f32 master copies).
    precision: str = "f32"
    #: The whole step as one CUDA graph.
    graph: bool = False

    def __str__(self) -> str:
        parts = ["joined views" if self.joined else "separate views", self.precision]
        parts += ["compiled"] if self.compiled else ["eager"]
        return ", ".join(parts + (["CUDA graph"] if self.graph else []))


def forms(device: str, precision: str, mode: str) -> list[Form]:
    """The candidates of `--mode eager` (separate views, as the published code) or `best`."""
    if mode == "eager":
        return [Form(False, False, "autocast" if precision == "bf16" else "f32")]
    precisions = ["autocast", "bf16"] if precision == "bf16" else ["f32"]
    if device == "cuda":
        compiled = [Form(joined, True, p, True) for p in precisions for joined in (False, True)]
        # The last for where PyTorch cannot capture the step.
        return [*compiled, *(Form(False, False, p, True) for p in precisions), Form(False, True, precisions[0])]
    return [Form(joined, compiled, p) for p in precisions for compiled in (False, True) for joined in (False, True)]


class Images:
    """u8 images resident on a device, black border and a fourth byte included: a pixel is one int32 to gather."""

    def __init__(self, pixels: Tensor, mean: list[float], std: list[float], device: torch.device) -> None:
        """`pixels`: M,H,W,3 u8. `mean` and `std` are of pixels in 0..1."""
        p = PADDING
        self.count, self.height, self.width, _ = pixels.shape
        self.stride = self.width + 2 * p
        self.area = (self.height + 2 * p) * self.stride
        padded = F.pad(pixels, (0, 1, p, p, p, p))
        self.packed = padded.contiguous().view(torch.int32).flatten().to(device)
        self.scale = torch.tensor([1 / (255 * s) for s in std], device=device)
        self.shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)
        self.rows = torch.arange(self.height, device=device, dtype=torch.int32)
        self.columns = torch.arange(self.width, device=device, dtype=torch.int32)

    def gather(self, index: Tensor, crops: Tensor, flips: Tensor) -> Tensor:
        """index V,N; crops V,N,2; flips V,N -> V,N,H,W,3 u8: cropped and flipped, not normalised."""
        rows = crops[..., 0, None] + self.rows  # V,N,H
        columns = crops[..., 1, None] + torch.where(flips[..., None] != 0, self.width - 1 - self.columns, self.columns)
        at = (index * self.area)[..., None, None] + (rows * self.stride)[..., None] + columns[..., None, :]
        pixels = self.packed[at]  # V,N,H,W
        return pixels.unsqueeze(-1).view(torch.uint8)[..., :3]

    def normalise(self, pixels: Tensor) -> Tensor:
        """N,H,W,3 of 0..255 -> N,3,H,W f32 in channels_last."""
        return (pixels * self.scale + self.shift).permute(0, 3, 1, 2)

    def mixtures(self, row: Row) -> tuple[Tensor, Tensor]:
        """The MixUp and the CutMix batch, N,3,H,W each. Mixing first is exact: normalising is affine."""
        index = row.index.unsqueeze(1).expand(2, 2, row.batch).reshape(4, row.batch)
        views = self.gather(index, row.crops, row.flips)
        o1, o2, r1, r2 = views.unbind(0)
        mixed = torch.lerp(r1.float(), o1.float(), row.lam)
        b0, b1, b2, b3 = row.box.unbind(0)
        inside = ((self.rows >= b0) & (self.rows < b1))[:, None] & ((self.columns >= b2) & (self.columns < b3))
        cut = torch.where(inside[None, :, :, None], r2, o2)
        return self.normalise(mixed), self.normalise(cut.float())

    def single(self, row: Row) -> Tensor:
        """One augmented view of the originals, N,3,H,W, for plain cross-entropy."""
        return self.normalise(self.gather(row.index[:1], row.crops[:1], row.flips[:1])[0].float())


@dataclass(frozen=True)
class Row:
    """What one step draws, as views of one packed int32 and one packed f32 row."""

    ints: Tensor
    reals: Tensor
    batch: int

    @staticmethod
    def length(batch: int) -> int:
        """Of `ints`: indices 2N, crops 8N, flips 4N, box 4."""
        return 14 * batch + 4

    @property
    def index(self) -> Tensor:
        """2,N: originals, partners."""
        return self.ints[: 2 * self.batch].view(2, self.batch)

    @property
    def crops(self) -> Tensor:
        """4,N,2: row and column in the padded image, for o1, o2, r1, r2."""
        return self.ints[2 * self.batch : 10 * self.batch].view(4, self.batch, 2)

    @property
    def flips(self) -> Tensor:
        """4,N: 0 or 1."""
        return self.ints[10 * self.batch : 14 * self.batch].view(4, self.batch)

    @property
    def box(self) -> Tensor:
        """4: rows [b0,b1), columns [b2,b3)."""
        return self.ints[14 * self.batch :]

    @property
    def lam(self) -> Tensor:
        """Share of the originals."""
        return self.reals[0]

    @property
    def alpha(self) -> Tensor:
        """Weight of L_c."""
        return self.reals[1]


def draw_rows(
    order: Tensor, partner_weights: Tensor, batch: int, alpha: float, beta: float, size: tuple[int, int], seed: int
) -> tuple[Tensor, Tensor]:
    """The rows of all full steps over `order` (shuffled indices), on the CPU: ints steps,14N+4 and reals steps,2."""
    generator = torch.Generator().manual_seed(seed)
    steps = len(order) // batch
    height, width = size

    def randint(limit: int, *shape: int) -> Tensor:
        return torch.randint(limit, shape, generator=generator, dtype=torch.int32)

    partners = torch.multinomial(partner_weights, steps * batch, replacement=True, generator=generator)
    gammas = torch._standard_gamma(torch.full((2, steps), beta, dtype=torch.float64), generator=generator)
    lam = gammas[0] / gammas.sum(0)
    ratio = (1 - lam).sqrt()
    sides = []
    for length in (height, width):
        half = (ratio * length).ceil().int() // 2
        centre = randint(length, steps)
        sides += [(centre - half).clamp(min=0), (centre + half).clamp(max=length)]
    ints = torch.cat(
        [
            order[: steps * batch].view(steps, batch).int(),
            partners.view(steps, batch).int(),
            randint(2 * PADDING + 1, steps, 8 * batch),
            randint(2, steps, 4 * batch),
            torch.stack(sides, 1).int(),
        ],
        1,
    )
    return ints, torch.stack([lam, torch.full_like(lam, alpha)], 1).float()


class Trainer:
    """Model, optimiser and the step in one `Form`."""

    def __init__(
        self,
        images: Images,
        labels: Tensor,
        counts: list[int],
        form: Form,
        device: torch.device,
        *,
        arch: str,
        width: int,
        method: str = "glmc",
        gamma: float = 1.0,
        k: float = 1.2,
        lr: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 5e-3,
        seed: int = 0,
        drw_epoch: int = 160,
        stem: str = "cifar",
    ) -> None:
        """`labels` has a class for each of `images`; `counts` the images of each class; `drw_epoch` is `ldam-drw`'s."""
        torch.manual_seed(seed)
        norm = nn.BatchNorm2d
        if form.joined and method == "glmc":
            norm = JointNormFusable if form.compiled else JointNorm
        self.model = network(arch, width, len(counts), stem=stem, norm=norm)
        self.single = SingleView(method, counts, drw_epoch, device) if method != "glmc" else None
        if self.single is not None:
            self.model.fc = self.single.head(self.model.fc.in_features, len(counts)) or self.model.fc
        self.model.to(device).to(memory_format=torch.channels_last).train()
        self.images, self.labels, self.form, self.device = images, labels.to(device), form, device
        self.weights = class_weights(counts, k, torch.float32).to(device)
        self.gamma = gamma
        # The masters are what SGD updates; only with bf16 weights are they not the model's own parameters.
        self.low: list[Tensor] = []
        self.masters: list[Tensor] = []
        masters = list(self.model.parameters())
        if form.precision == "bf16":
            low = [m for m in self.model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
            copies = {id(p): nn.Parameter(p.detach().clone()) for m in low for p in m.parameters()}
            self.low = [p for p in masters if id(p) in copies]
            masters = [copies.get(id(p), p) for p in masters]
            self.masters = [copies[id(p)] for p in self.low]
            for module in low:
                module.to(torch.bfloat16)
        self.lr = torch.tensor(lr, device=device)
        self.optimizer = torch.optim.SGD(masters, lr=self.lr, momentum=momentum, weight_decay=weight_decay, fused=True)
        self.loss_of: Callable[[Tensor, Tensor, int], Tensor] = self._losses
        if form.compiled:
            mode = "max-autotune-no-cudagraphs" if device.type == "cuda" else "default"
            self.loss_of = torch.compile(self._losses, mode=mode, dynamic=False)
        self.graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, Tensor, Tensor]] = {}

    def _forward(self, x: Tensor) -> Outputs:
        if self.form.precision == "bf16":
            x = x.to(torch.bfloat16)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.form.precision == "autocast"):
            out = self.model(x)
        return Outputs(*(t.float() for t in out))

    def _losses(self, ints: Tensor, reals: Tensor, batch: int) -> Tensor:
        """L_c, L_cb, L_sim and their sum (on a single view: the loss, 0, 0, the loss), as one vector of 4."""
        row = Row(ints, reals, batch)
        first = self.labels[row.index[0]]
        if self.single is not None:
            loss = self.single.loss(self._forward(self.images.single(row)).logits, first.long())
            zero = torch.zeros_like(loss)
            return torch.stack((loss, zero, zero, loss))
        mixup, cutmix = self.images.mixtures(row)
        label, weighted = soft_labels(first, self.labels[row.index[1]], row.lam, self.weights)
        if self.form.joined:
            joined = self._forward(torch.cat((mixup, cutmix)).contiguous(memory_format=torch.channels_last))
            halves = [t.chunk(2) for t in joined]
            views = [Outputs(*(half[view] for half in halves)) for view in range(2)]
        else:
            views = [self._forward(mixup), self._forward(cutmix)]
        return torch.stack(glmc_loss(views[0], views[1], label, weighted, row.alpha, self.gamma))

    def _step(self, ints: Tensor, reals: Tensor, batch: int) -> Tensor:
        self.model.zero_grad(set_to_none=True)
        losses = self.loss_of(ints, reals, batch)
        losses[3].backward()
        if self.low:
            gradients = [torch.empty_like(master) for master in self.masters]
            torch._foreach_copy_(gradients, [p.grad for p in self.low if p.grad is not None])
            for master, gradient in zip(self.masters, gradients, strict=True):
                master.grad = gradient
        self.optimizer.step()
        if self.low:
            with torch.no_grad():
                torch._foreach_copy_(self.low, self.masters)
        return losses.detach()

    def step(self, ints: Tensor, reals: Tensor) -> Tensor:
        """One training step on rows that are on the device already; its losses (of 4), not waited for."""
        batch = (len(ints) - 4) // 14
        if not self.form.graph:
            return self._step(ints, reals, batch)
        if batch not in self.graphs:
            self._capture(ints, reals, batch)
        graph, static_ints, static_reals, losses = self.graphs[batch]
        static_ints.copy_(ints)
        static_reals.copy_(reals)
        graph.replay()
        return losses

    def begin_epoch(self, epoch: int, lr: float) -> None:
        """Sets what depends on the 0-based epoch; between steps."""
        self.lr.fill_(lr)
        if self.single is not None:
            self.single.begin_epoch(epoch)

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def state(self) -> dict[str, object]:
        """All that the next step depends on, on the CPU: model, masters and momenta."""
        momenta = [self.optimizer.state[p].get("momentum_buffer") for p in self._parameters()]
        return {
            "model": {key: value.detach().cpu().clone() for key, value in self.model.state_dict().items()},
            "masters": [p.detach().cpu().clone() for p in self._parameters()],
            "momenta": [None if m is None else m.detach().cpu().clone() for m in momenta],
        }

    @torch.no_grad()
    def restore(self, state: dict[str, object]) -> None:
        """Takes up what `state` returned; before the first step."""
        self.model.load_state_dict(state["model"])
        for parameter, master, momentum in zip(self._parameters(), state["masters"], state["momenta"], strict=True):
            parameter.copy_(master)
            if momentum is not None:
                self.optimizer.state[parameter]["momentum_buffer"] = momentum.to(parameter.device)

    def _capture(self, ints: Tensor, reals: Tensor, batch: int) -> None:
        """Warms up on a side stream, as PyTorch asks, and records the whole step. The weights come out untouched."""
        static_ints, static_reals = ints.clone(), reals.clone()
        state = {key: value.clone() for key, value in self.model.state_dict().items()}
        masters = [p.detach().clone() for p in self._parameters()]
        momenta = {p: s.get("momentum_buffer") for p, s in self.optimizer.state.items()}
        momenta = {p: None if buffer is None else buffer.clone() for p, buffer in momenta.items()}
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._step(static_ints, static_reals, batch)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        self.model.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            losses = self._step(static_ints, static_reals, batch)
        self.graphs[batch] = graph, static_ints, static_reals, losses
        # In place, since the graph holds the addresses.
        for key, value in self.model.state_dict().items():
            value.copy_(state[key])
        with torch.no_grad():
            for parameter, start in zip(self._parameters(), masters, strict=True):
                parameter.copy_(start)
                buffer = self.optimizer.state[parameter].get("momentum_buffer")
                if buffer is not None:
                    # A buffer of zeros is what the first step of SGD starts from.
                    before = momenta.get(parameter)
                    buffer.zero_() if before is None else buffer.copy_(before)

    @torch.no_grad()
    def predict(self, pixels: Tensor, head: str) -> Tensor:
        """N,C f32 logits of unaugmented M,H,W,3 u8 images on the device."""
        self.model.eval()
        x = self.images.normalise(pixels.float()).to(torch.bfloat16 if self.form.precision == "bf16" else torch.float32)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.form.precision == "autocast"):
            logits = self.model.predict(x, head)
        self.model.train()
        return logits.float()

#!/usr/bin/env python3
"""Writes reference outputs for glmc-engine's tests, computed by PyTorch in float64.

    python tools/make_reference.py committed            # everything under tests/fixtures/
    python tools/make_reference.py variants DIR         # a dozen larger random step files, not for committing
    python tools/make_reference.py step FILE [options]  # one step file of any shape
    python tools/make_reference.py ops FILE             # the single-op fixtures
    python tools/make_reference.py losses FILE          # those of the supervised losses

Step files are what `glmc-engine verify` reads: a start, some GLMC training steps, their outcome. Every input is
rounded to float32 first and the computation then continues in float64, so that a reader starts from the very same
numbers; results are stored as float32, losses as float64. The keys are listed in tests/fixtures/README.md.
Same options, same seed, same PyTorch: same bytes.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from glmc_torch import DEPTHS, StepSetup, check_file, cutmix_box, network, run_steps
from reference_bbn import bbn_fixtures
from reference_imagenet_ops import imagenet_op_fixtures
from reference_losses import loss_fixtures
from reference_max_pool import max_pool_fixtures
from reference_ops import op_fixtures, optimizer_fixtures
from reference_photos import photo_fixtures
from torch_networks import DESIGNS


def write_file(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes a safetensors file whose bytes depend on its contents alone.

    The library writes the metadata in a random order, so the header is put in order here; offsets in it count from its
    own end, and so stay right.
    """
    written = save(tensors, metadata)
    length = int.from_bytes(written[:8], "little")
    header = json.loads(written[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data stays 8-byte aligned
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + written[8 + length :])


def long_tail(classes: int, largest: int, imbalance: float) -> tuple[int, ...]:
    """Exponential class counts, largest first: int(largest * imbalance^(-c / (classes - 1)))."""
    return tuple(int(largest * (1 / imbalance) ** (c / (classes - 1))) for c in range(classes))


def make_step(setup: StepSetup, seed: int, hidden: int | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """One reference file: its tensors and its metadata."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # the initialisation has no generator argument

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    model = network(setup.arch, setup.width, setup.classes, hidden, setup.stem)
    with torch.no_grad():
        # As after some training: no BatchNorm parameter or statistic is at its neutral value, where errors hide.
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                size = module.num_features
                module.weight.copy_(1 + 0.2 * normal(size))
                module.bias.copy_(0.1 * normal(size))
                module.running_mean = 0.1 * normal(size)
                module.running_var = 0.5 + torch.rand(size, generator=generator)
    tensors = {
        "param." + name: value.clone()
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    n, size = setup.batch, setup.size
    draws = random.Random(seed)
    for step in range(setup.steps):
        key = f"step{step}."
        tensors[key + "original"] = normal(2, n, 3, size, size)
        tensors[key + "reversed"] = normal(2, n, 3, size, size)
        for name in ("original_label", "reversed_label"):
            tensors[key + name] = torch.randint(setup.classes, (n,), generator=generator, dtype=torch.int32)
        lam = torch.tensor([draws.random()])
        tensors[key + "lambda"] = lam
        box = cutmix_box(lam.item(), (draws.randrange(size), draws.randrange(size)), size, size)
        tensors[key + "box"] = torch.tensor(box, dtype=torch.int32)
    tensors["eval.input"] = normal(n, 3, size, size)
    for key, value in run_steps(setup, tensors).items():
        tensors[key] = value if key == "losses" else value.float()
    metadata = setup.metadata()
    if setup.arch in DESIGNS:
        metadata["hidden"] = str(tensors["param.projection_head.0.bias"].numel())
    return {key: value.contiguous() for key, value in tensors.items()}, metadata


def write_step(path: Path, setup: StepSetup, seed: int, hidden: int | None = None) -> None:
    """Writes one step file and checks that it reproduces when read back."""
    tensors, metadata = make_step(setup, seed, hidden)
    write_file(path, tensors, metadata)
    errors = check_file(path, torch.float64)
    if not max(errors.values()) < 1e-6:
        raise RuntimeError(f"{path} does not reproduce: {errors}")
    print(f"{path}  {path.stat().st_size / 1024:.0f} KiB  last loss {tensors['losses'][-1, 3]:.4f}")


def setup_of(
    arch: str,
    width: int,
    classes: int,
    batch: int,
    size: int,
    steps: int,
    alpha: float = 0.7,
    gamma: float = 4.0,
    k: float = 1.2,
    lr: float = 0.05,
    momentum: float = 0.9,
    weight_decay: float = 5e-3,
    stem: str = "cifar",
) -> StepSetup:
    """A setup with a long-tailed count list, the largest class having 500 images, and lively defaults."""
    counts = long_tail(classes, 500, 100)
    numbers = (width, classes, batch, size, steps, alpha, gamma, k, counts, lr, momentum, weight_decay)
    return StepSetup(arch, *numbers, stem=stem)


#: The committed step files: name -> (setup, seed, hidden size). Kept small: together under 3 MB.
COMMITTED: dict[str, tuple[StepSetup, int, int]] = {
    "step_w4_c10_b5": (setup_of("resnet20", 4, 10, 5, 12, 2), 1, 128),
    "step_w2_c7_b3": (setup_of("resnet32", 2, 7, 3, 16, 1, alpha=1.0, gamma=0.0), 2, 24),
    "step_w3_c100_b2": (setup_of("resnet20", 3, 100, 2, 12, 5, alpha=0.3, gamma=1.0, lr=0.02), 3, 32),
    "step_resnet18_w2_c5_b4": (setup_of("resnet18", 2, 5, 4, 12, 2, lr=0.01), 5, 8),
    "step_resnet34_w1_c4_b3": (setup_of("resnet34", 1, 4, 3, 24, 1, lr=0.01, stem="imagenet"), 6, 8),
    "step_resnet50_w1_c5_b3": (setup_of("resnet50", 1, 5, 3, 24, 1, lr=0.005, stem="imagenet"), 7, 8),
    "step_resnet101_w1_c2_b4": (setup_of("resnet101", 1, 2, 4, 8, 1, lr=0.002), 9, 4),
    "step_resnet152_w1_c2_b4": (setup_of("resnet152", 1, 2, 4, 8, 1, lr=0.002), 10, 4),
    "step_w2_c5_b4_sam": (replace(setup_of("resnet20", 2, 5, 4, 12, 2), sam=0.05, nesterov=True), 4, 16),
}

#: Wider coverage for `verify`, not committed.
VARIANTS: dict[str, tuple[StepSetup, int, int]] = {
    "v01_r32_w16_c10_b7_s32": (setup_of("resnet32", 16, 10, 7, 32, 3, lr=0.01), 101, 128),
    "v02_r20_w12_c37_b7_s28": (setup_of("resnet20", 12, 37, 7, 28, 2, alpha=0.5, gamma=2.0), 102, 128),
    "v03_r32_w5_c2_b2_s20": (setup_of("resnet32", 5, 2, 2, 20, 4, alpha=0.0), 103, 128),
    "v04_r20_w3_c100_b1_s8": (setup_of("resnet20", 3, 100, 1, 8, 1, gamma=1.0), 104, 128),
    "v05_r44_w8_c10_b3_s12": (setup_of("resnet44", 8, 10, 3, 12, 2, lr=0.01), 105, 128),
    "v06_r32_w16_c100_b7_s40": (setup_of("resnet32", 16, 100, 7, 40, 1, gamma=6.0), 106, 128),
    "v07_r32_w12_c10_b7_s32_a1_g0": (setup_of("resnet32", 12, 10, 7, 32, 5, alpha=1.0, gamma=0.0, lr=0.002), 107, 128),
    "v08_r56_w4_c10_b4_s16": (setup_of("resnet56", 4, 10, 4, 16, 2, lr=0.01), 108, 128),
    "v09_r20_w16_c10_b16_s32_h256": (setup_of("resnet20", 16, 10, 16, 32, 2, momentum=0.0), 109, 256),
    "v10_r32_w8_c10_b6_s32_5steps": (setup_of("resnet32", 8, 10, 6, 32, 5, weight_decay=0.0, lr=0.001), 110, 128),
    "v11_r110_w2_c10_b3_s8": (setup_of("resnet110", 2, 10, 3, 8, 1), 111, 128),
    "v12_r32_w64_c10_b2_s32": (setup_of("resnet32", 64, 10, 2, 32, 1, gamma=1.0), 112, 128),
    "v13_r20_w24_c3_b9_s24_k0": (setup_of("resnet20", 24, 3, 9, 24, 2, k=0.0), 113, 64),
}


def main() -> int:
    """Command line: see the head of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    committed = commands.add_parser("committed", help="all files under tests/fixtures/")
    committed.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "tests" / "fixtures")
    variants = commands.add_parser("variants", help="larger random step files")
    variants.add_argument("out", type=Path)
    fixtures = {
        "ops": op_fixtures,
        "imagenet_ops": imagenet_op_fixtures,
        "losses": loss_fixtures,
        "optimizer": optimizer_fixtures,
        "bbn": bbn_fixtures,
        "max_pool": max_pool_fixtures,
        "photos": photo_fixtures,
    }
    for name, what in (
        ("ops", "single-op fixtures"),
        ("imagenet_ops", "single-op fixtures of what ImageNet networks have"),
        ("losses", "fixtures of the supervised losses"),
        ("optimizer", "fixtures of the optimiser"),
        ("bbn", "fixtures of the two-branch network"),
        ("max_pool", "fixtures of the largest values of windows"),
        ("photos", "fixtures of the augmentation of photographs"),
    ):
        commands.add_parser(name, help=what).add_argument("file", type=Path)
    step = commands.add_parser("step", help="one step file", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    step.add_argument("file", type=Path)
    step.add_argument("--arch", choices=[*DEPTHS, *DESIGNS], default="resnet32")
    step.add_argument("--stem", choices=["cifar", "imagenet"], default="cifar")
    for name, default in (("width", 8), ("classes", 10), ("batch", 6), ("size", 32), ("steps", 3)):
        step.add_argument(f"--{name}", type=int, default=default)
    step.add_argument("--hidden", type=int, help="width of the projections; the network's own if absent")
    step.add_argument("--seed", type=int, default=0)
    for name, value in (("alpha", 0.7), ("gamma", 4.0), ("k", 1.2), ("lr", 0.05), ("momentum", 0.9)):
        step.add_argument(f"--{name}", type=float, default=value)
    step.add_argument("--weight-decay", type=float, default=5e-3)
    step.add_argument("--counts", type=json.loads, help="JSON list of training images per class; a long tail if absent")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the order of sums, and so the bytes, must not depend on the machine's cores

    for name, make in fixtures.items():
        if options.command not in ("committed", name):
            continue
        path = options.out / f"{name}.safetensors" if options.command == "committed" else options.file
        tensors, metadata = make()
        write_file(path, tensors, metadata)
        print(f"{path}  {path.stat().st_size / 1024:.0f} KiB  {len(metadata)} cases")
    if options.command in ("committed", "variants"):
        for name, (setup, seed, hidden) in (COMMITTED if options.command == "committed" else VARIANTS).items():
            write_step(options.out / f"{name}.safetensors", setup, seed, hidden)
    if options.command == "step":
        if options.classes < 2 or options.size % 4 or min(options.width, options.batch, options.steps) < 1:
            parser.error("classes >= 2, size a multiple of 4, and width, batch and steps >= 1 are needed")
        chosen = {name: value for name, value in vars(options).items() if name in StepSetup.__dataclass_fields__}
        del chosen["counts"]
        setup = setup_of(**chosen)
        if options.counts is not None:
            if len(options.counts) != options.classes:
                parser.error(f"--counts lists {len(options.counts)} classes, --classes says {options.classes}")
            setup = StepSetup(**{**vars(setup), "counts": tuple(options.counts)})
        write_step(options.file, setup, options.seed, options.hidden)
    return 0


if __name__ == "__main__":
    sys.exit(main())

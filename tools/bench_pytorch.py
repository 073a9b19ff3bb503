#!/usr/bin/env python3
"""PyTorch beside glmc-engine: the same training step, per-layer convolutions, and whole training runs.

    python tools/bench_pytorch.py --model resnet32 --width 16 --batch 64 --device cpu --mode best --json
    python tools/bench_pytorch.py --width 64 --device cuda --precision bf16 --mode best --json
    python tools/bench_pytorch.py --method ce --width 16 --batch 128 --device cpu --json
    python tools/bench_pytorch.py --model resnet50 --width 64 --size 224 --classes 1000 --batch 8 --device cpu --json
    python tools/bench_pytorch.py --width 64 --device cuda --precision bf16 --layers
    python tools/bench_pytorch.py --train --data cifar10.lt --width 64 --device cuda --precision bf16 --epochs 200
    python tools/bench_pytorch.py --train --data cifar10.lt --method ce --batch 128 --lr 0.1 --weight-decay 2e-4 \\
        --lr-schedule 160:0.01,180:0.0001 --warmup-epochs 5 --checkpoint ce.pt    # width 16 by LDAM-DRW's recipe

`--mode eager` is the step as the published code writes it (channels_last, fused SGD, vectorised augmentation);
`--mode best` times every form that PyTorch offers (views joined or separate, compiled or not; on a GPU also bf16
weights against autocast, max-autotune and CUDA graphs) and reports the fastest, listing the others. A form that fails
is listed with its error. One sample is one original: of GLMC two augmented views of it and two of its partner, of the
other methods (`--method`) one view of it. `--layers` times each convolution of the network by itself, on a GPU without
the cost of launching from Python.

Fields of the JSON that `glmc-engine bench step --json` has, too, mean the same.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from glmc_fast import Form, Images, Trainer, draw_rows, forms
from glmc_torch import DEPTHS
from torch_networks import DESIGNS
from single_view import METHODS

#: CIFAR-10-LT with imbalance 100: what both benchmarks pretend to train on.
COUNTS = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
SIZE = 32
#: Steps' worth of images where these are larger.
STEPS = 8
#: Calls of an op in one CUDA graph.
GRAPH_CALLS = 20


def processor() -> str:
    """The CPU's or GPU's own name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown CPU"


def synchronize(device: torch.device) -> None:
    """Waits for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def process_peak_bytes() -> int:
    """The most memory that this process ever had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def make_trainer(
    form: Form, options: argparse.Namespace, device: torch.device
) -> tuple[Trainer, torch.Tensor, torch.Tensor]:
    """A trainer on random pixels, and the rows of some steps on the device: of CIFAR's size with CIFAR-10-LT's class counts."""
    torch.manual_seed(0)
    size, counts = options.size, COUNTS
    if (size, options.classes) != (SIZE, len(COUNTS)):
        drawn = (torch.rand(STEPS * options.batch) ** 3 * options.classes).long()
        counts = (torch.bincount(drawn, minlength=options.classes) + 1).tolist()
    total = sum(counts)
    pixels = torch.randint(256, (total, size, size, 3), dtype=torch.uint8)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    images = Images(pixels, [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616], device)
    network = {"arch": options.model, "width": options.width, "stem": options.stem}
    trainer = Trainer(images, labels, counts, form, device, method=options.method, **network)
    steps = max(1, min(200, total // options.batch))
    order = torch.randperm(total)[: steps * options.batch]
    if len(order) < options.batch:
        raise SystemExit(f"--batch {options.batch}: at most {total}")
    ints, reals = draw_rows(order, torch.ones(total), options.batch, 0.7, 1.0, (size, size), 0)
    return trainer, ints.to(device), reals.to(device)


@dataclass(frozen=True)
class Measured:
    """One form's speed, and what it took."""

    #: Samples per second, one figure per round.
    rates: list[float]
    #: Steps of a round.
    steps: int
    #: Learned parameters.
    parameters: int
    #: On a GPU: the most bytes that were allocated at once.
    peak_bytes: int

    def summary(self, batch: int) -> dict[str, Any]:
        """Median, quartiles and extremes, in the words of `glmc-engine bench step --json`."""
        quartiles = statistics.quantiles(self.rates, n=4, method="inclusive")
        median = statistics.median(self.rates)
        return {
            "samples_per_second": median,
            "quartiles": [quartiles[0], quartiles[2]],
            "extremes": [min(self.rates), max(self.rates)],
            "seconds_per_step": batch / median,
            "rounds": [len(self.rates), self.steps],
        }


def measure(form: Form, options: argparse.Namespace, device: torch.device, seconds: float) -> Measured:
    """Times rounds of steps (of one step on a CPU) after warming up."""
    cuda = device.type == "cuda"
    if cuda:
        gc.collect()  # the form before is held by cycles
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    trainer, ints, reals = make_trainer(form, options, device)

    def steps(first: int, count: int) -> None:
        for step in range(first, first + count):
            losses = trainer.step(ints[step % len(ints)], reals[step % len(ints)])
        if not torch.isfinite(losses).all():  # waits for the device, too
            raise RuntimeError(f"loss is not finite: {losses.tolist()}")

    done = 20 if cuda else 2
    steps(0, done)
    chunk = 1
    if cuda:
        start = time.perf_counter()
        steps(done, 20)
        done += 20
        chunk = max(1, round(0.1 / ((time.perf_counter() - start) / 20)))
    rates: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(rates) < 5:
        synchronize(device)
        start = time.perf_counter()
        steps(done, chunk)
        rates.append(chunk * options.batch / (time.perf_counter() - start))
        done += chunk
    parameters = sum(p.numel() for p in trainer.model.parameters())
    return Measured(rates, chunk, parameters, torch.cuda.max_memory_allocated(device) if cuda else 0)


def bench_step(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Times the step in every candidate form and reports the fastest."""
    candidates: list[dict[str, object]] = []
    best: tuple[float, Form] | None = None
    tried = forms(device.type, options.precision, options.mode)
    if options.method != "glmc":
        tried = [form for form in tried if not form.joined]  # one view has nothing to be joined with
    begun = time.perf_counter()
    for form in tried:
        if best is not None and options.limit and time.perf_counter() - begun > options.limit:
            candidates.append({"form": str(form), "error": f"not tried: the others took {options.limit:g} s"})
            note(options, f"{form}: {candidates[-1]['error']}")
            continue
        torch.compiler.reset()  # one form's compiled code must not count as a recompilation of the next
        try:
            measured = measure(form, options, device, options.seconds / (2 if len(tried) > 1 else 1))
        except Exception as error:  # a form that PyTorch cannot run is a result, not an accident
            candidates.append({"form": str(form), "error": str(error).strip().splitlines()[0][:200]})
            note(options, f"{form}: failed: {candidates[-1]['error']}")
            continue
        summary = measured.summary(options.batch)
        candidates.append({"form": str(form), **summary})
        note(options, f"{form}: {summary['samples_per_second']:.1f} samples/s")
        if best is None or summary["samples_per_second"] > best[0]:
            best = summary["samples_per_second"], form
    if best is None:
        raise SystemExit("no form of the step ran; see above")
    if len(tried) > 1:
        torch.compiler.reset()
        measured = measure(best[1], options, device, options.seconds)
    cuda = device.type == "cuda"
    # A GPU's allocator counts what this form allocated; of the CPU only the whole process is known.
    memory = {"peak_bytes": measured.peak_bytes} if cuda else {"process_peak_bytes": process_peak_bytes()}
    return {
        **measured.summary(options.batch),
        "tool": "pytorch",
        "torch": torch.__version__,
        "method": options.method,
        "model": options.model,
        "stem": options.stem,
        "width": options.width,
        "size": options.size,
        "classes": options.classes,
        "batch": options.batch,
        "device": options.device,
        "device_name": torch.cuda.get_device_name(device) if cuda else processor(),
        "precision": options.precision,
        "threads": torch.get_num_threads(),
        "mode": options.mode,
        "form": str(best[1]),
        "parameters": measured.parameters,
        **memory,
        "candidates": candidates,
    }


def layer_shapes(arch: str, width: int) -> dict[tuple[int, int, int, int, int], int]:
    """The network's convolutions: (inputs, outputs, kernel, stride, input size) -> how many of them."""
    blocks = DEPTHS[arch]
    shapes = {(3, width, 3, 1, SIZE): 1}

    def add(inputs: int, outputs: int, stride: int, size: int, count: int) -> None:
        if count:
            shapes[inputs, outputs, 3, stride, size] = shapes.get((inputs, outputs, 3, stride, size), 0) + count

    add(width, width, 1, SIZE, 2 * blocks)
    for stage in (1, 2):
        channels, size = width << stage, SIZE >> stage
        add(channels // 2, channels, 2, 2 * size, 1)
        add(channels, channels, 1, size, 2 * blocks - 1)
    return shapes


def time_graph(run: Callable[[], object], seconds: float) -> float:
    """Median seconds of one call on a GPU, by its own clock: calls in one CUDA graph, since launching a short kernel from
    Python takes longer than the kernel."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # cuDNN searches for its fastest algorithm here
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(GRAPH_CALLS):
            run()
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    graph.replay()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) / 1e3 / GRAPH_CALLS)
    return statistics.median(times)


def time_op(run: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Median seconds of one call."""
    if device.type == "cuda":
        return time_graph(run, seconds)
    for _ in range(3):
        run()
    start = time.perf_counter()
    run()
    chunk = max(1, min(200, round(0.01 / max(time.perf_counter() - start, 1e-6))))
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        for _ in range(chunk):
            run()
        times.append((time.perf_counter() - start) / chunk)
    return statistics.median(times)


def conv_operations(x: torch.Tensor, weight: torch.Tensor, stride: int) -> tuple[dict[str, Callable[[], object]], int]:
    """The three convolutions of a layer, in channels_last, and the operations (2 a multiply-add) of each."""
    x, weight = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight))
    kernel = weight.shape[2]
    dy = torch.randn_like(F.conv2d(x, weight, None, stride, kernel // 2))

    def backward(mask: list[bool]) -> object:
        return torch.ops.aten.convolution_backward(
            dy, x, weight, None, [stride] * 2, [kernel // 2] * 2, [1, 1], False, [0, 0], 1, mask
        )

    operations: dict[str, Callable[[], object]] = {
        "forward": lambda: F.conv2d(x, weight, None, stride, kernel // 2),
        "dgrad": lambda: backward([True, False, False]),
        "wgrad": lambda: backward([False, True, False]),
    }
    return operations, 2 * dy.numel() * weight[0].numel()


def bench_layers(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Forward, input gradient and weight gradient of each distinct convolution, both views in one batch.

    On a GPU through cuDNN with its own search for the fastest algorithm. The stem has no input gradient. Fields that
    `glmc-engine bench ops --json` has, too, mean the same: seconds are those of all layers of that shape.
    """
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    rows: list[dict[str, Any]] = []
    each = options.seconds / (3 * len(layer_shapes(options.model, options.width)))
    for (inputs, outputs, kernel, stride, size), count in layer_shapes(options.model, options.width).items():
        n = 2 * options.batch

        x = torch.randn((n, inputs, size, size), device=device).to(dtype)
        weight = torch.randn((outputs, inputs, kernel, kernel), device=device).to(dtype)
        operations, flop = conv_operations(x, weight, stride)
        if inputs == 3:
            del operations["dgrad"]
        for name, run in operations.items():
            with torch.no_grad():
                once = time_op(run, device, each)
            shape = f"{n}x{size}x{size}x{inputs} -> {outputs}, {kernel}x{kernel}/{stride}"
            tflops = flop / once / 1e12
            row = {"op": "conv2d", "pass": name, "shape": shape, "count": count, "seconds": once * count}
            rows.append({**row, "tflops": tflops})
            note(options, f"{name:8} {shape:36} x{count:<3} {once * 1e6:10.1f} us {tflops:9.3f} TFLOP/s")
    return {
        "tool": "pytorch",
        "torch": torch.__version__,
        "model": options.model,
        "width": options.width,
        "batch": options.batch,
        "device": options.device,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "precision": options.precision,
        "threads": torch.get_num_threads(),
        "seconds": sum(row["seconds"] for row in rows),
        "ops": rows,
    }


def note(options: argparse.Namespace, line: str) -> None:
    """Progress, on stderr where stdout carries JSON."""
    print(line, file=sys.stderr if options.json else sys.stdout, flush=True)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--method", choices=["glmc", *METHODS], default="glmc")
    parser.add_argument("--model", choices=[*DEPTHS, *DESIGNS], default="resnet32")
    parser.add_argument("--stem", choices=["cifar", "imagenet"], help="default: imagenet above 64 pixels")
    parser.add_argument("--size", type=int, default=SIZE, help="rows and columns of an image")
    parser.add_argument("--classes", type=int, default=len(COUNTS))
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--tf32", action="store_true", help="let f32 use TF32 tensor cores (GPU; off: true f32)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: as PyTorch decides")
    parser.add_argument("--seconds", type=float, default=20.0, help="of measuring, warm-up and compiling not counted")
    parser.add_argument("--mode", choices=["eager", "best"], default="best")
    parser.add_argument(
        "--limit", type=float, default=0, metavar="SECONDS", help="of best: try no other form after so long; 0: try all"
    )
    parser.add_argument("--layers", action="store_true", help="time each convolution instead of the step")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, progress on stderr")
    training = parser.add_argument_group("training (--train)")
    training.add_argument("--train", action="store_true", help="train on --data and print accuracy every epoch")
    training.add_argument("--data", type=Path, help="a store made by `glmc-engine prepare`")
    training.add_argument("--out", type=Path, help="folder for metrics.jsonl, in the engine's format")
    training.add_argument("--epochs", type=int, default=200)
    training.add_argument("--lr-schedule", default="cosine", help="cosine, or epochs with factors of --lr: E:F,E:F")
    training.add_argument("--warmup-epochs", type=int, default=0, help="of linear warm-up")
    training.add_argument("--drw-epoch", type=int, default=160, help="of ldam-drw: weights classes from this one on")
    training.add_argument("--checkpoint", type=Path, metavar="FILE", help="save here; the same command goes on from it")
    training.add_argument("--checkpoint-every", type=int, default=1, metavar="EPOCHS")
    training.add_argument("--seed", type=int, default=0)
    training.add_argument("--eval-every", type=int, default=1, metavar="EPOCHS")
    for name, value in (
        ("lr", 0.01),
        ("weight-decay", 5e-3),
        ("momentum", 0.9),
        ("gamma", 1.0),
        ("k", 1.2),
        ("resample", 0.0),
        ("beta", 1.0),
    ):
        training.add_argument(f"--{name}", type=float, default=value)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no CUDA device here")
    if min(options.width, options.size) < 1 or min(options.batch, options.classes) < 2:
        parser.error("--width and --size must be at least 1, --batch and --classes at least 2")
    if options.stem is None:
        options.stem = "imagenet" if options.model in DESIGNS and options.size > 64 else "cifar"
    if options.stem == "imagenet" and options.model in DEPTHS:
        parser.error(f"--stem imagenet: {options.model} is a CIFAR network")
    if options.layers and options.model in DESIGNS:
        parser.error("--layers knows the CIFAR networks alone")
    if options.train and options.data is None:
        parser.error("--train needs --data STORE")
    if min(options.epochs, options.checkpoint_every, options.eval_every) < 1 or options.warmup_epochs < 0:
        parser.error("--epochs, --checkpoint-every and --eval-every must be at least 1, --warmup-epochs at least 0")
    if not re.fullmatch(r"cosine|\d+:[\d.e+-]+(,\d+:[\d.e+-]+)*", options.lr_schedule):
        parser.error(f"--lr-schedule {options.lr_schedule}: give cosine, or epochs with factors: 160:0.01,180:0.0001")
    return options


def main() -> int:
    """Command line: see the head of this file."""
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = options.tf32
    torch.backends.cuda.matmul.allow_tf32 = options.tf32
    if options.train:
        from train_pytorch import train  # only this mode needs it

        train(options, device)
        return 0
    result = bench_layers(options, device) if options.layers else bench_step(options, device)
    if options.json:
        print(json.dumps(result))
    elif options.layers:
        print(f"all convolutions of one step: {result['seconds'] * 1e3:.2f} ms")
    else:
        print(
            f"best: {result['form']}: {result['samples_per_second']:.1f} samples/s "
            f"(quartiles {result['quartiles'][0]:.1f} .. {result['quartiles'][1]:.1f}, {result['rounds'][0]} rounds)"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

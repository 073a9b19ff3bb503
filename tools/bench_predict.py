#!/usr/bin/env python3
"""PyTorch beside `glmc-engine predict`: the same network's answers about the same image files, and how fast they come.

    python tools/bench_predict.py --checkpoint RUN photos --engine target/release/glmc-engine --threads 2 --copies 4
    python tools/bench_predict.py --checkpoint RUN photos --engine target/release/glmc-engine --check --json
    python tools/bench_predict.py --checkpoint RUN photos --engine target/release/glmc-engine --device cuda --batch 256

The checkpoint is this program's own (`glmc-engine import` makes one of a state dict). PATHs are what `predict` takes;
the files that it could read are those that both are timed on, `--copies` times over.

PyTorch reads files with Pillow, turned upright, resized and cut by torchvision's transforms as the checkpoint says, and
computes on batches in channels_last under inference_mode, with `--threads` threads. Forms: `pool` decodes the next
batches in as many Python threads meanwhile (Pillow releases the interpreter's lock), `workers` in as many processes of
a DataLoader; both with batch normalisations as they are and folded into the convolutions (`folded`). On a machine with
more cores than `--threads` PyTorch thus has the use of twice as many. Each form is warmed up and its start is not
counted: that of glmc-engine is, with reading the checkpoint. What is printed is the median of `--repeat` rounds, in
turns, so that all see the same machine. `--check` compares answers instead of times: top-1 and logits.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from load_checkpoint import network_of

#: Heads that inference may do without.
HEADS = ("fc_cb.", "projection_head.", "contrast_head.")
#: Batches that the pool is ahead of the network.
AHEAD = 2


class Files(Dataset):
    """Image files as (height, width, 3) bytes, as a checkpoint wants to see them."""

    def __init__(self, paths: list[str], manifest: dict[str, Any]) -> None:
        data, config = manifest["data"], manifest["config"]
        size, resize = config.get("size"), config.get("eval_resize")
        if size is None and manifest.get("imported"):
            size = data["height"]
        prepared = data.get("prepared") or {}
        self.paths, self.upright = paths, prepared.get("exif", "apply") == "apply"
        if size is None:
            side = (data["height"], data["width"])
            steps = [transforms.Resize(min(side)), transforms.CenterCrop(side)]
        else:
            resize = resize or (size * 256 + 112) // 224
            how = prepared.get("resize", {"short": resize})
            first = [] if how == "none" else [transforms.Resize(next(iter(how.values())))]
            if how != "none" and "square" in how:
                first.append(transforms.CenterCrop(how["square"]))
            steps = [*first, transforms.Resize(resize), transforms.CenterCrop(size)]
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        image = Image.open(self.paths[index])
        if self.upright:
            image = ImageOps.exif_transpose(image)
        return torch.from_numpy(np.array(self.transform(image.convert("RGB"))))


@dataclass
class Form:
    """A way to go through the files."""

    name: str
    model: nn.Module
    workers: bool


class Subject:
    """The network of a checkpoint, and its normalisation."""

    def __init__(self, path: Path, head: str | None, device: torch.device) -> None:
        path = path / "last.safetensors" if path.is_dir() else path
        with safe_open(path, "pt") as file:
            self.manifest = json.loads((file.metadata() or {})["glmc_engine"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}
        state = {key: value for key, value in tensors.items() if not key.startswith(("optimizer.", "run."))}
        self.model = network_of(state)
        missing, unexpected = self.model.load_state_dict(state, strict=False)
        lacking = [name for name in missing if not name.startswith(HEADS)]
        if lacking or unexpected:
            raise RuntimeError(f"{path}: lacks {lacking}, has {unexpected} besides")
        self.head = head or self.manifest["config"].get("head") or ("fc_cb" if "fc_cb.weight" in state else "fc")
        self.device = device
        self.model = self.model.eval().to(device, memory_format=torch.channels_last)
        shape = (1, 3, 1, 1)
        mean, std = (torch.tensor(self.manifest["data"][key], device=device).view(shape) for key in ("mean", "std"))
        self.scale, self.shift = 1 / (255 * std), -mean / std

    def folded(self) -> nn.Module:
        """The network with every batch normalisation folded into the convolution before it."""
        model = copy.deepcopy(self.model)
        for module in list(model.modules()):
            last: tuple[str, nn.Conv2d] | None = None
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Conv2d):
                    last = (name, child)
                elif isinstance(child, nn.BatchNorm2d) and last and last[1].out_channels == child.num_features:
                    setattr(module, last[0], fuse_conv_bn_eval(last[1], child))
                    setattr(module, name, nn.Identity())
                    last = None
        return model.to(memory_format=torch.channels_last)

    def answer(self, model: nn.Module, batch: Tensor) -> Tensor:
        """Logits of a batch of (height, width, 3) bytes."""
        # A batch of rows of pixels is in channels_last once its axes are named otherwise.
        x = batch.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float()
        return model.predict(x * self.scale + self.shift, self.head)


def batches(form: Form, files: Files, options: argparse.Namespace) -> Iterator[Tensor]:
    """The files' pixels, batch by batch, decoded while the consumer computes."""
    if form.workers:
        yield from DataLoader(files, options.batch, num_workers=options.threads)
        return
    chunks = [range(at, min(at + options.batch, len(files))) for at in range(0, len(files), options.batch)]
    with ThreadPoolExecutor(options.threads) as pool:
        waiting: deque[list[Any]] = deque()
        for chunk in chunks:
            waiting.append([pool.submit(files.__getitem__, index) for index in chunk])
            if len(waiting) > AHEAD:
                yield torch.stack([image.result() for image in waiting.popleft()])
        while waiting:
            yield torch.stack([image.result() for image in waiting.popleft()])


@torch.inference_mode()
def run(subject: Subject, form: Form, files: Files, options: argparse.Namespace) -> Tensor:
    """Logits of all files, on the host."""
    return torch.cat([subject.answer(form.model, batch).cpu() for batch in batches(form, files, options)])


def engine(
    options: argparse.Namespace, head: str, paths: list[str], folder: Path
) -> tuple[float, np.ndarray, list[dict]]:
    """Seconds of the whole program, its logits, and its lines."""
    out, logits = folder / "out.csv", folder / "logits.npy"
    command = [options.engine, "predict", "--checkpoint", options.checkpoint, "--head", head, "--flip=false"]
    command += ["--device", options.device, "--threads", str(options.threads), "--batch", str(options.batch)]
    command += ["--out", out, "--logits", logits, "--force", "--skip-broken", *paths]
    start = time.perf_counter()
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{options.engine}: {done.stderr.strip()}")
    with out.open(newline="") as file:
        return seconds, np.load(logits), list(csv.DictReader(file))


def check(subject: Subject, files: Files, ours: np.ndarray, options: argparse.Namespace) -> dict[str, Any]:
    """How far both agree."""
    theirs = run(subject, Form("pool", subject.model, workers=False), files, options).numpy()
    differ = np.nonzero(theirs.argmax(1) != ours.argmax(1))[0]
    return {
        "images": len(files.paths),
        "head": subject.head,
        "other_top1": len(differ),
        "largest_logit_difference": float(np.abs(theirs - ours).max()),
        "mean_logit_difference": float(np.abs(theirs - ours).mean()),
        "largest_logit": float(np.abs(theirs).max()),
        "files_of_other_top1": [files.paths[at] for at in differ[:10]],
    }


def bench(subject: Subject, paths: list[str], options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Images per second of each form and of the engine."""
    plain, folded = subject.model, subject.folded()
    forms = [
        Form(f"{name}{kind}", model, name == "workers")
        for name in ("pool", "workers")
        for kind, model in (("", plain), (", folded", folded))
    ]
    rates: dict[str, list[float]] = {form.name: [] for form in forms}
    rates["glmc-engine"] = []
    failed: dict[str, str] = {}
    files = Files(paths, subject.manifest)
    warm = Files(paths[: 2 * options.batch], subject.manifest)
    for turn in range(options.repeat):
        for form in forms:
            if form.name in failed:
                continue
            try:
                if turn == 0:
                    run(subject, form, warm, options)
                start = time.perf_counter()
                run(subject, form, files, options)
                rates[form.name].append(len(paths) / (time.perf_counter() - start))
            except (RuntimeError, OSError) as error:
                failed[form.name] = str(error).splitlines()[0]
        listing = folder / "list.txt"
        listing.write_text("\n".join(paths))
        rates["glmc-engine"].append(len(paths) / engine(options, subject.head, [str(listing)], folder)[0])
    medians = {name: statistics.median(values) for name, values in rates.items() if values}
    best = max((name for name in medians if name != "glmc-engine"), key=lambda name: medians[name])
    return {
        "images": len(paths),
        "threads": options.threads,
        "batch": options.batch,
        "device": options.device,
        "torch": torch.__version__,
        "images_per_second": medians,
        "rounds": rates,
        "failed": failed,
        "best_of_pytorch": best,
        "ratio": medians["glmc-engine"] / medians[best],
    }


def parse() -> argparse.Namespace:
    """Command line: see the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", metavar="PATH")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--engine", type=Path, required=True, help="the glmc-engine program")
    parser.add_argument("--head", choices=["fc_cb", "fc"], help="default: the one that the run was evaluated with")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--copies", type=int, default=1, help="passes over the files per measurement")
    parser.add_argument("--check", action="store_true", help="compare the answers instead of the times")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> int:
    """Command line: see the head of this file."""
    options = parse()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            subject = Subject(options.checkpoint, options.head, torch.device(options.device))
            _, logits, lines = engine(options, subject.head, options.paths, folder)
            read = [at for at, line in enumerate(lines) if not line["error"] and os.path.exists(line["path"])]
            paths = [os.path.abspath(lines[at]["path"]) for at in read]
            if options.check:
                result = check(subject, Files(paths, subject.manifest), logits[read], options)
            else:
                result = bench(subject, paths * options.copies, options, folder)
        except (OSError, RuntimeError, KeyError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    if options.json:
        print(json.dumps(result))
        return 0
    for key, value in result.items():
        if key == "images_per_second":
            for form, rate in value.items():
                print(f"  {form:<18} {rate:9.1f} images/s")
        elif key != "rounds" and value not in ({}, []):
            print(f"{key}: {value:.3g}" if isinstance(value, float) else f"{key}: {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

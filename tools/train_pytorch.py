"""Whole training runs in PyTorch on a glmc-engine store, by GLMC or on a single view: `bench_pytorch.py --train`."""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path

import torch

from glmc_fast import Form, Images, Trainer, draw_rows
from glmc_torch import alpha_at, cosine_lr
from store import Store, accuracy

#: Images an evaluation batch holds.
EVAL_BATCH = 500


def choose_form(options: argparse.Namespace) -> Form:
    """`--mode eager`: autocast at most. `--mode best`: compiled into one CUDA graph on a GPU, plain on a CPU.

    (On a CPU compiling a run's three programs costs more time than it gives back over a few epochs.)
    """
    precision = "autocast" if options.precision == "bf16" else "f32"
    if options.mode == "eager" or options.device == "cpu":
        return Form(False, False, precision)
    return Form(True, True, precision, True)


def learning_rate(options: argparse.Namespace, epoch: int) -> float:
    """The rate of a 0-based epoch, as `glmc-engine train` has it by the same flags."""
    warmup = options.warmup_epochs
    if epoch < warmup:
        return options.lr * (epoch + 1) / warmup
    if options.lr_schedule == "cosine":
        return cosine_lr(options.lr, epoch - warmup, options.epochs - warmup)
    factor = 1.0
    for step in options.lr_schedule.split(","):
        begin, _, value = step.partition(":")
        factor = float(value) if epoch >= int(begin) else factor
    return options.lr * factor


#: Options that a resumed run must share with the one that it goes on with.
SETTINGS = (
    *("method", "model", "width", "batch", "epochs", "lr", "lr_schedule", "warmup_epochs", "weight_decay", "momentum"),
    *("gamma", "k", "resample", "beta", "drw_epoch", "seed", "precision", "mode", "device", "eval_every"),
)


def save_checkpoint(path: Path, content: dict) -> None:
    """Writes a file that is whole or absent."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_checkpoint(path: Path, settings: dict) -> dict | None:
    """What an earlier process of the same run saved; None where there is no file. Another run's is refused."""
    if not path.exists():
        return None
    content = torch.load(path, weights_only=True)
    for name, value in settings.items():
        if content["settings"].get(name) != value:
            there = content["settings"].get(name)
            raise SystemExit(f"{path}: is of a run with {name} {there}, not {value}: give another --checkpoint")
    return content


def evaluate(trainer: Trainer, pixels: torch.Tensor, labels: torch.Tensor, counts: list[int], head: str) -> dict:
    """Accuracy of one head on a split that is on the device."""
    logits = [trainer.predict(pixels[at : at + EVAL_BATCH], head) for at in range(0, len(pixels), EVAL_BATCH)]
    return accuracy(torch.cat(logits), labels, counts)


def train(options: argparse.Namespace, device: torch.device) -> None:
    """Trains as `glmc-engine train` does, one line per epoch; with `--out`, metrics.jsonl in the engine's format.

    GLMC is scored with `fc_cb`, the others with `fc`. The last, smaller batch of an epoch is trained on, too. With
    `--checkpoint` the same command goes on with a run that was stopped, on a CPU to the same bits.
    """
    store = Store.open(options.data)
    pixels, labels = store.train.tensors()
    test_pixels, test_labels = (t.to(device) for t in store.test.tensors())
    form = choose_form(options)
    images = Images(pixels, store.mean, store.std, device)
    names = ("method", "gamma", "k", "lr", "momentum", "weight_decay", "seed", "width", "drw_epoch")
    settings = {name: getattr(options, name) for name in names}
    trainer = Trainer(images, labels, store.counts, form, device, arch=options.model, **settings)
    head = "fc_cb" if options.method == "glmc" else "fc"
    partner_weights = torch.tensor(store.counts, dtype=torch.float64).pow(-options.resample)[labels]
    generator = torch.Generator().manual_seed(options.seed)
    size = (images.height, images.width)
    print(f"{options.method} {options.model} width {options.width}, {len(labels)} images, {form}, seed {options.seed}")
    history: list[dict] = []
    earlier = 0.0
    run = {name: getattr(options, name) for name in SETTINGS} | {"counts": store.counts}
    saved = read_checkpoint(options.checkpoint, run) if options.checkpoint is not None else None
    if saved is not None:
        trainer.restore(saved["trainer"])
        generator.set_state(saved["generator"])
        history, earlier = saved["history"], saved["seconds"]
        print(f"going on after epoch {len(history)} of {options.epochs}")
    log = None
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        log = (options.out / "metrics.jsonl").open("w")
        log.writelines(json.dumps(line) + "\n" for line in history)
    best: dict = {}
    for line in history:
        best = line if "top1" in line and (not best or line["top1"] > best["top1"]) else best
    begin = time.perf_counter() - earlier
    metrics: dict = history[-1] if history else {}
    for epoch in range(len(history), options.epochs):
        start = time.perf_counter()
        lr, alpha = learning_rate(options, epoch), alpha_at(epoch, options.epochs)
        trainer.begin_epoch(epoch, lr)
        order = torch.randperm(len(labels), generator=generator)
        full = len(labels) - len(labels) % options.batch
        total, seen = torch.zeros(4, device=device), 0
        for part, batch in ((order[:full], options.batch), (order[full:], len(labels) - full)):
            if batch < 2 or len(part) == 0:
                continue  # one image alone has no batch statistics at the network's end
            seed = (options.seed * 100_003 + epoch) * 2 + (batch != options.batch)
            rows = draw_rows(part, partner_weights, batch, alpha, options.beta, size, seed)
            for ints, reals in zip(*(row.to(device) for row in rows), strict=True):
                total += trainer.step(ints, reals) * batch
                seen += batch
        loss = (total / seen).tolist()  # waits for the device
        seconds = time.perf_counter() - start
        if not all(map(math.isfinite, loss)):
            raise SystemExit(f"epoch {epoch}: loss is not finite: {loss}")
        metrics = {"epoch": epoch + 1, "loss": loss[3], "loss_c": loss[0], "loss_cb": loss[1], "loss_sim": loss[2]}
        metrics["lr"] = lr
        if (epoch + 1) % options.eval_every == 0 or epoch + 1 == options.epochs:
            metrics |= evaluate(trainer, test_pixels, test_labels, store.counts, head)
            best = metrics if not best or metrics["top1"] > best["top1"] else best
        metrics |= {"seconds": seconds, "samples_per_second": seen / seconds}
        history.append(metrics)
        if log is not None:
            log.write(json.dumps(metrics) + "\n")
            log.flush()
        scores = [(name, metrics.get(name)) for name in ("top1", "many", "medium", "few")]
        shown = [f"{name} {value:.2f}" for name, value in scores if value is not None]
        print(
            f"epoch {epoch + 1}/{options.epochs}  loss {loss[3]:.4f}  lr {lr:.5f}  {'  '.join(shown)}  "
            f"{seen / seconds:.1f} samples/s",
            flush=True,
        )
        done = epoch + 1
        if options.checkpoint is not None and (done % options.checkpoint_every == 0 or done == options.epochs):
            content = {"settings": run, "trainer": trainer.state(), "generator": generator.get_state()}
            content |= {"history": history, "seconds": time.perf_counter() - begin}
            save_checkpoint(options.checkpoint, content)
    summary = {
        "last_top1": metrics["top1"],
        "best_top1": best["top1"],
        "best_epoch": best["epoch"],
        "seconds": time.perf_counter() - begin,
    }
    if log is not None:
        log.close()
        (options.out / "result.json").write_text(json.dumps(summary) + "\n")
    print(f"last top-1 {summary['last_top1']:.2f}, best {summary['best_top1']:.2f}, {summary['seconds']:.0f} s")
    if options.json:
        print(json.dumps(summary))

#!/usr/bin/env python3
"""Images per second of Pillow for the work of `glmc-engine prepare images`, to be read beside that program's own.

    bench_pillow.py DIR --size 224 --threads 2 [--repeat 5] [--engine target/release/glmc-engine]
    bench_pillow.py DIR --resize short:256 --threads 2 [...]

Decodes every .jpg/.jpeg/.png below DIR: Image.open, convert("RGB"), resize of the shorter side (bilinear), with --size
centre crop, copy into one array, as `prepare images` with the same flag. Threads and processes are both measured (Pillow releases the interpreter's lock while it decodes).
With --engine the same files go through `prepare images` in between, so that both see the same machine; its time
includes the start of the program and hashing, writing and syncing the store, so the comparison is to its disadvantage.
Needs Pillow and numpy.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

Job = tuple[str, int, bool]


def decode(job: Job) -> np.ndarray:
    """One image file, its shorter side brought to the given size; a square of it unless the whole is wanted."""
    path, size, whole = job
    image = Image.open(path).convert("RGB")
    width, height = image.size
    short = min(width, height)
    if short != size:
        image = image.resize((size * width // short, size * height // short), Image.BILINEAR)
    if not whole and image.size != (size, size):
        left, top = (image.size[0] - size) // 2, (image.size[1] - size) // 2
        image = image.crop((left, top, left + size, top + size))
    return np.asarray(image)


def decode_many(jobs: list[Job]) -> int:
    """Decodes all and returns the number of bytes."""
    # A worker process keeps its pixels: sending them back would measure the pipe.
    return sum(decode(job).nbytes for job in jobs)


def largest(job: Job) -> int:
    """Bytes that an image may have; of whole ones, at an aspect of four to one."""
    _, size, whole = job
    return size * size * 3 * (4 if whole else 1)


def pillow_threads(jobs: list[Job], threads: int) -> float:
    """Images per second with threads."""
    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        # Grows as the system gives the pages that are written.
        out, end = np.empty(len(jobs) * largest(jobs[0]), np.uint8), 0
        for pixels in pool.map(decode, jobs, chunksize=16):
            out[end : end + pixels.size] = pixels.ravel()
            end += pixels.size
        return len(jobs) / (time.perf_counter() - start)


def pillow_processes(pool: ProcessPoolExecutor, jobs: list[Job]) -> float:
    """Images per second with processes."""
    start = time.perf_counter()
    decoded = sum(pool.map(decode_many, [jobs[i : i + 64] for i in range(0, len(jobs), 64)]))
    assert decoded <= len(jobs) * largest(jobs[0])
    return len(jobs) / (time.perf_counter() - start)


def engine(program: str, paths: list[Path], how: str, threads: int) -> float:
    """Images per second of `prepare images`, the whole program."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = [f"{path.resolve()} {i % 2}" for i, path in enumerate(paths)]
        (folder / "train.txt").write_text("\n".join(lines))
        (folder / "test.txt").write_text(lines[0])
        flags = f"{how} --threads {threads} --root / --out x.lt --train-list train.txt --test-list test.txt"
        command = [Path(program).resolve(), "prepare", "images", *flags.split()]
        start = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        shutil.rmtree(folder / "x.lt")
        return (len(paths) + 1) / seconds


def main() -> None:
    """Measures in turns and prints the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--resize", help="short:S, in place of --size")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--limit", type=int, default=10_000, help="files at most")
    parser.add_argument("--copies", type=int, default=1, help="passes over the files per measurement")
    parser.add_argument("--engine", help="the glmc-engine program")
    args = parser.parse_args()
    found = sorted(p for p in args.folder.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png"})
    paths = found[: args.limit] * args.copies
    if not paths:
        sys.exit(f"{args.folder}: no images")
    how, size = f"--size {args.size}", args.size
    if args.resize:
        kind, _, number = args.resize.partition(":")
        if kind != "short" or not number.isdigit():
            sys.exit("--resize must be short:S")
        how, size = f"--resize {args.resize}", int(number)
    jobs = [(str(path), size, args.resize is not None) for path in paths]
    print(f"Pillow {PIL.__version__}, {len(jobs)} images, {how}, {args.threads} threads")
    rates: dict[str, list[float]] = {"pillow threads": [], "pillow processes": [], "glmc-engine": []}
    with ProcessPoolExecutor(args.threads) as pool:
        pillow_processes(pool, jobs[:64])
        for _ in range(args.repeat):
            rates["pillow threads"].append(pillow_threads(jobs, args.threads))
            rates["pillow processes"].append(pillow_processes(pool, jobs))
            if args.engine:
                rates["glmc-engine"].append(engine(args.engine, paths, how, args.threads))
    for name, values in rates.items():
        if values:
            runs = " ".join(f"{v:.0f}" for v in values)
            print(f"{name:<17} {statistics.median(values):9.0f} images/s  (runs: {runs})")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Writes tests/fixtures/split_indices.json: which images the published splits keep, by NumPy itself.

    python tools/make_split_indices.py > tests/fixtures/split_indices.json

`ldam` is LDAM-DRW's `gen_imbalanced_data`, `glmc` the draw of GLMC's published data sets, `glmc-replacement` that of its
first release.

Image i of a set has label (i * 7 + i // classes) % classes. A large selection is given by its first indices of each
class and by a checksum: h = (h * 1099511628211 + index) mod 2^64 over all indices in order, from h = 0.
"""

import json

import numpy as np


def counts_of(total: int, classes: int, imbalance: float, profile: str) -> list[int]:
    """get_img_num_per_cls of LDAM-DRW's imbalance_cifar.py; `imb_factor` there is 1/imbalance."""
    img_max, imb_factor = total / classes, 1 / imbalance
    if profile == "exp":
        return [int(img_max * imb_factor ** (c / (classes - 1.0))) for c in range(classes)]
    return [int(img_max)] * (classes // 2) + [int(img_max * imb_factor)] * (classes - classes // 2)


def select_ldam(labels: np.ndarray, counts: list[int], seed: int) -> list[list[int]]:
    """gen_imbalanced_data: one generator, seeded once; its legacy shuffle a class."""
    rng = np.random.RandomState(seed)
    chosen = []
    for label, n in zip(np.unique(labels), counts, strict=True):
        indices = np.where(labels == label)[0]
        rng.shuffle(indices)
        chosen.append(indices[:n].tolist())
    return chosen


def select_glmc(labels: np.ndarray, counts: list[int], seed: int) -> list[list[int]]:
    """produce_imbalance_data: the global generator, seeded once; a choice without replacement a class."""
    np.random.seed(seed)
    chosen = []
    for label, n in enumerate(counts):
        images = np.where((labels > label - 1) & (labels < label + 1))[0]
        chosen.append(images[np.random.choice(len(images), n, replace=False)].tolist())
    return chosen


def select_replacement(labels: np.ndarray, counts: list[int], seed: int) -> list[list[int]]:
    """produce_imbalance_data as it was before 23 May 2023: with replacement."""
    np.random.seed(seed)
    chosen = []
    for label, n in enumerate(counts):
        images = np.where((labels > label - 1) & (labels < label + 1))[0]
        chosen.append(images[np.random.choice(len(images), n)].tolist())
    return chosen


SELECT = {"ldam": select_ldam, "glmc": select_glmc, "glmc-replacement": select_replacement}


def case(split: str, total: int, classes: int, imbalance: float, profile: str, seed: int, full: bool) -> dict:
    """One selection as the fixture has it."""
    i = np.arange(total)
    labels = (i * 7 + i // classes) % classes
    counts = counts_of(total, classes, imbalance, profile)
    chosen = SELECT[split](labels, counts, seed)
    checksum = 0
    for index in (index for indices in chosen for index in indices):
        checksum = (checksum * 1099511628211 + index) % 2**64
    return {
        "split": split,
        "total": total,
        "classes": classes,
        "imbalance": imbalance,
        "profile": profile,
        "seed": seed,
        "counts": counts,
        "kept": sum(counts),
        "checksum": str(checksum),
        "first": [c if full else c[:3] for c in chosen],
    }


CASES = [
    ("ldam", 600, 4, 20, "exp", 0, True),
    ("ldam", 600, 4, 7.5, "step", 123456789, True),
    ("ldam", 50_000, 10, 100, "exp", 0, False),
    ("ldam", 50_000, 10, 50, "exp", 0, False),
    ("ldam", 50_000, 10, 10, "step", 0, False),
    ("ldam", 50_000, 100, 100, "exp", 0, False),
    ("ldam", 50_000, 100, 10, "exp", 4294967295, False),
    ("ldam", 50_000, 10, 1, "exp", 0, False),
    ("glmc", 600, 4, 20, "exp", 3407, True),
    ("glmc", 600, 4, 7.5, "step", 0, True),
    *(("glmc", 50_000, classes, imbalance, "exp", 3407, False) for classes in (10, 100) for imbalance in (100, 50, 10)),
    ("glmc", 50_000, 10, 1, "exp", 3407, False),
    ("glmc-replacement", 600, 4, 20, "exp", 3407, True),
    ("glmc-replacement", 50_000, 10, 100, "exp", 3407, False),
    ("glmc-replacement", 50_000, 100, 10, "exp", 3407, False),
]

if __name__ == "__main__":
    print("[\n " + ",\n ".join(json.dumps(case(*c)) for c in CASES) + "\n]")

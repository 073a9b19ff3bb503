"""Opens a glmc-engine store (`NAME.lt/`) with NumPy, and scores predictions as the engine does."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Images of one size: pixels N,H,W,3 u8 (memory-mapped), labels N i32."""

    pixels: np.ndarray
    labels: np.ndarray

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Copies of both in memory, labels as int64."""
        return torch.from_numpy(np.array(self.pixels)), torch.from_numpy(self.labels.astype(np.int64))


@dataclass(frozen=True)
class Store:
    """Both splits, and what normalisation needs."""

    train: Split
    test: Split
    counts: list[int]
    mean: list[float]
    std: list[float]

    @staticmethod
    def open(path: Path) -> Store:
        """Raises ValueError, naming the file, where `path` is no store of equally sized images."""
        meta_path = path / "meta.json"
        try:
            meta = json.loads(meta_path.read_text())
            mean, std, counts = list(meta["mean"]), list(meta["std"]), list(meta["counts"])
        except (OSError, json.JSONDecodeError, KeyError) as error:
            raise ValueError(f"{meta_path}: not the meta.json of a store: {error!r}") from error
        splits = []
        for name in ("train", "test"):
            pixels = np.load(path / name / "pixels.npy", mmap_mode="r")
            labels = np.load(path / name / "labels.npy")
            if pixels.ndim != 4 or pixels.shape[3] != 3 or len(pixels) != len(labels):
                raise ValueError(f"{path / name}: pixels {pixels.shape} and labels {labels.shape} do not fit")
            splits.append(Split(pixels, labels))
        train, test = splits
        if np.bincount(train.labels, minlength=len(counts)).tolist() != counts or test.labels.max() >= len(counts):
            raise ValueError(f"{path}: the labels do not fit the {len(counts)} counts of meta.json")
        return Store(train, test, counts, mean, std)


def accuracy(logits: Tensor, labels: Tensor, counts: list[int]) -> dict[str, float | None]:
    """Percentages: top1, top5 over all images; many (> 100 training images), medium (20..100) and few (< 20).

    The groups are means over the images of their classes (on a balanced test set also over classes); None where a group
    has no image.
    """
    order = logits.topk(min(5, logits.shape[1]), 1).indices
    hit = order == labels[:, None]
    first = hit[:, 0].float()
    count = torch.tensor(counts, device=labels.device)[labels]
    groups = {"many": count > 100, "medium": (count >= 20) & (count <= 100), "few": count < 20}
    top5 = hit.any(1).float()
    result: dict[str, float | None] = {"top1": 100 * first.mean().item(), "top5": 100 * top5.mean().item()}
    for name, members in groups.items():
        result[name] = 100 * first[members].mean().item() if members.any() else None
    return result

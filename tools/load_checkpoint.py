#!/usr/bin/env python3
"""Opens a glmc-engine checkpoint in PyTorch, strictly, and scores it on a store's test split.

    python tools/load_checkpoint.py RUN/last.safetensors --data cifar10.lt [--head fc_cb] [--json]

Cross-checks `glmc-engine eval`: the numbers must agree up to images whose two best logits are equal to f32 accuracy.
Without `--data` it only loads, and says what the file holds.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from glmc_fast import Images
from glmc_torch import DEPTHS, GlmcResNet
from store import Store, accuracy
from torch_networks import DESIGNS, ImageNetResNet

#: What is not a tensor of the model.
OPTIMIZER = "optimizer."


def network_of(state: dict[str, Tensor]) -> GlmcResNet | ImageNetResNet:
    """The network whose tensors these are, without its weights."""
    blocks = tuple(
        len({match[1] for key in state if (match := re.match(rf"layer{stage}\.(\d+)\.", key))}) for stage in range(1, 5)
    )
    if "fc.weight" not in state or "conv1.weight" not in state:
        raise RuntimeError("not a checkpoint of a ResNet: no conv1.weight or fc.weight")
    width, classes = state["conv1.weight"].shape[0], state["fc.weight"].shape[0]
    hidden = state.get("projection_head.0.weight", torch.empty(0)).shape[0]
    if blocks[3] == 0:
        archs = [arch for arch, count in DEPTHS.items() if count == blocks[0]]
        if not archs:
            raise RuntimeError(f"no CIFAR ResNet has {blocks[0]} blocks in layer1")
        return GlmcResNet(archs[0], width, classes, hidden)
    bottleneck = "layer1.0.conv3.weight" in state
    # In groups, a filter of the 3x3 convolution sees a part of the channels.
    in_groups = bottleneck and state["layer1.0.conv2.weight"].shape[1] < state["layer1.0.conv1.weight"].shape[0]
    archs = [
        arch
        for arch, design in DESIGNS.items()
        if (design.blocks, design.bottleneck, design.groups > 1) == (blocks, bottleneck, in_groups)
    ]
    if not archs:
        raise RuntimeError(f"no ResNet has stages of {blocks} such blocks")
    stem = "imagenet" if state["conv1.weight"].shape[2] == 7 else "cifar"
    return ImageNetResNet(archs[0], width, classes, hidden, stem, rebalanced="fc_cb.weight" in state)


def load(path: Path) -> tuple[GlmcResNet | ImageNetResNet, dict[str, Tensor], dict[str, str]]:
    """The model of a checkpoint, its optimiser state by name, and its metadata.

    Architecture and sizes are read off the tensors. Raises RuntimeError where a tensor is missing, unexpected or of
    another shape, as `load_state_dict(strict=True)` does.
    """
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    state = {key: value for key, value in tensors.items() if not key.startswith(OPTIMIZER)}
    model = network_of(state)
    model.load_state_dict(state, strict=True)
    momentum = {
        key.removeprefix(OPTIMIZER + "momentum."): value for key, value in tensors.items() if key.startswith(OPTIMIZER)
    }
    parameters = dict(model.named_parameters())
    for name, value in momentum.items():
        if name not in parameters or parameters[name].shape != value.shape:
            raise RuntimeError(f"momentum of {name} {tuple(value.shape)} fits no parameter")
    return model.eval(), momentum, metadata


@torch.inference_mode()
def score(model: GlmcResNet | ImageNetResNet, store: Store, head: str, batch: int = 500) -> dict[str, float | None]:
    """Accuracy in percent on the test split, in f32."""
    pixels, labels = store.test.tensors()
    images = Images(pixels[:1], store.mean, store.std, torch.device("cpu"))
    parts = [
        model.predict(images.normalise(pixels[at : at + batch].float()), head) for at in range(0, len(pixels), batch)
    ]
    return accuracy(torch.cat(parts), labels, store.counts)


def main() -> int:
    """Command line: see the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--head", choices=["fc_cb", "fc"], default="fc_cb")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        model, momentum, metadata = load(options.checkpoint)
        result = score(model, Store.open(options.data), options.head) if options.data else {}
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        print(f"error: {options.checkpoint}: {error}", file=sys.stderr)
        return 1
    parameters = sum(p.numel() for p in model.parameters())
    if options.json:
        print(json.dumps({"head": options.head, "parameters": parameters, "momenta": len(momentum), **result}))
        return 0
    print(f"{options.checkpoint}: {parameters} parameters, {len(momentum)} momenta, loaded strictly")
    for key, value in sorted(metadata.items()):
        print(f"  {key}: {value if len(value) <= 100 else value[:97] + '...'}")
    for name, percent in result.items():
        print(f"  {name:7} {'-' if percent is None else f'{percent:.2f}'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

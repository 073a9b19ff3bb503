#!/usr/bin/env python3
"""Writes the weights of a PyTorch checkpoint (.pth, .pt, .tar) as safetensors: python tools/pth_to_safetensors.py IN.pth OUT.safetensors

For `glmc-engine train --init` and `glmc-engine import`. Pickles are read with weights_only: no code in them is run.
"""

import sys

import torch
from safetensors.torch import save_file

source, target = sys.argv[1:]
state = torch.load(source, map_location="cpu", weights_only=True)
while isinstance(nested := state.get("state_dict", state.get("model")), dict):
    state = nested
save_file({name: value.contiguous().clone() for name, value in state.items() if torch.is_tensor(value)}, target)

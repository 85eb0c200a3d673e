#!/usr/bin/env python3
"""Reads the weights of a checkpoint as other programs do, and compares them with those of `--save`.

    check_checkpoint.py CHECKPOINT SAVED.safetensors

They are read by the index with `safetensors`, and with PyTorch's distributed checkpoints
(HuggingFaceStorageReader). Exit code: 0 all are equal to the last bit, 1 something differs.
"""
import json
import sys
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from safetensors.torch import load_file
from torch.distributed.checkpoint import HuggingFaceStorageReader


def by_index(folder):
    """The tensors that model.safetensors.index.json names, each from its file."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    weights = {}
    for name, file in index["weight_map"].items():
        with safe_open(folder / file, framework="pt") as opened:
            weights[name] = opened.get_tensor(name)
    n_bytes = sum(tensor.nbytes for tensor in weights.values())
    if index["metadata"]["total_size"] != n_bytes:
        raise ValueError(f"the index counts {index['metadata']['total_size']} bytes, not {n_bytes}")
    return weights


def by_storage_reader(folder, saved):
    """The same tensors, loaded in place into a state dict of zeros."""
    weights = {name: torch.zeros_like(tensor) for name, tensor in saved.items()}
    dcp.load(weights, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    return weights


def differences(weights, saved):
    """The names that only one of both has, and those whose bits differ."""
    odd = sorted(weights.keys() ^ saved.keys())
    both = sorted(weights.keys() & saved.keys())
    return odd + [name for name in both if not same_bits(weights[name], saved[name])]


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()


def main():
    folder, saved = Path(sys.argv[1]), load_file(sys.argv[2])
    fine = bool(saved)
    for reader, weights in [
        ("safetensors", by_index(folder)),
        ("HuggingFaceStorageReader", by_storage_reader(folder, saved)),
    ]:
        differ = differences(weights, saved)
        fine = fine and not differ
        what = f"DIFFERS: {', '.join(differ)}" if differ else "equal to --save"
        print(f"{folder.name} by {reader}: {len(weights)} tensors, {what}")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())

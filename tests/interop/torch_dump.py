#!/usr/bin/env python3
"""Writes a dump of step 1 as PyTorch computes it: torch_dump.py seed-mlp|gpt OUT.safetensors [OPTIMIZER].

The file has the tensors and names that `pptop train --dump-step` writes, so check_dump.py has to agree
with it as well. That is how the checker was checked. PyTorch is large and only this script wants it.
"""
import json
import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

WIDTH, HEADS, CONTEXT, BLOCKS = 48, 4, 24, 2
SIZES = [100, 1024, 1024, 2048, 2048, 1024, 1024, 512, 10]


class SeedMlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(SIZES, SIZES[1:]))

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = nn.ModuleDict({"qkv": nn.Linear(WIDTH, 3 * WIDTH), "proj": nn.Linear(WIDTH, WIDTH)})
        self.mlp = nn.ModuleDict({"fc": nn.Linear(WIDTH, 4 * WIDTH), "proj": nn.Linear(4 * WIDTH, WIDTH)})

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = (part.view(b, t, HEADS, -1).transpose(1, 2)
                   for part in self.attention["qkv"](self.ln1(x)).split(WIDTH, dim=-1))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attention["proj"](mixed.transpose(1, 2).reshape(b, t, WIDTH))
        return x + self.mlp["proj"](F.gelu(self.mlp["fc"](self.ln2(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.ModuleDict(
            {"token": nn.Embedding(256, WIDTH), "position": nn.Embedding(CONTEXT, WIDTH)})
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.head = nn.ModuleDict({"ln": nn.LayerNorm(WIDTH), "linear": nn.Linear(WIDTH, 256, bias=False)})

    def forward(self, x):
        x = self.embedding["token"](x) + self.embedding["position"].weight[: x.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head["linear"](self.head["ln"](x))


def write_safetensors(path, tensors, metadata):
    kinds, header, body = {"float32": "F32", "int64": "I64"}, {"__metadata__": metadata}, b""
    for name, tensor in tensors.items():
        raw = tensor.tobytes()
        header[name] = {"dtype": kinds[str(tensor.dtype)], "shape": list(tensor.shape),
                        "data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + body)


def main(model_name, path, optimizer_name="adam", lr=1e-3, clip=1.0):
    torch.manual_seed(0)
    model = {"seed-mlp": SeedMlp, "gpt": Gpt}[model_name]()
    if model_name == "gpt":
        text = torch.randint(0, 256, (6, CONTEXT + 1))
        inputs, targets = text[:, :-1].contiguous(), text[:, 1:].contiguous()
    else:
        inputs, targets = torch.randn(64, 100), torch.randint(0, 10, (64,))
    rule = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer_name]
    optimizer = rule(model.parameters(), lr=lr)
    copy = lambda tensor: tensor.detach().numpy().copy()
    logits = model(inputs)
    loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))
    loss.backward()
    tensors = {"inputs": copy(inputs), "targets": copy(targets), "loss": copy(loss)}
    for name, parameter in model.named_parameters():
        tensors["grad." + name], tensors["before." + name] = copy(parameter.grad), copy(parameter)
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    for name, parameter in model.named_parameters():
        tensors["after." + name] = copy(parameter)
    assert all(tensor.dtype in (np.float32, np.int64) for tensor in tensors.values())
    metadata = {"model": model_name, "heads": str(HEADS), "optimizer": optimizer_name, "lr": str(lr),
                "clip_norm": str(clip), "weight_decay": "0.01"}
    write_safetensors(path, tensors, metadata)


if __name__ == "__main__":
    if not 3 <= len(sys.argv) <= 4 or sys.argv[1] not in ("seed-mlp", "gpt"):
        sys.exit(__doc__)
    main(*sys.argv[1:])

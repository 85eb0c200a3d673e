"""The models of pptop in PyTorch, as lists of layers to cut. Any PyTorch of the last years runs them."""

import torch
from torch import nn


def seed_mlp() -> list[nn.Module]:
    widths = [100, 1024, 1024, 2048, 2048, 1024, 1024, 512, 10]
    rates = [0.0, 0.3, 0.0, 0.4, 0.0, 0.3, 0.2]
    layers = []
    for index, (inputs, outputs) in enumerate(zip(widths, widths[1:])):
        parts = [nn.Linear(inputs, outputs)]
        if index < len(rates):
            parts.append(nn.ReLU())
            if rates[index] > 0:
                parts.append(nn.Dropout(rates[index]))
        layers.append(nn.Sequential(*parts))
    return layers


class Tokens(nn.Module):
    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.token = nn.Embedding(256, width)
        self.position = nn.Embedding(context, width)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.token(ids) + self.position(torch.arange(ids.shape[1], device=ids.device))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc, self.mlp_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, w = x.shape
        q, k, v = self.qkv(self.ln1(x)).view(b, t, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(mixed.transpose(1, 2).reshape(b, t, w))
        return x + self.mlp_proj(nn.functional.gelu(self.fc(self.ln2(x)), approximate="tanh"))


def gpt(layers: int, width: int, heads: int, context: int) -> list[nn.Module]:
    head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 256, bias=False))
    return [Tokens(width, context), *[Block(width, heads) for _ in range(layers)], head]


def loss_of(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())

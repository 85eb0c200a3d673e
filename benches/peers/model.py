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


class TokensAlone(nn.Module):
    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.token(ids)


class LlamaBlock(nn.Module):
    def __init__(self, width: int, heads: int, kv_heads: int, ffn: int, context: int, theta: float) -> None:
        super().__init__()
        self.shape = heads, kv_heads, width // heads
        kv = kv_heads * (width // heads)
        self.norm1, self.norm2 = nn.RMSNorm(width, eps=1e-5), nn.RMSNorm(width, eps=1e-5)
        self.q, self.k, self.v, self.o = (nn.Linear(width, n, bias=False) for n in (width, kv, kv, width))
        self.gate, self.up = (nn.Linear(width, ffn, bias=False) for _ in range(2))
        self.down = nn.Linear(ffn, width, bias=False)
        d = width // heads
        angle = torch.outer(torch.arange(context), theta ** (-torch.arange(0, d, 2) / d))
        self.register_buffer("cos", angle.cos().repeat(1, 2), persistent=False)
        self.register_buffer("sin", angle.sin().repeat(1, 2), persistent=False)

    def turn(self, x: torch.Tensor) -> torch.Tensor:
        low, high = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat([-high, low], dim=-1) * self.sin

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, w = x.shape
        heads, kv_heads, d = self.shape
        y = self.norm1(x)
        q = self.turn(self.q(y).view(b, t, heads, d).transpose(1, 2))
        k = self.turn(self.k(y).view(b, t, kv_heads, d).transpose(1, 2))
        v = self.v(y).view(b, t, kv_heads, d).transpose(1, 2)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.o(mixed.transpose(1, 2).reshape(b, t, w))
        y = self.norm2(x)
        return x + self.down(nn.functional.silu(self.gate(y)) * self.up(y))


def smollm2(context: int) -> list[nn.Module]:
    """The shape of SmolLM2-135M, whose embedding and head are one parameter."""
    tokens = TokensAlone(49152, 576)
    nn.init.normal_(tokens.token.weight, std=0.02)
    head = nn.Sequential(nn.RMSNorm(576, eps=1e-5), nn.Linear(576, 49152, bias=False))
    head[1].weight = tokens.token.weight
    return [tokens, *[LlamaBlock(576, 9, 3, 1536, context, 1e5) for _ in range(30)], head]


def loss_of(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())

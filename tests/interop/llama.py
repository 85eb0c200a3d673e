"""A model of the Llama family in PyTorch, written from the papers: what pptop computes, computed by
another program.

    llama.py gradients DUMP.safetensors   loss and gradients of a dumped step, by differentiation
    llama.py loss DIR TEXT [OURS]         the loss of the model in a folder on a text, nats a token;
                                          OURS is what pptop evaluate --json has said of it
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import torch
from safetensors import safe_open

IGNORED = 0xFFFFFFFF


def angles(config: dict, t: torch.Tensor) -> torch.Tensor:
    """The angle of each position and pair of features."""
    d = config["head_dim"]
    frequency = config["rope_theta"] ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    scaling = config.get("rope_scaling")
    if scaling:
        turns = scaling["original_max_position_embeddings"] * frequency / (2 * math.pi)
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        kept = ((turns - low) / (high - low)).clamp(0, 1)
        frequency = frequency * (kept + (1 - kept) / scaling["factor"])
    return t.double()[..., None] * frequency


def turn(x: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Heads (b, t, h, d), each turned by its position."""
    cos, sin = (f(angle)[:, :, None].to(x.dtype) for f in (torch.cos, torch.sin))
    low, high = x.chunk(2, dim=-1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)


def norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * weight


def logits(config: dict, weights: dict, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Ids and positions (b, t); a position of 0 begins a document, which sees nothing before it."""
    b, t = ids.shape
    h, k, d = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    epsilon = config["rms_norm_eps"]
    document = (positions == 0).cumsum(1)
    seen = (document[:, :, None] == document[:, None, :]) & torch.ones(t, t).tril().bool()
    angle = angles(config, positions)
    x = weights["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        at = lambda name: weights[f"model.layers.{layer}.{name}"]

        def linear(y: torch.Tensor, name: str) -> torch.Tensor:
            y = y @ at(f"{name}.weight").T
            bias = f"model.layers.{layer}.{name}.bias"
            return y + weights[bias] if bias in weights else y

        y = norm(x, at("input_layernorm.weight"), epsilon)
        parts = [("q", h), ("k", k), ("v", k)]
        q, key, v = (linear(y, f"self_attn.{n}_proj").view(b, t, heads, d) for n, heads in parts)
        if f"model.layers.{layer}.self_attn.q_norm.weight" in weights:
            q = norm(q, at("self_attn.q_norm.weight"), epsilon)
            key = norm(key, at("self_attn.k_norm.weight"), epsilon)
        q, key = turn(q, angle), turn(key, angle)
        key, v = (x.repeat_interleave(h // k, dim=2) for x in (key, v))
        scores = torch.einsum("bihd,bjhd->bhij", q, key) / math.sqrt(d)
        scores = scores.masked_fill(~seen[:, None], -math.inf)
        mixed = torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v).reshape(b, t, h * d)
        x = x + linear(mixed, "self_attn.o_proj")
        y = norm(x, at("post_attention_layernorm.weight"), epsilon)
        gate, up = linear(y, "mlp.gate_proj"), linear(y, "mlp.up_proj")
        x = x + linear(gate * torch.sigmoid(gate) * up, "mlp.down_proj")
    x = norm(x, weights["model.norm.weight"], epsilon)
    return x @ weights.get("lm_head.weight", weights["model.embed_tokens.weight"]).T


def mean_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Over all tokens that count."""
    counts = targets != IGNORED
    picked = logits.log_softmax(-1)[counts].gather(-1, targets[counts][:, None])
    return -picked.mean()


def gradients(path: str) -> None:
    with safe_open(path, framework="pt") as file:
        config = json.loads(file.metadata()["config"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    named = lambda prefix: {
        name.removeprefix(prefix): tensor.double()
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    weights, wanted = named("before."), named("grad.")
    assert weights.keys() == wanted.keys()
    for weight in weights.values():
        weight.requires_grad_()
    ids = tensors["inputs"].long()
    positions = tensors.get("inputs.1")
    if positions is None:
        positions = torch.arange(ids.shape[1]).expand_as(ids)
    loss = mean_loss(logits(config, weights, ids, positions.long()), tensors["targets"])
    loss.backward()
    error = abs(loss.item() - tensors["loss"].item()) / loss.item()
    worst, name = max(
        ((weights[n].grad - wanted[n]).norm() / weights[n].grad.norm(), n) for n in weights
    )
    what = f"{Path(path).stem}: loss {loss.item():.6f}, off by {error:.1e}"
    print(f"{what}; {len(weights)} gradients, the worst off by {worst:.1e} ({name})")
    if error > 1e-5 or worst > 1e-4:
        sys.exit(f"WRONG {what}: {name} by {worst:.1e}")


def loss_of(folder: str, text: str, ours: str = "") -> None:
    from tokenizers import Tokenizer

    root = Path(folder)
    config = json.loads((root / "config.json").read_text())
    config.setdefault("head_dim", config["hidden_size"] // config["num_attention_heads"])
    index = root / "model.safetensors.index.json"
    names = {"model.safetensors"}
    if index.exists():
        names = set(json.loads(index.read_text())["weight_map"].values())
    weights = {}
    for name in names:
        with safe_open(root / name, framework="pt") as file:
            weights |= {tensor: file.get_tensor(tensor).float() for tensor in file.keys()}
    tokenizer = Tokenizer.from_file(str(root / "tokenizer.json"))
    path = Path(text)
    documents = [path.read_text()]
    if path.suffix == ".jsonl":
        documents = [json.loads(line)["text"] for line in documents[0].splitlines()]
    total, count = 0.0, 0
    with torch.no_grad():
        for document in documents:
            ids = torch.tensor([tokenizer.encode(document, add_special_tokens=False).ids])
            for first in range(0, ids.shape[1] - 1, config["max_position_embeddings"]):
                piece = ids[:, first : first + config["max_position_embeddings"] + 1]
                positions = torch.arange(piece.shape[1] - 1)[None]
                found = mean_loss(logits(config, weights, piece[:, :-1], positions), piece[:, 1:])
                total += found.item() * positions.shape[1]
                count += positions.shape[1]
    print(json.dumps({"loss": total / count, "tokens": count}))
    if ours:
        said = json.loads(ours)
        if said["tokens"] != count or abs(said["loss"] - total / count) > 1e-4:
            sys.exit(f"WRONG: pptop says {said}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["gradients", *paths] if paths:
            for path in paths:
                gradients(path)
        case ["loss", folder, text, *ours] if len(ours) <= 1:
            loss_of(folder, text, *ours)
        case _:
            sys.exit(__doc__)

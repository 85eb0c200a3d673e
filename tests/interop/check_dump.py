#!/usr/bin/env python3
"""Recomputes one training step from a `pptop train --dump-step` file and compares every gradient.

    check_dump.py DUMP.safetensors [--heads N] [--optimizer adam|adamw|sgd --lr X] ...

The file holds the whole batch (`inputs`, `targets`), the `loss`, and `grad.NAME`, `before.NAME`,
`after.NAME` for each parameter. Which model it is, and how deep, follows from the names. Everything here
is NumPy in float64 with derivatives worked out on paper; nothing is shared with the program under test.
Exit code: 0 all agree, 1 something differs, 2 the file or the arguments cannot be used.
"""
import argparse
import json
import sys

import numpy as np

DTYPES = {"F32": "<f4", "F64": "<f8", "I64": "<i8", "I32": "<i4", "U32": "<u4", "U8": "u1"}
RELATIVE = 1e-4  # of the parameter's own gradient norm ...
FLOOR = 1e-3  # ... or of this share of the norm over all parameters: some true gradients are zero


class Unusable(Exception):
    """What makes a file or a call impossible to check."""


def read_safetensors(path):
    """The tensors of a safetensors file and its metadata: length, JSON header, then the raw bytes."""
    with open(path, "rb") as file:
        raw = file.read()
    length = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 + length or length == 0:
        raise Unusable(f"{path}: {len(raw)} bytes, but its header alone should take {length}")
    header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    metadata, tensors = header.pop("__metadata__", {}), {}
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise Unusable(f"{path}: {name} is {entry['dtype']}; read are {', '.join(DTYPES)}")
        first, last = entry["data_offsets"]
        values = np.frombuffer(data[first:last], DTYPES[entry["dtype"]])
        tensors[name] = values.reshape(entry["shape"])
    return tensors, metadata


class Net:
    """Layers as functions: each returns its output and a function from d(output) to d(input).

    The second one also leaves the gradients of the layer's own parameters in `grads`.
    """

    def __init__(self, weights):
        self.weights, self.grads = weights, {}

    def linear(self, name, x):
        weight, bias = self.weights[name + ".weight"], self.weights.get(name + ".bias")

        def back(d):
            rows = d.reshape(-1, d.shape[-1])
            self.grads[name + ".weight"] = rows.T @ x.reshape(-1, x.shape[-1])
            if bias is not None:
                self.grads[name + ".bias"] = rows.sum(0)
            return d @ weight

        return x @ weight.T + (0.0 if bias is None else bias), back

    def layer_norm(self, name, x, eps=1e-5):
        centred = x - x.mean(-1, keepdims=True)
        inverse = 1.0 / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
        unit = centred * inverse

        def back(d):
            self.grads[name + ".weight"] = (d * unit).reshape(-1, d.shape[-1]).sum(0)
            self.grads[name + ".bias"] = d.reshape(-1, d.shape[-1]).sum(0)
            e = d * self.weights[name + ".weight"]
            along = (e * unit).mean(-1, keepdims=True)
            return inverse * (e - e.mean(-1, keepdims=True) - unit * along)

        return unit * self.weights[name + ".weight"] + self.weights[name + ".bias"], back

    def embedding(self, tokens):
        token, position = (self.weights[f"embedding.{n}.weight"] for n in ("token", "position"))
        length = tokens.shape[1]

        def back(d):
            self.grads["embedding.token.weight"] = np.zeros_like(token)
            np.add.at(self.grads["embedding.token.weight"], tokens, d)
            self.grads["embedding.position.weight"] = np.zeros_like(position)
            self.grads["embedding.position.weight"][:length] = d.sum(0)

        return token[tokens] + position[:length], back


def relu(x):
    return np.maximum(x, 0.0), lambda d: d * (x > 0.0)


def gelu(x):
    scale, cubic = np.sqrt(2.0 / np.pi), 0.044715
    t = np.tanh(scale * (x + cubic * x**3))
    slope = 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t**2) * scale * (1.0 + 3.0 * cubic * x**2)
    return 0.5 * x * (1.0 + t), lambda d: d * slope


def causal_attention(qkv, heads):
    """Softmax attention in which no position sees a later one; q, k and v lie side by side."""
    b, t, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    q, k, v = qkv.reshape(b, t, 3, heads, width // heads).transpose(2, 0, 3, 1, 4)
    scale = 1.0 / np.sqrt(width // heads)
    scores = np.where(np.tri(t, dtype=bool), scale * q @ k.swapaxes(-1, -2), -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)

    def back(d):
        d = d.reshape(b, t, heads, width // heads).transpose(0, 2, 1, 3)
        d_weights = d @ v.swapaxes(-1, -2)
        inner = (d_weights * weights).sum(-1, keepdims=True)
        d_scores = scale * weights * (d_weights - inner)
        parts = d_scores @ k, d_scores.swapaxes(-1, -2) @ q, weights.swapaxes(-1, -2) @ d
        return np.stack(parts).transpose(1, 3, 0, 2, 4).reshape(qkv.shape)

    return (weights @ v).transpose(0, 2, 1, 3).reshape(b, t, width), back


def chain(x, *layers):
    """Layers one after another; `back` walks them from the last to the first."""
    backs = []
    for layer in layers:
        x, back = layer(x)
        backs.append(back)

    def back(d):
        for step in reversed(backs):
            d = step(d)
        return d

    return x, back


def residual(x, *layers):
    y, back = chain(x, *layers)
    return x + y, lambda d: d + back(d)


def cross_entropy(logits, targets):
    """The mean over all targets, and its derivative."""
    rows, picks = logits.reshape(-1, logits.shape[-1]), targets.reshape(-1)
    exps = np.exp(rows - rows.max(-1, keepdims=True))
    probabilities = exps / exps.sum(-1, keepdims=True)
    here = np.arange(len(picks))
    loss = -np.log(probabilities[here, picks]).mean()
    probabilities[here, picks] -= 1.0
    return loss, (probabilities / len(picks)).reshape(logits.shape)


def seed_mlp(net, inputs, _heads):
    depth = count(net.weights, "layers")
    layers = [lambda x, i=i: net.linear(f"layers.{i}", x) for i in range(depth)]
    between = [part for layer in layers[:-1] for part in (layer, relu)]
    return chain(inputs.astype(np.float64), *between, layers[-1])


def gpt(net, inputs, heads):
    def block(x, n):
        at = f"blocks.{n}"
        x, back_attention = residual(
            x,
            lambda x: net.layer_norm(f"{at}.ln1", x),
            lambda x: net.linear(f"{at}.attention.qkv", x),
            lambda x: causal_attention(x, heads),
            lambda x: net.linear(f"{at}.attention.proj", x),
        )
        x, back_mlp = residual(
            x,
            lambda x: net.layer_norm(f"{at}.ln2", x),
            lambda x: net.linear(f"{at}.mlp.fc", x),
            gelu,
            lambda x: net.linear(f"{at}.mlp.proj", x),
        )
        return x, lambda d: back_attention(back_mlp(d))

    blocks = [lambda x, n=n: block(x, n) for n in range(count(net.weights, "blocks"))]
    head = (lambda x: net.layer_norm("head.ln", x), lambda x: net.linear("head.linear", x))
    return chain(inputs.astype(np.int64), net.embedding, *blocks, *head)


def count(weights, prefix):
    """How many of `prefix`.0, `prefix`.1, … the names speak of; a gap is refused."""
    seen = {int(name.split(".")[1]) for name in weights if name.startswith(prefix + ".")}
    if seen != set(range(len(seen))):
        raise Unusable(f"{prefix} are numbered {sorted(seen)}, not 0 to {len(seen) - 1}")
    return len(seen)


def gradients(weights, inputs, targets, heads):
    """Loss and gradient of each parameter, for the model that the names describe."""
    if "embedding.token.weight" in weights:
        model = gpt
        width = weights["embedding.token.weight"].shape[1]
        if heads is None or heads < 1 or width % heads:
            raise Unusable(f"a gpt of width {width} with heads={heads}: a divisor of the width is"
                           " needed, in the file's metadata or as --heads N")
    elif "layers.0.weight" in weights:
        model = seed_mlp
    else:
        raise Unusable("neither embedding.token.weight (gpt) nor layers.0.weight (seed-mlp) is there")
    net = Net(weights)
    logits, back = model(net, inputs, heads)
    loss, d_logits = cross_entropy(logits, targets.astype(np.int64))
    back(d_logits)
    return loss, net.grads


def first_update(before, grad, rule):
    """The change that step 1 of the optimizer makes; Adam's moments start at zero, so m/√v = g/|g|."""
    if rule["optimizer"] == "sgd":
        return -rule["lr"] * grad
    change = -rule["lr"] * grad / (np.abs(grad) + 1e-8)
    if rule["optimizer"] == "adamw":
        change -= rule["lr"] * rule["weight_decay"] * before
    return change


def optimizer_rule(metadata, arguments):
    """The optimizer's numbers, from the arguments or else the file; None if neither names them."""
    found = {key: getattr(arguments, key) for key in ("optimizer", "lr", "clip_norm", "weight_decay")}
    found = {key: metadata.get(key) if value is None else value for key, value in found.items()}
    if found["lr"] is None or found["optimizer"] is None:
        return None
    if found["optimizer"] not in ("sgd", "adam", "adamw"):
        raise Unusable(f"optimizer '{found['optimizer']}': sgd, adam and adamw are known")
    clip, decay = found["clip_norm"], found["weight_decay"]
    return {
        "optimizer": found["optimizer"],
        "lr": float(found["lr"]),
        "clip_norm": None if clip in (None, "", "none") else float(clip),
        "weight_decay": 0.01 if decay is None else float(decay),
    }


def check(tensors, metadata, arguments):
    """Prints the table; returns whether all of it agrees."""
    for name in ("inputs", "targets", "loss"):
        if name not in tensors:
            raise Unusable(f"no tensor '{name}': is this a --dump-step file?")
    group = lambda kind: {name[len(kind) :]: tensor.astype(np.float64)
                          for name, tensor in tensors.items() if name.startswith(kind)}
    before, dumped, after = group("before."), group("grad."), group("after.")
    heads = arguments.heads or (int(metadata["heads"]) if "heads" in metadata else None)
    loss, own = gradients(before, tensors["inputs"], tensors["targets"], heads)
    if not before.keys() == dumped.keys() == after.keys() == own.keys():
        odd = sorted((before.keys() | dumped.keys() | after.keys() | own.keys())
                     - (before.keys() & dumped.keys() & after.keys() & own.keys()))
        print(f"not in all of before, grad, after and the model: {', '.join(odd)}")
        return False
    rule = optimizer_rule(metadata, arguments)
    norm = np.sqrt(sum((g**2).sum() for g in own.values()))
    clip = 1.0 if rule is None or rule["clip_norm"] is None else min(1.0, rule["clip_norm"] / norm)

    theirs = float(tensors["loss"].reshape(-1)[0])
    fine = abs(theirs - loss) <= 1e-5 * abs(loss)
    print(f"loss {theirs:.7f} here {loss:.7f} {'ok' if fine else 'DIFFERS'}; gradient norm {norm:.6g}")
    print(f"{'parameter':<32} {'shape':>14} {'gradient norm':>14} {'difference':>11} {'update off':>11}")
    for name in before:
        a, b = dumped[name], own[name]
        off, update_off, good = np.inf, None, False
        if a.shape == b.shape == before[name].shape == after[name].shape:
            off = np.linalg.norm(a - b) / max(np.linalg.norm(b), FLOOR * norm)
            good = bool(off <= RELATIVE)
            if rule is not None:
                change = first_update(before[name], clip * a, rule)
                error = np.abs(after[name] - before[name] - change)
                # A step of lr is known to its thousandth, a weight to its last float32 bits.
                bound = 1e-3 * rule["lr"] * max(1.0, clip * np.abs(a).max()) + 2.5e-7 * np.abs(before[name])
                update_off = float((error / bound).max())
                good = good and update_off <= 1.0
        fine = fine and good
        shown = "-" if update_off is None else f"{update_off:.3f}"
        print(f"{name:<32} {str(a.shape):>14} {np.linalg.norm(b):>14.6g} {off:>11.2e} {shown:>11}"
              f" {'ok' if good else 'DIFFERS'}")
    print(f"difference: |a-b| / max(|b|, {FLOOR:g} of the gradient norm), at most {RELATIVE:g}; update"
          + (" not checked: neither the file nor an argument names optimizer and lr" if rule is None
             else f" off: 1 is the bound ({rule['optimizer']}, lr {rule['lr']:g})"))
    return bool(fine)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("dump", help="the file that --dump-step wrote")
    parser.add_argument("--heads", type=int, help="attention heads of a gpt")
    parser.add_argument("--optimizer", help="sgd, adam or adamw")
    parser.add_argument("--lr", type=float, help="learning rate of step 1")
    parser.add_argument("--clip-norm", type=float, help="the global norm that gradients were clipped to")
    parser.add_argument("--weight-decay", type=float, help="of adamw")
    arguments = parser.parse_args()
    try:
        tensors, metadata = read_safetensors(arguments.dump)
        agrees = check(tensors, metadata, arguments)
    except (Unusable, OSError, ValueError, KeyError, IndexError) as error:
        print(f"check_dump: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.dump}: {'agrees' if agrees else 'DIFFERS'}")
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main())

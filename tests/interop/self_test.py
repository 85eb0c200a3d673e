#!/usr/bin/env python3
"""Tests of check_dump.py that need no run: its derivatives against differences, and what it must not pass."""
import copy
import sys
from argparse import Namespace

import numpy as np

import check_dump

ARGUMENTS = Namespace(heads=None, optimizer=None, lr=None, clip_norm=None, weight_decay=None)
METADATA = {"heads": "2", "optimizer": "adam", "lr": "0.01", "clip_norm": "1.0"}


def small_mlp(random):
    sizes = [5, 7, 6, 4]
    weights = {}
    for i, (fan_in, fan_out) in enumerate(zip(sizes, sizes[1:])):
        weights[f"layers.{i}.weight"] = random.normal(size=(fan_out, fan_in))
        weights[f"layers.{i}.bias"] = random.normal(size=fan_out)
    return weights, random.normal(size=(9, 5)), random.integers(0, 4, 9)


def small_gpt(random):
    width, context = 8, 6
    shapes = {"embedding.token": (256, width), "embedding.position": (context, width),
              "head.linear": (256, width)}
    for n in range(2):
        shapes |= {f"blocks.{n}.attention.qkv": (3 * width, width), f"blocks.{n}.attention.proj": (width, width),
                   f"blocks.{n}.mlp.fc": (4 * width, width), f"blocks.{n}.mlp.proj": (width, 4 * width)}
    weights = {f"{name}.weight": random.normal(size=shape, scale=0.4) for name, shape in shapes.items()}
    for name, shape in shapes.items():
        if name.startswith("blocks."):
            weights[f"{name}.bias"] = random.normal(size=shape[0], scale=0.4)
    for name in ["head.ln"] + [f"blocks.{n}.ln{i}" for n in range(2) for i in (1, 2)]:
        weights[f"{name}.weight"] = 1.0 + random.normal(size=width, scale=0.2)
        weights[f"{name}.bias"] = random.normal(size=width, scale=0.2)
    text = random.integers(0, 256, (3, context))
    return weights, text[:, :-1], text[:, 1:]


def agrees_with_differences(model, random):
    """The slope of the loss along a random direction, for each parameter by itself."""
    weights, inputs, targets = model(random)
    _, grads = check_dump.gradients(weights, inputs, targets, 2)
    assert grads.keys() == weights.keys(), grads.keys() ^ weights.keys()
    for name, weight in weights.items():
        direction = random.normal(size=weight.shape)
        step = 1e-5
        sides = []
        for sign in (1.0, -1.0):
            moved = weights | {name: weight + sign * step * direction}
            sides.append(check_dump.gradients(moved, inputs, targets, 2)[0])
        slope, claimed = (sides[0] - sides[1]) / (2 * step), (grads[name] * direction).sum()
        assert abs(slope - claimed) <= 1e-6 * max(1.0, abs(slope)), (name, slope, claimed)


def a_dump(model, random):
    """A dump in float32 whose gradients and update are right."""
    weights, inputs, targets = model(random)
    weights = {name: weight.astype(np.float32) for name, weight in weights.items()}
    wide = {name: weight.astype(np.float64) for name, weight in weights.items()}
    inputs = inputs.astype(np.float32) if inputs.dtype == np.float64 else inputs
    loss, grads = check_dump.gradients(wide, inputs, targets, 2)
    rule = check_dump.optimizer_rule(METADATA, ARGUMENTS)
    clip = min(1.0, rule["clip_norm"] / np.sqrt(sum((grad**2).sum() for grad in grads.values())))
    tensors = {"inputs": inputs, "targets": targets, "loss": np.float32(loss)}
    for name, weight in wide.items():
        after = weight + check_dump.first_update(weight, clip * grads[name], rule)
        tensors |= {f"before.{name}": weights[name], f"grad.{name}": grads[name].astype(np.float32),
                    f"after.{name}": after.astype(np.float32)}
    return tensors


def verdict(tensors):
    return check_dump.check(tensors, METADATA, ARGUMENTS)


def finds_what_is_wrong(model, random):
    good = a_dump(model, random)
    assert verdict(good), "a right dump has to pass"
    first = next(name for name in good if name.startswith("grad."))[len("grad.") :]

    def broken(change):
        tensors = copy.deepcopy(good)
        change(tensors)
        return tensors

    def scale(kind, factor):
        return lambda tensors: tensors.update({kind + first: tensors[kind + first] * np.float32(factor)})

    assert not verdict(broken(scale("grad.", 1.001))), "a gradient that is off by a thousandth"
    assert not verdict(broken(scale("grad.", np.nan))), "a gradient that is not a number"
    assert not verdict(broken(scale("after.", 1.01))), "an update that is off"
    assert not verdict(broken(lambda t: t.update(loss=t["loss"] * np.float32(1.0001)))), "a loss that is off"
    assert not verdict(broken(lambda t: t.pop("grad." + first))), "a gradient that is missing"
    assert not verdict(broken(lambda t: t.update({"grad.extra": np.float32([1.0])}))), "one too many"
    try:
        verdict(broken(lambda t: t.pop("targets")))
    except check_dump.Unusable:
        return
    raise AssertionError("a file without targets has to be refused")


def main():
    for model in (small_mlp, small_gpt):
        agrees_with_differences(model, np.random.default_rng(1))
        finds_what_is_wrong(model, np.random.default_rng(2))
        print(f"self test: {model.__name__} ok", file=sys.stderr)


if __name__ == "__main__":
    main()

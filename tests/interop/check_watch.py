"""Checks a recorded job of torch_job.py, with a program of its own.

    check_watch.py FOLDER ORDERS PPTOP [--theory TOLERANCE] [--kineto FOLDER]

1. Every operation of every step is in the files once, in the order in which the modules ran.
2. The bubble of the last steps, from the files of the ranks by NumPy, is that of
   `pptop snapshot --json`.
3. With --theory: the measured bubble is the promised one within the tolerance.
"""

import argparse
import glob
import json
import os
import subprocess
import sys

import numpy as np


def lines(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def orders(folder, ordered):
    """Operations in the files against the notes of the modules."""
    n = 0
    for path in sorted(glob.glob(os.path.join(folder, "rank-*.jsonl"))):
        rank = int(os.path.basename(path).split("-")[1].split(".")[0])
        all_lines = lines(path)
        spans = [s for s in all_lines if s["ev"] == "span" and s["op"] in "FBIW"]
        noted = json.load(open(os.path.join(ordered, f"order-{rank}.json")))
        for step, notes in enumerate(noted, start=1):
            ops = sorted((s for s in spans if s["step"] == step), key=lambda s: s["start_ns"])
            seen = [(s["op"], s["stage"], s["mb"]) for s in ops]
            assert len(set(seen)) == len(seen), f"rank {rank}, step {step}: twice {seen}"
            # On stage 0 an input gradient does nothing: its weight gradient is the whole backward.
            kinds = {"F": "F", "B": "G", "I": "G", "W": "G"}
            own = [
                [kinds[op], stage, mb]
                for op, stage, mb in seen
                if op in "FB" or (op == "I" and stage > 0) or (op == "W" and stage == 0)
            ]
            # Before the first step, the schedule runs a stage once to find shapes.
            notes = notes[-len(own) :] if step == 1 else notes
            assert own == notes, f"rank {rank}, step {step}:\n{own}\nnot\n{notes}"
            forwards = {(s, m) for op, s, m in seen if op == "F"}
            inputs = {(s, m) for op, s, m in seen if op in "BI"}
            weights = {(s, m) for op, s, m in seen if op == "W"}
            splits = {(s, m) for op, s, m in seen if op == "I"}
            assert forwards == inputs and weights == splits
            n += len(seen)
    assert n > 0, "no operation was recorded"
    return n


def bubble(folder, step):
    """1 - busy / (ranks x window), the mean over the pipelines."""
    pipelines = {}
    for path in glob.glob(os.path.join(folder, "rank-*.jsonl")):
        all_lines = lines(path)
        head = all_lines[0]
        ops = [
            (s["start_ns"], s["dur_ns"])
            for s in all_lines
            if s["ev"] == "span" and s["op"] in "FBIW" and s["step"] == step
        ]
        pipelines.setdefault(tuple(head["pipeline"]), []).append(np.array(ops, dtype=np.int64))
    ratios = []
    for ranks in pipelines.values():
        ops = np.concatenate(ranks)
        window = (ops[:, 0] + ops[:, 1]).max() - ops[:, 0].min()
        ratios.append(1.0 - ops[:, 1].sum() / (len(ranks) * window))
    return float(np.mean(ratios))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("orders")
    parser.add_argument("pptop")
    parser.add_argument("--theory", type=float)
    args = parser.parse_args()
    n_ops = orders(args.folder, args.orders)
    out = subprocess.run(
        [args.pptop, "attach", args.folder, "--plain", "--json"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    told = [json.loads(line) for line in out.stdout.splitlines()]
    hello = next(line for line in told if line["ev"] == "hello")
    steps = {line["step"]: line for line in told if line["ev"] == "step"}
    for step in sorted(steps):
        own = bubble(args.folder, step)
        theirs = steps[step]["bubble_ratio"]
        assert abs(own - theirs) < 1e-9, f"step {step}: {own} and {theirs}"
    snapshot = subprocess.run(
        [args.pptop, "snapshot", args.folder, "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    snapshot = json.loads(snapshot.stdout)
    # The mean without the first step, as on the screen.
    mean = float(np.mean([bubble(args.folder, step) for step in steps if step > 1]))
    assert abs(snapshot["bubble_ratio"] - mean) < 1e-9, f"{snapshot['bubble_ratio']}, not {mean}"
    measured = float(np.median([steps[s]["bubble_ratio"] for s in steps if s > 1]))
    theory = hello.get("theory")
    if args.theory is not None:
        assert abs(measured - theory) <= args.theory, f"measured {measured}, theory {theory}"
    print(
        f"{hello['schedule']}: pp={hello['pp']} dp={hello['dp']} m={hello['micro_batches']}: "
        f"{n_ops} operations in the order of the modules, bubble {measured:.3f}, theory "
        f"{theory if theory is None else round(theory, 3)}"
    )


if __name__ == "__main__":
    sys.exit(main())

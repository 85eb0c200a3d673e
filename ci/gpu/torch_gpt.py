"""Trains pptop's gpt with PyTorch on one device, without a pipeline, and prints the seconds of each step.

    torch_gpt.py --layers 12 --width 768 --heads 12 --context 1024 --precision tf32 --steps 8

One JSON object on standard output: {"seconds": [...], "loss": ...}. Layers, micro-batches, loss and optimizer (AdamW, fused) are those
of `pptop train`.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from torch import nn

sys.path.append(str(Path(__file__).resolve().parents[2] / "benches" / "peers"))
from model import gpt, loss_of  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser()
    sizes = (("--layers", 6), ("--width", 128), ("--heads", 4), ("--context", 64), ("--batch-size", 32), ("--micro-batches", 8))
    for flag, value in (*sizes, ("--steps", 8)):
        parser.add_argument(flag, type=int, default=value)
    parser.add_argument("--precision", choices=["f32", "tf32", "bf16"], default="f32")
    parser.add_argument("--device", default="cuda")
    job = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = job.precision == "tf32"
    torch.manual_seed(1)
    model = nn.Sequential(*gpt(job.layers, job.width, job.heads, job.context)).to(job.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, fused=job.device == "cuda")
    wait = torch.cuda.synchronize if job.device == "cuda" else lambda: None
    seconds, loss = [], float("nan")
    for step in range(job.steps):
        generator = torch.Generator().manual_seed(step)
        shape = (job.batch_size, job.context)
        inputs, targets = (torch.randint(0, 256, shape, generator=generator) for _ in range(2))
        wait()
        begun = time.perf_counter()
        losses = []
        for x, y in zip(inputs.chunk(job.micro_batches), targets.chunk(job.micro_batches)):
            x, y = x.to(job.device), y.to(job.device)
            with torch.autocast(job.device, torch.bfloat16, enabled=job.precision == "bf16"):
                losses.append(loss_of(model(x), y))
            (losses[-1] / job.micro_batches).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        loss = torch.stack(losses).mean().item()
        wait()
        seconds.append(time.perf_counter() - begun)
    print(json.dumps({"seconds": seconds, "loss": loss}), flush=True)


if __name__ == "__main__":
    main()

"""Trains seed-mlp, gpt or smollm2 with torch.distributed.pipelining on CPU ranks of one thread each, and prints the seconds of each step.

    pipeline.py --job seed-mlp --schedule 1f1b --cut 4,4 --steps 6

One JSON object on standard output: {"seconds": [...], "loss": ...}. Layers, batch, micro-batches, loss, clipping and optimizer are
those of `pptop train`; ranks are processes that talk over gloo; Adam is the fused one. Where
embedding and head of smollm2 lie on two ranks, the two sum their gradients after each step.
"""

import argparse
import json
import os
import tempfile
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from model import gpt, loss_of, seed_mlp, smollm2
from torch import nn
from torch.distributed.pipelining import PipelineStage, schedules

SCHEDULES = {
    "gpipe": schedules.ScheduleGPipe,
    "1f1b": schedules.Schedule1F1B,
    "interleaved-1f1b": schedules.ScheduleInterleaved1F1B,
    "looped-bfs": schedules.ScheduleLoopedBFS,
    "interleaved-zb": schedules.ScheduleInterleavedZeroBubble,
    "zb-v": schedules.ScheduleZBVZeroBubble,
    "dualpipe-v": schedules.ScheduleDualPipeV,
}
ONE_STAGE_A_RANK = {"gpipe", "1f1b"}
V_SHAPED = {"zb-v", "dualpipe-v"}


def batch_of(job: argparse.Namespace, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    if job.job == "seed-mlp":
        inputs = torch.randn(job.batch_size, 100, generator=generator)
        return inputs, torch.randint(0, 10, (job.batch_size,), generator=generator)
    most, shape = 49152 if job.job == "smollm2" else 256, (job.batch_size, job.context)
    inputs, targets = (torch.randint(0, most, shape, generator=generator) for _ in range(2))
    return inputs, targets


def layers_of(job: argparse.Namespace) -> list[nn.Module]:
    match job.job:
        case "seed-mlp":
            return seed_mlp()
        case "smollm2":
            return smollm2(job.context)
        case _:
            return gpt(job.layers, job.width, job.heads, job.context)


def optimizer_of(job: argparse.Namespace, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if job.job == "smollm2":
        return torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    return torch.optim.Adam(parameters, lr=1e-3, fused=True)


def stages_of(job: argparse.Namespace, rank: int, n_stages: int) -> list[int]:
    if job.schedule in V_SHAPED:
        return [rank, n_stages - 1 - rank]
    return list(range(rank, n_stages, job.pp))


def clip(parameters: list[nn.Parameter], most: float) -> None:
    """The norm is that of the whole model, over all ranks."""
    squares = torch.stack(torch._foreach_norm([p.grad for p in parameters])).square().sum()
    dist.all_reduce(squares)
    factor = min(1.0, most / (squares.sqrt().item() + 1e-6))
    if factor < 1.0:
        torch._foreach_mul_([p.grad for p in parameters], factor)


def train(rank: int, job: argparse.Namespace, port_file: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{port_file}", rank=rank, world_size=job.pp)
    torch.manual_seed(1)
    layers = layers_of(job)
    cut = [int(n) for n in job.cut.split(",")]
    assert sum(cut) == len(layers), f"{cut} are not {len(layers)} layers"
    starts = [sum(cut[:i]) for i in range(len(cut))]
    mine = [
        PipelineStage(nn.Sequential(*layers[starts[s] : starts[s] + cut[s]]), s, len(cut), torch.device("cpu"))
        for s in stages_of(job, rank, len(cut))
    ]
    # A parameter that stands twice on a rank is one.
    parameters = list(dict.fromkeys(p for stage in mine for p in stage.submod.parameters()))
    schedule_of = SCHEDULES[job.schedule]
    stages = mine[0] if job.schedule in ONE_STAGE_A_RANK else mine
    schedule = schedule_of(stages, job.micro_batches, loss_fn=loss_of)
    optimizer = optimizer_of(job, parameters)
    is_first, is_last = any(s.is_first for s in mine), any(s.is_last for s in mine)
    tied = layers[0].token.weight if job.job == "smollm2" and job.schedule not in V_SHAPED else None
    seconds, loss = [], float("nan")
    for step in range(job.steps):
        inputs, targets = batch_of(job, step)
        dist.barrier()
        begun = time.perf_counter()
        losses: list[torch.Tensor] = []
        arguments = (inputs,) if is_first else ()
        if is_last:
            schedule.step(*arguments, target=targets, losses=losses)
        else:
            schedule.step(*arguments)
        if tied is not None:
            dist.all_reduce(tied.grad)
        if job.clip_norm:
            clip(parameters, job.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        dist.barrier()
        seconds.append(time.perf_counter() - begun)
        if losses:
            loss = torch.stack(losses).mean().item()
    if is_last:
        print(json.dumps({"seconds": seconds, "loss": loss}), flush=True)
    dist.destroy_process_group()


def train_alone(job: argparse.Namespace) -> None:
    """One rank, no pipeline: micro-batches one after another."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    layers = layers_of(job)
    model = nn.Sequential(*layers)
    optimizer = optimizer_of(job, list(model.parameters()))
    seconds: dict[str, list[float]] = {"seconds": [], "compute_seconds": [], "optimizer_seconds": []}
    loss = float("nan")
    for step in range(job.steps):
        inputs, targets = batch_of(job, step)
        begun = time.perf_counter()
        losses = []
        for x, y in zip(inputs.chunk(job.micro_batches), targets.chunk(job.micro_batches)):
            losses.append(loss_of(model(x), y))
            (losses[-1] / job.micro_batches).backward()
        computed = time.perf_counter()
        if job.clip_norm:
            nn.utils.clip_grad_norm_(model.parameters(), job.clip_norm)
        clipped = time.perf_counter()
        optimizer.step()
        updated = time.perf_counter()
        optimizer.zero_grad(set_to_none=False)
        seconds["seconds"].append(time.perf_counter() - begun)
        seconds["compute_seconds"].append(computed - begun)
        seconds["optimizer_seconds"].append(updated - clipped)
        loss = torch.stack(losses).mean().item()
    print(json.dumps({**seconds, "loss": loss}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--job", choices=["seed-mlp", "gpt", "smollm2"], required=True)
    parser.add_argument("--schedule", choices=SCHEDULES, default="1f1b")
    parser.add_argument("--cut", help="layers of each stage; not with --pp 1, which is a plain loop")
    parser.add_argument("--pp", type=int, default=2)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--micro-batches", type=int, required=True)
    parser.add_argument("--clip-norm", type=float)
    parser.add_argument("--steps", type=int, default=6)
    for flag, value in (("--layers", 8), ("--width", 256), ("--heads", 8), ("--context", 128)):
        parser.add_argument(flag, type=int, default=value)
    job = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    if job.pp == 1:
        train_alone(job)
        return
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(train, args=(job, os.path.join(folder, "store")), nprocs=job.pp)


if __name__ == "__main__":
    main()

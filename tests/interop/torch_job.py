"""A pipeline of PyTorch on this machine's processors, and what its own modules see of it.

    torch_job.py --schedule Schedule1F1B --pp 2 [--dp 1] [--micro-batches 4] [--steps 6]
                 [--sleep-ms 0] [--csv PLAN] [--profile FOLDER] [--orders FOLDER]

The job does not know pptop: it is recorded because PPTOP_LOG_DIR is set. Each module notes in which
order it runs forward and backward, and for which micro-batch: the first column of its input carries
the number of the micro-batch through all stages. `watch.sh` compares that with the recording.
"""

import argparse
import json
import os
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.pipelining import PipelineStage, schedules

NOTES = []


class Note(torch.autograd.Function):
    """Passes its input on, and notes when its gradient comes by."""

    @staticmethod
    def forward(ctx, x, stage, mb, sleep_s):
        ctx.about = (stage, mb, sleep_s)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        stage, mb, sleep_s = ctx.about
        NOTES.append(["G", stage, mb])
        time.sleep(sleep_s)
        return gradient, None, None, None


class Part(torch.nn.Module):
    def __init__(self, stage, width, sleep_s):
        super().__init__()
        self.stage, self.sleep_s = stage, sleep_s
        self.linear = torch.nn.Linear(width - 1, width - 1)

    def forward(self, x):
        # While the schedule looks for shapes, an input may hold anything.
        first = float(x[0, 0].detach().nan_to_num(-1.0))
        mb = int(first) if abs(first) < 1e6 else -1
        NOTES.append(["F", self.stage, mb])
        time.sleep(self.sleep_s)
        y = torch.cat([x[:, :1], torch.tanh(self.linear(x[:, 1:]))], dim=1)
        return Note.apply(y, self.stage, mb, self.sleep_s)


def loss_of(output, target):
    return torch.nn.functional.mse_loss(output[:, 1:], target[:, 1:])


def stages_of(name, rank, pp, n_stages):
    """The stages of a rank: looped, or in a V."""
    if name in ("ScheduleZBVZeroBubble", "ScheduleDualPipeV"):
        return [rank, n_stages - 1 - rank]
    return list(range(rank, n_stages, pp))


def one_rank(rank, args, port):
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = "127.0.0.1", str(port)
    torch.set_num_threads(1)
    torch.manual_seed(7)
    dist.init_process_group("gloo", rank=rank, world_size=args.pp * args.dp)
    groups = [dist.new_group(list(range(d * args.pp, (d + 1) * args.pp))) for d in range(args.dp)]
    group = groups[rank // args.pp]
    place = rank % args.pp
    multi = {
        "ScheduleInterleaved1F1B", "ScheduleLoopedBFS", "ScheduleInterleavedZeroBubble",
        "ScheduleZBVZeroBubble", "ScheduleDualPipeV", "_PipelineScheduleRuntime",
    }  # fmt: skip
    single = args.schedule not in multi
    n_stages = args.pp * (1 if single or args.csv else 2)
    sleep_s = args.sleep_ms / 1e3
    own = [
        PipelineStage(Part(s, args.width, sleep_s), s, n_stages, torch.device("cpu"), group=group)
        for s in stages_of(args.schedule, place, args.pp, n_stages)
    ]
    kind = getattr(schedules, args.schedule)
    schedule = kind(own[0] if single else own, args.micro_batches, loss_fn=loss_of)
    if args.csv:
        schedule._load_csv(args.csv, format="compute_only")
    parameters = [p for stage in own for p in stage.submod.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.01)
    rows = 4 * args.micro_batches
    x = torch.randn(rows, args.width)
    x[:, 0] = torch.arange(args.micro_batches).repeat_interleave(4)
    target = torch.randn(rows, args.width)
    n_last = n_stages - 1
    orders = []

    def step():
        NOTES.clear()
        optimizer.zero_grad()
        inputs = (x,) if any(stage.is_first for stage in own) else ()
        if any(stage.stage_index == n_last for stage in own):
            schedule.step(*inputs, target=target, losses=[])
        else:
            schedule.step(*inputs)
        optimizer.step()
        orders.append(list(NOTES))

    # Until all are there, and the first messages have found their way.
    step()
    if args.profile:
        activities = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities) as profiler:
            for _ in range(args.steps - 1):
                step()
        profiler.export_chrome_trace(os.path.join(args.profile, f"trace-{rank}.json"))
    else:
        for _ in range(args.steps - 1):
            step()
    if args.orders:
        with open(os.path.join(args.orders, f"order-{rank}.json"), "w") as file:
            json.dump(orders, file)
    dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--schedule", required=True)
    parser.add_argument("--pp", type=int, default=2)
    parser.add_argument("--dp", type=int, default=1)
    parser.add_argument("--micro-batches", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--width", type=int, default=65)
    parser.add_argument("--sleep-ms", type=float, default=0.0)
    parser.add_argument("--csv")
    parser.add_argument("--profile")
    parser.add_argument("--orders")
    args = parser.parse_args()
    if "RANK" in os.environ:
        # By torchrun.
        one_rank(int(os.environ["RANK"]), args, os.environ["MASTER_PORT"])
        return
    port = 29500 + os.getpid() % 2000
    mp.spawn(one_rank, args=(args, port), nprocs=args.pp * args.dp)


if __name__ == "__main__":
    main()

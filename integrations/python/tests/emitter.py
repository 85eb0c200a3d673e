"""A stand-in for a framework: ranks that sleep through a pipeline and record it. Python alone.

    python tests/emitter.py FOLDER [--pp 2] [--dp 1] [--micro-batches 4] [--steps 20] ...

Each rank is a process, and all follow one plan, GPipe's: a forward or a backward takes ``--ms``
milliseconds. Operations begin at the moments of the plan, counted from a common start, so that the
bubble of a step is that of the plan whatever the machine does.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from pptop_log import RankInfo, Recorder, recorder


def plan(pp: int, rank: int, m: int) -> list[tuple[int, str, int]]:
    """Slot, kind and micro-batch of each operation of a rank; an operation fills a slot."""
    forwards = [(rank + mb, "F", mb) for mb in range(m)]
    begun = pp - 1 + m
    backwards = [(begun + (pp - 1 - rank) + mb, "B", mb) for mb in range(m)]
    return forwards + backwards


def n_slots(pp: int, m: int) -> int:
    return 2 * (pp - 1 + m)


def sleep_until(ns: int) -> None:
    left = ns - time.monotonic_ns()
    if left > 0:
        time.sleep(left / 1e9)


def one_rank(args: argparse.Namespace, replica: int, rank: int, began: int) -> None:
    pp, m = args.pp, args.micro_batches
    first = replica * pp
    info = RankInfo(
        rank=rank,
        pp=pp,
        pipeline=range(first, first + pp),
        global_rank=first + rank,
        world_size=pp * args.dp,
        program="emitter 1.0",
        schedule="ScheduleGPipe",
        model="sleep",
        n_stages=pp,
        micro_batches=m,
        stages=[{"stage": rank, "parameters": 1000, "parameter_bytes": 4000}],
    )
    slot = int(args.ms * 1e6)
    if args.late == rank:
        time.sleep(args.late_seconds)
    it = Recorder(args.folder, info)
    whole = (n_slots(pp, m) + 1) * slot
    for step in range(1, args.steps + 1):
        start = began + (step - 1) * whole
        sleep_until(start)
        it.begin_step(step, start)
        last = start
        for at, op, mb in plan(pp, rank, m):
            begin = start + at * slot
            if begin > last and args.waits:
                it.span("wait_act" if op == "F" else "wait_grad", rank, mb, last, begin - last)
            sleep_until(begin + slot)
            it.span(op, rank, mb, begin, slot)
            last = begin + slot
        it.end_step(
            end_ns=start + whole,
            loss=2.0 / step if rank == pp - 1 else None,
            samples=8 * m if rank == 0 else None,
        )
        if args.fail_at == step and rank == pp - 1:
            raise RuntimeError("as asked")
    it.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--pp", type=int, default=2)
    parser.add_argument("--dp", type=int, default=1)
    parser.add_argument("--micro-batches", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--ms", type=float, default=2.0)
    parser.add_argument("--waits", action="store_true")
    parser.add_argument("--late", type=int, help="a rank whose recording begins late")
    parser.add_argument("--late-seconds", type=float, default=1.0)
    parser.add_argument("--fail-at", type=int, default=0, help="a step after which a rank fails")
    args = parser.parse_args()
    began = time.monotonic_ns() + 200_000_000
    children = []
    # By fork, before any recorder is open.
    for replica in range(args.dp):
        for rank in range(args.pp):
            pid = os.fork()
            if pid == 0:
                code = 0
                try:
                    one_rank(args, replica, rank, began)
                except RuntimeError as error:
                    code = 1
                    sys.excepthook(type(error), error, None)
                recorder._close_all()
                os._exit(code)
            children.append(pid)
    print(*children, flush=True)
    failed = [pid for pid in children if os.waitpid(pid, 0)[1] != 0]
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

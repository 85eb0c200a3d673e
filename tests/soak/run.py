#!/usr/bin/env python3
"""Kills a run at random moments and resumes it under random layouts, for some minutes.

Each round trains one job once in peace and once in pieces: killed, stopped or asked for
checkpoints, and resumed each time on other ranks, with another schedule, cut and recomputation.
The end must have the weights of the calm run, bit by bit, and so must every loss on the way.
Memory, threads, files and folders must not grow from round to round.

    tests/soak/run.py target/release/pptop [--seconds 600] [--seed N]
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

JOBS = {
    "gpt": "--model gpt --layers 6 --width 32 --heads 2 --context 32 --batch-size 16 --dropout 0.1",
    "seed-mlp": "--model seed-mlp --batch-size 16 --micro-batches 8",
}
STEPS = {"gpt": 1500, "seed-mlp": 60}
LAYOUTS = [
    "--schedule gpipe --pp 1",
    "--schedule 1f1b --pp 2",
    "--schedule 1f1b --pp 3 --recompute",
    "--schedule zb-h1 --pp 2 --recompute=0",
    "--schedule zb-h2 --pp 4",
    "--schedule interleaved-1f1b --pp 2",
    "--schedule zb-v --pp 2",
    "--schedule dualpipe-v --pp 4 --partition uniform",
    "--schedule v-half --pp 2 --partition parameters",
]
# A run may take this long until its first step.
START_SECONDS = 60.0


class Failed(Exception):
    """What must hold does not."""


def events(log):
    """The whole lines of a log."""
    found = []
    for line in log.read_bytes().split(b"\n") if log.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            pass
    return found


def losses(log):
    return {event["step"]: event["loss_bits"] for event in events(log) if event["ev"] == "step"}


def threads_and_memory(pid):
    """Threads and resident bytes of a process, if it is there."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    if "VmRSS" not in fields:
        return None
    return int(fields["Threads"]), int(fields["VmRSS"].split()[0]) * 1024


class Soak:
    def __init__(self, program, seed):
        self.program = os.path.abspath(program)
        self.random = random.Random(seed)
        self.kills = self.stops = self.requests = self.runs = 0
        self.most = {}

    def start(self, home, name, flags):
        command = [self.program, "train", "--headless", "--kernels", "rule", "--run-dir", name]
        env = {**os.environ, "PPTOP_STATE_DIR": str(home / "state"), "PPTOP_DEVICE": "cpu"}
        self.runs += 1
        return subprocess.Popen(
            command + flags.split(), cwd=home, env=env, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )

    def calm(self, home, job):
        run = self.start(home, "calm", f"{JOBS[job]} --steps {STEPS[job]} --schedule 1f1b --pp 2")
        _, stderr = run.communicate()
        if run.returncode != 0:
            raise Failed(f"the calm run of {job} ended with {run.returncode}: {stderr.decode()}")
        end = events(home / "calm/events.jsonl")[-1]
        return losses(home / "calm/events.jsonl"), end["weights_hash"]

    def disturb(self, run, log):
        """Lets a run train for a moment, then does something to it."""
        begun = time.monotonic()
        while not losses(log) and run.poll() is None:
            if time.monotonic() - begun > START_SECONDS:
                raise Failed(f"{log} has no step after {START_SECONDS} s")
            time.sleep(0.005)
        time.sleep(self.random.uniform(0.0, 0.6))
        kind = self.random.choice(["kill", "kill", "term", "request", "none"])
        seen = threads_and_memory(run.pid)
        if kind == "request":
            run.send_signal(signal.SIGUSR1)
            self.requests += 1
            time.sleep(self.random.uniform(0.0, 0.2))
            kind = "kill"
        if kind == "none" or run.poll() is not None:
            return seen
        run.send_signal(signal.SIGKILL if kind == "kill" else signal.SIGTERM)
        self.kills += kind == "kill"
        self.stops += kind == "term"
        return seen

    def round(self, home, job):
        calm, weights = self.calm(home, job)
        every = self.random.choice(["1", "3", "7", "1s"])
        keep = f"--checkpoint-dir kept --checkpoint-every {every} --keep 2"
        kept, n = home / "kept", 0
        while True:
            n += 1
            name, layout = f"run{n}", self.random.choice(LAYOUTS)
            is_there = kept.is_dir() and any(kept.glob("step-*"))
            begin = "--resume kept" if is_there else f"{JOBS[job]} --steps {STEPS[job]}"
            run = self.start(home, name, f"{begin} {keep} {layout}")
            log = home / name / "events.jsonl"
            seen = self.disturb(run, log)
            _, stderr = run.communicate()
            case = f"{job}, {name}, {layout}: "
            for step, bits in losses(log).items():
                if calm[step] != bits:
                    raise Failed(f"{case}step {step} has the loss {bits}, the calm run {calm[step]}")
            if seen:
                key = (job, layout)
                before = self.most.setdefault(key, seen)
                if seen[0] > before[0] + 4 or seen[1] > before[1] * 2 + (64 << 20):
                    raise Failed(f"{case}{seen} threads and bytes, at first {before}")
            if run.returncode == 0:
                end = events(log)[-1]
                if end["weights_hash"] != weights:
                    raise Failed(f"{case}the weights are not those of the calm run")
                break
            if run.returncode not in (-signal.SIGKILL, 128 + signal.SIGTERM):
                raise Failed(f"{case}ended with {run.returncode}: {stderr.decode()}")
        names = sorted(path.name for path in kept.iterdir())
        if len([name for name in names if name.startswith("step-")]) > 2 or len(names) > 3:
            raise Failed(f"{job}: {names} are left")
        return n


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    args = parser.parse_args()
    soak = Soak(args.program, args.seed)
    begun, rounds = time.monotonic(), 0
    while rounds == 0 or time.monotonic() - begun < args.seconds:
        home = pathlib.Path(tempfile.mkdtemp(prefix="pptop-soak-"))
        job = list(JOBS)[rounds % len(JOBS)]
        try:
            pieces = soak.round(home, job)
        except Failed as failed:
            print(f"seed {args.seed}, round {rounds + 1}, {home}: {failed}")
            return 1
        shutil.rmtree(home)
        rounds += 1
        seconds = time.monotonic() - begun
        print(f"{seconds:6.0f} s  round {rounds}: {job} in {pieces} pieces, same bits", flush=True)
    print(
        f"{rounds} rounds, {soak.runs} runs, {soak.kills} kills, {soak.stops} stops, "
        f"{soak.requests} requests: all with the bits of the calm runs (seed {args.seed})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

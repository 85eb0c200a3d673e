#!/usr/bin/env python3
"""Runs pptop over MPI, and looks whether it is what it is on threads.

    tests/mpi/run.py PPTOP SAME_BITS [PART...]

PPTOP is built with the features mpi and fault-injection, SAME_BITS is tests/mpi's own program. The
parts are bits, launch, resume, hosts, checkpoints, clock, crash and many; without any, all run. Two
hosts are two network namespaces, which needs root and iproute2: without them hosts, clock and a
half of checkpoints say that they skip, which is an error if PPTOP_REQUIRE_HOSTS is set.
"""

import concurrent.futures
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
HOSTS = HERE.parent.parent / "ci" / "mpi" / "hosts.sh"
# A small gpt, cut alike everywhere.
JOB = (
    "--model gpt --layers 4 --width 32 --context 16 --batch-size 16 --micro-batches 4 --seed 3 "
    "--partition uniform --kernels rule"
).split()
# The same with gradients of some MB: more than a socket takes.
LARGE = ["256" if word == "32" else word for word in JOB]
LOCAL = "mpirun --oversubscribe --bind-to none".split()


class Failed(Exception):
    pass


def check(holds, what):
    if not holds:
        raise Failed(what)


class World:
    """The programs, and a folder for what they write."""

    def __init__(self, pptop, same_bits, home):
        self.pptop, self.same_bits, self.home = pptop, same_bits, Path(home)
        self.n = 0
        self.env = dict(
            os.environ,
            OMPI_ALLOW_RUN_AS_ROOT="1",
            OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
            RAYON_NUM_THREADS="1",
            PPTOP_STATE_DIR=str(self.home / "state"),
            PPTOP_DEVICE="cpu",
        )
        for launcher in ("WORLD_SIZE", "SLURM_NTASKS", "SLURM_STEP_ID"):
            self.env.pop(launcher, None)

    def folder(self, name):
        self.n += 1
        return self.home / f"{name}-{self.n}"

    def run(self, command, seconds=60, env=None):
        begun = time.monotonic()
        done = subprocess.run(
            [str(word) for word in command],
            capture_output=True,
            timeout=seconds,
            env=dict(self.env, **(env or {})),
        )
        done.seconds = time.monotonic() - begun
        done.out = done.stdout.decode(errors="replace")
        done.err = done.stderr.decode(errors="replace")
        return done

    def train(self, flags, launcher=(), seconds=60, env=None, job=JOB):
        """Trains, and returns the events of the run."""
        done = self.run(
            [*launcher, self.pptop, "train", *job, "--headless", "--json", *flags], seconds, env
        )
        lines = [line for line in done.out.splitlines() if line.startswith("{")]
        check(done.returncode == 0 and lines, f"{flags}: {done.returncode} {done.out} {done.err}")
        return [json.loads(line) for line in lines]

    def mpirun(self, n):
        return [*LOCAL, "-np", str(n)]


def trace(events):
    """What must be equal: the losses and the final weights."""
    losses = [event["loss_bits"] for event in events if event["ev"] == "step"]
    return losses, events[-1]["weights_hash"]


def log(folder):
    with open(folder / "events.jsonl", errors="replace") as file:
        return [json.loads(line) for line in file if line.endswith("\n")]


def bits(world):
    """The bits of threads, for every schedule and layout of up to four ranks."""
    told = []
    for n in (1, 2, 3, 4):
        done = world.run([*world.mpirun(n), world.same_bits], seconds=240)
        check(done.returncode == 0, f"{n} processes: {done.out} {done.err}")
        told.append(done.out.split()[0])
    return f"{' + '.join(told)} layouts on 1 to 4 processes"


def launch(world):
    """What a launcher says and does, and what a user does wrong."""
    mpirun = world.mpirun(4)
    command = [world.pptop, "train", *JOB, "--steps", "2"]
    done = world.run([*mpirun, *command, "--pp", "2", "--dp", "2", "--dry-run"])
    check("transport mpi: 4 processes" in done.out and done.returncode == 0, done.out + done.err)
    check(len(re.findall(r"^[01] +[01] +\S+ +cpu:\d +[01]$", done.out, re.M)) == 4, done.out)
    done = world.run([*mpirun, *command, "--pp", "2"])
    check(done.returncode == 2, f"{done.returncode} {done.err}")
    check("use mpirun -np 2" in done.err and done.err.count("pptop: --pp 2") == 1, done.err)
    done = world.run([*mpirun, *command, "--pp", "two"])
    check(done.err.count("--pp") == 1 and done.returncode == 2, done.err)
    # Four processes that know nothing of each other.
    for variable in ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"):
        for flags in ([], ["--transport", "threads"]):
            if flags or variable == "WORLD_SIZE":
                done = world.run([*command, *flags], env={variable: "4"})
                check(done.returncode == 2 and f"{variable} says 4" in done.err, done.err)
    slurm = {"SLURM_NTASKS": "4", "SLURM_STEP_ID": "0"}
    done = world.run(command, env=slurm)
    check(done.returncode == 2 and "SLURM_NTASKS says 4" in done.err, done.err)
    done = world.run([*command, "--headless"], env={"SLURM_NTASKS": "4"})
    check(done.returncode == 0, "a batch script of Slurm is no step: " + done.err)
    done = world.run([*world.mpirun(2), *command, "--pp", "2"], env={"WORLD_SIZE": "8"})
    check(done.returncode == 2 and "MPI has 2 processes" in done.err, done.err)
    done = world.run([*world.mpirun(2), world.pptop, "compare"])
    check(done.returncode == 2 and "compare runs in one process" in done.err, done.err)
    # One process below mpirun is a run on threads.
    done = world.run([*world.mpirun(1), *command, "--pp", "2", "--headless"])
    check(done.returncode == 0 and "transport" not in done.out, done.out + done.err)
    # A signal to one process, which is not the first, ends all after their step. It is no failure,
    # after which they would be started again.
    folder = world.folder("signal")
    command[-1] = "1000000"
    job = [world.pptop, "launch", "--restarts", "2", "--", *mpirun, *command, "--pp", "4"]
    job += ["--run-dir", str(folder), "--headless", "--checkpoint-every", "100000"]
    child = subprocess.Popen(
        [str(word) for word in job], env=world.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        state = folder / "rank-2.state"
        wait_for(lambda: state.exists() and step_of(state) > 3, "the run trains")
        os.kill(pid_of(state), 12)
        code = child.wait(timeout=20)
    finally:
        child.kill()
    end = log(folder)[-1]
    check((code, end["ev"], end["code"]) == (140, "end", 140), f"{code} {end}")
    check("SIGUSR2" in end["reason"], end["reason"])
    return "maps, refusals and signals"


def wait_for(holds, what, seconds=20):
    begun = time.monotonic()
    while not holds():
        check(time.monotonic() - begun < seconds, f"{what}: not within {seconds} s")
        time.sleep(0.02)


def step_of(state):
    text = state.read_text()
    return int(text[:20] or 0) if text[:20].strip() else 0


def pid_of(state):
    return json.loads(state.read_text()[42:])["pid"]


def resume(world):
    """From one transport to the other, and to other layouts."""
    calm = trace(world.train(["--pp", "2", "--dp", "2", "--steps", "8"]))
    over = ["--pp", "2", "--dp", "2", "--steps", "8", "--checkpoint-every", "4"]
    for first, then in ((world.mpirun(4), ()), ((), world.mpirun(4))):
        folder = world.folder("first")
        events = world.train([*over, "--run-dir", folder], first)
        check(trace(events) == calm, f"{first}: another trace")
        step = next((folder / "checkpoints").glob("step-*4"))
        events = world.train(["--resume", step, "--run-dir", world.folder("then")], then)
        check(trace(events) == (calm[0][4:], calm[1]), f"resumed on {then}: another trace")
    # Checkpoints do not depend on who keeps the optimizer's state.
    shared = [*over, "--shard-optimizer"]
    for first, then, flag in (
        (world.mpirun(4), (), []),
        ((), world.mpirun(4), ["--shard-optimizer"]),
    ):
        folder = world.folder("shared")
        events = world.train([*shared, "--run-dir", folder], first)
        check(trace(events) == calm, f"{first}: another trace with shares of the optimizer")
        from_step = next((folder / "checkpoints").glob("step-*4"))
        events = world.train(["--resume", from_step, *flag], then)
        check(trace(events) == (calm[0][4:], calm[1]), f"shares, resumed on {then}: another trace")
    # A width for which shares end inside parameters, on two and on three replicas.
    for dp, batch in ((2, 16), (3, 24)):
        wide = [word if word != "32" else "96" for word in JOB]
        wide = [word if word != "16" else str(batch) for word in wide]
        flags = ["--pp", "2", "--dp", str(dp), "--steps", "4", "--checkpoint-every", "2"]
        plain = trace(world.train(flags, job=wide))
        folder = world.folder("wide")
        shared = [*flags, "--shard-optimizer", "--run-dir", folder]
        check(trace(world.train(shared, world.mpirun(2 * dp), job=wide)) == plain, f"dp={dp}")
        from_step = next((folder / "checkpoints").glob("step-*2"))
        events = world.train(["--resume", from_step], job=[])
        check(trace(events) == (plain[0][2:], plain[1]), f"dp={dp}, resumed: another trace")
    # With other ranks, and the same number of replicas.
    events = world.train(["--resume", step, "--pp", "1"], world.mpirun(2))
    check(trace(events) == (calm[0][4:], calm[1]), "resumed with fewer ranks: another trace")
    saved = world.folder("saved").with_suffix(".safetensors")
    world.train([*over[:-2], "--save", saved], world.mpirun(4))
    here = world.folder("here").with_suffix(".safetensors")
    world.train([*over[:-2], "--save", here])
    check(saved.read_bytes() == here.read_bytes(), "--save wrote other bytes")
    return "threads to MPI, MPI to threads, and to fewer ranks"


def kill_all(folder):
    """Kills the processes of a run that a launcher could not reach."""
    for state in folder.glob("rank-*.state"):
        try:
            os.kill(pid_of(state), 9)
        except ProcessLookupError:
            pass


def has_hosts():
    if os.geteuid() != 0 or shutil.which("ip") is None:
        check("PPTOP_REQUIRE_HOSTS" not in os.environ, "two hosts need root and iproute2")
        return False
    return True


class TwoHosts:
    def __enter__(self):
        subprocess.run([HOSTS, "down"], check=True)
        subprocess.run([HOSTS, "up"], check=True)
        flags = subprocess.run([HOSTS, "flags"], check=True, capture_output=True, text=True)
        return [HOSTS, "enter", "1", "mpirun", *flags.stdout.split(), "-np", "4"]

    def __exit__(self, *_):
        subprocess.run([HOSTS, "down"], check=False)


def a_link_fails(world, mpirun, name, job):
    """The run ends, and says which host cannot be reached."""
    folder = world.folder("link")
    command = [world.pptop, "launch", "--", *mpirun]
    command += [world.pptop, "train", *job, "--pp", "2", "--dp", "2", "--steps", "1000000"]
    command += ["--lost-after", "2", "--run-dir", folder, "--headless"]
    child = subprocess.Popen(
        [str(word) for word in command],
        env=world.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        state = folder / "rank-3.state"
        wait_for(lambda: state.exists() and step_of(state) > 3, "the run trains")
        begun = time.monotonic()
        subprocess.run(["ip", "-n", "pptop1", "link", "set", "veth1", "down"], check=True)
        code = child.wait(timeout=20)
        took = time.monotonic() - begun
    finally:
        child.kill()
        kill_all(folder)
    end = log(folder)[-1]
    check(code != 0 and took < 10, f"{name} messages, the link is down: {code} after {took:.1f} s")
    is_named = end["ev"] == "end" and "host2" in end["reason"]
    check(is_named, f"{name} messages, the link is down: {end}")


def hosts(world):
    """Two hosts: the bits of one process, every rank with its host, and a link that fails."""
    if not has_hosts():
        return "SKIPPED: two hosts need root and iproute2"
    flags = ["--pp", "2", "--dp", "2", "--steps", "6"]
    calm = trace(world.train(flags))
    with TwoHosts() as mpirun:
        folder = world.folder("hosts")
        events = world.train([*flags, "--run-dir", folder], mpirun)
        check(trace(events) == calm, "another trace on two hosts")
        places = {(e["replica"], e["rank"]): e["host"] for e in events[0]["device_map"]}
        check(
            places == {(0, 0): "host1", (0, 1): "host1", (1, 0): "host2", (1, 1): "host2"},
            f"neighbours in a pipeline are not on one host: {places}",
        )
        check([of["host"] for of in events[0]["hosts"]] == ["host1", "host2"], events[0]["hosts"])
        cores = 2 * len(os.sched_getaffinity(0))
        check(events[0]["cores"] == cores, f"{events[0]['cores']} cores on two hosts, not {cores}")
        spans = [event for event in log(folder) if event["ev"] == "span"]
        ranks = {(span["replica"], span["rank"]) for span in spans if span["op"] == "F"}
        check(len(ranks) == 4, f"spans of {ranks} alone")
        shown = world.run([world.pptop, "snapshot", folder, "--size", "120x40"])
        check("host1" in shown.out and "host2" in shown.out, shown.out + shown.err)
        # Stages on both hosts: every activation crosses the link.
        flags = ["--pp", "4", "--steps", "6", "--schedule", "zb-h1"]
        check(trace(world.train(flags, mpirun)) == trace(world.train(flags)), "pp=4: another trace")
    for name, job in (("small", JOB), ("large", LARGE)):
        with TwoHosts() as mpirun:
            a_link_fails(world, mpirun, name, job)
    return "same bits, ranks with their hosts, and a link that fails is named"


def checkpoints(world):
    """Each process writes its part; one that cannot is named; all hosts must see the folder."""
    flags = ["--pp", "2", "--dp", "2", "--steps", "8", "--checkpoint-every", "2", "--keep", "9"]
    calm = trace(world.train(flags))
    for place, process in (("1.0", 1), ("0.0", 0)):
        for kind in ("error", "panic"):
            folder = world.folder("part")
            fault = ["--inject-fault", f"{place}:4:write:{kind}"]
            events = world.train([*flags, "--run-dir", folder, *fault], world.mpirun(4))
            check(trace(events) == calm, f"{kind} in process {process}: another trace")
            told = [e["message"] for e in events if e["ev"] == "warn"]
            told = [message for message in told if "no checkpoint of step 4" in message]
            check(len(told) == 1, f"{kind} in process {process}: {told}")
            named = process == 0 or f"process {process} on " in told[0]
            check(named, f"{kind} in process {process}: not named: {told[0]}")
            there = sorted(path.name for path in (folder / "checkpoints").iterdir())
            wanted = [".lock", *(f"step-{step:08}" for step in (2, 6, 8))]
            check(there == wanted, f"{kind} in process {process}: {there}")
            verified = world.run([world.pptop, "checkpoint", "verify", folder / "checkpoints"])
            check(verified.returncode == 0, verified.out + verified.err)
    if not has_hosts():
        return "parts; SKIPPED: two hosts need root and iproute2"
    # A folder that the second host does not see: refused before the first step, and it is named.
    with TwoHosts() as mpirun:
        hidden = world.folder("hidden")
        hidden.mkdir()
        job = [*mpirun, world.pptop, "train", *JOB, "--headless", *flags]
        job += ["--run-dir", world.folder("apart"), "--checkpoint-dir", hidden]
        done = world.run(job, env={"PPTOP_HOSTS_HIDE": str(hidden)})
        check(done.returncode != 0, "a folder that is not shared was taken")
        check("is not seen by host2" in done.err, done.err)
        check([path.name for path in hidden.iterdir()] == [".lock"], list(hidden.iterdir()))
        # The same folder, seen by both.
        check(trace(world.train([*flags, "--checkpoint-dir", hidden], mpirun)) == calm, "two hosts")
    return "parts of every process, one that fails is named, and a folder that a host does not see"


def clock(world):
    """A host whose clock is ahead by five minutes."""
    if not has_hosts():
        return "SKIPPED: two hosts need root and iproute2"
    with TwoHosts() as mpirun:
        folder = world.folder("clock")
        flags = ["--pp", "4", "--steps", "6", "--run-dir", folder]
        events = world.train(flags, mpirun, env={"PPTOP_HOSTS_CLOCK": "300"})
    offsets = {of["host"]: of["clock_offset_seconds"] for of in events[0]["hosts"]}
    # Each process counts from its own start, so a wrong clock is no difference at all.
    check(offsets["host1"] == 0 and abs(offsets["host2"]) < 10, f"offsets {offsets}")
    spans = [event for event in log(folder) if event["ev"] == "span" and event["step"] > 1]
    # What is received was sent before: with clocks that differ, it would not have been.
    begun = {(s["step"], s["stage"], s["mb"]): s["start_ns"] for s in spans if s["op"] == "F"}
    ended = {
        (s["step"], s["stage"], s["mb"]): s["start_ns"] + s["dur_ns"]
        for s in spans
        if s["op"] == "F"
    }
    worst = min(begun[k, s + 1, mb] - ended[k, s, mb] for k, s, mb in ended if s < 3)
    check(worst > -1_000_000, f"a forward begins {-worst / 1e6:.2f} ms before its input is made")
    return f"offset {offsets['host2']:.3f} s; no forward is more than {max(-worst, 0) / 1e3:.0f} us early"


POINTS = {"forward": "{0}F2", "backward": "{0}B1", "reduce": "reduce", "optimizer": "optimizer"}
POINTS["checkpoint"] = "copy"


def crash(world):
    """Each rank fails in each way at each point: named within 10 s, and resumed to the same bits."""
    steps = ["--pp", "2", "--dp", "2", "--steps", "8", "--checkpoint-every", "2"]
    calm = trace(world.train(steps))
    cases = [
        (kind, rank, replica, point)
        for kind in ("panic", "kill", "stop")
        for rank in (0, 1)
        for replica in (0, 1)
        for point in POINTS
    ]

    def case(at):
        kind, rank, replica, point = at
        what = f"{kind} of rank {rank} of replica {replica} in {point}"
        folder = world.folder("crash")
        # A checkpoint of step 4 is durable when the others strike.
        step = 6 if point == "checkpoint" else 7
        fault = f"{rank}.{replica}:{step}:{POINTS[point].format(rank)}:{kind}"
        job = [world.pptop, "launch", "--restarts", "1", "--", *world.mpirun(4)]
        job += [world.pptop, "train", *JOB, "--headless", "--json", *steps]
        job += ["--lost-after", "2", "--run-dir", folder, "--inject-fault", fault]
        done = world.run(job, seconds=60)
        told = done.out + done.err
        check(done.returncode == 0, f"{what}: exit code {done.returncode}: {told}")
        restart = [line for line in done.err.splitlines() if "restart 1 of 1 after" in line]
        check(len(restart) == 1, f"{what}: {told}")
        name = f"rank {rank}" + (f" of replica {replica}" if replica else "")
        check(name in restart[0], f"{what}: another rank is named: {restart[0]}")
        if point in ("forward", "backward"):
            op = POINTS[point].format(rank)
            check(f"op {op}" in restart[0], f"{what}: not named with its op: {restart[0]}")
        # From its last step to the end of the launcher, less the run that went on.
        lost = log(folder)
        last = max((e["elapsed_seconds"] for e in lost if e["ev"] == "step"), default=0)
        again = log(Path(f"{folder}-restart-1"))
        took = done.seconds - last - again[-1]["wall_seconds"]
        check(took < 10, f"{what}: ended after {took:.1f} s")
        steps_made = [e for e in again if e["ev"] == "step"]
        first = steps_made[0]["step"]
        check(first >= 5, f"{what}: resumed from step {first - 1}")
        resumed = [e["loss_bits"] for e in steps_made], again[-1]["weights_hash"]
        check(resumed == (calm[0][first - 1 :], calm[1]), f"{what}: another trace")
        return took

    again = []

    def case_or_again(at):
        """A machine that is busy for a moment can delay signs of life: once more is told."""
        try:
            return case(at)
        except (Failed, subprocess.TimeoutExpired) as error:
            again.append(f"{at}: {error}")
            check(len(again) <= 2, f"{len(again)} faults failed: {' | '.join(again)}")
            return case(at)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        took = list(pool.map(case_or_again, cases))
    told = f", {len(again)} of them at the second try: {again}" if again else ""
    return f"{len(took)} faults named and resumed, the slowest after {max(took):.1f} s{told}"


def many(world):
    """16 processes on this machine train, are watched, and end."""
    flags = "--model sleep --schedule zb-h1 --pp 8 --dp 2 --micro-batches 16 --steps 4".split()
    flags += "--sleep-forward-ms 2 --sleep-input-grad-ms 2 --sleep-weight-grad-ms 2".split()
    folder = world.folder("many")
    job = [*world.mpirun(16), world.pptop, "train", *flags, "--headless", "--run-dir", folder]
    done = world.run(job, seconds=120)
    check(done.returncode == 0, done.out + done.err)
    shown = json.loads(world.run([world.pptop, "snapshot", folder, "--json"]).out)
    spans = [event for event in log(folder) if event["ev"] == "span" and event["op"] == "F"]
    ranks = {(span["replica"], span["rank"]) for span in spans}
    check(len(ranks) == 16, f"spans of {len(ranks)} ranks")
    return f"16 processes in {done.seconds:.1f} s, {len(shown)} facts in the snapshot"


PARTS = [bits, launch, resume, hosts, checkpoints, clock, crash, many]


def main():
    pptop, same_bits, *wanted = sys.argv[1:]
    names = [part.__name__ for part in PARTS]
    for name in wanted:
        if name not in names:
            sys.exit(f"no part {name}; there are {', '.join(names)}")
    with tempfile.TemporaryDirectory() as home:
        os.chmod(home, 0o700)
        # The programs that a launcher starts have to be called pptop.
        world = World(Path(pptop).resolve(), Path(same_bits).resolve(), home)
        failed = False
        for part in PARTS:
            if wanted and part.__name__ not in wanted:
                continue
            begun = time.monotonic()
            try:
                told = part(world)
            except (Failed, subprocess.SubprocessError, OSError, KeyError, IndexError) as error:
                failed, told = True, f"FAILED: {type(error).__name__}: {error}"
            print(f"mpi: {part.__name__}: {told} ({time.monotonic() - begun:.0f} s)", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

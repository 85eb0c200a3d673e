"""What a pptop with the feature `cuda` does on a machine without a GPU, and how often it calls the driver.

    run.py PPTOP LIBRARY [--reference PPTOP] [--table]

PPTOP was built with `ci/cuda/nvcc`, LIBRARY is `libcuda_stand_in.so`, which answers as a driver would and counts. The reference is a
pptop without the feature, whose bits the processor has to have. With --table it also prints the calls of a step, by their causes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

FILES = ["libcuda.so.1", "libcublas.so.13", "libcublasLt.so.13", "libcurand.so.10", "libnvrtc.so.13"]
UPLOADS, DOWNLOADS, ON_DEVICE = "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuMemcpyDtoDAsync_v2"
RELEASE_THRESHOLD = 4
ALL = 2**64 - 1


class Failed(Exception):
    pass


def need(holds, what):
    if not holds:
        raise Failed(what)


class World:
    """A folder with the stand-in under the names of all libraries, and a state folder."""

    def __init__(self, pptop, library, folder):
        self.pptop, self.folder = pptop, folder
        self.libraries = folder / "libraries"
        self.libraries.mkdir()
        for name in FILES:
            (self.libraries / name).symlink_to(library)

    def run(self, *arguments, libraries=None, program=None, **variables):
        env = {name: value for name, value in os.environ.items() if not name.startswith(("PPTOP_", "CUDA_"))}
        env |= {"PPTOP_STATE_DIR": str(self.folder / "state"), "LC_ALL": "C.UTF-8"}
        if libraries is not None:
            env["PPTOP_CUDA_LIB"] = str(libraries)
        env |= {name: str(value) for name, value in variables.items()}
        return subprocess.run(
            [program or self.pptop, *arguments], env=env, capture_output=True, text=True, timeout=300, check=False
        )

    def train(self, *arguments, steps=3, devices=1, log=None, counts=None):
        """A run on the stand-in's devices."""
        place = ["--run-dir", str(log)] if log else []
        variables = {"PPTOP_CUDA_STAND_IN_DEVICES": devices}
        if counts:
            variables["PPTOP_CUDA_STAND_IN_COUNTS"] = counts
        done = self.run(
            "train", "--headless", "--device", "cuda", "--steps", str(steps), *arguments, *place,
            libraries=self.libraries, **variables,
        )
        need(done.returncode == 0, f"{arguments}: exit code {done.returncode}: {done.stderr}")
        return done

    def counts_of_step(self, *arguments, devices=1):
        """How often each function is called in a step, once the first steps have prepared everything."""
        found = []
        for steps in (3, 6):
            path = self.folder / "counts"
            self.train(*arguments, steps=steps, devices=devices, counts=path)
            found.append(read_counts(path))
            path.unlink()
        few, many = found
        per_step = Counter()
        for name in many:
            more = many[name] - few[name]
            # How often a sender asks for a copy depends on how soon it was made.
            varies = name.startswith("bytes:") or name == "cuEventQuery"
            need(more % 3 == 0 or varies, f"{arguments}: {more} calls of {name} in three steps")
            per_step[name] = more // 3
        return per_step, many


def read_counts(path):
    counts = Counter()
    for line in path.read_text().splitlines():
        name, _, count = line.rpartition(" ")
        counts[name] = int(count)
    return counts


def one_line(done, *words):
    """A refusal: exit code 2, and one line that has all words."""
    need(done.returncode == 2, f"exit code {done.returncode} for 2: {done.stderr}")
    lines = done.stderr.strip().splitlines()
    need(len(lines) == 1, f"{len(lines)} lines for one: {done.stderr}")
    for word in words:
        need(word in lines[0], f"'{word}' is not in '{lines[0]}'")


def read_log(log):
    """The first line of a run with its sizes, all events, and the spans among them."""
    events = [json.loads(line) for line in (log / "events.jsonl").read_text().splitlines()]
    hello = next(event for event in events if event["ev"] == "hello")
    return hello, events, [event for event in events if event["ev"] == "span"]


# --- Without a driver


def starts_without_a_driver(world, reference):
    cuda = ("train", "--headless", "--device", "cuda", "--steps", "1")
    nowhere = world.run(*cuda)
    if Path("/proc/driver/nvidia").exists():
        return "not checked: this machine has a driver"
    one_line(nowhere, "--device cuda", "no NVIDIA driver is installed", "libcuda.so.1")
    auto = world.run("train", "--headless", "--steps", "1", "--model", "seed-mlp", "--batch-size", "16", "--micro-batches", "2")
    need(auto.returncode == 0 and "cpu:0" in auto.stderr + auto.stdout, f"auto: {auto.stderr}")
    bits = []
    for program in (world.pptop, reference):
        if program:
            done = world.run(
                "train", "--headless", "--json", "--device", "cpu", "--model", "gpt", "--steps", "2", "--pp", "2",
                "--kernels", "avx2", program=program,
            )
            need(done.returncode == 0, f"the processor: {done.stderr}")
            last = [json.loads(line) for line in done.stdout.splitlines()]
            bits.append([event["weights_hash"] for event in last if "weights_hash" in event])
    need(len(bits) < 2 or bits[0] == bits[1] != [], f"the processor's bits: {bits}")
    return "starts without a driver, trains on the processor" + (" with the bits of the default build" if reference else "")


def refuses_what_cannot_work(world, _):
    cuda = ("train", "--headless", "--device", "cuda", "--steps", "1")
    old = world.run(*cuda, libraries=world.libraries, PPTOP_CUDA_STAND_IN_DRIVER=12040)
    one_line(old, "CUDA up to 12.4", "need 13.0", "driver 580")
    turing = world.run(*cuda, libraries=world.libraries, PPTOP_CUDA_STAND_IN_CAPABILITY=7)
    one_line(turing, "cuda:0", "compute capability 7", "need 8.0")
    none = world.run(*cuda, libraries=world.libraries, PPTOP_CUDA_STAND_IN_DEVICES=0)
    one_line(none, "reports no device")
    part = world.folder / "part"
    part.mkdir()
    (part / FILES[0]).symlink_to(world.libraries / FILES[0])
    one_line(world.run(*cuda, libraries=part, HOME=world.folder, PATH="/nowhere"), "libcublas.so.13 was not found")
    # A folder of a Python package is as good as one on the loader's path.
    package = world.folder / "venv/lib/python3.12/site-packages/nvidia/cu13/lib"
    package.mkdir(parents=True)
    for name in FILES[1:]:
        (package / name).symlink_to(world.libraries / name)
    done = world.run(
        "train", "--headless", "--device", "cuda", "--steps", "1", "--model", "seed-mlp",
        libraries=part, VIRTUAL_ENV=world.folder / "venv", PATH="/nowhere",
    )
    need(done.returncode == 0, f"libraries of a Python package: {done.stderr}")
    variable = world.run("train", "--headless", "--steps", "1", PPTOP_DEVICE="gpu")
    one_line(variable, "PPTOP_DEVICE is 'gpu'", "auto, cpu or cuda")
    return "an old driver, no device and missing libraries are one line each"


# --- Calls of the driver


GPT = ("--model", "gpt", "--eval-every", "1000", "--batch-size", "16", "--micro-batches", "8")
MLP = ("--model", "seed-mlp", "--batch-size", "64", "--micro-batches", "8")


def counted(world, name, arguments, *, ops, messages, m=8, ranks=2, masks=0):
    """The calls of a step in which `ranks` ranks on one device run `ops` ops and send each other `messages` messages."""
    calls, all_calls = world.counts_of_step(*arguments)
    found = {
        # The inputs and the targets of each micro-batch, and masks of dropout, which are new each time.
        "uploads": (calls[UPLOADS], 2 * m + masks),
        # The norms of each rank, and the losses.
        "downloads": (calls[DOWNLOADS], ranks + 1),
        # Behind its downloads, and after its update.
        "synchronisations": (calls["cuStreamSynchronize"], 2 * ranks),
        "other waits of the host": (calls["cuCtxSynchronize"] + calls["cuEventSynchronize"], 0),
        "waits of a stream": (calls["cuStreamWaitEvent"], messages),
        # An op and an update have two, the begin of a step one; a message has one at its sender and four at its receiver.
        "marks": (calls["cuEventRecord"], 2 * ops + 3 * ranks + 5 * messages),
    }
    for what, (count, expected) in found.items():
        need(count == expected, f"{name}: {count} {what} for {expected}")
    # A sender asks once whether its message was copied, or more often, before it lets go of it.
    asked = calls["cuEventQuery"]
    need(messages - 2 <= asked <= messages * messages, f"{name}: {asked} questions for {messages} messages")
    need(all_calls[f"pool:{RELEASE_THRESHOLD}={ALL}"] >= ranks, f"{name}: freed memory goes back to the system")
    need(calls["cuMemAllocAsync"] == calls["cuMemFreeAsync"], f"{name}: memory grows by blocks in each step")
    return f"{name}: " + ", ".join(f"{count} {what}" for what, (count, _) in found.items() if count)


def calls_of_a_step(world, _):
    said = [
        counted(world, "gpt on 1 rank", (*GPT, "--pp", "1"), ops=16, ranks=1, messages=0),
        counted(world, "gpt, 1f1b on 2 ranks", (*GPT, "--pp", "2"), ops=32, messages=16),
        counted(world, "gpt, zb-h1 on 4 ranks", (*GPT, "--pp", "4", "--schedule", "zb-h1"), ops=96, ranks=4, messages=48),
        counted(world, "gpt, zb-v on 2 ranks", (*GPT, "--pp", "2", "--schedule", "zb-v"), ops=96, messages=32),
        counted(world, "seed-mlp with dropout", (*MLP, "--pp", "2"), ops=32, messages=16, masks=4 * 8),
    ]
    return "\n   ".join(said)


def replicas(world, _):
    # The gradients of each stage pass once to the other replica.
    calls, _ = world.counts_of_step(*GPT, "--pp", "2", "--dp", "2", "--bucket-kib", "100000")
    need(calls[UPLOADS] == 2 * 2 * 8, f"{calls[UPLOADS]} uploads of two replicas")
    need(calls[DOWNLOADS] == 4 + 2, f"{calls[DOWNLOADS]} downloads of two replicas")
    need(calls["cuStreamSynchronize"] == 2 * 4, f"{calls['cuStreamSynchronize']} synchronisations of two replicas")
    # The messages of both, and the gradients of both copies of each rank's stage.
    need(calls["cuStreamWaitEvent"] == 2 * 16 + 4 * 2, f"{calls['cuStreamWaitEvent']} waits of two replicas")
    need(calls["cuMemAllocAsync"] == calls["cuMemFreeAsync"], "memory of two replicas grows by blocks in each step")
    # In buckets, each copy waits for both copies of each bucket; nothing else is added.
    parts, _ = world.counts_of_step(*GPT, "--pp", "2", "--dp", "2")
    more = parts["cuStreamWaitEvent"] - calls["cuStreamWaitEvent"]
    need(more > 0 and more % 2 == 0, f"{more} more waits with buckets")
    for name in (UPLOADS, DOWNLOADS, "cuStreamSynchronize", "cuMemAllocAsync", "cuMemFreeAsync"):
        need(parts[name] == calls[name], f"{parts[name]} {name} with buckets, {calls[name]} without")
    return "two replicas exchange their gradients on the device"


def two_devices(world, _):
    log = world.folder / "two"
    world.train(*GPT, "--pp", "4", devices=2, log=log)
    hello, _, _ = read_log(log)
    places = {place["rank"]: place["device"] for place in hello["device_map"]}
    need(places == {0: "cuda:0", 1: "cuda:0", 2: "cuda:1", 3: "cuda:1"}, f"blocks of neighbours: {places}")
    calls, _ = world.counts_of_step(*GPT, "--pp", "4", devices=2)
    # Only what crosses from device 0 to device 1 and back passes through the host.
    need(calls[DOWNLOADS] == 4 + 1 + 16, f"{calls[DOWNLOADS]} downloads on two devices")
    need(calls[UPLOADS] == 16 + 16, f"{calls[UPLOADS]} uploads on two devices")
    apart, _ = world.counts_of_step(*GPT, "--pp", "1", "--dp", "2", devices=2)
    need(apart["cuMemAllocAsync"] == apart["cuMemFreeAsync"], "memory of replicas on two devices grows in each step")
    return "ranks on two devices lie in blocks; only the messages between the blocks pass through the host"


def as_many_ranks_as_devices(world, _):
    for devices, expected in ((1, 1), (3, 3)):
        log = world.folder / f"default-{devices}"
        world.train(*GPT, devices=devices, log=log, steps=1)
        hello, _, _ = read_log(log)
        need(hello["pp"] == expected, f"{hello['pp']} ranks on {devices} devices")
    return "by default there are as many ranks as devices"


# --- What a run records


def recorded(world, _):
    log = world.folder / "recorded"
    done = world.train(*GPT, "--pp", "2", "--schedule", "zb-h1", log=log)
    hello, events, spans = read_log(log)
    need(hello["clock"] == "device", f"clock {hello['clock']}")
    need(hello.get("theory") is None, "a shared device has a theory")
    need("2 ranks share cuda:0" in done.stderr + done.stdout, f"nothing is said of the shared device: {done.stderr}")
    per_step = Counter(span["step"] for span in spans)
    need(sorted(per_step) == [1, 2, 3], f"spans by step: {per_step}")
    kinds = Counter(span["op"] for span in spans if span["step"] == 2)
    need(all(kinds[op] == 16 for op in "FIW"), f"ops of a step: {kinds}")
    need(kinds["optim"] == 2 and kinds["recv"] == kinds["send"] == 16, f"ops of a step: {kinds}")
    for step in per_step:
        end = next(event for event in events if event["ev"] == "step" and event["step"] == step)["elapsed_seconds"] * 1e9
        for rank in (0, 1):
            here = sorted((s for s in spans if (s["step"], s["rank"]) == (step, rank)), key=lambda span: span["start_ns"])
            for before, after in zip(here, here[1:]):
                # Marks are told in parts of a microsecond.
                need(before["start_ns"] + before["dur_ns"] <= after["start_ns"] + 2_000, f"{before} overlaps {after}")
            need(here[-1]["start_ns"] + here[-1]["dur_ns"] <= end + 1_000_000, f"a span after its step: {here[-1]}")
    need(all(span.get("cpu_ns", 0) == span.get("starved_ns", 0) == 0 for span in spans), "a device has no processor time")
    planned = {rank["rank"]: rank["peak_bytes"] for rank in hello["memory_plan"]}
    peaks = {event["rank"]: event["peak_bytes"] for event in events if event["ev"] == "mem"}
    need(planned.keys() == peaks.keys() == {0, 1}, f"memory: {planned}, {peaks}")
    for rank, peak in peaks.items():
        need(abs(planned[rank] - peak) <= 0.05 * peak, f"rank {rank}: {planned[rank]} planned, {peak} measured")
    shares = {rank: f"{peak / 2**20:.1f} MiB, planned {planned[rank] / 2**20:.1f}" for rank, peak in peaks.items()}
    return f"spans have the device's times; peaks of memory: {shares}"


CASES = [
    starts_without_a_driver,
    refuses_what_cannot_work,
    calls_of_a_step,
    replicas,
    two_devices,
    as_many_ranks_as_devices,
    recorded,
]


# --- The table of docs/gpu.md


def table(world):
    """The calls of a step of the default gpt on two ranks, by what causes them."""
    adam, _ = world.counts_of_step("--model", "gpt", "--eval-every", "1000", "--pp", "2")
    sgd, _ = world.counts_of_step("--model", "gpt", "--eval-every", "1000", "--pp", "2", "--optimizer", "sgd")
    names = ("cuLaunchKernel", "cuMemAllocAsync", "cublasGemmStridedBatchedEx", ON_DEVICE, "cuMemsetD8Async")
    print("| call | a step | of these the optimizer (AdamW less SGD) |\n|---|---|---|")
    for name in names:
        print(f"| `{name}` | {adam[name]:,} | {adam[name] - sgd[name]:,} |")
    print("\n| kernel | a step | of these the optimizer |\n|---|---|---|")
    kernels = [name for name in adam if name.startswith("kernel:") and adam[name]]
    for name in sorted(kernels, key=lambda name: -adam[name]):
        print(f"| `{name.removeprefix('kernel:')}` | {adam[name]:,} | {adam[name] - sgd[name]:,} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pptop", type=Path)
    parser.add_argument("library", type=Path)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    failed = 0
    pptop, library = arguments.pptop.resolve(), arguments.library.resolve()
    reference = arguments.reference.resolve() if arguments.reference else None
    if arguments.table:
        with tempfile.TemporaryDirectory() as folder:
            table(World(pptop, library, Path(folder)))
        return 0
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            try:
                print(f"ok {case(World(pptop, library, Path(folder)), reference)}")
            except Failed as why:
                failed += 1
                print(f"FAILED {case.__name__}: {why}")
    print(f"cuda: {len(CASES) - failed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())

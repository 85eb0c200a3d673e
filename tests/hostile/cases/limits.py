"""C19 and C22: small files and sizes that must not cost minutes or gigabytes."""

import json
import shutil
import subprocess

from harness import Case

from .harm import GPT, TINY
from .refusals import STDIN
from .words import lines_of


def hello(**changes):
    event = json.loads(STDIN.splitlines()[0])
    event.update(changes)
    return json.dumps(event, separators=(",", ":")).encode() + b"\n"


def log(*lines):
    """A folder with this log and nothing else."""
    def setup(place):
        place.write("r/events.jsonl", b"".join(lines))
    return setup


STEP = STDIN.splitlines(keepends=True)[1]
READERS = {
    "snapshot": ["snapshot", "{dir}/r"],
    "snapshot --json": ["snapshot", "{dir}/r", "--json"],
    "the devices": ["snapshot", "{dir}/r", "--view", "devices"],
    "report": ["report", "{dir}/r"],
    "export chrome-trace": ["export", "chrome-trace", "{dir}/r", "-o", "/dev/null"],
    "export svg": ["export", "svg", "{dir}/r", "-o", "/dev/null"],
    "export prometheus": ["export", "prometheus", "{dir}/r", "-o", "/dev/null"],
    "attach --once": ["attach", "{dir}/r", "--once", "--plain"],
    "runs info": ["runs", "info", "{dir}/r"],
}


def span(**changes):
    event = {"ev": "span", "step": 1, "replica": 0, "rank": 0, "stage": 0, "mb": 0, "op": "F",
             "start_ns": 0, "dur_ns": 10, "cpu_ns": 10, "bytes": 0}
    event.update(changes)
    return json.dumps(event, separators=(",", ":")).encode() + b"\n"


def log_cases():
    stages = [{"stage": s, "rank": s % 65536, "layers": [s, s], "parameters": 1,
               "parameter_bytes": 4} for s in range(200_000)]
    devices = [{"stage": 0, "rank": r, "replica": 0, "device": "cpu:0"} for r in range(65_536)]
    logs = {
        "65,536 ranks": log(hello(pp=65536, device_map=devices), STEP),
        "200,000 stages": log(hello(pp=65536, virtual_stages=16, stages=stages), STEP),
        "4 billion ranks by number": log(hello(pp=4294967295, dp=4294967295), STEP),
        "4 billion micro-batches": log(hello(micro_batches=4294967295), STEP),
        "2,000 hellos": log(*[hello(run=f"r{i}", pp=64, device_map=devices[:64])
                              for i in range(2000)], STEP),
        "a rank of 4 billion in a span": log(hello(), span(rank=4294967295, stage=4294967295), STEP),
        "a replica of 4 billion in a span": log(hello(), span(replica=4294967295), STEP),
        "a micro-batch of 4 billion": log(hello(), span(mb=4294967295), STEP),
        "a span of 584 years": log(hello(), span(dur_ns=2**64 - 1, start_ns=2**64 - 1), STEP),
        "a step of 2^64 - 1": log(hello(), STEP.replace(b'"step":1', b'"step":18446744073709551615')),
        "steps that go back": log(hello(), *[STEP.replace(b'"step":1', b'"step":%d' % s)
                                             for s in (5, 4, 3, 2, 1, 9, 1, 9)]),
        "a memory of 2^64 - 1": log(hello(), b'{"ev":"mem","step":1,"replica":0,"rank":0,'
                                    b'"live_bytes":18446744073709551615,"peak_bytes":'
                                    b'18446744073709551615}\n', STEP),
        "a line without an end": log(hello(), STEP, b"x" * (64 << 20)),
        "deep nesting": log(hello(), b'{"ev":"log","message":' + b"[" * 500_000 + b"\n", STEP),
        "numbers of many digits": log(hello(), STEP.replace(b"1.5", b"1" * 100_000)),
        "a plan of a million empty cells": log(hello(plan=["," * 1_000_000]), STEP),
        "a plan of 100,000 rows": log(hello(plan=["0F0"] * 100_000), STEP),
        "a message of 15 MB": log(hello(), b'{"ev":"log","elapsed_ns":1,"message":"'
                                  + b"m" * (15 << 20) + b'"}\n', STEP),
        "a device name of 10 MB": log(hello(device_map=[
            {"stage": 0, "rank": 0, "replica": 0, "device": "d" * (10 << 20)}]), STEP),
        "20,000 GPUs": log(hello(), *[json.dumps({"ev": "gpu", "elapsed_ns": i, "uuid": f"GPU-{i}",
                                                  "util": 1}).encode() + b"\n"
                                      for i in range(20_000)], STEP),
        "300,000 warnings": log(hello(), *[b'{"ev":"warn","elapsed_ns":%d,"message":"w%d"}\n'
                                           % (i, i) for i in range(300_000)], STEP),
        "no line feed at all": log(hello().rstrip() + STEP.rstrip()),
        "nothing": log(b""),
        "one byte": log(b"{"),
        "zero bytes": log(b"\0" * 1_000_000),
    }
    for what, setup in logs.items():
        for name in ("snapshot", "report", "attach --once"):
            yield Case("C19", f"{name} of a log with {what}", READERS[name], setup=setup)
    for name in ("the devices", "export chrome-trace", "export svg", "export prometheus",
                 "snapshot --json", "runs info"):
        for what in ("65,536 ranks", "200,000 stages", "2,000 hellos"):
            yield Case("C19", f"{name} of a log with {what}", READERS[name], setup=logs[what])


def bomb(place):
    """Some megabytes of zstd that open to a terabyte: one frame of zeros, many times."""
    place.path("r").mkdir()
    piece = place.path("zeros")
    with open(piece, "wb") as file:
        file.truncate(1 << 30)
    frame = subprocess.run(["zstd", "-q", "-c", str(piece)], capture_output=True, check=True).stdout
    piece.unlink()
    with open(place.path("r") / "events.jsonl.zst", "wb") as file:
        for _ in range(100):
            file.write(frame)


def file_cases():
    if shutil.which("zstd"):
        for name in ("snapshot", "report", "attach --once", "runs info"):
            yield Case("C19", f"{name} of 3 MB of zstd that open to 100 GB", READERS[name],
                       setup=bomb)
    for name, argv in (
            ("--init", [*GPT, "--init", "/dev/zero"]),
            ("--data", [*GPT, "--data", "/dev/zero"]),
            ("--data without an end", [*GPT, "--data", "/dev/urandom"]),
            ("train --schedule", ["train", "--headless", "--schedule", "/dev/zero"]),
            ("schedule check", ["schedule", "check", "/dev/zero"]),
            ("schedule show", ["schedule", "show", "/dev/zero"]),
            ("--costs", ["schedule", "simulate", "1f1b", "--pp", "2", "--micro-batches", "4",
                         "--costs", "/dev/zero"]),
            ("snapshot", ["snapshot", "/dev/zero"]),
            ("report", ["report", "/dev/zero"]),
            ("export", ["export", "csv", "/dev/zero"]),
            ("--nvml-lib", ["devices", "--nvml-lib", "/dev/zero"])):
        yield Case("C19", f"{name} of a device", argv, codes=(0, 2) if "nvml" in name else (2,))
    yield Case("C19", "settings that are a device", ["config", "validate"],
               setup=lambda p: (p.path("home/.config/pptop").mkdir(parents=True),
                                p.path("home/.config/pptop/config.toml").symlink_to("/dev/zero")))

    def sparse(name, size):
        def setup(place):
            with open(place.path(name), "wb") as file:
                file.truncate(size)
        return setup

    for name, argv in (("--init", [*GPT, "--init", "big"]),
                       ("--data", [*GPT, "--data", "big"]),
                       ("schedule check", ["schedule", "check", "big"]),
                       ("--costs", ["schedule", "simulate", "1f1b", "--pp", "2",
                                    "--micro-batches", "4", "--costs", "big"]),
                       ("snapshot", ["snapshot", "big"])):
        yield Case("C19", f"{name} of 100 GB of nothing", argv, setup=sparse("big", 100 << 30))
    absurd = (b"\xff\xff\xff\xff\xff\xff\xff\x7f" + b"{}",
              b"\x00\x00\x00\x40\x00\x00\x00\x00" + b"{" * 100,
              b"\x02\x00\x00\x00\x00\x00\x00\x00{}",
              b'\x60\x00\x00\x00\x00\x00\x00\x00{"w":{"dtype":"F32","shape":[4294967295,4294967295],'
              b'"data_offsets":[0,18446744073709551615]}}          ')
    for at, text in enumerate(absurd):
        yield Case("C19", f"--init with an absurd header, {at + 1}", [*GPT, "--init", "w"],
                   setup=lambda p, t=text: p.write("w", t), codes=(2,))
    plans = {
        "one cell of 20 MB": b"0" * (20 << 20),
        "a million empty rows": b"\n" * 1_000_000,
        "a million commas": b"," * 1_000_000,
        "a micro-batch of 4 billion": b"0F4294967295,0B4294967295\n",
        "a stage of 4 billion": b"4294967295F0,4294967295B0\n",
        "100,000 rows": b"0F0,0B0\n" * 100_000,
        "numbers that are too large": b"99999999999F0\n",
        "noise": bytes(range(256)) * 100,
        "quotes that stay open": b'"0F0,0B0\n0F1',
    }
    for name, text in plans.items():
        yield Case("C19", f"a plan with {name}", ["schedule", "check", "p.csv"],
                   setup=lambda p, t=text: p.write("p.csv", t), codes=(2,))
    costs = {
        "deep nesting": "[" * 200_000,
        "a million entries": '{"forward":[' + ",".join(["1"] * 1_000_000) + "]}",
        "numbers out of range": '{"forward":[1e999,1],"input_grad":[1,1],"weight_grad":[1,1]}',
        "numbers below zero": '{"forward":[-1,1],"input_grad":[1,1],"weight_grad":[1,1]}',
        "words": '{"forward":"one"}',
        "1e308": '{"forward":[1e308,1e308],"input_grad":[1e308,1e308],"weight_grad":[1e308,1e308]}',
    }
    for name, text in costs.items():
        yield Case("C19", f"costs with {name}",
                   ["schedule", "simulate", "1f1b", "--pp", "2", "--micro-batches", "4", "--costs",
                    "c.json"], setup=lambda p, t=text: p.write("c.json", t), codes=(2,))
    for name, argv in (
            ("a batch of a million rows", ["train", "--headless", "--model", "seed-mlp", "--pp",
                                           "2", "--steps", "1", "--batch-size", "1048576"]),
            ("a batch of 2^62", ["train", "--headless", "--model", "seed-mlp", "--pp", "2",
                                 "--steps", "1", "--batch-size", str(2**62)]),
            ("a width of 4 billion", [*GPT, "--width", "4294967288"]),
            ("a context of 4 billion", [*GPT, "--context", "4294967295"]),
            ("4 billion layers", [*GPT, "--layers", "4294967295"]),
            ("4 billion heads", [*GPT, "--width", "4294967294", "--heads", "4294967294"]),
            ("4 billion ranks", [*TINY, "--pp", "4294967295"]),
            ("100,000 ranks", [*TINY, "--pp", "100000"]),
            ("4 billion replicas", [*TINY, "--dp", "4294967295"]),
            ("4 billion micro-batches", [*TINY, "--micro-batches", "4294967295"]),
            ("4 billion virtual stages", [*TINY, "--schedule", "looped-bfs", "--virtual-stages",
                                          "4294967295"]),
            ("a sample of 4 billion bytes", [*GPT, "--sample", "4294967295"])):
        yield Case("C19", name, argv, codes=(0, 2))


def growth_cases():
    sizes = (("80000", "1"), ("80000", "2"), ("1", "1000000"), ("20000", "8"), ("1000", "1000"),
             ("4294967295", "1"), ("4294967295", "4294967295"), ("65536", "65536"))
    for pp, m in sizes:
        yield Case("C22", f"simulate 1f1b, {pp} ranks and {m} micro-batches",
                   ["schedule", "simulate", "1f1b", "--pp", pp, "--micro-batches", m],
                   codes=(0, 2))
    for schedule in ("naive", "gpipe", "zb-h1", "zb-h2", "hanayo", "chimera", "looped-bfs", "zb-v",
                     "v-half", "v-min", "dualpipe-v", "interleaved-1f1b", "interleaved-zb",
                     "zb-auto", "auto"):
        yield Case("C22", f"simulate {schedule}, 10,000 ranks and 4 micro-batches",
                   ["schedule", "simulate", schedule, "--pp", "10000", "--micro-batches", "4"],
                   codes=(0, 2))
    for what in ("show", "check", "export"):
        yield Case("C22", f"schedule {what}, 20,000 ranks",
                   ["schedule", what, "1f1b", "--pp", "20000", "--micro-batches", "1"],
                   codes=(0, 2))
    yield Case("C22", "bubble, 40,000 ranks",
               ["bubble", "--schedule", "1f1b", "--pp", "40000", "--micro-batches", "1"],
               codes=(0, 2))
    yield Case("C22", "a step of 40,000 micro-batches",
               ["train", "--headless", "--model", "sleep", "--pp", "2", "--steps", "1",
                "--micro-batches",
                "40000", "--batch-size", "40000", "--sleep-forward-ms", "0",
                "--sleep-input-grad-ms", "0", "--sleep-weight-grad-ms", "0"], codes=(0,))


def cases():
    yield from log_cases()
    yield from file_cases()
    yield from growth_cases()

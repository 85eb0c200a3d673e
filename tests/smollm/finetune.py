"""Thirty steps of SmolLM2-135M-Instruct on two ranks, and what came of them.

    tests/smollm/finetune.py PPTOP FILE.gguf PYTHON

The text is made here: deliveries in a small town, which the model has not seen. Checked are the
held-out loss before and after, the peak of each rank against its plan, and that PYTHON, which needs
PyTorch, safetensors and tokenizers, finds the same loss for the folder that was written
(tests/interop/llama.py). It takes about a quarter of an hour on two cores.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LLAMA = Path(__file__).resolve().parents[1] / "interop" / "llama.py"
STEPS = 30
GIB = 2**30

PEOPLE = ["Ada", "Bela", "Carl", "Dora", "Emil", "Farah", "Goran", "Hanna"]
THINGS = ["drum", "clock", "lamp", "rope", "kettle", "ladder", "mirror", "saw"]
PLACES = ["harbour", "mill", "tower", "market", "bridge", "school"]


def documents(seed: int, count: int) -> list[str]:
    """Deliveries, between one and nine of them in a document."""
    draw = random.Random(seed)
    made = []
    for _ in range(count):
        parts = []
        for _ in range(draw.randint(1, 9)):
            one, other = draw.sample(PEOPLE, 2)
            thing, place = draw.choice(THINGS), draw.choice(PLACES)
            coins = draw.randint(2, 99)
            parts.append(
                f"{one} carries the {thing} to the {place}, where {other} is waiting; "
                f"{other} takes the {thing} and gives {one} {coins} coins for it."
            )
        made.append(" ".join(parts))
    return made


def main() -> None:
    pptop, gguf, python = (str(Path(arg).absolute()) for arg in sys.argv[1:4])
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)

        def run(*words: str) -> str:
            env = {"PPTOP_STATE_DIR": scratch, "PPTOP_DEVICE": "cpu", "PATH": "/usr/bin:/bin"}
            env |= {"HOME": scratch, "XDG_CONFIG_HOME": scratch}
            ran = subprocess.run(words, cwd=home, env=env, capture_output=True, text=True)
            assert ran.returncode == 0, f"{words}: {ran.returncode}: {ran.stderr}"
            return ran.stdout

        def write(name: str, texts: list[str]) -> None:
            lines = [json.dumps({"text": text}) for text in texts]
            (home / name).write_text("\n".join(lines) + "\n")

        def held_out(folder: str) -> dict:
            line = ("evaluate", folder, "--data", "held-out.jsonl", "--pp", "2", "--json")
            return json.loads(run(pptop, *line))

        run(pptop, "convert", gguf, "model")
        write("train.jsonl", documents(1, 1500))
        write("held-out.jsonl", documents(2, 40))
        (home / "tuned").mkdir()
        before = held_out("model")
        job = "--model ./model --data train.jsonl --context 512 --batch-size 8 --micro-batches 8"
        job += f" --pp 2 --schedule 1f1b --optimizer adamw --lr 1e-4 --steps {STEPS}"
        job += " --run-dir run --save tuned/model.safetensors"
        begun = time.monotonic()
        run(pptop, "train", "--headless", *job.split())
        took = time.monotonic() - begun
        after = held_out("tuned")

        events = [json.loads(line) for line in (home / "run/events.jsonl").open()]
        hello = next(event for event in events if event["ev"] == "hello")
        planned = {rank["rank"]: rank["peak_bytes"] for rank in hello["memory_plan"]}
        peaks = dict.fromkeys(planned, 0)
        for event in events:
            if event["ev"] == "mem":
                peaks[event["rank"]] = max(peaks[event["rank"]], event["peak_bytes"])
        seconds = [event["seconds"] for event in events if event["ev"] == "step"]
        cut = [stage["layers"] for stage in hello["stages"]]
        print(f"cut {cut}, {statistics.median(seconds):.1f} s a step, {took:.0f} s in all")
        for rank, peak in peaks.items():
            print(f"rank {rank}: peak {peak / 2**20:.1f} MiB, planned {planned[rank] / 2**20:.1f}")
        loss = after["loss"] / before["loss"]
        print(f"held-out loss {before['loss']:.4f} before, {after['loss']:.4f} after: {loss:.3f} of it")
        theirs = run(python, str(LLAMA), "loss", "tuned", "held-out.jsonl", json.dumps(after))
        print(f"PyTorch on the folder that was written: {theirs.strip()}")
        assert len(seconds) == STEPS, len(seconds)
        assert loss <= 0.8, loss
        for rank, peak in peaks.items():
            assert peak <= 3 * GIB, (rank, peak)
            assert abs(planned[rank] - peak) <= 0.05 * peak, (rank, peak, planned[rank])


if __name__ == "__main__":
    main()

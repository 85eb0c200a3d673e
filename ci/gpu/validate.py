"""The phases of validate.sh: see there.

Each phase has a limit of its own, and what it prints goes into a file. A phase that fails does not stop the others. The exit code is 1 if
one failed.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Leaves some seconds of the ten minutes for starting and ending.
WHOLE_SECONDS = 580
VIEWS = ["overview", "timeline", "devices", "loss", "bubble", "log"]
SMALL = []
LARGE = ["--layers", "12", "--width", "768", "--heads", "12", "--context", "1024", "--batch-size", "16", "--micro-batches", "8"]


class Failed(Exception):
    pass


class LeftOut(Exception):
    pass


class Validation:
    def __init__(self, out, bin_folder, rehearsal):
        self.out, self.bin, self.rehearsal = out, bin_folder, rehearsal
        self.begun = time.monotonic()
        self.deadline = self.begun + WHOLE_SECONDS
        self.env = {**os.environ, "PPTOP_STATE_DIR": str(out / "state"), "RAYON_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
        # PyTorch's own libraries, wherever its packages are.
        folders = [Path(sysconfig.get_path(name)) / "nvidia" for name in ("purelib", "platlib")]
        libraries = sorted({str(lib) for folder in folders for lib in folder.glob("*/lib")}, reverse=True)
        if libraries:
            known = self.env.get("LD_LIBRARY_PATH")
            self.env["LD_LIBRARY_PATH"] = ":".join([*libraries, *([known] if known else [])])
        # The driver compiles the kernels for its GPU once, and keeps them here.
        self.env.setdefault("CUDA_CACHE_PATH", str(out / "kernels"))
        self.env.setdefault("CUDA_CACHE_MAXSIZE", str(4 << 30))
        self.summary = open(out / "summary.txt", "w", encoding="utf-8")

    def say(self, text):
        print(text, flush=True)
        print(text, file=self.summary, flush=True)

    def run(self, name, *command, check=True, **variables):
        """Runs a command until it ends or the phase is over. What it prints goes to NAME.out and NAME.err."""
        limit = min(self.limit, self.deadline) - time.monotonic()
        if limit <= 0:
            raise Failed("no time is left")
        paths = [self.out / f"{name}.{end}" for end in ("out", "err")]
        env = {**self.env, **{key: str(value) for key, value in variables.items()}}
        with open(paths[0], "wb") as out, open(paths[1], "wb") as err:
            process = subprocess.Popen(
                [str(word) for word in command], stdout=out, stderr=err, env=env, cwd=self.out, start_new_session=True
            )
            try:
                code = process.wait(timeout=limit)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise Failed(f"{name} took longer than {limit:.0f} s") from None
        text = paths[0].read_text(errors="replace")
        if check and code != 0:
            said = paths[1].read_text(errors="replace").strip().splitlines()
            raise Failed(f"{name} ended with {code}: {said[-1] if said else 'nothing on standard error'}")
        return text

    def phase(self, number, work, seconds):
        self.limit = time.monotonic() + seconds
        begun = time.monotonic()
        try:
            what = work(self)
            word, holds = "ok", True
        except LeftOut as why:
            word, what, holds = "left out", str(why), True
        except Failed as why:
            word, what, holds = "FAILED", str(why), False
        except Exception as why:  # noqa: BLE001 a fault here must not keep the other phases from running
            word, what, holds = "FAILED", f"{type(why).__name__}: {why}", False
        self.say(f"{number} {word} in {time.monotonic() - begun:.0f} s (at most {seconds}): {what}")
        return holds

    def pptop(self, name, *arguments, **kept):
        return self.run(name, self.bin / "pptop", *arguments, **kept)

    def train(self, name, *arguments, device="cuda", **kept):
        text = self.pptop(name, "train", "--headless", "--json", "--device", device, "--model", "gpt", *arguments, **kept)
        events = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        steps = [event for event in events if event.get("ev") == "step"]
        hashes = [event["weights_hash"] for event in events if "weights_hash" in event]
        return steps, hashes[-1] if hashes else None


def machine(v):
    """What the machine is."""
    notes = []
    if shutil.which("nvidia-smi"):
        v.run("nvidia-smi", "nvidia-smi")
        v.run("nvidia-smi-q", "nvidia-smi", "-q")
    elif v.rehearsal:
        notes.append("nvidia-smi is not here")
    else:
        raise Failed("there is no nvidia-smi")
    devices = json.loads(v.pptop("devices", "devices", "--json"))
    usable = [device for device in devices["devices"] if device["kind"] == "cuda"]
    if not usable:
        raise Failed("no GPU: " + "; ".join(other["reason"] for other in devices["unavailable"]))
    v.run("commit", "cat", v.bin.parent / "commit", check=False)
    named = ", ".join(f"{device['id']} {device.get('name') or device.get('uuid')}" for device in usable)
    return "; ".join([named, *notes])


def warm_up(v):
    """The driver compiles the kernels of one training step."""
    begun = time.monotonic()
    v.train("warm-up", "--pp", "1", "--steps", "2")
    first = time.monotonic() - begun
    begun = time.monotonic()
    v.train("warm", "--pp", "1", "--steps", "2")
    return f"{first:.1f} s with compiling, {time.monotonic() - begun:.1f} s without"


def tests(v):
    """Every op against double precision, and streams under stress."""
    program = v.bin / "gpu-tests"
    wanted = {"PPTOP_DEVICE": "cpu"} if v.rehearsal else {"PPTOP_REQUIRE_GPU": "1"}
    passed = v.run("gpu-tests", program, **wanted).splitlines()[-1]
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(sanitizer).exists():
        return f"{passed}; compute-sanitizer is not here"
    # What is checked so takes many times as long.
    words = ["--error-exitcode", "9", program, "layers::linear", "layers::attention", "layers::loss"]
    try:
        v.run("sanitizer", sanitizer, *words, **wanted)
    except Failed as why:
        if "took longer" in str(why):
            return f"{passed}; compute-sanitizer was not done in time"
        raise
    return f"{passed}; compute-sanitizer found nothing in three layers"


def numbers(v):
    """The numbers of the processor, nearly, and the same bits for every number of ranks."""
    steps = ["--steps", "5" if v.rehearsal else "30", "--seed", "1", "--eval-every", "1000"]
    layouts = [("1f1b", 1), ("1f1b", 2), ("1f1b", 4), ("zb-h1", 2), ("zb-h1", 4)]
    found = {}
    for schedule, pp in layouts:
        found[schedule, pp] = v.train(f"gpt-{schedule}-{pp}", "--schedule", schedule, "--pp", str(pp), *steps)
    hashes = {layout: weights for layout, (_, weights) in found.items()}
    if None in hashes.values() or len(set(hashes.values())) != 1:
        raise Failed(f"the weights differ: {hashes}")
    if v.rehearsal:
        return f"equal hashes of {len(layouts)} layouts; the stand-in computes nothing, so there are no numbers to compare"
    cpu, _ = v.train("gpt-cpu", "--pp", "1", *steps, device="cpu")
    gpu, _ = found["1f1b", 1]
    off = [abs(here["loss"] - there["loss"]) / there["loss"] for here, there in zip(gpu, cpu)]
    said = f"equal hashes of {len(layouts)} layouts; first loss {gpu[0]['loss']:.6f}, off by {off[0]:.1e}; last {gpu[-1]['loss']:.4f}, off by {off[-1]:.1e}"
    if off[0] >= 1e-5 or off[-1] >= 1e-2:
        raise Failed(said)
    return said


def has_torch(v):
    try:
        v.run("torch", sys.executable, "-c", "import torch; print(torch.__version__, torch.version.cuda, torch.cuda.is_available())")
    except Failed:
        return False
    return True


def speed(v):
    """pptop, PyTorch and plain candle in turns."""
    torch = has_torch(v)
    if not torch and not v.rehearsal:
        raise LeftOut("PyTorch is not here")
    rounds = 1 if v.rehearsal else 2
    jobs = {"gpt": (SMALL, 12), "12 x 768, context 1024": (LARGE, 5)}
    if v.rehearsal:
        jobs = {"gpt": (SMALL, 3)}
    found = {}
    for job, (sizes, steps) in jobs.items():
        short = job.split(",")[0].replace(" ", "")
        variants = {
            "pptop, 1 rank": lambda name: v.train(name, "--pp", "1", "--partition", "uniform", "--steps", str(steps), "--eval-every", "1000", *sizes)[0],
            "pptop, 2 ranks": lambda name: v.train(name, "--pp", "2", "--partition", "uniform", "--steps", str(steps), "--eval-every", "1000", *sizes)[0],
        }
        for precision in ("f32", "tf32", "bf16") if torch else ():
            device = ["--device", "cpu"] if v.rehearsal else []
            variants[f"PyTorch, {precision}"] = lambda name, precision=precision, device=device: [
                {"seconds": s}
                for s in json.loads(v.run(name, sys.executable, ROOT / "ci/gpu/torch_gpt.py", "--precision", precision, "--steps", str(steps), *sizes, *device))["seconds"]
            ]
        for turn in range(rounds):
            for variant, measure in variants.items():
                name = f"speed-{short}-{variant.replace(', ', '-').replace(' ', '')}-{turn}"
                try:
                    seconds = [step["seconds"] for step in measure(name)][2:]
                except Failed as why:
                    v.say(f"  {job}, {variant}: {why}")
                    continue
                found.setdefault(job, {}).setdefault(variant, []).extend(seconds)
    lines = [
        f"{job}, {variant}: {1e3 * statistics.median(seconds):.1f} ms ({1e3 * min(seconds):.1f} to {1e3 * max(seconds):.1f})"
        for job, variants in found.items()
        for variant, seconds in variants.items()
    ]
    if not v.rehearsal:
        try:
            plain = json.loads(v.run("plain-candle", v.bin / "plain_candle", "gpt", "8", "5", "cuda"))["seconds"][2:]
            lines.append(f"plain candle, its own gpt on 2 ranks: {1e3 * statistics.median(plain):.1f} ms")
        except Failed as why:
            lines.append(f"plain candle: {why}")
    (v.out / "speed.json").write_text(json.dumps(found))
    absent = [f"{job}, {variant}" for job in jobs for variant in variants if variant not in found.get(job, {})]
    needed = [name for name in absent if "pptop" in name or v.rehearsal]
    if needed:
        raise Failed("no times of " + "; ".join(needed))
    for line in lines:
        v.say(f"  {line}")
    return f"{sum(len(variants) for variants in found.values())} variants, each in {rounds} rounds" + ("" if torch else "; PyTorch is not here")


def recorded(v):
    """A run with real NVML: its log, and a picture of each view."""
    log = v.out / "recorded"
    shutil.rmtree(log, ignore_errors=True)
    # Some seconds, so that NVML is asked several times.
    steps = "40" if v.rehearsal else "150"
    v.train("recorded-run", "--pp", "2", "--steps", steps, "--eval-every", "50", "--run-dir", str(log))
    for view in VIEWS:
        picture = v.pptop(f"view-{view}", "snapshot", str(log), "--view", view, "--svg", "--size", "140x40")
        (v.out / f"{view}.svg").write_text(picture)
        (v.out / f"view-{view}.out").unlink()
    report = v.pptop("report", "report", str(log))
    events = (log / "events.jsonl").read_text().splitlines()
    looks = [event for event in map(json.loads, events) if event["ev"] == "gpu"]
    if not looks:
        raise Failed("the log has no GPU")
    seen = looks[-1]
    kinds = sorted(key for key, value in seen.items() if value is not None and key not in ("ev", "elapsed_ns", "uuid", "pci", "unavailable"))
    return f"{len(events)} events, {len(looks)} looks at GPUs ({', '.join(kinds)}), {len(VIEWS)} pictures, a report of {len(report.splitlines())} lines"


PHASES = [(machine, 30), (warm_up, 90), (tests, 150), (numbers, 100), (speed, 170), (recorded, 40)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("validate-results"))
    parser.add_argument("--bin", type=Path, default=ROOT / "bin", help="the folder of the programs")
    parser.add_argument("--rehearse", action="store_true", help="against stand-ins, on a machine without a GPU")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    v = Validation(out, arguments.bin.resolve(), arguments.rehearse)
    holds = [v.phase(number, work, seconds) for number, (work, seconds) in enumerate(PHASES, 1)]
    v.say(f"validate: {sum(holds)} of {len(PHASES)} phases hold, in {time.monotonic() - v.begun:.0f} s; everything is in {out}")
    shutil.rmtree(out / "kernels", ignore_errors=True)
    shutil.rmtree(out / "state", ignore_errors=True)
    return int(not all(holds))


if __name__ == "__main__":
    sys.exit(main())

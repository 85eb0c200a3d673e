"""Reads exports of a run with the programs that they are for, and compares them with the run's log.

    check_exports.py make LOG HARD     writes HARD: the same run under a name, and with numbers, that are hard to write
    check_exports.py check LOG DIR     the exports in DIR hold what LOG holds

Nothing is shared with the program under test but the log.
"""

import csv
import io
import json
import math
import struct
import sys
import unicodedata
from collections import defaultdict
from decimal import Decimal
from pathlib import Path

import cairosvg
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

HARD_NAME = "a\"b' <i>&amp;]]>\\n\n\t {x=\"1\"} # é"
COMPUTE = {"F", "B", "I", "W"}


def need(is_so, what):
    """What has to be, or an end with exit code 1."""
    if not is_so:
        sys.exit(f"WRONG {what}")


def number(event, key):
    """A number of the log, where null stands for what `nonfinite_fields` says."""
    value = event[key]
    return float(event["nonfinite_fields"][key]) if value is None else value


def as_f32(value):
    """As a 32-bit float has it."""
    return struct.unpack("f", struct.pack("f", value))[0]


def same(a, b):
    return a == b or (math.isnan(a) and math.isnan(b))


def make(log, hard):
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    hard_losses = {2: "nan", 3: "inf", 4: "-inf"}
    for line in lines:
        if line["ev"] == "hello":
            line["run"] = HARD_NAME
        if line["ev"] == "step" and line["step"] in hard_losses:
            kind = hard_losses[line["step"]]
            line |= {"loss": None, "nonfinite": kind, "nonfinite_fields": {"loss": kind}}
    hard.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))


class Log:
    def __init__(self, path):
        self.of = defaultdict(list)
        for line in path.read_text().splitlines():
            event = json.loads(line)
            self.of[event["ev"]].append(event)
        self.hello = self.of["hello"][0]
        self.times = {step["step"]: step["elapsed_seconds"] for step in self.of["step"]}


def check_tensorboard(log, directory):
    reader = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    reader.Reload()
    wanted = defaultdict(list)
    for step in log.of["step"]:
        at = step["step"]
        wanted["loss/train"].append((at, number(step, "loss")))
        wanted["bubble/measured"].append((at, step["bubble_ratio"]))
        wanted["bubble/theory"].append((at, log.hello["theory"]))
        wanted["seconds/step"].append((at, step["seconds"]))
        wanted["lr"].append((at, step["lr"]))
        wanted["grad_norm"].append((at, step["grad_norm"]))
        wanted["rate/samples_per_second"].append((at, step["samples"] / step["seconds"]))
        wanted["rate/tokens_per_second"].append((at, step["tokens"] / step["seconds"]))
    for mem in log.of["mem"]:
        wanted[f"memory/rank_{mem['rank']}/live_bytes"].append((mem["step"], mem["live_bytes"]))
    for found in log.of["eval"]:
        wanted["loss/validation"].append((found["step"], found["loss"]))
    need(set(reader.Tags()["scalars"]) == set(wanted), f"tags {reader.Tags()['scalars']}")
    n_scalars = 0
    for tag, values in wanted.items():
        shown = reader.Scalars(tag)
        need([s.step for s in shown] == [at for at, _ in values], f"steps of {tag}")
        for scalar, (at, value) in zip(shown, values, strict=True):
            need(same(scalar.value, as_f32(value)), f"{tag} of step {at}: {scalar.value} for {value}")
            time = log.hello["started_unix_ms"] / 1000 + log.times[at]
            need(abs(scalar.wall_time - time) < 1e-5, f"time of {tag}: {scalar.wall_time} for {time}")
            n_scalars += 1
    print(f"ok tensorboard: {n_scalars} scalars under {len(wanted)} tags are those of the log")


def check_trace(log, path):
    trace = json.loads(path.read_text(), parse_float=Decimal)
    objects = trace["traceEvents"]
    need(trace["otherData"]["run"] == log.hello["run"], "the name of the run")
    slices = [o for o in objects if o["ph"] == "X"]
    keys = ("step", "replica", "rank", "stage", "mb", "op", "start_ns", "dur_ns", "bytes")
    shown = [
        (s["args"]["step"], s["pid"], s["tid"], s["args"]["stage"], s["args"]["micro_batch"], s["cat"],
         s["ts"] * 1000, s["dur"] * 1000, s["args"]["bytes"])
        for s in slices
    ]
    need(shown == [tuple(span[key] for key in keys) for span in log.of["span"]], "slices are not the spans")

    tracks = defaultdict(list)
    for s in slices:
        tracks[s["pid"], s["tid"]].append(s)
    for track in tracks.values():
        open_ends = []
        for s in sorted(track, key=lambda s: (s["ts"], -s["dur"])):
            while open_ends and open_ends[-1] <= s["ts"]:
                open_ends.pop()
            need(not open_ends or s["ts"] + s["dur"] <= open_ends[-1], f"{s} lies across another slice")
            open_ends.append(s["ts"] + s["dur"])
    names = {(o["pid"], o["tid"]) for o in objects if o["ph"] == "M" and o["name"] == "thread_name"}
    need(names == set(tracks), "each track has a name")

    def slice_at(o):
        found = [s for s in tracks[o["pid"], o["tid"]] if s["ts"] <= o["ts"] < s["ts"] + s["dur"]]
        need(len(found) == 1 and found[0]["cat"] in COMPUTE, f"{o} begins or ends in no op")
        return found[0]

    starts = {o["id"]: o for o in objects if o["ph"] == "s"}
    ends = {o["id"]: o for o in objects if o["ph"] == "f"}
    need(set(starts) == set(ends), "each arrow has two ends")
    for at, start in starts.items():
        end = ends[at]
        need(end["bp"] == "e" and start["ts"] <= end["ts"] and start["name"] == end["name"], f"arrow {at}")
        made, used = slice_at(start), slice_at(end)
        by = 1 if start["name"] == "activation" else -1
        need(used["args"]["stage"] - made["args"]["stage"] == by, f"arrow {at}: neighbouring stages")
        need(all(used["args"][k] == made["args"][k] for k in ("step", "micro_batch")), f"arrow {at}")
    ops = sum(span["op"] in COMPUTE for span in log.of["span"])
    # 1F1B without chunks: of p ops of a micro-batch in one direction, p - 1 use what another made.
    need(len(starts) == ops * (log.hello["pp"] - 1) // log.hello["pp"], f"{len(starts)} arrows for {ops} ops")
    counters = defaultdict(list)
    for o in objects:
        if o["ph"] == "C":
            counters[o["name"]].append(o["args"])
    losses = [step["loss"] for step in log.of["step"] if step["loss"] is not None]
    need([float(c["loss"]) for c in counters["loss"]] == losses, "the curve of the loss")
    print(f"ok chrome-trace: {len(slices)} slices nest on {len(tracks)} tracks, {len(starts)} arrows, {len(counters)} curves")


def check_csv(log, directory):
    rows = list(csv.DictReader((directory / "steps.csv").open(newline="")))
    losses = {found["step"]: found["loss"] for found in log.of["eval"]}
    for row, step in zip(rows, log.of["step"], strict=True):
        for key in ("loss", "lr", "grad_norm", "seconds", "elapsed_seconds", "samples", "tokens", "bubble_ratio",
                    "idle_of_step", "starved_ratio", "window_seconds", "step"):
            need(same(float(row[key]), number(step, key)), f"{key} of step {step['step']}: {row[key]}")
        loss = row["validation_loss"]
        need((float(loss) if loss else None) == losses.get(step["step"]), f"validation of step {step['step']}")
    spans = list(csv.DictReader((directory / "spans.csv").open(newline="")))
    for row, span in zip(spans, log.of["span"], strict=True):
        need(all(row[key] == str(span[key]) for key in row), f"{row} for {span}")
    print(f"ok csv: {len(rows)} steps and {len(spans)} spans are those of the log")


def check_metrics(log, path):
    samples = {}
    for family in text_string_to_metric_families(path.read_text()):
        need(family.documentation and family.type in ("gauge", "counter"), f"{family}")
        for sample in family.samples:
            labels = dict(sample.labels)
            # What a terminal would obey is replaced; only a line feed has an escape of its own.
            run = "".join(c if c == "\n" or unicodedata.category(c) != "Cc" else "\ufffd" for c in log.hello["run"])
            need(labels.pop("run") == run, f"the run of {sample.name}")
            samples[sample.name, tuple(sorted(labels.items()))] = sample.value
    last = log.of["step"][-1]
    for metric, value in {
        "pptop_step": last["step"],
        "pptop_loss": last["loss"],
        "pptop_validation_loss": log.of["eval"][-1]["loss"],
        "pptop_bubble_ratio": last["bubble_ratio"],
        "pptop_bubble_theory_ratio": log.hello["theory"],
        "pptop_step_seconds": last["seconds"],
        "pptop_dropped_events_total": last["dropped"],
    }.items():
        is_loss = metric.endswith("loss")
        shown = samples[metric, ()]
        need(shown == (as_f32(value) if is_loss else value), f"{metric}: {shown} for {value}")
    for mem in log.of["mem"][-log.hello["pp"]:]:
        labels = (("rank", str(mem["rank"])), ("replica", str(mem["replica"])))
        need(samples["pptop_rank_memory_live_bytes", labels] == mem["live_bytes"], f"memory of {labels}")
    print(f"ok prometheus: {len(samples)} samples, those of the last step among them")


def check_picture(log, path, n_steps):
    image = Image.open(io.BytesIO(cairosvg.svg2png(url=str(path)))).convert("RGB")
    colours = {f"#{r:02x}{g:02x}{b:02x}": n for n, (r, g, b) in image.getcolors(1 << 24)}
    # Forward, backward, optimizer, waiting: each on many pixels, on a ground of its own.
    for colour in ("#83ace2", "#e6b456", "#4b5563", "#ececec", "#ffffff"):
        need(colours.get(colour, 0) > 100 * n_steps, f"{path.name}: {colours.get(colour, 0)} pixels of {colour}")
    need(image.getpixel((1, 1)) == (255, 255, 255), "a ground of its own")
    print(f"ok svg: {path.name} is drawn, {image.width} x {image.height}")


def main(arguments):
    match arguments:
        case ["make", log, hard]:
            make(Path(log), Path(hard))
        case ["check", log, directory]:
            log, directory = Log(Path(log)), Path(directory)
            check_tensorboard(log, directory / "tensorboard")
            check_trace(log, directory / "trace.json")
            check_csv(log, directory)
            check_metrics(log, directory / "metrics.txt")
            check_picture(log, directory / "last.svg", 1)
            check_picture(log, directory / "steps.svg", 3)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])

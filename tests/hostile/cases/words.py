"""B: it says what is not so. How runs stand, lost spans, advice, divergence, repeated lines."""

import json
import signal

from harness import Case

from .harm import LONG, TINY, fail

LIVE_WORDS = r"\bLIVE\b|\bETA\b|: live\b"


def copy(which):
    return lambda place: place.run_copy(which)


def standing_cases():
    shown = {
        "snapshot": ["snapshot", "{dir}/r"],
        "snapshot of 80x24": ["snapshot", "{dir}/r", "--size", "80x24"],
        "snapshot of 40x12": ["snapshot", "{dir}/r", "--size", "40x12"],
        "snapshot of one line": ["snapshot", "{dir}/r", "--size", "20x3"],
        "snapshot --json": ["snapshot", "{dir}/r", "--json"],
        "snapshot --csv": ["snapshot", "{dir}/r", "--csv"],
        "snapshot --svg": ["snapshot", "{dir}/r", "--svg"],
        "report": ["report", "{dir}/r"],
        "attach --plain": ["attach", "{dir}/r", "--plain", "--once"],
        "attach --json": ["attach", "{dir}/r", "--json", "--once"],
        "runs info": ["runs", "info", "{dir}/r"],
    }
    for name, argv in shown.items():
        yield Case("B10", f"{name} of a run that was killed", argv, setup=copy("killed"),
                   silent=LIVE_WORDS, codes=(0, 1))
        yield Case("B10", f"{name} of a run that was stopped", argv, setup=copy("stopped"),
                   silent=LIVE_WORDS + r"|\bended 143\b|\bdied\b", codes=(0, 1, 143))
    for view in ("overview", "timeline", "devices", "loss", "bubble", "log"):
        yield Case("B10", f"the {view} of a run that was killed",
                   ["snapshot", "{dir}/r", "--view", view], setup=copy("killed"),
                   silent=LIVE_WORDS, codes=(0,))
        yield Case("B10", f"the {view} of a finished run",
                   ["snapshot", "{dir}/r", "--view", view], setup=copy("sleep"),
                   silent=r"\bLIVE\b|\bETA\b|\bdied\b|\bkilled\b", codes=(0,))
    def listed(which):
        def setup(place):
            place.run_copy(which, "state/runs/one-1")
        return setup
    for which in ("killed", "stopped", "sleep"):
        yield Case("B10", f"runs list with a run that was {which}", ["runs", "list"],
                   setup=listed(which), silent=r"(?i)\blive\b|ended 143", says="one-1", codes=(0,))

    def without_end(place):
        """Its disk was full: the log has no end, the summary knows it."""
        folder = place.run_copy("sleep")
        log = folder / "events.jsonl"
        lines = [line for line in log.read_bytes().splitlines(keepends=True)
                 if not line.startswith(b'{"ev":"end"')]
        log.write_bytes(b"".join(lines))

    for name, argv in shown.items():
        yield Case("B10", f"{name} of a run whose end did not fit on the disk", argv,
                   setup=without_end, silent=r"(?i)\bdied\b|\bkilled\b|\bLIVE\b|\bETA\b",
                   codes=(0, 1))


def lines_of(place, name="r"):
    return (place.path(name) / "events.jsonl").read_bytes().splitlines(keepends=True)


def rewritten(which, change):
    """A copy of a run in which each line is changed, or left out where that gives None."""
    def setup(place):
        place.run_copy(which)
        out = []
        for at, line in enumerate(lines_of(place)):
            try:
                event = json.loads(line)
            except ValueError:
                out.append(line)
                continue
            changed = change(at, event)
            for event in changed if isinstance(changed, list) else [changed]:
                if event is not None:
                    out.append(json.dumps(event, separators=(",", ":")).encode() + b"\n")
        (place.path("r") / "events.jsonl").write_bytes(b"".join(out))
    return setup


def lost_span_cases():
    def most_lost(at, event):
        return None if event.get("ev") == "span" and at % 4 else event

    def one_lost(at, event):
        is_one = event.get("ev") == "span" and event.get("op") == "F" and event.get("mb") == 1
        return None if is_one and event.get("step", 0) >= 2 else event

    def told(at, event):
        if event.get("ev") == "step":
            event["dropped"] = 100
            return [{"ev": "dropped", "elapsed_ns": 1, "count": 100, "total": 100}, event]
        return most_lost(at, event)

    argvs = {
        "snapshot": ["snapshot", "{dir}/r"],
        "the devices": ["snapshot", "{dir}/r", "--view", "devices"],
        "the bubble": ["snapshot", "{dir}/r", "--view", "bubble"],
        "the timeline": ["snapshot", "{dir}/r", "--view", "timeline"],
        "snapshot --json": ["snapshot", "{dir}/r", "--json"],
        "report": ["report", "{dir}/r"],
        "report --json": ["report", "{dir}/r", "--json"],
        "export csv": ["export", "csv", "{dir}/r"],
        "export chrome-trace": ["export", "chrome-trace", "{dir}/r"],
        "export svg": ["export", "svg", "{dir}/r"],
        "export prometheus": ["export", "prometheus", "{dir}/r"],
    }
    for name, argv in argvs.items():
        yield Case("B12", f"{name} where most spans are lost", argv, codes=(0, 2),
                   setup=rewritten("sleep", most_lost))
        yield Case("B12", f"{name} where one span of a step is lost", argv, codes=(0, 2),
                   setup=rewritten("sleep", one_lost))
    for name in ("snapshot", "report", "the bubble"):
        yield Case("B12", f"{name} where lost spans are counted", argvs[name], codes=(0, 2),
                   setup=rewritten("sleep", told), says=r"(?i)lost|incomplete|not complete|missing")


def starved_run(place):
    """More ranks than cores."""
    place.pptop("train", "--headless", "--layers", "4", "--width", "32", "--heads", "2",
                "--context", "16", "--pp", "4", "--steps", "6", "--batch-size", "16",
                "--micro-batches", "4", "--run-dir", "r")


def slow_rank_run(place):
    place.pptop("train", "--headless", "--model", "sleep", "--pp", "4", "--steps", "5",
                "--micro-batches", "4", "--sleep-slow-rank", "2:1.5", "--sleep-forward-ms", "2",
                "--sleep-input-grad-ms", "2", "--sleep-weight-grad-ms", "2", "--run-dir", "r")


def number_cases():
    screens = [("snapshot", ["snapshot", "{dir}/r", "--size", "80x24"]),
               ("the bubble", ["snapshot", "{dir}/r", "--view", "bubble", "--size", "100x34"]),
               ("the devices", ["snapshot", "{dir}/r", "--view", "devices", "--size", "100x34"]),
               ("the timeline", ["snapshot", "{dir}/r", "--view", "timeline", "--size", "100x34"]),
               ("report", ["report", "{dir}/r"])]
    for name, argv in screens:
        yield Case("B13", f"{name} of more ranks than cores", argv, setup=starved_run, codes=(0,),
                   silent=r"over the mean|than the mean")
        yield Case("B13", f"{name} of a slow rank", argv, setup=slow_rank_run, codes=(0,),
                   silent=r"over the mean|than the mean")
        # `sleep` has one layer a stage: there is nothing to cut otherwise.
        yield Case("B14", f"{name} of a slow rank gives no idle advice", argv, codes=(0,),
                   setup=slow_rank_run, silent=r"--partition time")
        yield Case("B14", f"{name} of more ranks than cores gives no idle advice", argv, codes=(0,),
                   setup=starved_run, silent=r"--partition time")
    yield Case("B13", "report of a slow rank names it", ["report", "{dir}/r"], setup=slow_rank_run,
               says=r"1\.[45]", codes=(0,))


def diverging(how):
    def change(at, event):
        if event.get("ev") == "step":
            how(event)
        return event
    return change


def raised(loss=None, norm=None, nonfinite=None):
    def how(event):
        if event["step"] >= 60:
            if loss is not None:
                event["loss"] = loss
            if norm is not None:
                event["grad_norm"] = norm
            if nonfinite is not None:
                event["loss"], event["nonfinite"] = None, nonfinite
    return how


def long_log(place):
    """Eighty calm steps and then something else: made from the lines of a short run."""
    place.run_copy("wine")
    lines = [json.loads(line) for line in lines_of(place)]
    steps = [event for event in lines if event["ev"] == "step"]
    out = [event for event in lines if event["ev"] == "hello"]
    out[0]["steps"] = 100
    for step in range(1, 81):
        event = dict(steps[-1], step=step, loss=5.5 - 0.02 * step + 0.01 * (step % 3),
                     grad_norm=1.0 + 0.01 * (step % 5), elapsed_seconds=0.1 * step, seconds=0.1)
        place.how(event)
        out.append(event)
    text = b"".join(json.dumps(event, separators=(",", ":")).encode() + b"\n" for event in out)
    (place.path("r") / "events.jsonl").write_bytes(text)


def divergence_cases():
    kinds = {
        "a loss of 8888": raised(loss=8888.0),
        "a gradient norm of 1e13": raised(norm=1e13),
        "a loss that is not a number": raised(nonfinite="nan"),
        "an infinite loss": raised(nonfinite="inf"),
    }
    for name, how in kinds.items():
        def setup(place, how=how):
            place.how = how
            long_log(place)
        for what, argv in (("report", ["report", "{dir}/r"]),
                           ("snapshot", ["snapshot", "{dir}/r", "--size", "80x24"]),
                           ("the loss", ["snapshot", "{dir}/r", "--view", "loss"])):
            yield Case("B15", f"{what} of {name}", argv, setup=setup, codes=(0, 1),
                       says=r"(?i)diverg|spike|not finite|nan|infinit|\binf\b|above the median")
    yield Case("B15", "training with a learning rate of 1e30",
               ["train", "--headless", "--model", "wine-mlp", "--pp", "2", "--steps", "20",
                "--lr", "1e30", "--run-dir", "r"], codes=(0, 1),
               says=r"(?i)diverg|spike|not finite|nan|infinit")
    yield Case("B15", "a calm run raises no alarm",
               ["train", "--headless", "--model", "seed-mlp", "--pp", "2", "--steps", "4",
                "--batch-size", "32", "--micro-batches", "4", "--run-dir", "r"], codes=(0,),
               silent=r"(?i)diverg|spike|not finite")


def repeated_cases():
    def many_warnings(at, event):
        if event.get("ev") == "end":
            warns = [{"ev": "warn", "elapsed_ns": 10**9 + i, "step": 4, "rank": 1,
                      "message": "the disk is slow"} for i in range(500)]
            return [*warns, event]
        return event

    def slow_spans(at, event):
        if event.get("ev") == "span" and event.get("op") in "FB" and event.get("rank") == 1:
            event["dur_ns"] = event["dur_ns"] * 50 if event.get("mb") == 3 else event["dur_ns"]
        return event

    for name, change in (("500 equal warnings", many_warnings), ("slow operations", slow_spans)):
        for what, argv in (("the log", ["snapshot", "{dir}/r", "--view", "log", "--size", "120x200"]),
                           ("the overview", ["snapshot", "{dir}/r"]),
                           ("attach --plain", ["attach", "{dir}/r", "--plain", "--once"]),
                           ("report", ["report", "{dir}/r"])):
            def folded(place, outcome):
                count = outcome.out.count(b"the disk is slow")
                assert count <= 3, f"one line stands {count} times"
            yield Case("B16", f"{what} with {name}", argv, setup=rewritten("sleep", change),
                       check=folded, codes=(0,))


def phase_cases():
    """Whatever lasts has a name: before the first step, and between steps."""
    for name, argv in (
            ("evaluation", ["train", "--headless", "--model", "wine-mlp", "--pp", "2", "--steps",
                            "4", "--eval-every", "1", "--run-dir", "r"]),
            ("profiling", ["train", "--headless", "--layers", "2", "--width", "32", "--heads", "2",
                           "--context", "16", "--pp", "2", "--steps", "1", "--run-dir", "r"]),
            ("a plan from costs", ["train", "--headless", "--layers", "2", "--width", "32",
                                   "--heads", "2", "--context", "16", "--pp", "2", "--steps", "1",
                                   "--schedule", "zb-auto", "--run-dir", "r"]),
            ("saving", [*TINY, "--save", "w.safetensors", "--run-dir", "r"]),
            ("a sample", ["train", "--headless", "--layers", "1", "--width", "16", "--heads", "2",
                          "--context", "8", "--pp", "2", "--steps", "1", "--sample", "20",
                          "--run-dir", "r"])):
        def has_phases(place, outcome):
            log = (place.path("r") / "events.jsonl").read_bytes()
            assert b'"ev":"phase"' in log, "the log has no phases"
        yield Case("B11", f"{name} is a phase of the log", argv, check=has_phases, codes=(0,))
    for view in ("overview", "timeline", "log", "bubble"):
        yield Case("B11", f"the {view} of a run that only starts",
                   ["snapshot", "{dir}/r", "--view", view], setup=only_starts, codes=(0, 2))
    yield Case("B11", "attach --once to a run that only starts",
               ["attach", "{dir}/r", "--once", "--plain"], setup=only_starts, codes=(0, 2))


def only_starts(place):
    """A log that has not come to its hello."""
    place.run_copy("killed")
    kept = [line for line in lines_of(place)
            if not line.startswith((b'{"ev":"hello"', b'{"ev":"step"', b'{"ev":"span"'))]
    (place.path("r") / "events.jsonl").write_bytes(b"".join(kept))


def stopped_live_cases():
    def frozen(place):
        place.run = place.start([place.program, *LONG, "--run-dir", str(place.path("r"))])
        log = place.path("r") / "events.jsonl"
        place.wait_for(lambda: log.exists() and b'"ev":"step"' in log.read_bytes())
        place.run.send_signal(signal.SIGSTOP)

    yield Case("B10", "snapshot of a run that was suspended", ["snapshot", "{dir}/r"],
               setup=frozen, codes=(0,))
    yield Case("B10", "attach --once to a run that was suspended",
               ["attach", "{dir}/r", "--once", "--plain"], setup=frozen, codes=(0,))


def cases():
    yield from standing_cases()
    yield from lost_span_cases()
    yield from number_cases()
    yield from divergence_cases()
    yield from repeated_cases()
    yield from phase_cases()
    yield from stopped_live_cases()

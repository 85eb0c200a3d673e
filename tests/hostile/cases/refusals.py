"""C17, C18, C20 and the refusals of D27: it refuses or dies where it need not."""

import json
import os
import stat

from harness import Case

from .harm import GPT, TEXT, TINY, exists, fail, link
from .words import lines_of

ODD = b"n\xff\xfe-\xe9"


def not_utf8_cases():
    def odd_data(place):
        (os.fsencode(place.dir) + b"/" + ODD)
        with open(os.fsencode(place.dir) + b"/" + ODD, "wb") as file:
            file.write(TEXT.encode())

    def has(name):
        def check(place, _):
            assert os.path.exists(os.fsencode(place.dir) + b"/" + name), "it was not written"
        return check

    yield Case("C17", "train with a flag's value", [*TINY, "--model", ODD], codes=(2,))
    yield Case("C17", "train with an unknown flag", [*TINY, b"--\xff"], codes=(2,))
    yield Case("C17", "a command", [b"\xff\xfe"], codes=(2,))
    yield Case("C17", "train --run-dir", [*TINY, "--run-dir", ODD], codes=(0,),
               check=has(ODD + b"/events.jsonl"))
    yield Case("C17", "train --save", [*TINY, "--save", ODD], codes=(0,), check=has(ODD))
    yield Case("C17", "train --data", [*GPT, "--data", ODD], setup=odd_data, codes=(0,))
    yield Case("C17", "train --data that is not there", [*GPT, "--data", ODD], codes=(2,))
    yield Case("C17", "train --init that is not there", [*GPT, "--init", ODD], codes=(2,))
    yield Case("C17", "train --schedule", [*GPT, "--schedule", ODD], codes=(2,))
    yield Case("C17", "train --dump-step", [*GPT, "--dump-step", ODD], codes=(0,), check=has(ODD))
    yield Case("C17", "attach", ["attach", ODD, "--once"], codes=(2,))
    yield Case("C17", "snapshot", ["snapshot", ODD], codes=(2,))
    yield Case("C17", "report", ["report", ODD], codes=(2,))
    yield Case("C17", "export -o", ["export", "csv", "{dir}/r", "-o", ODD], codes=(0,),
               setup=lambda p: p.run_copy("sleep"), check=has(ODD))
    yield Case("C17", "schedule check", ["schedule", "check", ODD], codes=(2,))
    yield Case("C17", "schedule export -o", ["schedule", "export", "1f1b", "--pp", "2",
                                             "--micro-batches", "4", "-o", ODD], codes=(0,))
    yield Case("C17", "--costs", ["schedule", "simulate", "1f1b", "--pp", "2", "--micro-batches",
                                  "4", "--costs", ODD], codes=(2,))
    yield Case("C17", "the state directory", TINY, env={"PPTOP_STATE_DIR": b"st\xffate"},
               codes=(0, 2))
    yield Case("C17", "HOME", ["runs", "list"],
               env={"HOME": b"/h\xffme", "PPTOP_STATE_DIR": None}, codes=(0, 2))
    yield Case("C17", "a variable of pptop's", ["doctor"], env={"PPTOP_COLOR": b"\xff"})
    yield Case("C17", "TERM", ["attach", "{dir}/r", "--once"], env={"TERM": b"x\xff"},
               setup=lambda p: p.run_copy("sleep"), codes=(0,))
    yield Case("C17", "the folder's parent is odd", [*TINY, "--run-dir", ODD + b"/a/b"],
               codes=(0,))


def index_line(**changes):
    event = {"ev": "index", "step": 2, "frames": [{"offset": 0, "step": 2}], "model": {}}
    event.update(changes)
    return json.dumps(event, separators=(",", ":")).encode() + b"\n"


def with_line(line, big=True):
    """A run whose log has this line before its last step, and enough behind it to begin there."""
    def setup(place):
        place.run_copy("sleep")
        lines = lines_of(place)
        at = max(i for i, text in enumerate(lines) if text.startswith(b'{"ev":"step"'))
        filler = b'{"ev":"later","text":"' + b"x" * 4000 + b'"}\n'
        tail = [filler] * 1200 if big else []
        (place.path("r") / "events.jsonl").write_bytes(
            b"".join([*lines[:at], line, *tail, *lines[at:]]))
    return setup


def mark_cases():
    marks = {
        "an empty model": index_line(),
        "no model": index_line(model=None),
        "a model that is text": index_line(model="none"),
        "a model that is a list": index_line(model=[1, 2, 3]),
        "frames that are text": index_line(frames="x"),
        "frames out of the file": index_line(frames=[{"offset": 10**18, "step": 1}]),
        "a step of 2^64 - 1": index_line(step=2**64 - 1),
        "a step below zero": index_line(step=-1),
        "half a line": b'{"ev":"index","step":2,"frames":[{"off\n',
        "bytes that are no text": b'{"ev":"index",\xff\xfe\xfd}\n',
        "nothing else": b'{"ev":"index",\n',
        "deep nesting": b'{"ev":"index","model":' + b"[" * 100_000 + b"\n",
        "17 MiB": b'{"ev":"index","step":2,"model":"' + b"y" * (17 << 20) + b'"}\n',
        "a million frames": index_line(frames=[{"offset": 1, "step": 1}] * 200_000),
    }
    for name, line in marks.items():
        yield Case("C18", f"snapshot --json behind a mark with {name}",
                   ["snapshot", "{dir}/r", "--json"], setup=with_line(line), codes=(0,),
                   says=r'"step":4')
    for name in ("half a line", "an empty model", "17 MiB"):
        yield Case("C18", f"attach --once behind a mark with {name}",
                   ["attach", "{dir}/r", "--once", "--plain"], setup=with_line(marks[name]),
                   codes=(0,))
        yield Case("C18", f"export csv behind a mark with {name}", ["export", "csv", "{dir}/r"],
                   setup=with_line(marks[name]), codes=(0,))
        yield Case("C18", f"replay --start behind a mark with {name}",
                   ["report", "{dir}/r"], setup=with_line(marks[name]), codes=(0, 1))

    def big_hello(place):
        place.run_copy("sleep")
        lines = lines_of(place)
        out = []
        for line in lines:
            if line.startswith(b'{"ev":"hello"'):
                event = json.loads(line)
                event["plan"] = [",".join(f"0F{i}" for i in range(2_500_000))] * 2
                line = json.dumps(event).encode() + b"\n"
            out.append(line)
        (place.path("r") / "events.jsonl").write_bytes(b"".join(out))

    for name, argv in (("snapshot", ["snapshot", "{dir}/r"]), ("report", ["report", "{dir}/r"]),
                       ("runs info", ["runs", "info", "{dir}/r"])):
        yield Case("C18", f"{name} of a hello of 40 MB", argv, setup=big_hello, codes=(0, 1, 2))
    yield Case("C18", "a run of 130,000 micro-batches can be read again",
               lambda p: ["snapshot", str(p.path("r")), "--json"], codes=(0,), says=r'"step":1',
               setup=lambda p: p.pptop(
                   "train", "--headless", "--model", "sleep", "--pp", "2", "--steps", "1",
                   "--micro-batches", "130000", "--batch-size", "130000", "--sleep-forward-ms", "0",
                   "--sleep-input-grad-ms", "0", "--sleep-weight-grad-ms", "0", "--spans", "1",
                   "--run-dir", "r"))


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def place_cases():
    def follows(name, umask):
        def check(place, _):
            is_mode, due = mode(place.path(name)), 0o666 & ~umask
            assert is_mode == due, f"{name} has mode {is_mode:o}, the umask says {due:o}"
        return check

    for umask in (0o022, 0o002, 0o077):
        yield Case("C20", f"--save under umask {umask:03o}", [*TINY, "--save", "w"], umask=umask,
                   codes=(0,), check=follows("w", umask))
        yield Case("C20", f"export under umask {umask:03o}",
                   ["export", "csv", "{dir}/r", "-o", "t.csv"], umask=umask, codes=(0,),
                   setup=lambda p: p.run_copy("sleep"), check=follows("t.csv", umask))
        yield Case("C20", f"schedule export under umask {umask:03o}",
                   ["schedule", "export", "1f1b", "--pp", "2", "--micro-batches", "4", "-o", "t"],
                   umask=umask, codes=(0,), check=follows("t", umask))
    yield Case("C20", "--dump-step under umask 022", [*GPT, "--dump-step", "w"], codes=(0,),
               check=follows("w", 0o022))
    yield Case("C20", "a state directory that is relative", TINY,
               env={"PPTOP_STATE_DIR": "here/state"}, codes=(0,), check=exists("here/state/runs"))
    yield Case("C20", "runs list of a state directory that is relative", ["runs", "list"],
               env={"PPTOP_STATE_DIR": "rel"}, codes=(0,), says="one-1",
               setup=lambda p: p.run_copy("sleep", "rel/runs/one-1"))
    yield Case("C20", "--run-dir through a link", [*TINY, "--run-dir", "L"], codes=(0,),
               setup=lambda p: (p.path("d").mkdir(), p.path("L").symlink_to("d")),
               check=exists("d/events.jsonl"))
    for name, argv in (("snapshot", ["snapshot", "L"]), ("report", ["report", "./L"]),
                       ("export", ["export", "csv", "L"]), ("runs info", ["runs", "info", "L"]),
                       ("attach", ["attach", "L", "--once"])):
        yield Case("C20", f"{name} of a link to a run", argv, codes=(0,),
                   setup=lambda p: (p.run_copy("sleep"), link("L", "r")(p)))

    def linked_log(place):
        folder = place.run_copy("sleep")
        (folder / "events.jsonl").rename(place.path("elsewhere"))
        (folder / "events.jsonl").symlink_to(place.path("elsewhere"))

    yield Case("C20", "a link inside a run is still refused", ["snapshot", "{dir}/r"],
               setup=linked_log, codes=(2,))
    costs = '{"forward":[1,1],"input_grad":[1,1],"weight_grad":[1,1]}'
    for name, text in (("a byte order mark", "\ufeff" + costs),
                       ("carriage returns", costs.replace(",", ",\r\n"))):
        yield Case("C20", f"--costs with {name}",
                   ["schedule", "simulate", "1f1b", "--pp", "2", "--micro-batches", "4",
                    "--costs", "c.json"], setup=lambda p, t=text: p.write("c.json", t), codes=(0,))
    yield Case("C20", "a plan with a byte order mark", ["schedule", "check", "p.csv"], codes=(0,),
               setup=lambda p: p.write("p.csv", b"\xef\xbb\xbf" + p.world.plan.read_bytes()))
    yield Case("C20", "a plan with carriage returns", ["schedule", "check", "p.csv"], codes=(0,),
               setup=lambda p: p.write("p.csv", p.world.plan.read_bytes().replace(b"\n", b"\r\n")))
    yield Case("C20", "settings with a byte order mark", ["config", "validate"], codes=(0,),
               setup=lambda p: p.write("home/.config/pptop/config.toml", "\ufeff# mine\r\n"))
    yield Case("C20", "--save new/w.st beside --run-dir new",
               [*TINY, "--run-dir", "new", "--save", "new/w.st"], codes=(0,),
               check=exists("new/w.st"))
    yield Case("C20", "--save new/sub/w.st beside --run-dir new",
               [*TINY, "--run-dir", "new", "--save", "new/sub/w.st"], codes=(2,),
               check=lambda p, _: not p.path("new").exists() or fail("a refusal left a folder"))
    for name, argv in (("snapshot", ["snapshot", "{dir}/r/events.jsonl"]),
                       ("report", ["report", "{dir}/r/events.jsonl"]),
                       ("export", ["export", "csv", "{dir}/r/events.jsonl"]),
                       ("attach", ["attach", "{dir}/r", "--once"]),
                       ("schedule", ["schedule", "show", "1f1b", "--pp", "2", "--micro-batches",
                                     "2"])):
        yield Case("C20", f"{name} without HOME", argv, codes=(0,),
                   setup=lambda p: p.run_copy("sleep"),
                   env={"HOME": None, "PPTOP_STATE_DIR": None, "XDG_RUNTIME_DIR": None})
    yield Case("C20", "train without HOME", TINY, codes=(0, 1, 2),
               env={"HOME": None, "PPTOP_STATE_DIR": None})
    yield Case("C20", "train --run-dir without HOME", [*TINY, "--run-dir", "d"], codes=(0,),
               env={"HOME": None, "PPTOP_STATE_DIR": None, "XDG_RUNTIME_DIR": None})
    yield Case("C20", "an old stderr.log in --run-dir", [*TINY, "--run-dir", "d"], codes=(0,),
               setup=lambda p: p.write("d/stderr.log", "old"))
    for library in ("lib.so", "./lib.so", "/dev/null", "/", "", "libc.so.6"):
        yield Case("C20", f"--nvml-lib {library!r}", ["devices", "--nvml-lib", library],
                   codes=(0, 2))
    for name, argv in (("report", ["report", "-"]), ("snapshot", ["snapshot", "-"]),
                       ("snapshot --json", ["snapshot", "-", "--json"]),
                       ("export csv", ["export", "csv", "-"])):
        yield Case("C20", f"{name} of a log from a pipe", lambda p, a=argv: a, codes=(0,),
                   stdin=STDIN)
    yield Case("C20", "report - of nothing", ["report", "-"], stdin=b"", codes=(2,))
    yield Case("C20", "report - of noise", ["report", "-"], stdin=os.urandom(1 << 20), codes=(2,))
    yield Case("C20", "report - of a line that has no end", ["report", "-"],
               stdin=b"x" * (40 << 20), codes=(2,))
    yield Case("C20", "snapshot of a named pipe without a writer", ["snapshot", "{dir}/fifo"],
               setup=lambda p: os.mkfifo(p.path("fifo")), codes=(2,))


STDIN = (
    b'{"ev":"hello","schema":1,"run":"piped","pid":1,"argv":[],"model":"m","schedule":"1f1b",'
    b'"pp":1,"dp":1,"virtual_stages":1,"micro_batches":1,"batch_size":1,"cores":1,"seed":0,'
    b'"parameters":1,"device_map":[],"stages":[],"plan":["0F0,0B0"]}\n'
    b'{"ev":"step","step":1,"loss":1.5,"seconds":0.1,"elapsed_seconds":0.1,"samples":1}\n'
    b'{"ev":"end","code":0,"reason":"finished","steps":1}\n')


def word_cases():
    """Odd arguments: one line that says what to do, and nothing else."""
    def one_line(place, outcome):
        assert len(outcome.err.strip().splitlines()) <= 1 or b"\n\n" in outcome.err, "many lines"

    refused = {
        "a command that is misspelt": (["trian"], "train"),
        "a command in another case": (["TRAIN"], None),
        "a flag that is misspelt": (["train", "--scheduel", "1f1b"], "--schedule"),
        "a schedule that is misspelt": (["train", "--schedule", "1fb1"], "1f1b"),
        "a model that is misspelt": (["train", "--model", "gtp"], "gpt"),
        "7 micro-batches of 32": (["train", "--micro-batches", "7", "--batch-size", "32"],
                                  r"\b4\b.*\b8\b"),
        "5 heads of 128": (["train", "--heads", "5"], r"\b4\b.*\b8\b"),
        "a number that is none": (["train", "--steps", "many"], "many"),
        "a number below zero": (["train", "--steps", "-1"], "-1"),
        "zero steps": (["train", "--steps", "0"], "0"),
        "a number with a plus": (["train", "--steps", "1e3"], "1e3"),
        "a number too large": (["train", "--steps", "99999999999999999999"], "9999"),
        "an empty value": (["train", "--model", ""], None),
        "an empty argument": ([""], None),
        "a flag with nothing behind it": (["train", "--steps"], "--steps"),
        "a rate that is not a number": (["train", "--lr", "nan"], "nan"),
        "an infinite rate": (["train", "--lr", "inf"], "inf"),
        "a flag twice": (["train", "--steps", "1", "--steps", "2"], "--steps"),
        "two formats": (["snapshot", "--json", "--csv"], "--"),
        "a view that is none": (["snapshot", "--view", "overveiw"], "overview"),
        "a size that is none": (["snapshot", "--size", "80"], "80"),
        "a size of zero": (["snapshot", "--size", "0x0"], "0x0"),
        "a run that is none": (["attach", "no-such-run", "--once"], "no-such-run"),
        "a control character in a run": (["attach", "a\x1b[31mb", "--once"], None),
        "a C1 character in a run": (["attach", "a\u009b31mb", "--once"], None),
        "a bidi character in a run": (["attach", "a\u202eb", "--once"], None),
        "a line feed in a flag": (["train", "--model", "g\npt"], None),
        "a very long value": (["train", "--model", "x" * 100_000], None),
        "a very long flag": (["--" + "y" * 100_000], None),
        "a partition of too few": (["train", "--partition", "1,1"], None),
        "a partition of words": (["train", "--partition", "a,b"], None),
        "a partition of zero": (["train", "--partition", "0,8"], None),
        "more ranks than layers": (["train", "--pp", "100"], "100"),
        "--costs that is a folder": (["schedule", "simulate", "1f1b", "--pp", "2",
                                      "--micro-batches", "2", "--costs", "/"], None),
        "steps the wrong way round": (["export", "csv", "{dir}", "--steps", "9..3"], None),
        "a dropout of one": (["train", "--dropout", "1"], None),
        "a device that is none": (["train", "--device", "gpu"], "gpu"),
        "cuda where there is none": (["train", "--device", "cuda", "--headless"], "(?i)cuda"),
        "a flag of another model": (["train", "--model", "seed-mlp", "--heads", "2"], "--heads"),
        "completions for no shell": (["completions", "tcsh"], "tcsh"),
        "man of no folder": (["man", "--output", "/proc/none"], None),
        "a schedule without sizes": (["schedule", "show", "1f1b"], "--pp"),
        "v-half of three stages a rank": (["schedule", "show", "v-half", "--pp", "4",
                                           "--micro-batches", "5", "--virtual-stages", "3"], None),
        "chimera on three ranks": (["schedule", "show", "chimera", "--pp", "3",
                                    "--micro-batches", "4"], None),
    }
    for name, (argv, says) in refused.items():
        yield Case("D27", name, argv, codes=(2,), says=says, check=one_line,
                   silent=r"; accepted:", env={"COLUMNS": "80"})
    for argv in (["help"], ["help", "train"], ["help", "schedule", "show"], ["-v"], ["-V"],
                 ["--version"], ["-h"], ["train", "-h"], ["train", "--help"], ["compare", "-h"],
                 ["schedule", "--help"], ["snapshot", "--help"], ["export", "csv", "--help"]):
        yield Case("D27", "pptop " + " ".join(argv), argv, codes=(0,), silent="accepted:")
    for argv in (["schedule"], ["export"], ["runs"], ["config"]):
        yield Case("D27", "pptop " + " ".join(argv) + " without a command", argv, codes=(2,))
    yield Case("D27", "pptop alone without a terminal", [], codes=(0, 2))


def cases():
    yield from not_utf8_cases()
    yield from mark_cases()
    yield from place_cases()
    yield from word_cases()

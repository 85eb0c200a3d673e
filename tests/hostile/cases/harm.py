"""A: it does harm. Signals to strangers, pasted text, outputs over inputs, folders of the user's."""

import json
import os
import pathlib
import resource
import signal
import stat
import subprocess
import time

from harness import Case

TINY = ["train", "--headless", "--model", "sleep", "--pp", "2", "--steps", "2",
        "--micro-batches", "2", "--sleep-forward-ms", "1", "--sleep-input-grad-ms", "1",
        "--sleep-weight-grad-ms", "1"]
GPT = ["train", "--headless", "--layers", "1", "--width", "16", "--heads", "2", "--context", "8",
       "--pp", "2", "--steps", "2", "--batch-size", "4", "--micro-batches", "2"]
LONG = ["train", "--headless", "--model", "sleep", "--pp", "2", "--steps", "100000",
        "--micro-batches", "2"]


def began(pid):
    """When a process began, in clock ticks, as the summary of a run has it."""
    text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    return int(text.rsplit(")", 1)[1].split()[19])


def forged(place, **changes):
    """A live run by its own account, whose process is a stranger's `sleep`."""
    victim = place.start(["sleep", "60"])
    folder = place.run_copy("killed")
    status = json.loads((folder / "status.json").read_text())
    status.update(pid=victim.pid, pid_began=began(victim.pid), state="running")
    status.update({key: value(place, victim) if callable(value) else value
                   for key, value in changes.items()})
    (folder / "status.json").write_text(json.dumps(status))
    lines = (folder / "events.jsonl").read_bytes().splitlines(keepends=True)
    hello = json.loads(lines[0]) if b'"hello"' in lines[0] else None
    for at, line in enumerate(lines):
        if line.startswith(b'{"ev":"hello"'):
            hello = json.loads(line)
            hello["pid"] = status["pid"]
            hello["socket"] = status.get("socket")
            lines[at] = json.dumps(hello, separators=(",", ":")).encode() + b"\n"
    (folder / "events.jsonl").write_bytes(b"".join(lines))
    place.victim = victim


def victim_lives(place, _):
    assert place.victim.poll() is None, "the stranger was killed"


# x, then every way to choose something, slowly enough for a person.
KILL_KEYS = [(0.8, b"x"), (1.3, b"k"), (1.6, b"\r"), (2.0, b"x"), (2.5, b"j"), (2.7, b"j"),
             (2.9, b"\r"), (3.2, b"x"), (3.7, b"\x1b[A"), (3.9, b"\r"), (4.2, b"\x1b"),
             (4.5, b"q"), (5.0, b"q")]


def viewer_cases():
    kinds = [
        ("a stranger's process", {}),
        ("a stranger with a socket outside", {"socket": "/tmp/none.sock"}),
        ("a stranger with a socket of its folder",
         {"socket": lambda p, v: str(p.path("run") / "pptop" / f"{v.pid}.sock")}),
        ("process 1", {"pid": 1, "pid_began": lambda p, v: began(1)}),
        ("the viewer's parent", {"pid": lambda p, v: os.getpid(),
                                 "pid_began": lambda p, v: began(os.getpid())}),
        ("process 0", {"pid": 0, "pid_began": 0}),
        ("a pid of 4 billion", {"pid": 4294967295}),
        ("another tick", {"pid_began": 1}),
        ("a host that is not this one", {"host": "elsewhere"}),
    ]
    for name, changes in kinds:
        yield Case("A1", f"x in attach: {name}", ["attach", "{dir}/r"], keys=KILL_KEYS,
                   setup=lambda p, c=changes: forged(p, **c), check=victim_lives,
                   codes=(0, 1, 2, 137, 143))
    yield Case("A1", "attach --read-only has no x", ["attach", "--read-only", "{dir}/r"],
               keys=KILL_KEYS, setup=forged, check=victim_lives, codes=(0, 1, 2))


def live(place):
    """A run that goes on until it is told not to."""
    place.run = place.start([place.program, *LONG, "--run-dir", str(place.path("live"))])
    log = place.path("live") / "events.jsonl"
    place.wait_for(lambda: log.exists() and b'"ev":"step"' in log.read_bytes())


def run_lives(place, _):
    time.sleep(0.3)
    assert place.run.poll() is None, "the run was ended"


def run_ends(place, _):
    place.wait_for(lambda: place.run.poll() is not None, 4.0)


def paste_cases():
    pastes = {
        "fix this": b"fix this",
        "x s": b"x\ns\n",
        "q s": b"q\ns\n",
        "a page": b"x\nk\nx\nw\ns\nxs\rxk\rq\ns\rfix this now\nk\n\n\n\ns\n",
    }
    for name, text in pastes.items():
        for bracketed in (True, False):
            data = b"\x1b[200~" + text + b"\x1b[201~" if bracketed else text
            how = "bracketed" if bracketed else "plain"
            yield Case("A2", f"{name!r} pasted, {how}", ["attach", "{dir}/live"], setup=live,
                       keys=[(0.8, data), (2.2, b"\x1b"), (2.6, b"\x1b"), (3.0, b"q"), (3.6, b"q")],
                       check=run_lives, codes=(0,))
    yield Case("A2", "an answer that is chosen and entered stops the run", ["attach", "{dir}/live"],
               setup=live, keys=[(0.8, b"x"), (1.4, b"s"), (1.7, b"\r"), (4.0, b"q"), (4.5, b"q")],
               check=run_ends, codes=(0, 143))
    yield Case("A2", "x and Enter alone change nothing", ["attach", "{dir}/live"], setup=live,
               keys=[(0.8, b"x"), (1.4, b"\r"), (2.0, b"q"), (2.5, b"q")], check=run_lives,
               codes=(0,))


def same(path):
    """A check that a file has kept its bytes."""
    def check(place, _):
        assert place.path(path).read_bytes() == place.kept, f"{path} was replaced"
    return check


def keep(path, content):
    def setup(place):
        place.write(path, content)
        place.kept = place.path(path).read_bytes()
    return setup


def both(*steps):
    def setup(place):
        for step in steps:
            step(place)
    return setup


TEXT = "the quick brown fox jumps over the lazy dog. " * 400


def weights(name):
    def setup(place):
        place.write(name, place.world.weights.read_bytes())
        place.kept = place.path(name).read_bytes()
    return setup


def plan(name):
    def setup(place):
        place.write(name, place.world.plan.read_bytes())
        place.kept = place.path(name).read_bytes()
    return setup


def link(name, to):
    return lambda place: place.path(name).symlink_to(to)


def run(which, kept="events.jsonl"):
    def setup(place):
        folder = place.run_copy(which)
        place.kept = (folder / kept).read_bytes()
    return setup


def output_cases():
    def case(name, argv, setup, check, codes=(2,), **more):
        return Case("A3", name, argv, setup=setup, check=check, codes=codes, **more)

    yield case("--data X --save X", [*GPT, "--data", "X", "--save", "X"], keep("X", TEXT), same("X"))
    yield case("--data X --save ./X", [*GPT, "--data", "X", "--save", "./X"], keep("X", TEXT),
               same("X"))
    yield case("--data X --save X --force", [*GPT, "--data", "X", "--save", "X", "--force"],
               keep("X", TEXT), same("X"))
    yield case("--data X --dump-step by its whole name",
               [*GPT, "--data", "X", "--dump-step", "{dir}/X", "--force"], keep("X", TEXT),
               same("X"))
    yield case("--data X --save a link to X", [*GPT, "--data", "X", "--save", "L", "--force"],
               both(keep("X", TEXT), link("L", "X")), same("X"))
    yield case("--data X --save a hard link to X", [*GPT, "--data", "X", "--save", "H", "--force"],
               both(keep("X", TEXT), lambda p: os.link(p.path("X"), p.path("H"))), same("X"))
    yield case("--init W --save W", [*GPT, "--init", "W.safetensors", "--save", "W.safetensors",
                                     "--force"], weights("W.safetensors"), same("W.safetensors"))
    yield case("--schedule X.csv --save X.csv",
               [*GPT, "--micro-batches", "4", "--schedule", "X.csv", "--save", "X.csv", "--force"],
               plan("X.csv"), same("X.csv"))
    yield case("--save and --dump-step one file", [*GPT, "--save", "o", "--dump-step", "./o"],
               None, lambda p, _: None)
    yield case("--save over the log", [*TINY, "--run-dir", "n", "--save", "n/events.jsonl"],
               None, lambda p, _: None)
    yield case("--save over the summary", [*TINY, "--run-dir", "n", "--save", "./n/status.json"],
               None, lambda p, _: None)
    yield case("--save over the compressed log",
               [*TINY, "--run-dir", "n", "--save", "n/events.jsonl.zst"], None, lambda p, _: None)
    yield case("--save over somebody's file", [*TINY, "--save", "mine"], keep("mine", "precious"),
               same("mine"))
    yield case("--save over an empty file", [*TINY, "--save", "mine"], keep("mine", ""),
               same("mine"))
    yield case("--save with --force", [*TINY, "--save", "mine", "--force"],
               keep("mine", "precious"),
               lambda p, _: len(p.path("mine").read_bytes()) > 20 or (_ for _ in ()).throw(
                   AssertionError("--force did not replace it")), codes=(0,))
    yield case("--save to a folder", [*TINY, "--save", "d"], lambda p: p.path("d").mkdir(),
               lambda p, _: None)
    yield case("--save to a folder with --force", [*TINY, "--save", "d", "--force"],
               lambda p: p.path("d").mkdir(), lambda p, _: None)
    yield case("--save into no folder", [*TINY, "--save", "no/such/w.st"], None, lambda p, _: None)
    yield case("--save as a picture", [*TINY, "--save", "w.png"], None,
               lambda p, _: not p.path("w.png").exists() or fail("it was written"))
    yield case("--save with an ending of one's own", [*TINY, "--save", "w.mine"], None,
               exists("w.mine"), codes=(0,))
    yield case("schedule export -o t.png", ["schedule", "export", "1f1b", "--pp", "2",
                                            "--micro-batches", "4", "-o", "t.png"], None,
               lambda p, _: not p.path("t.png").exists() or fail("it was written"))
    for form, ending in (("csv", "svg"), ("svg", "csv"), ("json", "csv"), ("chrome-trace", "svg"),
                         ("text", "json"), ("csv", "PNG"), ("svg", "pdf")):
        yield case(f"schedule export --format {form} -o t.{ending}",
                   ["schedule", "export", "1f1b", "--pp", "2", "--micro-batches", "4", "--format",
                    form, "-o", f"t.{ending}"], None,
                   lambda p, _, e=ending: not p.path(f"t.{e}").exists() or fail("it was written"))
    yield case("schedule export to an unknown ending",
               ["schedule", "export", "1f1b", "--pp", "2", "--micro-batches", "4", "-o", "t.plan"],
               None, exists("t.plan"), codes=(0,))
    yield case("schedule export over its input",
               ["schedule", "export", "p.csv", "--format", "csv", "-o", "./p.csv", "--force"],
               plan("p.csv"), same("p.csv"))
    yield case("schedule export over the costs",
               ["schedule", "export", "1f1b", "--pp", "2", "--micro-batches", "4", "--costs", "c",
                "-o", "c", "--force"],
               keep("c", '{"forward":[1,1],"input_grad":[1,1],"weight_grad":[1,1]}'), same("c"))
    yield case("schedule export over somebody's file",
               ["schedule", "export", "1f1b", "--pp", "2", "--micro-batches", "4", "-o", "m.csv"],
               keep("m.csv", "mine"), same("m.csv"))
    for form in ("csv", "chrome-trace", "svg", "prometheus", "tensorboard"):
        yield case(f"export {form} over the log",
                   ["export", form, "{dir}/r", "-o", "r/events.jsonl", "--force"], run("sleep"),
                   same("r/events.jsonl"))
    yield case("export csv of a log over itself through a link",
               ["export", "csv", "r/events.jsonl", "-o", "L", "--force"],
               both(run("sleep"), link("L", "r/events.jsonl")), same("r/events.jsonl"))
    yield case("export csv over the summary",
               ["export", "csv", "{dir}/r", "-o", "r/status.json", "--force"],
               run("sleep", "status.json"), same("r/status.json"))
    yield case("export svg over somebody's file", ["export", "svg", "{dir}/r", "-o", "m.svg"],
               both(run("sleep"), keep("m.svg", "mine")), same("m.svg"))
    yield case("export csv -o x.svg", ["export", "csv", "{dir}/r", "-o", "x.svg"], run("sleep"),
               lambda p, _: not p.path("x.svg").exists() or fail("it was written"))
    yield case("export to /dev/null", ["export", "csv", "{dir}/r", "-o", "/dev/null"],
               run("sleep"), lambda p, _: stat.S_ISCHR(os.stat("/dev/null").st_mode) or fail("gone"),
               codes=(0, 2))
    yield case("export to /dev/full", ["export", "csv", "{dir}/r", "-o", "/dev/full"],
               run("sleep"), lambda p, _: None, codes=(1, 2))
    yield case("config init over a file", ["config", "init"],
               keep("home/.config/pptop/config.toml", "# mine\n"),
               same("home/.config/pptop/config.toml"), codes=(1, 2))
    yield case("a run in a folder that holds one", [*TINY, "--run-dir", "r"], run("sleep"),
               same("r/events.jsonl"))


def fail(message):
    raise AssertionError(message)


def exists(name):
    def check(place, _):
        assert place.path(name).exists(), f"{name} was not written"
    return check


def kept_run(which="sleep", age_days=100, extra=(), name="old-1"):
    """A run below the state directory that is old enough to go."""
    def setup(place):
        folder = place.run_copy(which, f"state/runs/{name}")
        for path in extra:
            target = folder / path
            if path.endswith("/"):
                target.mkdir()
            else:
                target.write_bytes(b"somebody's")
        past = time.time() - age_days * 86400
        for path in [*folder.iterdir(), folder]:
            os.utime(path, (past, past))
        # The newest run always stays, so there has to be a newer one.
        place.run_copy("sleep", "state/runs/new-1")
    return setup


def prune_cases():
    prune = ["runs", "prune", "--keep-runs", "1", "--keep-days", "1"]

    def there(*names):
        def check(place, _):
            for name in names:
                path = place.path(f"state/runs/old-1/{name}")
                assert path.exists(), f"{name} was removed"
        return check

    for name in ("checkpoint.safetensors.step1000", "events.jsonl.bak", "events.jsonl~",
                 "notes.txt", "status.json.new", ".hidden", "folder/", "checkpoint-1.safetensors",
                 "screen-3.txt.save"):
        yield Case("A4", f"prune beside {name}", prune, setup=kept_run(extra=[name]),
                   check=there(name.rstrip("/")), codes=(0, 1))
    yield Case("A4", "prune of a run of ours", prune, setup=kept_run(),
               check=lambda p, _: not p.path("state/runs/old-1").exists() or fail("it stayed"),
               codes=(0,))

    def dry_is_true(place, outcome):
        dry = outcome.out
        done = place.pptop(*prune).stdout
        normal = lambda text: text.lower().replace(b"would be ", b"").replace(b"would ", b"")
        numbers = lambda text: sorted(word for word in normal(text).replace(b",", b" ").split()
                                      if word.isdigit() or b"old-" in word or b"new-" in word)
        assert numbers(dry) == numbers(done), f"{dry!r} and then {done!r}"

    yield Case("A4", "prune --dry-run says what prune does", [*prune, "--dry-run"],
               setup=kept_run(), check=dry_is_true, codes=(0,))
    yield Case("A4", "prune keeps the newest run",
               ["runs", "prune", "--keep-runs", "0", "--keep-mb", "0", "--keep-days", "0"],
               setup=kept_run(), codes=(0, 2),
               check=lambda p, _: p.path("state/runs/new-1").exists() or fail("it went"))


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def folder_cases():
    def has_mode(path, mode):
        def check(place, _):
            is_mode = mode_of(place.path(path))
            assert is_mode == mode, f"{path} has mode {is_mode:o}, was {mode:o}"
        return check

    def folder(mode, name="d"):
        def setup(place):
            place.path(name).mkdir()
            place.path(name).chmod(mode)
        return setup

    for mode, codes in ((0o755, (0,)), (0o750, (0,)), (0o711, (0,)), (0o700, (0,)),
                        (0o777, (2,)), (0o775, (2,)), (0o1777, (2,)), (0o720, (2,))):
        yield Case("A5", f"--run-dir of mode {mode:o}", [*TINY, "--run-dir", "d"],
                   setup=folder(mode), check=has_mode("d", mode), codes=codes,
                   says=r"chmod" if codes == (2,) else None)

    def private(place, _):
        for name in ("events.jsonl", "status.json"):
            assert mode_of(place.path("d") / name) == 0o600, f"{name} is for others"

    yield Case("A5", "the log of an open folder is private", [*TINY, "--run-dir", "d"],
               setup=folder(0o755), check=private, codes=(0,), umask=0)
    yield Case("A5", "a state directory that others may read keeps its mode", TINY,
               setup=lambda p: p.path("state").chmod(0o755), check=has_mode("state", 0o755),
               codes=(0,))
    yield Case("A5", "--run-dir is a file", [*TINY, "--run-dir", "f"],
               setup=lambda p: p.write("f", "mine"), codes=(2,))
    yield Case("A5", "--run-dir below a file", [*TINY, "--run-dir", "f/r"],
               setup=lambda p: p.write("f", "mine"), codes=(2,))
    yield Case("A5", "--run-dir without room for it", [*TINY, "--run-dir", "/proc/nowhere"],
               codes=(2,))
    yield Case("A5", "--run-dir is empty", [*TINY, "--run-dir", ""], codes=(2,))


def end_line(path):
    """The last line of a run's log, as JSON."""
    lines = [line for line in path.read_bytes().splitlines() if line.startswith(b'{"ev":"end"')]
    return json.loads(lines[-1]) if lines else None


def signal_cases():
    def goes_on(place, outcome):
        # It has to be ended by the script, for the signal was ignored.
        assert outcome.seconds > 2.5, "an ignored signal ended it"

    for sig in (signal.SIGHUP, signal.SIGINT):
        yield Case("A6", f"{sig.name} that was ignored stays ignored",
                   [*LONG, "--run-dir", "d"], ignored=(sig,),
                   signals=[(1.0, sig), (1.5, sig), (3.0, signal.SIGTERM)], check=goes_on)
        yield Case("A6", f"{sig.name} ends a run with its end on record",
                   [*LONG, "--run-dir", "d"], signals=[(1.5, sig)],
                   check=lambda p, o, s=sig: end_line(p.path("d/events.jsonl"))["code"] == 128 + s
                   or fail("no end on record"))
    for after in (0.02, 0.1, 0.2, 0.4):
        def recorded(place, outcome):
            log = place.path("d/events.jsonl")
            if log.exists():
                assert end_line(log), "the log has no end"
        yield Case("A6", f"SIGTERM {after} s after the start",
                   ["train", "--headless", "--pp", "2", "--steps", "1000", "--run-dir", "d"],
                   signals=[(after, signal.SIGTERM)], check=recorded)
    yield Case("A6", "two SIGTERMs", [*LONG, "--run-dir", "d"],
               signals=[(1.0, signal.SIGTERM), (1.01, signal.SIGTERM)])
    yield Case("A6", "a limit on file sizes is a full disk",
               [*LONG[:-4], "--steps", "60", "--micro-batches", "8", "--spans", "all",
                "--run-dir", "d", "--sleep-forward-ms", "0", "--sleep-input-grad-ms", "0",
                "--sleep-weight-grad-ms", "0"],
               limits={resource.RLIMIT_FSIZE: 40_000}, codes=(0,), says="recording")
    yield Case("A6", "--save beyond a limit on file sizes",
               [*("64" if a == "16" else a for a in GPT), "--save", "w", "--run-dir", "d"],
               limits={resource.RLIMIT_FSIZE: 100_000}, codes=(1,),
               check=lambda p, _: not p.path("w").exists() or fail("half a file stayed"))
    yield Case("A6", "export beyond a limit on file sizes",
               ["export", "chrome-trace", "{dir}/r", "-o", "t.json"], setup=run("gpt"),
               limits={resource.RLIMIT_FSIZE: 1000}, codes=(1,),
               check=lambda p, _: not p.path("t.json").exists() or fail("half a file stayed"))
    yield Case("A6", "schedule export beyond a limit on file sizes",
               ["schedule", "export", "1f1b", "--pp", "8", "--micro-batches", "64", "-o", "t.csv"],
               limits={resource.RLIMIT_FSIZE: 1000}, codes=(1,))


def socket_cases():
    """Runs share a folder for sockets; none takes another one's away."""
    def others(place):
        folder = place.path("run/pptop")
        folder.mkdir(mode=0o700)
        place.sockets = []
        for name in ("1.sock", "2.sock", "99999999.sock", "notes.txt"):
            path = folder / name
            if name.endswith(".sock"):
                subprocess.run(["python3", "-c",
                                "import socket,sys;s=socket.socket(socket.AF_UNIX);"
                                "s.bind(sys.argv[1])", str(path)], check=True)
            else:
                path.write_text("mine")

    yield Case("A9", "sockets of processes that are gone", TINY, setup=others, codes=(0,),
               check=lambda p, _: p.path("run/pptop/notes.txt").exists() or fail("a file went"))
    for name, make in (
            ("is a file", lambda p: p.write("run/pptop", "mine")),
            ("is a link", lambda p: p.path("run/pptop").symlink_to("/tmp")),
            ("is open to others", lambda p: (p.path("run/pptop").mkdir(),
                                             p.path("run/pptop").chmod(0o777))),
            ("can't be written", lambda p: (p.path("run/pptop").mkdir(),
                                            p.path("run/pptop").chmod(0o500)))):
        yield Case("A9", f"the folder for sockets {name}", TINY, setup=make, codes=(0,))
    yield Case("A9", "XDG_RUNTIME_DIR that is too long for a socket", TINY, codes=(0,),
               setup=lambda p: p.path("L" * 120).mkdir(), env={"XDG_RUNTIME_DIR": "{dir}/" + "L" * 120})
    yield Case("A9", "XDG_RUNTIME_DIR that is not there", TINY, codes=(0,),
               env={"XDG_RUNTIME_DIR": "{dir}/none"})
    yield Case("A9", "XDG_RUNTIME_DIR is empty", TINY, codes=(0,), env={"XDG_RUNTIME_DIR": ""})

    def both_live(place):
        live(place)
        place.before = sorted((place.path("run") / "pptop").iterdir())

    yield Case("A9", "a second run leaves the first one's socket", TINY, setup=both_live,
               codes=(0,), check=lambda p, _: all(s.exists() for s in p.before)
               or fail("a socket went"))


def cases():
    yield from viewer_cases()
    yield from paste_cases()
    yield from output_cases()
    yield from prune_cases()
    yield from folder_cases()
    yield from signal_cases()
    yield from socket_cases()

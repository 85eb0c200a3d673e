"""C21: locales, terminals, characters that a terminal obeys, and a viewer that is stopped."""

import re
import signal

from harness import Case

from .harm import TINY, fail
from .words import rewritten



def sleep_run(place):
    place.run_copy("sleep")


def ascii_alone(place, outcome):
    bad = [byte for byte in outcome.out if byte >= 0x80]
    at = next((i for i, byte in enumerate(outcome.out) if byte >= 0x80), 0)
    assert not bad, f"{len(bad)} bytes that an ASCII terminal can't show: {outcome.out[at - 20:at + 10]}"


def no_colour(place, outcome):
    colour = re.search(rb"\x1b\[(?:[0-9;]*;)?(?:3[0-8]|4[0-8]|9[0-7])[;m]", outcome.out)
    assert not colour, f"colours: {colour.group()}"


QUIT = [(1.2, b"q"), (1.8, b"q")]


def terminal_cases():
    for locale in ("C", "POSIX", "en_US.ISO-8859-1", "de_DE.ISO8859-15"):
        yield Case("C21", f"replay with LC_ALL={locale}", ["attach", "{dir}/r"], keys=QUIT,
                   setup=sleep_run, env={"LC_ALL": locale}, check=ascii_alone, codes=(0,))
    yield Case("C21", "attach with LANG=C alone", ["attach", "{dir}/r"], keys=QUIT, codes=(0,),
               setup=sleep_run, env={"LC_ALL": None, "LANG": "C"}, check=ascii_alone)
    yield Case("C21", "attach with an empty LC_ALL and LANG=C.UTF-8", ["attach", "{dir}/r"],
               keys=QUIT, setup=sleep_run, env={"LC_ALL": "", "LANG": "C.UTF-8"}, codes=(0,),
               check=lambda p, o: any(b >= 0x80 for b in o.out) or fail("UTF-8 was not used"))
    for term in ("vt100", "vt220", "linux", "dumb", "xterm", "screen", "tmux-256color", "unknown",
                 ""):
        check = no_colour if term in ("vt100", "vt220") else None
        yield Case("C21", f"attach with TERM={term}", ["attach", "{dir}/r"],
                   keys=QUIT, setup=sleep_run, env={"TERM": term}, check=check, codes=(0, 2))
    yield Case("C21", "attach without TERM", ["attach", "{dir}/r"], keys=QUIT, setup=sleep_run,
               env={"TERM": None}, codes=(0, 2))
    yield Case("C21", "attach with NO_COLOR", ["attach", "{dir}/r"], keys=QUIT, setup=sleep_run,
               env={"NO_COLOR": "1"}, check=no_colour, codes=(0,))
    for size in ((1, 1), (2, 2), (10, 3), (20, 5), (40, 12), (300, 100), (1000, 2)):
        yield Case("C21", f"demo at {size[0]}x{size[1]}", ["demo"], size=size,
                   keys=[(0.5, b"123456?"), (0.9, b"\x1b"), (1.1, b"2hhhjjzzee"), (1.5, b"\x1b"),
                         (1.8, b"q"), (2.4, b"q"), (3.0, b"\r")], codes=(0,))
    # Without Ctrl-Z, which stops it until a shell lets it go on.
    noise = bytes(byte for byte in range(256) if byte != 0x1A) * 4
    yield Case("C21", "demo with every byte typed", ["demo"],
               keys=[(0.5, noise), (1.5, b"\x1b"), (2.0, b"\x1b"), (2.4, b"q"), (2.8, b"q")],
               codes=(0, 2, 130), signals=[(6.0, signal.SIGTERM)])


def stop_cases():
    yield Case("C21", "attach goes on after SIGSTOP and SIGCONT", ["attach", "{dir}/r"],
               setup=sleep_run, keys=[(2.0, b"q"), (2.5, b"q")], codes=(0,),
               signals=[(0.7, signal.SIGSTOP), (1.2, signal.SIGCONT)])
    for sig in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        yield Case("C21", f"attach ends on {sig.name}", ["attach", "{dir}/r"], setup=sleep_run,
                   keys=[], signals=[(0.8, sig)], codes=(0,))
    yield Case("C21", "attach ends on SIGTERM after SIGSTOP", ["attach", "{dir}/r"],
               setup=sleep_run, keys=[],
               signals=[(0.7, signal.SIGSTOP), (1.0, signal.SIGTERM), (1.2, signal.SIGCONT)],
               codes=(0,))
    yield Case("C21", "demo ends on SIGTERM", ["demo"], keys=[], signals=[(0.8, signal.SIGTERM)],
               codes=(0,))


def evil(text):
    """Every text of a log is this one."""
    def change(at, event):
        def put(value, key=""):
            if isinstance(value, str):
                keep = ("ev", "op", "loss_bits", "schedule", "host")
                return value if key in keep else text + value
            if isinstance(value, list) and key != "plan":
                return [put(item) for item in value]
            if isinstance(value, dict):
                return {k: put(v, k) for k, v in value.items()}
            return value
        return put(event)
    return rewritten("gpt", change)


def character_cases():
    texts = {
        "C0": "\x1b[31m\x07\x08",
        "C1": "\u009b31m\u0085\u009d0;x\u009c",
        "bidi": "\u202eabc\u2066x\u2069",
        "wide": "学習🚀ｘ",
        "combining": "e\u0301\u0302\u200d",
        "separators": "\u2028\u2029\ufeff",
        "markup": "<a>&\"']]>",
        "quotes": "a\",b;c\\\n",
    }
    outputs = {
        "snapshot": ["snapshot", "{dir}/r"],
        "the log": ["snapshot", "{dir}/r", "--view", "log"],
        "snapshot --svg": ["snapshot", "{dir}/r", "--svg"],
        "snapshot --json": ["snapshot", "{dir}/r", "--json"],
        "snapshot --csv": ["snapshot", "{dir}/r", "--csv"],
        "report": ["report", "{dir}/r"],
        "attach --plain": ["attach", "{dir}/r", "--once", "--plain"],
        "attach --json": ["attach", "{dir}/r", "--once", "--json"],
        "export csv": ["export", "csv", "{dir}/r"],
        "export svg": ["export", "svg", "{dir}/r"],
        "export chrome-trace": ["export", "chrome-trace", "{dir}/r"],
        "export prometheus": ["export", "prometheus", "{dir}/r"],
        "runs info": ["runs", "info", "{dir}/r"],
    }
    for kind, text in texts.items():
        for name, argv in outputs.items():
            yield Case("C21", f"{name} of a log with {kind}", argv, setup=evil(text), codes=(0, 1))
    for kind in ("C1", "bidi", "C0"):
        yield Case("C21", f"a folder's name with {kind}",
                   lambda p, t=texts[kind]: [*TINY, "--run-dir", "r" + t.replace("\n", "")],
                   codes=(0, 2))
        yield Case("C21", f"attach in a terminal to a log with {kind}", ["attach", "{dir}/r"],
                   setup=evil(texts[kind]), keys=[(0.9, b"6"), (1.4, b"q"), (1.9, b"q")],
                   codes=(0, 1), check=lambda p, o: b"\xc2\x9b" not in o.out
                   and "\u202e".encode() not in o.out or fail("it reached the terminal"))


def list_cases():
    """`pptop` alone, where no run is live."""
    def kept(place):
        for at in range(12):
            place.run_copy(("sleep", "gpt", "wine")[at % 3], f"state/runs/run-{at:02}")

    yield Case("D25", "pptop alone, moving about", [], setup=kept, codes=(0,),
               keys=[(0.6, b"jjk"), (0.9, b"/gpt\r"), (1.2, b"\x1b"), (1.5, b"\x1b[6~"),
                     (1.8, b"\x1b"), (2.1, b"q"), (2.6, b"q")])
    for keys in (b"x\r", b"d\r", b"\x7f\r", b"\x1b[3~\r", b"fix this\n", b"dd\n\nyy\n"):
        yield Case("D25", f"pptop alone, {keys!r} deletes nothing", [], setup=kept, codes=(0,),
                   keys=[(0.6, keys), (1.4, b"\x1b"), (1.7, b"\x1b"), (2.0, b"q"), (2.5, b"q"),
                         (3.0, b"\x1b"), (3.3, b"q"), (3.8, b"q")],
                   check=lambda p, _: len(list(p.path("state/runs").iterdir())) == 12
                   or fail("a run went"))
    yield Case("D25", "pptop alone without any run", [], keys=[(1.0, b"q"), (1.5, b"q")],
               codes=(0, 2))
    yield Case("D25", "runs list fits 80 columns", ["runs", "list"], setup=kept, codes=(0,),
               env={"COLUMNS": "80"}, check=lambda p, o: max(map(len, o.out.decode().splitlines()))
               <= 80 or fail("it is wider"))


def odd_log_cases():
    """A log that somebody else wrote: less in it than ours has."""
    def bare(at, event):
        if event.get("ev") == "hello":
            return {"ev": "hello", "schema": 1, "run": "bare", "pid": 1, "model": "m",
                    "schedule": "own", "pp": 2, "dp": 1, "micro_batches": 4, "steps": 4}
        return event

    for view in ("overview", "timeline", "devices", "loss", "bubble", "log"):
        yield Case("C21", f"the {view} of a log that says little",
                   ["snapshot", "{dir}/r", "--view", view], setup=rewritten("sleep", bare),
                   codes=(0,))


def cases():
    yield from terminal_cases()
    yield from stop_cases()
    yield from character_cases()
    yield from list_cases()
    yield from odd_log_cases()

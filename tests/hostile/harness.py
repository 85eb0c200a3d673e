"""Runs one invocation of `pptop` in a place of its own, and checks what must hold for every one.

Whatever the arguments, files and signals are: no panic, no more than ten seconds, no more than
2 GiB, an exit code that means something, and no control character on standard output or error.
A case adds what it expects besides.
"""

import concurrent.futures
import fcntl
import os
import pathlib
import pty
import re
import resource
import select
import shutil
import signal
import struct
import subprocess
import tempfile
import termios
import threading
import time

SECONDS_MAX = 10.0
RSS_MAX = 2 << 30
# What is kept of an output: a case that prints more is still run to its end.
KEPT_BYTES = 8 << 20

# Everything that a terminal obeys or that reorders text, but for line feeds and tabs.
CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]"
)
DEFAULT_SIGNALS = [
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGPIPE,
    signal.SIGUSR1, signal.SIGUSR2, signal.SIGXFSZ, signal.SIGTSTP,
]


class Case:
    """One invocation, and what is expected of it.

    number   the number in the list of what people ran into, such as "A3"
    name     unique, in words
    argv     arguments as str or bytes; a callable gets the place and returns them
    codes    exit codes that are accepted
    says     a regular expression that standard output and error together must match
    silent   a regular expression that neither may match
    setup    called with the place before
    check    called with the place and the outcome afterwards; raises AssertionError
    env      variables besides the usual ones; None removes one
    stdin    bytes, or None for an empty input
    signals  [(seconds, signal)]: what is sent to the process, and when
    keys     [(seconds, bytes)]: the case runs in a terminal and these are typed
    size     columns and rows of that terminal
    umask    of the process
    limits   {resource: bytes}
    ignored  signals that the process starts with ignored
    """

    def __init__(self, number, name, argv, codes=(0, 1, 2), says=None, silent=None, setup=None,
                 check=None, env=None, stdin=None, signals=(), keys=None, size=(80, 24),
                 umask=0o022, limits=None, ignored=(), cwd=None):
        self.number, self.name, self.argv = number, name, argv
        self.codes, self.says, self.silent = tuple(codes), says, silent
        self.setup, self.check, self.env, self.stdin = setup, check, env or {}, stdin
        self.signals, self.keys, self.size = tuple(signals), keys, size
        self.umask, self.limits, self.ignored, self.cwd = umask, limits or {}, ignored, cwd


class Outcome:
    """How an invocation ended."""

    def __init__(self, code, signal_, out, err, seconds, rss, timed_out):
        self.code, self.signal = code, signal_
        self.out, self.err = out, err
        self.seconds, self.rss, self.timed_out = seconds, rss, timed_out

    @property
    def text(self):
        return self.out.decode("utf-8", "replace") + self.err.decode("utf-8", "replace")


class Place:
    """A folder of one case, with a home, a state directory and a folder for sockets."""

    def __init__(self, root, program, world):
        self.dir, self.program, self.world = pathlib.Path(root), program, world
        for name in ("home", "state", "run", "tmp"):
            (self.dir / name).mkdir()
        (self.dir / "run").chmod(0o700)
        self.background = []

    def path(self, name):
        return self.dir / name

    def write(self, name, content):
        path = self.dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def run_copy(self, which, name="r"):
        """A copy of a run that was recorded before, as a folder of the place."""
        target = self.dir / name
        shutil.copytree(self.world.runs[which], target)
        return target

    def env(self, case=None):
        env = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": str(self.dir / "home"),
            "PPTOP_STATE_DIR": str(self.dir / "state"),
            "PPTOP_DEVICE": "cpu",
            "XDG_RUNTIME_DIR": str(self.dir / "run"),
            "TMPDIR": str(self.dir / "tmp"),
            "TERM": "xterm-256color",
            "LC_ALL": "C.UTF-8",
        }
        for key, value in (case.env if case else {}).items():
            if value is None:
                env.pop(key, None)
            else:
                env[key] = value.format(dir=self.dir) if isinstance(value, str) else value
        return env

    def start(self, argv, **kwargs):
        """Starts something that the case needs beside it; it is killed afterwards."""
        process = subprocess.Popen(
            argv, cwd=self.dir, env=kwargs.pop("env", self.env()), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=kwargs.pop("stdout", subprocess.DEVNULL),
            stderr=subprocess.DEVNULL, **kwargs)
        self.background.append(process)
        return process

    def pptop(self, *argv, **kwargs):
        """Runs the program to its end, as a part of a set-up."""
        return subprocess.run(
            [self.program, *argv], cwd=self.dir, env=self.env(), stdin=subprocess.DEVNULL,
            capture_output=True, timeout=60, check=False, **kwargs)

    def wait_for(self, what, seconds=8.0):
        """Waits until `what()` is true."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if what():
                return
            time.sleep(0.02)
        raise AssertionError("the set-up did not come about in time")

    def close(self):
        for process in self.background:
            try:
                os.killpg(process.pid, signal.SIGCONT)
                os.killpg(process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
            process.wait()


def before_exec(case, control_terminal):
    """What happens in the child between fork and exec: default dispositions, umask, limits."""
    def prepare():
        for sig in DEFAULT_SIGNALS:
            signal.signal(sig, signal.SIG_IGN if sig in case.ignored else signal.SIG_DFL)
        os.umask(case.umask)
        for which, most in case.limits.items():
            resource.setrlimit(which, (most, most))
        if control_terminal:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    return prepare


def reader(stream, kept):
    """Keeps the beginning of a stream and reads the rest away."""
    while True:
        try:
            piece = os.read(stream, 1 << 16)
        except OSError:
            return
        if not piece:
            return
        if len(kept) < KEPT_BYTES:
            kept += piece


def execute(case, place):
    argv = case.argv(place) if callable(case.argv) else case.argv
    # str.format would trip over the braces of JSON.
    argv = [a.replace("{dir}", str(place.dir)) if isinstance(a, str) else a for a in argv]
    command = [os.fsencode(place.program), *[os.fsencode(a) for a in argv]]
    out, err = bytearray(), bytearray()
    began = time.monotonic()
    cwd = place.dir / case.cwd if case.cwd else place.dir
    threads = []
    if case.keys is None:
        process = subprocess.Popen(
            command, cwd=cwd, env=place.env(case), start_new_session=True,
            stdin=subprocess.PIPE if case.stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=before_exec(case, False))
        if case.stdin is not None:
            def feed():
                try:
                    process.stdin.write(case.stdin)
                    process.stdin.close()
                except OSError:
                    pass
            threads.append(threading.Thread(target=feed, daemon=True))
        threads += [threading.Thread(target=reader, args=(s.fileno(), k), daemon=True)
                    for s, k in ((process.stdout, out), (process.stderr, err))]
        master = None
    else:
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", case.size[1], case.size[0], 0, 0))
        process = subprocess.Popen(
            command, cwd=cwd, env=place.env(case), start_new_session=True,
            stdin=slave, stdout=slave, stderr=slave, preexec_fn=before_exec(case, True))
        os.close(slave)
        threads.append(threading.Thread(target=reader, args=(master, out), daemon=True))
    for thread in threads:
        thread.start()
    todo = sorted([(at, "signal", what) for at, what in case.signals]
                  + [(at, "keys", what) for at, what in case.keys or []], key=lambda x: x[0])
    timed_out, usage, status = False, None, None
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        now = time.monotonic() - began
        while todo and todo[0][0] <= now:
            _, kind, what = todo.pop(0)
            if kind == "signal":
                try:
                    os.kill(process.pid, what)
                except ProcessLookupError:
                    pass
            else:
                try:
                    os.write(master, what)
                except OSError:
                    pass
        if now > SECONDS_MAX:
            timed_out = True
            os.killpg(process.pid, signal.SIGKILL)
            _, status, usage = os.wait4(process.pid, 0)
            break
        time.sleep(0.004)
    seconds = time.monotonic() - began
    process.returncode = 0
    # What the process left behind must not hold the pipes open for the cases after it.
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    for thread in threads:
        thread.join(timeout=2.0)
    if master is not None:
        os.close(master)
    else:
        process.stdout.close()
        process.stderr.close()
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
    sig = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    return Outcome(code, sig, bytes(out), bytes(err), seconds, usage.ru_maxrss * 1024, timed_out)


def faults(case, place, outcome):
    """What is wrong with an outcome, as sentences."""
    wrong = []
    sent = {sig for _, sig in case.signals}
    accepted = set(case.codes) | {128 + sig for sig in sent}
    if outcome.timed_out:
        wrong.append(f"did not end within {SECONDS_MAX:.0f} s")
    elif outcome.signal is not None and outcome.signal not in sent:
        wrong.append(f"was killed by signal {outcome.signal}")
    elif outcome.code is not None and outcome.code not in accepted:
        wrong.append(f"exit code {outcome.code}, expected one of {sorted(accepted)}")
    if outcome.rss > RSS_MAX:
        wrong.append(f"took {outcome.rss / 2**20:.0f} MiB")
    if re.search(r"panicked at|RUST_BACKTRACE|stack overflow|memory allocation of", outcome.text):
        wrong.append("panicked")
    if case.keys is None:
        for stream, name in ((outcome.out, "standard output"), (outcome.err, "standard error")):
            try:
                text = stream.decode("utf-8")
            except UnicodeDecodeError as error:
                # The kept part may end within a character.
                if len(stream) < KEPT_BYTES:
                    wrong.append(f"{name} is not UTF-8: {error}")
                text = stream.decode("utf-8", "replace")
            found = CONTROL.search(text)
            if found:
                wrong.append(f"U+{ord(found.group()):04X} on {name}")
    if case.says and not re.search(case.says, outcome.text, re.S):
        wrong.append(f"does not say /{case.says}/")
    if case.silent and (found := re.search(case.silent, outcome.text)):
        wrong.append(f"says {found.group()!r}")
    # `doctor` says what fails on standard output: that is its work.
    is_silent = not outcome.err.strip() and not (outcome.out.strip() and isinstance(case.argv, list) and "doctor" in case.argv)
    if outcome.code == 2 and case.keys is None and is_silent:
        wrong.append("refuses without a word")
    if case.check and not outcome.timed_out:
        try:
            case.check(place, outcome)
        except AssertionError as error:
            wrong.append(str(error) or "the check after it failed")
    return wrong


def run_case(case, program, world, root):
    place_dir = tempfile.mkdtemp(dir=root, prefix=f"{case.number}-")
    place = Place(place_dir, program, world)
    try:
        if case.setup:
            case.setup(place)
        outcome = execute(case, place)
        wrong = faults(case, place, outcome)
    except Exception as error:  # noqa: BLE001 - a broken case is a failed case
        return case, None, [f"the case itself failed: {type(error).__name__}: {error}"]
    finally:
        place.close()
        for folder, _, _ in os.walk(place_dir):
            try:
                os.chmod(folder, 0o700)
            except OSError:
                pass
        shutil.rmtree(place_dir, ignore_errors=True)
    return case, outcome, wrong


def run_all(cases, program, world, root, at_once):
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        yield from pool.map(lambda case: run_case(case, program, world, root), cases)

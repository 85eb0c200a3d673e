"""Writes the file of one rank: what it did, and when.

Each process of a job writes a file of its own, ``rank-R.jsonl``, and only ever appends to it.
``pptop`` merges the files of all ranks. The format is described in ``docs/log-format.md``.

The job never waits for the disk: a call puts its event into a queue, and a thread writes the
queue. If the queue is full, events are dropped and counted. If the disk is full, recording stops
and the job goes on.
"""

from __future__ import annotations

import atexit
import errno
import json
import math
import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, Callable, NoReturn, Union

__all__ = ["OPS", "SCHEMA", "RankInfo", "Recorder"]

#: The major version of the format.
SCHEMA = 1
#: What a span can be: F, B, I and W compute; the others move data, wait, or belong to the step.
OPS = (
    "F",
    "B",
    "I",
    "W",
    "send",
    "recv",
    "wait_act",
    "wait_grad",
    "all_reduce",
    "optim",
    "checkpoint",
    "data",
)
#: Events that wait to be written, at most.
QUEUE_MAX = 1 << 16
#: Seconds between two writes.
WRITE_EVERY = 1.0
#: Lines that are written at once.
PIECE = 64
#: Seconds for which the end of a process waits for its file.
CLOSE_SECONDS = 5.0
#: Seconds between two looks at the thread of the rank.
LOOK_EVERY = 1.0
#: How many files of the same rank may lie in a folder: one for each job that wrote there.
FILES_MAX = 10_000

#: Step, stage, micro-batch, operation, start, duration, processor time, bytes, time without a core.
_Span = tuple[int, int, int, str, int, int, int, int, int]
#: An operation of the rank: step, stage, micro-batch, operation, start, end, time without a core,
#: and ``None`` as soon as its end stays as it is. It is a list of its own for speed.
Work = list[Any]
#: A span, an operation, the keys of a line that the writing thread formats, or a line as it is
#: written.
_Item = Union[_Span, Work, dict[str, Any], str]


#: A span as it is written: readers are fast if keys come in this order.
_TEMPLATE = (
    '{"ev":"span","step":%d,"replica":0,"rank":RANK,"stage":%d,"mb":%d,"op":"%s","start_ns":%d,'
    '"dur_ns":%d,"cpu_ns":%d,"bytes":%d,"starved_ns":%d}\n'
)


@dataclass
class RankInfo:
    """What the rank is, for the first line of its file.

    Only ``rank`` and ``pp`` are required. What is left out is shown as not told.
    """

    #: The place of the rank in its pipeline, from 0.
    rank: int
    #: Ranks of the pipeline.
    pp: int
    #: The global ranks of the pipeline in their order: what tells one replica from another.
    pipeline: Sequence[int] = ()
    #: The global rank, which names the file. By default that of ``pipeline``, else ``rank``.
    global_rank: int | None = None
    #: Ranks of the whole job.
    world_size: int | None = None
    #: The framework with its version, such as ``torch 2.15.0``.
    program: str = ""
    #: The name of the schedule in the framework, such as ``Schedule1F1B``.
    schedule: str = ""
    #: The name of the model.
    model: str = ""
    #: Stages of the whole pipeline.
    n_stages: int | None = None
    #: Micro-batches of a step.
    micro_batches: int | None = None
    #: Planned steps.
    steps: int | None = None
    #: The stages of this rank: ``stage``, and ``parameters`` and ``parameter_bytes`` where known.
    stages: Sequence[Mapping[str, int]] = ()
    #: The device: ``cpu`` or ``cuda:0``.
    device: str = "cpu"
    #: The driver's permanent name for a GPU, and its address on the bus.
    uuid: str | None = None
    pci: str | None = None
    #: ``host``, or ``device`` where spans are timed on a GPU.
    clock: str = "host"
    #: Anything else that should stand in the first line.
    more: Mapping[str, Any] = field(default_factory=dict)

    def number(self) -> int:
        """The number in the name of the file."""
        if self.global_rank is not None:
            return self.global_rank
        if self.rank < len(self.pipeline):
            return self.pipeline[self.rank]
        return self.rank


class Recorder:
    """Writes the file of one rank.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Recorder(folder, RankInfo(rank=0, pp=1)) as recorder:
    ...         recorder.begin_step(1)
    ...         began = recorder.now()
    ...         recorder.span("F", stage=0, mb=0, start_ns=began, dur_ns=recorder.now() - began)
    ...         recorder.end_step(loss=0.5)
    ...     os.path.basename(recorder.path)
    'rank-0.jsonl'

    No method raises for anything that the disk does, and none waits for it but :meth:`close`.
    """

    def __init__(self, folder: str, info: RankInfo, queue_max: int = QUEUE_MAX) -> None:
        self.folder = os.path.abspath(folder)
        self.info = info
        #: The file, or an empty text if it could not be made.
        self.path = ""
        #: Why nothing is written any more.
        self.failure: str | None = None
        self.n_dropped = 0
        #: The present step; 0 before the first.
        self.step = 0
        self._queue: deque[_Item] = deque()
        #: Operations from the queue that have no line yet.
        self._held: list[Work] = []
        self._template = _TEMPLATE.replace("RANK", str(info.rank))
        self._queue_max = queue_max
        self._fd = -1
        self._pid = os.getpid()
        self._is_closed = False
        self._n_dropped_told = 0
        self._rest = b""
        self._last = b""
        self._step_began = 0
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._tid = threading.get_native_id()
        self._ending: tuple[int, str] = (0, "finished")
        self._is_leaving = False
        #: Called by the writing thread before each write, such as to look at events of a GPU.
        self.before_write: Callable[[], None] | None = None
        #: Called by :meth:`close` first, such as to end a step.
        self.before_close: Callable[[], None] | None = None
        self._open()

    # What a job calls.

    @staticmethod
    def now() -> int:
        """The clock of all times in the file: nanoseconds of the system's monotonic clock."""
        return time.monotonic_ns()

    def begin_step(self, step: int, start_ns: int | None = None) -> None:
        """Begins a step; one that is still open ends here."""
        start_ns = self.now() if start_ns is None else start_ns
        self.end_step(end_ns=start_ns)
        self.goes_on(step)
        self._step_began = start_ns

    def goes_on(self, step: int) -> None:
        """A step begins, so nobody has left."""
        self.step = step
        if self._is_leaving:
            self._is_leaving, self._ending = False, (0, "finished")

    def span(
        self,
        op: str,
        stage: int,
        mb: int,
        start_ns: int,
        dur_ns: int,
        cpu_ns: int = 0,
        bytes: int = 0,
        starved_ns: int = 0,
        step: int | None = None,
    ) -> None:
        """Records what the rank did for a while; ``op`` is one of :data:`OPS`."""
        step = self.step if step is None else step
        self.put((step, stage, mb, op, start_ns, dur_ns, cpu_ns, bytes, starved_ns))

    def end_step(self, end_ns: int | None = None, **told: float | None) -> None:
        """Ends the present step, if one is open.

        ``told`` is what is known of it: ``loss``, ``samples``, ``tokens``, ``lr``, ``grad_norm``.
        """
        if self._step_began:
            end_ns = self.now() if end_ns is None else end_ns
            self.step_line(self.step, self._step_began, end_ns, **told)
            self._step_began = 0

    def step_line(self, step: int, start_ns: int, end_ns: int, **told: float | None) -> None:
        """Records a whole step, after its spans. What is ``None`` is not told."""
        keys = {"ev": "rank_step", "step": step, "start_ns": start_ns, "end_ns": end_ns}
        self.put({**keys, **{key: value for key, value in told.items() if value is not None}})

    def memory(self, live_bytes: int, peak_bytes: int, **more: int) -> None:
        """Records the memory of the rank: bytes in tensors now, and at most so far."""
        self.line("mem", step=self.step, live_bytes=live_bytes, peak_bytes=peak_bytes, **more)

    def log(self, message: str) -> None:
        """Records a message of one line."""
        self.line("log", elapsed_ns=self.now(), message=message)

    def warn(self, message: str) -> None:
        """Records a warning of one line."""
        self.line("warn", elapsed_ns=self.now(), message=message)

    def line(self, ev: str, **keys: Any) -> None:
        """Records any line of the format."""
        self.put(_json({"ev": ev, **keys}))

    def failed(self, code: int, reason: str) -> None:
        """Says that the job fails, and why, before :meth:`close`."""
        self._ending = (code, reason)

    def exits(self, code: int) -> None:
        """Notes an exit code, unless more is known. If steps follow, somebody has caught it."""
        if self._ending[0] == 0:
            self._ending = (code, f"exit code {code}")
            self._is_leaving = True

    def close(self) -> None:
        """Writes what is in the queue and the last line. Later calls do nothing.

        If the disk hangs, this waits for it, but only for some seconds.
        """
        self._close(CLOSE_SECONDS)

    def _close(self, seconds: float) -> None:
        if os.getpid() != self._pid:
            return
        if not self._is_closed:
            try:
                if self.before_close is not None:
                    self.before_close()
                self.end_step()
            except Exception as error:
                self.failed(1, f"recording stopped: {_excerpt(error)}")
            code, reason = self._ending
            now = self.now()
            last = _json({"ev": "rank_end", "elapsed_ns": now, "code": code, "reason": reason})
            self._last = last.encode()
            self._is_closed = True
            self._wake.set()
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            _LIVE.discard(self)
        elif seconds > 0.0:
            # The thread writes the rest and the last line.
            thread.join(timeout=seconds)
            _LIVE.discard(self)

    def give_up(self, why: str) -> None:
        """Ends the recording, but not the job: the last line says why."""
        self.failed(1, why)
        # The job is not held up for that.
        self._close(0.0)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.failed(1, _excerpt(error))
        self.close()

    @property
    def is_live(self) -> bool:
        """Whether what is recorded is written."""
        return self._fd >= 0 and self.failure is None and not self._is_closed

    # The queue and the file.

    def put(self, item: _Item) -> None:
        """Queues a span, an operation or a line. Nobody may change it from now on, but for the
        end of an operation that is open."""
        if len(self._queue) < self._queue_max and self._fd >= 0:
            self._queue.append(item)
        else:
            self.n_dropped += 1

    def _open(self) -> None:
        number = self.info.number()
        try:
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
            self.path, self._fd = _new_file(self.folder, number)
        except OSError as error:
            self._fail(f"cannot record in {self.folder}: {error.strerror or error}")
            return
        self.put(self._first_line())
        self._drain()
        _LIVE.add(self)
        self._thread = threading.Thread(target=self._write_on, name="pptop-log", daemon=True)
        self._thread.start()
        _register_exit()

    def _first_line(self) -> str:
        line: dict[str, Any] = {"ev": "rank", "schema": SCHEMA}
        keys = asdict(self.info)
        keys["pipeline"] = list(keys["pipeline"])
        keys["stages"] = [dict(stage) for stage in keys["stages"]]
        line.update(keys.pop("more"))
        line.update({key: value for key, value in keys.items() if value not in (None, "", [])})
        line["pid"] = self._pid
        line["pid_began"] = _process_began()
        line["boot"] = _first_word("/proc/sys/kernel/random/boot_id")
        line["pid_namespace"] = _namespace()
        line["host"] = socket.gethostname()
        line["argv"] = [*sys.argv[:64]]
        line["job"] = job_key()
        line["elapsed_ns"] = self.now()
        line["unix_ns"] = time.time_ns()
        return _json(line)

    def _write_on(self) -> None:
        looked = 0.0
        try:
            while not self._is_closed:
                self._wake.wait(WRITE_EVERY)
                if os.getpid() != self._pid:
                    return
                if not self._is_closed and time.monotonic() - looked >= LOOK_EVERY:
                    looked = time.monotonic()
                    self._look_at_thread()
                self._drain()
            self._drain()
            if self.failure is None:
                self._write(self._last)
        except Exception as error:
            self._fail(f"recording stopped: {_excerpt(error)}")
        finally:
            if os.getpid() == self._pid and self._is_closed and self._fd >= 0:
                fd, self._fd = self._fd, -1
                os.close(fd)

    def _look_at_thread(self) -> None:
        seen = _thread_times(self._tid)
        if seen is not None:
            self.line("cpu", elapsed_ns=self.now(), **seen)

    def _drain(self) -> None:
        """Writes what is in the queue."""
        before_write = self.before_write
        if before_write is not None:
            try:
                before_write()
            except Exception as error:
                # The device has failed; what is known without it is written.
                self.before_write = None
                self.warn(f"no more times of the device: {_excerpt(error)}")
        queue, template = self._queue, self._template
        while (queue or self._held) and self.failure is None:
            # In pieces, between which the job's thread gets its turn.
            lines: list[str] = []
            for _ in range(min(len(queue), PIECE)):
                item = queue.popleft()
                if isinstance(item, list):
                    self._held.append(item)
                    continue
                # What is over by now came before this.
                self._release(lines)
                if isinstance(item, tuple):
                    lines.append(template % item)
                else:
                    lines.append(item if isinstance(item, str) else _json(item))
            self._release(lines)
            if not lines and not queue:
                break
            self._write("".join(lines).encode())
        if self.n_dropped > self._n_dropped_told and self.failure is None:
            self._n_dropped_told = self.n_dropped
            line = _json({"ev": "dropped", "elapsed_ns": self.now(), "count": self.n_dropped})
            self._write(line.encode())

    def _release(self, lines: list[str]) -> None:
        """Makes lines of the operations whose end stays as it is."""
        still_open = []
        for work in self._held:
            step, stage, mb, op, start, end, starved, lane = work
            if lane is not None and not self._is_closed:
                still_open.append(work)
            else:
                span = (step, stage, mb, op, start, end - start, 0, 0, starved)
                lines.append(self._template % span)
        self._held = still_open

    def _write(self, text: bytes) -> None:
        # What was written in part before comes first, so that lines stay whole.
        text = self._rest + text
        self._rest = b""
        while text:
            try:
                n_written = os.write(self._fd, text)
            except InterruptedError:
                continue
            except OSError as error:
                self._rest = text
                self._fail(f"recording stopped: cannot write {self.path}: {error.strerror}")
                return
            text = text[n_written:]

    def _fail(self, why: str) -> None:
        if self.failure is None:
            self.failure = why
            self._queue.clear()
            say(f"{why}; the job goes on")

    def _forget(self) -> None:
        """In a child of ``fork``: the file belongs to the parent."""
        self._is_closed = True
        self.failure = "this is a forked child"
        self._queue.clear()
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with _quiet():
                os.close(fd)


class _quiet:
    """Nothing that goes wrong here may reach the job."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        return error is None or isinstance(error, (OSError, ValueError, AttributeError))


def say(what: str) -> None:
    """A line to standard error, if that takes one."""
    with _quiet():
        print(f"pptop-log: {what}", file=sys.stderr)


def job_key() -> str:
    """A text that all ranks of one job share and no other job has, as far as that is known.

    A launcher's own numbers come first. On one machine, the first Python process of the job has
    put its own into the environment (:mod:`pptop_log.start`); on several, each has its own.
    """
    environ = os.environ
    names = ["SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT", "PMIX_NAMESPACE"]
    names += ["TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT"]
    sizes = [
        ("WORLD_SIZE", "LOCAL_WORLD_SIZE"),
        ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"),
        ("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE"),
    ]
    is_here = all(
        environ.get(local, environ.get(all_)) == environ.get(all_) for all_, local in sizes
    )
    first = environ.get("PPTOP_LOG_JOB", "")
    # A process that was started by hand is the first of its own.
    if is_here and first.partition("-")[0] != str(os.getpid()):
        names.append("PPTOP_LOG_JOB")
    return " ".join(f"{name}={environ[name]}" for name in names if environ.get(name))


#: Made once: ``json.dumps`` with these arguments would make an encoder for each line.
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=str).encode


def _json(keys: Mapping[str, Any]) -> str:
    """A line of JSON. What is not finite is null, with a note, as in every log."""
    plain = dict(keys)
    odd: dict[str, str] = {}
    for key, value in keys.items():
        if isinstance(value, float) and not math.isfinite(value):
            plain[key] = None
            odd[key] = "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if odd:
        plain["nonfinite"] = next(iter(odd.values()))
        plain["nonfinite_fields"] = odd
    return _encode(plain) + "\n"


def _new_file(folder: str, number: int) -> tuple[str, int]:
    """Makes a file that nobody else writes: another job may have written to the folder."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    for count in range(FILES_MAX):
        name = f"rank-{number}.jsonl" if count == 0 else f"rank-{number}.{count}.jsonl"
        path = os.path.join(folder, name)
        try:
            fd = os.open(path, flags, 0o600)
        except FileExistsError:
            continue
        return path, fd
    raise OSError(errno.EEXIST, f"it already has {FILES_MAX} files of rank {number}")


def _first_word(path: str) -> str:
    with _quiet(), open(path, encoding="ascii") as file:
        return file.readline().strip()
    return ""


def _process_began() -> int:
    """When this process began, in clock ticks since the boot."""
    with _quiet(), open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
        # The name of the program stands in parentheses and may hold anything.
        fields = file.read().rpartition(")")[2].split()
        return int(fields[19])
    return 0


def _namespace() -> int:
    with _quiet():
        return int(os.readlink("/proc/self/ns/pid").partition("[")[2].rstrip("]"))
    return 0


def _thread_times(tid: int) -> dict[str, int] | None:
    base = f"/proc/self/task/{tid}"
    with _quiet():
        with open(f"{base}/schedstat", encoding="ascii") as file:
            cpu_ns, run_queue_ns = (int(word) for word in file.read().split()[:2])
        with open(f"{base}/status", encoding="utf-8", errors="replace") as file:
            lines = dict(line.split(":", 1) for line in file.read().splitlines() if ":" in line)
        return {
            "cpu_ns": cpu_ns,
            "run_queue_ns": run_queue_ns,
            "voluntary_switches": int(lines["voluntary_ctxt_switches"]),
            "involuntary_switches": int(lines["nonvoluntary_ctxt_switches"]),
        }
    return None


def _excerpt(error: BaseException) -> str:
    """One line about an error."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:500] if text else type(error).__name__


# Ends of processes, and forks.

_LIVE: set[Recorder] = set()
_exit_of: int | None = None


def _close_all() -> None:
    # A child of multiprocessing comes here while its error is on its way.
    error = sys.exc_info()[1]
    for recorder in list(_LIVE):
        if error is not None and not isinstance(error, SystemExit):
            recorder.failed(1, _excerpt(error))
        recorder.close()


def _register_exit() -> None:
    global _exit_of
    if _exit_of == os.getpid():
        return
    _exit_of = os.getpid()
    atexit.register(_close_all)
    earlier = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        for recorder in list(_LIVE):
            recorder.failed(1, _excerpt(error))
        earlier(kind, error, trace)

    sys.excepthook = hook
    exit_earlier = sys.exit

    # A child of multiprocessing or of torch's spawn tells its failure by this call alone.
    def exit_noted(status: Any = None) -> NoReturn:
        if status not in (None, 0) and threading.current_thread() is threading.main_thread():
            code = status if isinstance(status, int) else 1
            for recorder in list(_LIVE):
                recorder.exits(code)
        exit_earlier(status)

    sys.exit = exit_noted
    # A child that multiprocessing has forked leaves without atexit, but runs its finalizers.
    if "multiprocessing.util" in sys.modules:
        from multiprocessing.util import Finalize

        Finalize(None, _close_all, exitpriority=0)


def _after_fork() -> None:
    for recorder in list(_LIVE):
        recorder._forget()
    _LIVE.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

"""From the calls of a framework to spans: what is common to all adapters.

An adapter tells a :class:`Watch` when a step begins, which operation a call is, and when the rank
waits. The watch times them, gives each wait the name of the operation that follows it, and hands
all of it to a :class:`~pptop_log.recorder.Recorder`.

Nothing that fails here may fail the job: an error of ours ends the recording with one warning.
"""

from __future__ import annotations

import functools
import os
import time
from threading import get_ident
from typing import Any, Callable, TypeVar

from pptop_log.clocks import Clock, HostClock, Moment, ThreadTimes
from pptop_log.recorder import RankInfo, Recorder, Work, say

__all__ = ["Watch", "run_folder"]

T = TypeVar("T")
#: Seconds for which the end of a process waits for its device, at most.
FINISH_SECONDS = 2.0
#: Nanoseconds between two readings of the time without a core, which cost some microseconds.
READ_EVERY_NS = 50_000_000


def run_folder() -> str | None:
    """The folder that the environment names for the files of this job, if it names one.

    ``PPTOP_LOG_DIR`` names it. With ``PPTOP_LOG=1`` it is a new one among the runs of ``pptop``;
    the first Python process of a job chooses it, and hands it on in ``PPTOP_LOG_DIR``.
    """
    named = os.environ.get("PPTOP_LOG_DIR")
    if named:
        return named
    if os.environ.get("PPTOP_LOG", "0") in ("", "0"):
        return None
    state = os.environ.get("PPTOP_STATE_DIR")
    if not state:
        base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
        state = os.path.join(base, "pptop")
    if "SLURM_JOB_ID" in os.environ:
        # Its processes are started apart from each other, and all know this number.
        step = os.environ.get("SLURM_STEP_ID", "0")
        name = f"slurm-{os.environ['SLURM_JOB_ID']}-{step}"
    else:
        name = f"job-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.getpid()}"
    return os.path.join(state, "runs", name)


class _Lane:
    """What is under way in one thread."""

    __slots__ = ("depth", "has_fired", "last", "open", "read_at", "starved_ns", "waits")

    def __init__(self) -> None:
        #: The operation that ended last, while what follows may still belong to it.
        self.open: Work | None = None
        #: Waits that have no name yet.
        self.waits: list[tuple[Moment, Moment]] = []
        #: The operation that ended last.
        self.last: Work | None = None
        #: Whether an operation was seen since an adapter reset this.
        self.has_fired = False
        #: The time without a core when it was read last, and when that was.
        self.starved_ns = 0
        self.read_at = 0
        #: How deep in calls that record the thread is.
        self.depth = 0

    @property
    def place(self) -> tuple[int, int]:
        """The stage and micro-batch of the operation that ended last."""
        return (self.last[1], self.last[2]) if self.last is not None else (0, 0)


class Watch:
    """Times what a rank does, for one recorder."""

    # An operation of the job leaves the caches cold, and each look into a dictionary costs more
    # than it seems.
    __slots__ = (
        "_is_blind",
        "_is_host",
        "_lanes",
        "_pid",
        "_step_end",
        "_step_start",
        "_times",
        "_told",
        "clock",
        "folder",
        "is_in_step",
        "is_off",
        "recorder",
        "step",
    )

    def __init__(self, folder: str, clock: Clock | None = None) -> None:
        self.folder = folder
        self.recorder: Recorder | None = None
        self.clock: Clock = clock or HostClock()
        #: The step that is under way, or the last; 0 before the first.
        self.step = 0
        #: Whether calls are recorded now.
        self.is_in_step = False
        #: Whether nothing is recorded any more.
        self.is_off = False
        self._lanes: dict[int, _Lane] = {}
        self._times = ThreadTimes()
        self._is_host = self.clock.name == "host"
        self._step_start: Moment = None
        self._step_end: Moment = None
        self._told: dict[str, Any] = {}
        self._is_blind = False
        self._pid = os.getpid()

    @property
    def lane(self) -> _Lane:
        """What is under way in the present thread."""
        ident = get_ident()
        lane = self._lanes.get(ident)
        if lane is None:
            lane = self._lanes[ident] = _Lane()
        return lane

    # The recorder.

    def is_open(self) -> bool:
        """Whether this process has its file, and may still write it."""
        return self.recorder is not None and self._pid == os.getpid()

    def open(self, info: RankInfo, clock: Clock | None = None) -> None:
        """Opens the file of this rank, at its first step."""
        if self.is_open():
            return
        # A child of fork that trains a pipeline of its own has a file of its own.
        self._pid = os.getpid()
        self.step = 0
        self._lanes = {}
        self._times = ThreadTimes()
        if clock is not None:
            self.clock = clock
        self._is_host = self.clock.name == "host"
        info.clock = self.clock.name
        recorder = Recorder(self.folder, info)
        recorder.before_write = self.clock.poll
        recorder.before_close = self.finish
        self.recorder = recorder

    def give_up(self, error: BaseException) -> None:
        """Ends the recording after an error of ours; the job goes on."""
        if self.is_off:
            return
        self.is_off = True
        self.is_in_step = False
        why = f"recording stopped: {type(error).__name__}: {error}"
        say(f"{why}; the job goes on")
        recorder = self.recorder
        if recorder is not None:
            # So that nobody waits for the rank.
            recorder.before_close = None
            recorder.warn(why)
            recorder.give_up(why)

    def safely(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls something of ours; an error ends the recording."""
        try:
            return call(*args, **kwargs)
        except Exception as error:
            self.give_up(error)
            return None

    # Steps.

    def begin_step(self) -> None:
        """A training step begins; the one before it ends."""
        start = self.clock.mark()
        # The time between two steps, for data and the like, belongs to the earlier one.
        self._close_step(self.clock.mark() if self._step_end is not None else None)
        self.step += 1
        if self.recorder is not None:
            self.recorder.goes_on(self.step)
        self._step_start, self._step_end = start, None
        self._told = {}
        self.is_in_step = True

    def end_calls(self, has_failed: bool = False) -> None:
        """The calls of the step are over; the optimizer and other work may follow."""
        if self.is_off:
            return
        # Operations may have run on other threads, which are gone by now.
        for lane in list(self._lanes.values()):
            self._flush(lane)
            for start, end in lane.waits:
                self._emit("recv", *lane.place, start, end)
            lane.waits = []
        here = self.lane
        has_ops = any(lane.last is not None for lane in self._lanes.values())
        self._lanes = {get_ident(): here}
        self.is_in_step = False
        if has_failed:
            # Its operations stay; the step was never over.
            self._step_start = None
            return
        self._step_end = self.clock.mark()
        if not has_ops and self.step == 1 and self.recorder is not None:
            self.recorder.warn(
                "no operation was seen in the first step: this job computes in functions that are "
                "not known here"
            )

    def tell(self, **told: Any) -> None:
        """Notes the loss and the like of the present step; a value may be a function of nothing
        that is called when the step is over."""
        self._told.update(told)

    def end_moves(self) -> None:
        """What was done since belongs to the step as well."""
        if not self.is_in_step and self._step_end is not None:
            self._step_end = self.clock.mark()

    def close_step(self) -> None:
        """Ends the step after its last span, as no other follows at once."""
        self._close_step(None)

    def _close_step(self, end: Moment) -> None:
        start, last = self._step_start, self._step_end
        if start is None or last is None or self.recorder is None:
            return
        step, told, recorder = self.step, self._told, self.recorder
        self._told, self._step_start, self._step_end = {}, None, None

        def then(times: tuple[int, ...]) -> None:
            known = {key: value() if callable(value) else value for key, value in told.items()}
            recorder.step_line(step, times[0], times[1], **known)

        if not self.clock.emit((start, last if end is None else end), then):
            recorder.n_dropped += 1

    def finish(self) -> None:
        """The process ends: what the device still works on is waited for, but not for long."""
        self.close_step()
        self.clock.finish(FINISH_SECONDS)

    def phase(self, name: str, call: Callable[[], T]) -> T:
        """Runs work that is no training step, such as an evaluation."""
        recorder = self.recorder
        if recorder is None or self.is_off:
            return call()
        start_ns = Recorder.now()
        self.safely(self.close_step)
        keys = {"phase": name, "step": self.step, "start_ns": start_ns, "done": 0, "total": 0}
        recorder.line("phase", elapsed_ns=start_ns, dur_ns=None, **keys)
        try:
            return call()
        finally:
            now = Recorder.now()
            recorder.line("phase", elapsed_ns=now, dur_ns=now - start_ns, **keys)

    # Operations. These are called for each operation, so each call and each look counts.

    def begin(self, op: str, stage: int, mb: int) -> Work | None:
        """An operation begins: F, B, I or W. ``None`` if it cannot be seen."""
        lane = self._lanes.get(get_ident()) or self.lane
        lane.has_fired = True
        clock = self.clock
        if clock.is_capturing:
            self.tell_blind()
            return None
        if lane.open is not None:
            self._flush(lane)
        start = clock.mark()
        if lane.waits:
            kind = "wait_act" if op == "F" else "wait_grad"
            for began, ended in lane.waits:
                self._emit(kind, stage, mb, began, ended)
            lane.waits = []
            # What the thread starved for while it waited is none of the operation's.
            if self._is_host and start - lane.read_at >= READ_EVERY_NS:
                lane.starved_ns, lane.read_at = self._times.starved_ns(), start
        return [self.step, stage, mb, op, start, None, 0, lane]

    def end(self, work: Work | None) -> None:
        """The operation is over."""
        if work is None:
            return
        end = work[5] = self.clock.mark()
        lane = work[7]
        lane.last = lane.open = work
        if not self._is_host:
            return
        if end - lane.read_at >= READ_EVERY_NS:
            starved_ns = self._times.starved_ns()
            # The first reading has nothing to be compared with.
            if lane.read_at:
                work[6] += max(0, starved_ns - lane.starved_ns)
            lane.starved_ns, lane.read_at = starved_ns, end
        recorder = self.recorder
        if recorder is not None:
            recorder.put(work)

    def extend(self, stage: int, mb: int) -> None:
        """What was done since the end of a forward belongs to it."""
        lane = self._lanes.get(get_ident()) or self.lane
        work = lane.open
        if work is not None and work[3] == "F" and work[1] == stage and work[2] == mb:
            work[5] = self.clock.mark()

    def flush(self) -> None:
        """What follows no longer belongs to the operation that ended last."""
        self._flush(self.lane)

    def _flush(self, lane: _Lane) -> None:
        work, lane.open = lane.open, None
        if work is None:
            return
        # The recorder has it since it ended, unless its times were not known.
        work[7] = None
        if not self._is_host:
            _, stage, mb, op, start, end, _, _ = work
            self._emit(op, stage, mb, start, end)

    def waited(self, start: Moment, end: Moment, is_send: bool) -> None:
        """The rank waited, for a send to leave or for something that comes."""
        lane = self.lane
        if is_send:
            self._emit("send", *lane.place, start, end)
        else:
            lane.waits.append((start, end))

    def sent(self, start: Moment, end: Moment, n_bytes: int) -> None:
        """The rank has handed over what the last operation made."""
        self._emit("send", *self.lane.place, start, end, n_bytes)

    def other(self, op: str, stage: int, mb: int, start: Moment, n_bytes: int = 0) -> None:
        """Something else ends now: ``all_reduce``, ``optim``, ``data`` or ``checkpoint``."""
        self._emit(op, stage, mb, start, self.clock.mark(), n_bytes)
        self.end_moves()

    def _emit(
        self,
        op: str,
        stage: int,
        mb: int,
        start: Moment,
        end: Moment,
        n_bytes: int = 0,
        starved_ns: int = 0,
    ) -> None:
        recorder, step = self.recorder, self.step
        if recorder is None or step == 0:
            return
        if self._is_host:
            recorder.put((step, stage, mb, op, start, end - start, 0, n_bytes, starved_ns))
            return

        def then(times: tuple[int, ...]) -> None:
            dur_ns = max(0, times[1] - times[0])
            recorder.span(op, stage, mb, times[0], dur_ns, bytes=n_bytes, step=step)

        if not self.clock.emit((start, end), then):
            recorder.n_dropped += 1

    def tell_blind(self) -> None:
        if not self._is_blind and self.recorder is not None:
            self._is_blind = True
            self.recorder.warn("a CUDA graph is captured: operations inside it are not seen")


#: A hook is given the original function and returns what takes its place.
Hook = Callable[[Callable[..., Any]], Callable[..., Any]]


def patch(holder: Any, name: str, hook: Hook) -> None:
    """Puts a hook around ``holder.name``, once.

    Raises ``AttributeError`` if there is no such name: the framework is of another version.
    """
    original = getattr(holder, name)
    if not hasattr(original, "__pptop_original__"):
        wrapper = functools.wraps(original)(hook(original))
        wrapper.__pptop_original__ = original  # type: ignore[attr-defined]
        setattr(holder, name, wrapper)


#: The frameworks whose functions have hooks in this process.
_hooked: set[str] = set()


def hook_once(framework: str, folder: str, install: Callable[[Watch], None]) -> None:
    """Puts the hooks of a framework in place, once in a process.

    If it has no function of a name that they need, it is of another version: nothing is recorded.
    """
    if framework in _hooked:
        return
    _hooked.add(framework)
    watch = Watch(folder)
    try:
        install(watch)
    except (AttributeError, ImportError) as error:
        watch.give_up(error)


def program_of(package: str) -> str:
    """The name of an installed package, with its version if that is known."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return package

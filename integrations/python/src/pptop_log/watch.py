"""From the calls of a framework to spans: what is common to all adapters.

An adapter tells a :class:`Watch` when a step begins, which operation a call is, and when the rank
waits. The watch times them, gives each wait the name of the operation that follows it, and hands
all of it to a :class:`~pptop_log.recorder.Recorder`.

Nothing that fails here may fail the job: an error ends the recording with one warning.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from typing import Any, Callable, TypeVar

from pptop_log.clocks import Clock, HostClock, Moment, ThreadTimes
from pptop_log.recorder import RankInfo, Recorder

__all__ = ["Watch", "run_folder"]

T = TypeVar("T")
#: Seconds for which the end of a process waits for its device, at most.
FINISH_SECONDS = 2.0


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


class _Open:
    """An operation that has been timed and may still be extended: a forward by its loss."""

    __slots__ = ("cpu_ns", "end", "mb", "op", "read", "stage", "start", "starved_ns")

    def __init__(self, op: str, stage: int, mb: int, start: Moment, read: tuple[int, int]) -> None:
        self.op, self.stage, self.mb, self.start, self.read = op, stage, mb, start, read
        self.end: Moment = None
        self.cpu_ns = self.starved_ns = 0


class _Lane(threading.local):
    """What is under way in one thread."""

    def __init__(self) -> None:
        #: The operation that ended last and is not recorded yet.
        self.open: _Open | None = None
        #: Waits that have no name yet.
        self.waits: list[tuple[Moment, Moment]] = []
        #: The stage and micro-batch of the operation that ended last.
        self.last = (0, 0)
        #: Whether an operation was seen since an adapter reset this.
        self.has_fired = False
        #: How deep in calls that record the thread is.
        self.depth = 0


class Watch:
    """Times what a rank does, for one recorder."""

    def __init__(self, folder: str, clock: Clock | None = None) -> None:
        self.folder = folder
        self.recorder: Recorder | None = None
        self.clock: Clock = clock or HostClock()
        #: The step that is under way, or the last; 0 before the first.
        self.step = 0
        self.is_in_step = False
        self.lane = _Lane()
        self._times = ThreadTimes()
        self._step_start: Moment = None
        self._step_end: Moment = None
        self._told: dict[str, Any] = {}
        self._n_ops = 0
        self._is_off = False
        self._pid = os.getpid()

    # The recorder.

    @property
    def is_on(self) -> bool:
        """Whether anything is recorded."""
        return not self._is_off

    def open(self, info: RankInfo, clock: Clock | None = None) -> None:
        """Opens the file of this rank, at its first step."""
        if self.recorder is not None and self._pid == os.getpid():
            self._is_off = not self.recorder.is_live
            return
        # A child of fork that trains a pipeline of its own has a file of its own.
        self._pid = os.getpid()
        self.step = 0
        self.lane = _Lane()
        self._times = ThreadTimes()
        if clock is not None:
            self.clock = clock
        info.clock = self.clock.name
        recorder = Recorder(self.folder, info)
        recorder.before_write = self.clock.poll
        recorder.before_close = self.finish
        self.recorder = recorder
        self._is_off = not recorder.is_live

    def give_up(self, error: BaseException) -> None:
        """Ends the recording after an error of ours; the job goes on."""
        if self._is_off:
            return
        self._is_off = True
        why = f"{type(error).__name__}: {error}"
        print(f"pptop-log: recording stopped: {why}; the job goes on", file=sys.stderr)
        if self.recorder is not None:
            self.recorder.warn(f"recording stopped: {why}")

    # Steps.

    def begin_step(self) -> None:
        """A training step begins; the one before it ends."""
        start = self.clock.mark()
        # The time between two steps, for data and the like, belongs to the earlier one.
        self._close_step(self.clock.mark() if self._step_end is not None else None)
        self.step += 1
        if self.recorder is not None:
            self.recorder.step = self.step
        self._step_start = start
        self._n_ops = 0
        self.is_in_step = True

    def end_calls(self) -> None:
        """The calls of the step are over; the optimizer and other work may follow."""
        self.flush()
        for start, end in self.lane.waits:
            self._emit("recv", *self.lane.last, start, end)
        self.lane.waits = []
        self.is_in_step = False
        self._step_end = self.clock.mark()
        if self._n_ops == 0 and self.step == 1 and self.recorder is not None:
            self.recorder.warn(
                "no operation was seen in the first step: this job computes in functions that are "
                "not known here"
            )

    def tell(self, **told: Any) -> None:
        """Notes the loss and the like of the present step; a value may be a function of nothing
        that is called when the step is over."""
        self._told.update(told)

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

        self.clock.emit((start, last if end is None else end), then)

    def finish(self) -> None:
        """The process ends: what the device still works on is waited for, but not for long."""
        self.close_step()
        self.clock.finish(FINISH_SECONDS)

    def phase(self, name: str, call: Callable[[], T]) -> T:
        """Runs work that is no training step, such as an evaluation."""
        if self.recorder is None:
            return call()
        self.close_step()
        recorder, step, start_ns = self.recorder, self.step, Recorder.now()
        keys = {"phase": name, "step": step, "start_ns": start_ns, "done": 0, "total": 0}
        recorder.line("phase", elapsed_ns=start_ns, dur_ns=None, **keys)
        try:
            return call()
        finally:
            now = Recorder.now()
            recorder.line("phase", elapsed_ns=now, dur_ns=now - start_ns, **keys)

    # Operations.

    def begin(self, op: str, stage: int, mb: int) -> _Open:
        """An operation begins: F, B, I or W."""
        lane = self.lane
        if lane.open is not None:
            self.flush()
        if lane.waits:
            kind = "wait_act" if op == "F" else "wait_grad"
            for start, end in lane.waits:
                self._emit(kind, stage, mb, start, end)
            lane.waits = []
        lane.has_fired = True
        self._n_ops += 1
        read = self._times.read(time.monotonic_ns())
        return _Open(op, stage, mb, self.clock.mark(), read)

    def end(self, work: _Open) -> None:
        """The operation is over. It is recorded with the next one: a loss may extend it."""
        work.end = self.clock.mark()
        cpu_ns, starved_ns = self._times.read(time.monotonic_ns())
        work.cpu_ns, work.starved_ns = cpu_ns - work.read[0], starved_ns - work.read[1]
        self.lane.open = work
        self.lane.last = (work.stage, work.mb)

    def extend(self, stage: int, mb: int) -> None:
        """What was done since the end of a forward belongs to it."""
        work = self.lane.open
        if work is not None and (work.op, work.stage, work.mb) == ("F", stage, mb):
            self.end(work)

    def flush(self) -> None:
        """Records the operation that ended last."""
        lane = self.lane
        work, lane.open = lane.open, None
        if work is not None:
            self._emit(
                work.op,
                work.stage,
                work.mb,
                work.start,
                work.end,
                cpu_ns=work.cpu_ns,
                starved_ns=work.starved_ns,
            )

    def waited(self, start: Moment, end: Moment, is_send: bool) -> None:
        """The rank waited, for a send to leave or for something that comes."""
        if is_send:
            self._emit("send", *self.lane.last, start, end)
        else:
            self.lane.waits.append((start, end))

    def sent(self, start: Moment, end: Moment, n_bytes: int) -> None:
        """The rank has handed over what the last operation made."""
        self._emit("send", *self.lane.last, start, end, bytes=n_bytes)

    def other(self, op: str, stage: int, mb: int, start: Moment, n_bytes: int = 0) -> None:
        """Something else ends now: ``all_reduce``, ``optim``, ``data`` or ``checkpoint``."""
        end = self.clock.mark()
        self._emit(op, stage, mb, start, end, bytes=n_bytes)
        if not self.is_in_step and self._step_end is not None:
            self._step_end = self.clock.mark()

    def _emit(self, op: str, stage: int, mb: int, start: Moment, end: Moment, **more: int) -> None:
        recorder, step = self.recorder, self.step
        if recorder is None or step == 0:
            return
        if self.clock.name == "host":
            recorder.span(op, stage, mb, start, end - start, step=step, **more)
            return

        def then(times: tuple[int, ...]) -> None:
            dur_ns = max(0, times[1] - times[0])
            recorder.span(op, stage, mb, times[0], dur_ns, bytes=more.get("bytes", 0), step=step)

        self.clock.emit((start, end), then)


def guarded(watch: Watch, hook: Callable[..., Any], original: Callable[..., Any]) -> Any:
    """The function ``original`` with a hook around it, which gets it as its first argument.

    Without a recording the original is called as if nothing stood around it.
    """

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if watch._is_off:
            return original(*args, **kwargs)
        return hook(original, *args, **kwargs)

    wrapper.__pptop_original__ = original  # type: ignore[attr-defined]
    return wrapper


def patch(watch: Watch, holder: Any, name: str, hook: Callable[..., Any]) -> None:
    """Puts a hook around ``holder.name``, once.

    Raises ``AttributeError`` if there is no such name: the framework is of another version.
    """
    original = getattr(holder, name)
    if not hasattr(original, "__pptop_original__"):
        setattr(holder, name, guarded(watch, hook, original))

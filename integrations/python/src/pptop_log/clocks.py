"""The clocks of spans: the host's, and that of a CUDA stream.

On a GPU a call returns before its work is done, so the host's clock would time the launch. A
:class:`CudaClock` records events on the stream instead, and a thread asks later when they
happened. It never waits for the device.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from typing import Any, Callable, Protocol

__all__ = ["Clock", "CudaClock", "HostClock", "Moment"]

#: A moment: nanoseconds on the host, or an event of CUDA.
Moment = Any


class Clock(Protocol):
    """Where the times of spans come from."""

    #: ``host`` or ``device``, for the first line of the file.
    name: str

    def mark(self) -> Moment:
        """This moment in the work of the rank."""

    def emit(self, moments: tuple[Moment, ...], then: Callable[[tuple[int, ...]], None]) -> None:
        """Calls ``then`` with the nanoseconds of these moments as soon as they are known."""

    def poll(self) -> None:
        """Looks which moments are known by now."""

    def finish(self, seconds: float) -> None:
        """Polls until all moments are known, for so long at most."""


class HostClock:
    """The system's monotonic clock: one for all processes of a machine."""

    name = "host"

    def mark(self) -> int:
        return time.monotonic_ns()

    def emit(self, moments: tuple[int, ...], then: Callable[[tuple[int, ...]], None]) -> None:
        then(moments)

    def poll(self) -> None:
        return None

    def finish(self, seconds: float) -> None:
        return None


class CudaClock:
    """Events on the current stream of a CUDA device.

    An anchor is an event whose moment on the host's clock is known: the device is idle when it is
    recorded, because nobody has used it yet, or because its work so far is done. Later moments are
    the anchor's plus the elapsed time between both events. An anchor is renewed while the job
    runs, without a synchronization: a new event is recorded, and as soon as it is seen to be done
    its moment lies between the last look that found it open and this one. If that is narrower than
    the drift since the last anchor may be, it is taken.
    """

    name = "device"

    #: Seconds between two anchors. Clocks of a host and of a GPU differ by some 10 us a second.
    RENEW_EVERY = 20.0
    #: An anchor is taken if its moment is known to this many nanoseconds.
    ANCHOR_ERROR_NS = 200_000
    #: Moments that wait for the device, at most.
    PENDING_MAX = 1 << 16

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self._pending: deque[tuple[tuple[Any, ...], Callable[[tuple[int, ...]], None]]] = deque()
        self._free: deque[Any] = deque()
        self._lock = threading.Lock()
        self.n_lost = 0
        anchor = self._event()
        anchor.record()
        # Once, before the first step: there is no other way to know a first moment.
        anchor.synchronize()
        self._anchor, self._anchor_ns = anchor, time.monotonic_ns()
        self._renewed = time.monotonic()
        self._draft: tuple[Any, int] | None = None

    def _event(self) -> Any:
        if self._free:
            return self._free.popleft()
        return self._cuda.Event(enable_timing=True)

    def mark(self) -> Any:
        event = self._event()
        event.record()
        return event

    def emit(self, moments: tuple[Any, ...], then: Callable[[tuple[int, ...]], None]) -> None:
        if len(self._pending) < self.PENDING_MAX:
            self._pending.append((moments, then))
        else:
            self.n_lost += 1

    def poll(self) -> None:
        with self._lock:
            while self._pending and self._pending[0][0][-1].query():
                moments, then = self._pending.popleft()
                then(tuple(self._ns(event) for event in moments))
                self._free.extend(event for event in moments if len(self._free) < 4096)
            self._renew()

    def finish(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self.poll()
        while self._pending and time.monotonic() < until:
            time.sleep(0.01)
            self.poll()

    def _ns(self, event: Any) -> int:
        return self._anchor_ns + int(self._anchor.elapsed_time(event) * 1e6)

    def _renew(self) -> None:
        now = time.monotonic()
        if self._draft is None:
            if now - self._renewed >= self.RENEW_EVERY:
                event = self._event()
                event.record()
                self._draft = (event, time.monotonic_ns())
            return
        event, open_at = self._draft
        is_done, seen_at = event.query(), time.monotonic_ns()
        if not is_done:
            self._draft = (event, seen_at)
            return
        if seen_at - open_at <= self.ANCHOR_ERROR_NS:
            # The older anchor and its moments stay comparable: both are events of one device.
            self._anchor, self._anchor_ns = event, (open_at + seen_at) // 2
            self._renewed = now
        else:
            self._free.append(event)
        self._draft = None


class ThreadTimes:
    """How long the present thread computed, and how long it was ready but had no core."""

    #: Nanoseconds for which a reading is taken again.
    FRESH_NS = 20_000

    def __init__(self) -> None:
        self._local = threading.local()

    def read(self, now_ns: int) -> tuple[int, int]:
        """Processor time and time without a core so far, in nanoseconds."""
        local = self._local
        try:
            fd, taken, starved = local.fd, local.taken, local.starved
        except AttributeError:
            try:
                fd = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                fd = -1
            local.fd, taken, starved = fd, 0, 0
            local.starved = 0
        if now_ns - taken > self.FRESH_NS and fd >= 0:
            try:
                starved = int(os.pread(fd, 96, 0).split()[1])
            except (OSError, IndexError, ValueError):
                local.fd = -1
            local.starved, local.taken = starved, now_ns
        return time.thread_time_ns(), starved

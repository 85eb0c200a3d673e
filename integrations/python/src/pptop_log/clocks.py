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

__all__ = ["Clock", "CudaClock", "HostClock", "Moment", "ThreadTimes"]

#: A moment: nanoseconds on the host, or an event of CUDA.
Moment = Any


class Clock(Protocol):
    """Where the times of spans come from."""

    #: ``host`` or ``device``, for the first line of the file.
    name: str

    @property
    def is_capturing(self) -> bool:
        """Whether a CUDA graph is being captured: then no event may be recorded or asked for."""

    def mark(self) -> Moment:
        """This moment in the work of the rank."""

    def emit(self, moments: tuple[Moment, ...], then: Callable[[tuple[int, ...]], None]) -> bool:
        """Calls ``then`` with the nanoseconds of these moments as soon as they are known; says
        whether it will."""

    def poll(self) -> None:
        """Looks which moments are known by now. Called by the writing thread."""

    def finish(self, seconds: float) -> None:
        """Polls until all moments are known, for so long at most."""


class HostClock:
    """The system's monotonic clock: one for all processes of a machine."""

    name = "host"
    is_capturing = False
    # No function of ours around it: it is called twice for each operation.
    mark = staticmethod(time.monotonic_ns)

    def emit(self, moments: tuple[int, ...], then: Callable[[tuple[int, ...]], None]) -> bool:
        then(moments)
        return True

    def poll(self) -> None:
        return None

    def finish(self, seconds: float) -> None:
        return None


class CudaClock:
    """Events on the current stream of a CUDA device.

    An anchor is an event whose moment on the host's clock is known. Later moments are the anchor's
    plus the elapsed time between both events. The first anchor is awaited, once, before the first
    step. Later ones are not: the job's thread records an event between two operations, and the
    writing thread asks for it until it is done. Its moment then lies between the last look that
    found it open and the first that found it done; the moment that follows from the anchor before
    is moved into that interval. So the float of CUDA's elapsed time stays small, and the drift
    between both clocks does not add up.

    No thread asks for an event while a CUDA graph is captured, because that would end the capture.
    """

    name = "device"

    #: Seconds between two anchors. Clocks of a host and of a GPU differ by some 10 us a second.
    RENEW_EVERY = 20.0
    #: Seconds between two looks at a new anchor, and how many there are before it is given up.
    LOOK_EVERY = 0.0005
    LOOKS_MAX = 400
    #: Moments that wait for the device, at most.
    PENDING_MAX = 1 << 16

    def __init__(self, cuda: Any, device: Any) -> None:
        self._cuda = cuda
        self._device = device
        self._pending: deque[tuple[tuple[Any, ...], Callable[[tuple[int, ...]], None]]] = deque()
        #: Held while events are asked for, and while a capture begins or ends.
        self._lock = threading.Lock()
        self._n_captures = 0
        anchor = self.mark()
        # There is no other way to know a first moment.
        anchor.synchronize()
        self._anchor, self._anchor_ns = anchor, time.monotonic_ns()
        self._renewed = time.monotonic()
        self._is_due = False
        self._draft: Any = None

    @property
    def is_capturing(self) -> bool:
        return self._n_captures > 0

    def capture_begins(self) -> None:
        """A graph is about to be captured. A look that is under way ends first."""
        with self._lock:
            self._n_captures += 1

    def capture_ends(self) -> None:
        """The capture is over, or has failed."""
        with self._lock:
            self._n_captures = max(0, self._n_captures - 1)

    def mark(self) -> Any:
        event = self._cuda.Event(enable_timing=True)
        event.record(self._cuda.current_stream(self._device))
        return event

    def emit(self, moments: tuple[Any, ...], then: Callable[[tuple[int, ...]], None]) -> bool:
        if self._is_due:
            # On the thread of the job: on another one, another device may be current.
            self._is_due = False
            self._draft = (self.mark(), time.monotonic_ns())
        if len(self._pending) >= self.PENDING_MAX:
            return False
        self._pending.append((moments, then))
        return True

    def poll(self) -> None:
        # On a thread of ours another device is current, and would get a context.
        with self._cuda.device(self._device):
            self._look()
            self._renew()

    def _look(self) -> None:
        with self._lock:
            pending = self._pending
            while (
                pending and not self._n_captures and all(event.query() for event in pending[0][0])
            ):
                moments, then = pending.popleft()
                then(tuple(self._ns(event) for event in moments))

    def finish(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self.poll()
        while self._pending and not self._n_captures and time.monotonic() < until:
            time.sleep(0.01)
            self.poll()

    def _ns(self, event: Any) -> int:
        return self._anchor_ns + int(self._anchor.elapsed_time(event) * 1e6)

    def _renew(self) -> None:
        if self._draft is None:
            if time.monotonic() - self._renewed >= self.RENEW_EVERY:
                self._is_due = True
            return
        draft, self._draft = self._draft, None
        if draft is None:
            return
        event, open_ns = draft
        for _ in range(self.LOOKS_MAX):
            with self._lock:
                if self._n_captures:
                    return
                is_done, seen_ns = event.query(), time.monotonic_ns()
                if is_done:
                    # What is still pending comes later, and is counted from the new anchor.
                    known_ns = min(max(self._ns(event), open_ns), seen_ns)
                    self._anchor, self._anchor_ns = event, known_ns
                    self._renewed = time.monotonic()
                    return
            open_ns = seen_ns
            time.sleep(self.LOOK_EVERY)


class _File:
    """A file that is closed with the thread that reads it."""

    def __init__(self, path: str) -> None:
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self.fd = -1

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class ThreadTimes:
    """How long the present thread was ready to run but had no core."""

    def __init__(self) -> None:
        self._local = threading.local()

    def starved_ns(self) -> int:
        """Time without a core so far, in nanoseconds; 0 if the system does not tell."""
        local = self._local
        try:
            file = local.file
        except AttributeError:
            file = local.file = _File("/proc/thread-self/schedstat")
        try:
            return int(os.pread(file.fd, 64, 0).split(None, 2)[1])
        except (OSError, IndexError, ValueError):
            return 0

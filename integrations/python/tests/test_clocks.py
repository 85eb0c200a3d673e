"""The clock of a device, on a double whose work is done when the test says so."""

from __future__ import annotations

import time
from typing import Any

import pytest

from pptop_log.clocks import CudaClock


class Device:
    """A stream: events are done in the order in which they were recorded."""

    def __init__(self) -> None:
        self.recorded: list[Event] = []
        #: The device's clock when each event is done, in milliseconds.
        self.now_ms = 0.0
        self.n_synchronized = 0

    def Event(self, enable_timing: bool) -> Event:
        assert enable_timing
        return Event(self)

    def finish(self, n: int, after_ms: float) -> None:
        """The next events are done, each so long after the one before."""
        for event in self.recorded[:n]:
            self.now_ms += after_ms
            event.done_ms = self.now_ms
        del self.recorded[:n]


class Event:
    def __init__(self, device: Device) -> None:
        self.device = device
        self.done_ms: Any = None

    def record(self) -> None:
        self.done_ms = None
        self.device.recorded.append(self)

    def query(self) -> bool:
        return self.done_ms is not None

    def synchronize(self) -> None:
        self.device.n_synchronized += 1
        self.device.finish(len(self.device.recorded), 0.0)

    def elapsed_time(self, end: Event) -> float:
        assert self.query() and end.query(), "times of events that are not done are not asked for"
        return float(end.done_ms - self.done_ms)


def test_moments_are_known_when_the_device_has_come_so_far() -> None:
    device = Device()
    clock = CudaClock(device)
    anchor = clock._anchor_ns
    found: list[tuple[int, ...]] = []
    spans = [(clock.mark(), clock.mark()) for _ in range(3)]
    for span in spans:
        clock.emit(span, found.append)
    clock.poll()
    assert found == [], "nothing is done yet"
    device.finish(3, 2.0)
    clock.poll()
    assert found == [(anchor + 2_000_000, anchor + 4_000_000)]
    device.finish(3, 1.0)
    clock.poll()
    assert [end - start for start, end in found] == [2_000_000, 1_000_000, 1_000_000]
    assert device.n_synchronized == 1, "only the first anchor waits for the device"


def test_events_are_used_again() -> None:
    device = Device()
    clock = CudaClock(device)
    first = (clock.mark(), clock.mark())
    clock.emit(first, lambda times: None)
    device.finish(2, 1.0)
    clock.poll()
    assert clock.mark() in first


def test_a_queue_that_the_device_does_not_follow_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(CudaClock, "PENDING_MAX", 2)
    clock = CudaClock(Device())
    for _ in range(5):
        clock.emit((clock.mark(), clock.mark()), lambda times: None)
    assert clock.n_lost == 3


def test_the_anchor_is_renewed_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CudaClock, "RENEW_EVERY", 0.0)
    monkeypatch.setattr(CudaClock, "ANCHOR_ERROR_NS", 10**9)
    device = Device()
    clock = CudaClock(device)
    first = clock._anchor
    clock.poll()
    assert clock._draft is not None and clock._anchor is first
    clock.poll()
    assert clock._anchor is first, "it is not done yet"
    before = time.monotonic_ns()
    device.finish(1, 5.0)
    clock.poll()
    assert clock._anchor is not first and device.n_synchronized == 1
    assert abs(clock._anchor_ns - before) < 10**9
    # An event that was seen too late tells no moment.
    monkeypatch.setattr(CudaClock, "ANCHOR_ERROR_NS", -1)
    second = clock._anchor
    clock.poll()
    device.finish(1, 5.0)
    clock.poll()
    assert clock._anchor is second

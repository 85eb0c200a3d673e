"""The clock of a device, on a double whose work is done when the test says so."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pptop_log import clocks
from pptop_log import torch as hooks
from pptop_log.clocks import CudaClock
from pptop_log.watch import Watch


class Device:
    """A stream: events are done in the order in which they were recorded."""

    def __init__(self) -> None:
        self.recorded: list[Event] = []
        #: The device's clock when each event is done, in milliseconds.
        self.now_ms = 0.0
        self.n_synchronized = 0
        self.current = "cuda:0"

    def Event(self, enable_timing: bool) -> Event:
        assert enable_timing
        return Event(self)

    @contextlib.contextmanager
    def device(self, device: str) -> Iterator[None]:
        assert device == "cuda:1"
        self.current = device
        yield
        self.current = "cuda:0"

    def current_stream(self, device: str) -> str:
        return f"stream of {device}"

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

    def record(self, stream: str) -> None:
        assert stream == "stream of cuda:1", "whatever device is current"
        assert self.done_ms is None
        self.device.recorded.append(self)

    def query(self) -> bool:
        assert self.device.current == "cuda:1", "or the current device would get a context"
        return self.done_ms is not None

    def synchronize(self) -> None:
        self.device.n_synchronized += 1
        self.device.finish(len(self.device.recorded), 0.0)

    def elapsed_time(self, end: Event) -> float:
        assert None not in (self.done_ms, end.done_ms), (
            "times of events that are not done are not asked for"
        )
        return float(end.done_ms - self.done_ms)


def test_moments_are_known_when_the_device_has_come_so_far() -> None:
    device = Device()
    clock = CudaClock(device, "cuda:1")
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


def test_a_queue_that_the_device_does_not_follow_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(CudaClock, "PENDING_MAX", 2)
    clock = CudaClock(Device(), "cuda:1")
    taken = [clock.emit((clock.mark(), clock.mark()), lambda times: None) for _ in range(5)]
    assert taken == [True, True, False, False, False], "the watch counts what is not taken"


def test_the_anchor_is_renewed_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CudaClock, "RENEW_EVERY", 0.0)
    device = Device()
    clock = CudaClock(device, "cuda:1")
    first, first_ns = clock._anchor, clock._anchor_ns
    clock.poll()
    found: list[tuple[int, ...]] = []
    # The job's own thread records the next anchor, between two operations.
    clock.emit((clock.mark(), clock.mark()), found.append)
    assert clock._draft is not None and clock._anchor is first
    # It is looked for until it is done, whatever that takes.
    looks = []

    def look(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            device.finish(3, 5.0)

    monkeypatch.setattr(clocks.time, "sleep", look)
    before = time.monotonic_ns()
    clock.poll()
    assert len(looks) == 3 and clock._anchor is not first
    assert device.n_synchronized == 1, "only the first anchor waits for the device"
    # The device says that 5 ms have passed, but far less have: the host has seen it.
    assert before <= clock._anchor_ns <= time.monotonic_ns()
    assert clock._anchor_ns >= first_ns
    clock.poll()
    assert found[0][1] - found[0][0] == 5_000_000


def test_a_new_anchor_that_never_comes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CudaClock, "RENEW_EVERY", 0.0)
    clock = CudaClock(Device(), "cuda:1")
    first = clock._anchor
    monkeypatch.setattr(clocks.time, "sleep", lambda seconds: None)
    clock.poll()
    clock.emit((clock.mark(), clock.mark()), lambda times: None)
    clock.poll()
    assert clock._anchor is first and clock._draft is None


def test_nothing_is_asked_for_while_a_graph_is_captured() -> None:
    device = Device()
    clock = CudaClock(device, "cuda:1")

    found: list[tuple[int, ...]] = []
    clock.emit((clock.mark(), clock.mark()), found.append)
    device.finish(2, 1.0)

    class Graph:
        def capture_begin(self) -> None:
            clock.poll()
            clock.finish(0.0)
            assert found == [], "no thread may ask the device now"

        def capture_end(self) -> None:
            assert clock.is_capturing

    class Failing:
        def capture_begin(self) -> None:
            raise RuntimeError("of the job")

        def capture_end(self) -> None:
            return None

    hooks._hook_captures(Graph, clock)
    watch = Watch("/nowhere", clock)
    graph = Graph()
    graph.capture_begin()
    assert watch.begin("F", 0, 0) is None, "operations inside are not seen"
    graph.capture_end()
    assert not clock.is_capturing
    assert watch.begin("F", 0, 0) is not None
    clock.poll()
    assert len(found) == 1
    hooks._hook_captures(Failing, clock)
    with pytest.raises(RuntimeError, match="of the job"):
        Failing().capture_begin()
    assert not clock.is_capturing, "a capture that has not begun does not last"

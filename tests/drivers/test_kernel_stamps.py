from __future__ import annotations

import socket
import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.drivers import kernel_stamps as subject
from loadgen.drivers.kernel_stamps import STAMP_SPACE, STEP_NS, StampClock, enable, stamp_of, start_stamping

SECOND = 1_000_000_000


class Clocks:
    """Both clocks of a machine, moved by hand. Every look at a clock takes 30 ns."""

    def __init__(self) -> None:
        self.now, self.offset = 1000 * SECOND, 1_700_000_000 * SECOND
        self.hiccups: list[int] = []

    def monotonic(self) -> int:
        self.now += 30
        return self.now

    def realtime(self) -> int:
        self.now += self.hiccups.pop() if self.hiccups else 30
        return self.now + self.offset

    def stamp(self) -> bytes:
        """What the kernel would write now."""
        return struct.pack("qq", *divmod(self.now + self.offset, SECOND))

    def clock(self) -> StampClock:
        return StampClock(self.monotonic, self.realtime)


def test_a_stamp_is_placed_when_it_was_made_and_not_when_it_was_read() -> None:
    clocks = Clocks()
    clock = clocks.clock()
    stamp, made = clocks.stamp(), clocks.now
    clocks.now += 7_000_000
    read = clocks.now
    clock.sample()
    placed = clock.place(stamp, read)
    assert placed is not None
    assert abs(placed - made) < 100
    assert clock.steps == 0


def test_a_preempted_look_at_the_clocks_is_no_step() -> None:
    clocks = Clocks()
    clocks.hiccups = [4_000_000, 9_000_000]
    clock = clocks.clock()
    clocks.hiccups = [3_000_000]
    clock.sample()
    assert clock.steps == 0
    stamp, made = clocks.stamp(), clocks.now
    placed = clock.place(stamp, clocks.now)
    assert placed is not None
    assert abs(placed - made) < 100


@given(
    st.integers(-(10**13), 10**13).filter(lambda step: abs(step) > 3 * STEP_NS),
    st.integers(0, 5_000_000),
    st.integers(0, 5_000_000),
    st.integers(0, 5_000_000),
)
def test_no_stamp_is_misplaced_by_a_step(step: int, before: int, waited: int, after: int) -> None:
    clocks = Clocks()
    clock = clocks.clock()
    clocks.now += before
    stamp, made = clocks.stamp(), clocks.now  # written before the step …
    clocks.now += waited
    clocks.offset += step
    clocks.now += after
    early_read = clocks.now  # … and read behind it, either before the step is noticed
    clock.sample()
    assert clock.steps == 1
    clocks.now += 1
    late_read = clocks.now  # or after
    for read in (early_read, late_read):
        placed = clock.place(stamp, read)
        # The read's own time is the worst that may come of it.
        assert placed is None or made - 100 <= placed <= read
    clocks.now += SECOND
    stamp, made = clocks.stamp(), clocks.now
    placed = clock.place(stamp, clocks.now + 10)
    assert placed is not None  # stamps are trusted again
    assert abs(placed - made) < 100


def test_reads_between_the_looks_around_a_step_fall_back_to_their_own_time() -> None:
    clocks = Clocks()
    clock = clocks.clock()
    clocks.offset += SECOND
    clocks.now += 1000
    stamp, read = clocks.stamp(), clocks.now
    clock.sample()
    assert clock.place(stamp, read) is None


def test_reads_before_a_known_good_look_keep_their_stamps() -> None:
    clocks = Clocks()
    clock = clocks.clock()
    stamp, made = clocks.stamp(), clocks.now
    clocks.now += 1000
    read = clocks.now
    clock.sample()
    clocks.offset -= 5 * SECOND
    clock.sample()
    placed = clock.place(stamp, read)
    assert placed is not None
    assert abs(placed - made) < 100


def test_a_stamp_is_never_later_than_its_read() -> None:
    clocks = Clocks()
    clock = clocks.clock()
    clocks.now += 500
    assert clock.place(clocks.stamp(), clocks.now - 200) == clocks.now - 200


def test_without_a_stamp_there_is_nothing_to_place() -> None:
    assert StampClock().place(None, time.monotonic_ns()) is None
    assert stamp_of([(1, 2, b"other")]) is None


def test_a_real_stamp_lies_between_the_write_and_the_read() -> None:
    stamping = start_stamping()
    if stamping is None:
        pytest.skip("this kernel does not stamp what it receives")
    clock = StampClock()
    with (
        stamping,
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as near,
        listener.accept()[0] as far,
    ):
        assert enable(near)
        wrote = time.monotonic_ns()
        far.send(b"x")
        _, extra, _, _ = near.recvmsg(1, STAMP_SPACE)
        read = time.monotonic_ns()
    clock.sample()
    placed = clock.place(stamp_of(extra), read)
    assert placed is not None or clock.steps
    assert placed is None or wrote - STEP_NS <= placed <= read


def test_where_stamps_cannot_be_tried_they_are_not_relied_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_loopback(_address: object) -> socket.socket:
        raise OSError("no loopback")

    with monkeypatch.context() as patch:
        patch.setattr(socket, "create_server", no_loopback)
        assert start_stamping() is None
    monkeypatch.setattr(subject, "enable", lambda _sock: False)
    assert start_stamping() is None
    monkeypatch.setattr(subject, "enable", lambda _sock: True)  # it agrees, and never stamps
    assert start_stamping(tries=2) is None

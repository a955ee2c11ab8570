"""Offsets of clocks: a real echo on loopback, whose truth is 0; and drift, by numbers."""

from __future__ import annotations

import socket

import pytest

from loadgen.cluster.clock import Clock, Echo, Offset, measure
from loadgen.errors import LoadgenError

S = 1_000_000_000


def test_the_same_clock_is_found_to_be_the_same() -> None:
    echo = Echo("127.0.0.1")
    try:
        for _ in range(2):  # one after the other
            found = measure("127.0.0.1", echo.port)
            assert abs(found.theta_ns) <= found.bound_ns
            assert found.rtt_ns > 0
    finally:
        echo.close()
    with pytest.raises(LoadgenError, match=f"clock of 127.0.0.1 cannot be asked at port {echo.port}"):
        measure("127.0.0.1", echo.port)


def test_one_that_breaks_off_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        mute.settimeout(5.0)
        port = mute.getsockname()[1]
        import threading

        closing = threading.Thread(target=lambda: mute.accept()[0].close())
        closing.start()
        with pytest.raises(LoadgenError, match="cannot be asked"):
            measure("127.0.0.1", port)
        closing.join()


def offset(at_s: float, theta_ns: int, rtt_ns: int = 20_000) -> Offset:
    return Offset(at_ns=int(at_s * S), theta_ns=theta_ns, rtt_ns=rtt_ns)


def test_a_drift_that_is_told_is_taken_out_evenly() -> None:
    far = 7 * S
    clock = Clock(before=offset(0, far), after=offset(600, far + 12_000_000))  # 20 ppm in ten minutes
    assert clock.drifts
    assert clock.drift_ppm == pytest.approx(20)
    assert clock.bound_ns == 10_000
    for at_s in (0, 150, 300, 600):
        remote = at_s * S + far + at_s * 20_000
        assert abs(clock.ours(remote) - at_s * S) < 10


def test_one_that_is_not_told_moves_nothing() -> None:
    clock = Clock(before=offset(0, 500), after=offset(600, 9_500))
    assert not clock.drifts
    assert clock.ours(300 * S) == 300 * S - 500
    assert clock.bound_ns == 10_000 + 9_000

"""A share's start: told by the wall clock, kept by the monotonic one. The sending itself: tests/api/test_merging.py."""

from __future__ import annotations

import time
from typing import Any

import pytest

from loadgen.drivers.openai import make_driver
from loadgen.errors import LoadgenError
from loadgen.load import share as subject
from loadgen.load.run import run_trial_load
from loadgen.load.share import on_monotonic
from loadgen.load.workers import Stopped
from loadgen.load_records import LoadSpec
from loadgen.records import Trial
from loadgen.workload_records import Share


def test_an_instant_stands_between_what_both_clocks_say() -> None:
    earliest, wall = time.monotonic_ns(), time.time_ns()
    found = on_monotonic(wall + 5_000_000_000)
    assert earliest + 4_900_000_000 < found < time.monotonic_ns() + 5_100_000_000


def test_a_share_whose_start_has_passed_sends_nothing() -> None:
    share = Share(number=0, of=2, trial="t", start_at_ns=time.time_ns() - 1_500_000_000, package="p")
    trial = Trial(
        id="t-0-of-2",
        load=LoadSpec(kind="closed", input_tokens=1, output_tokens=1, concurrency=2),
        share=share,
    )
    with pytest.raises(LoadgenError, match=r"share 0/2 was ready 1\.\d+ s too late for --start-at"):
        run_trial_load(trial, "http://127.0.0.1:1", make_driver, {}, lambda sample, at_once: None)


def test_a_host_that_waits_can_be_stopped() -> None:
    class Waiting:
        """Workers that wait."""

        def __init__(self) -> None:
            self.rests: list[float] = []

        def rest(self, seconds: float) -> None:
            self.rests.append(seconds)

    team: Any = Waiting()
    share = Share(number=0, of=2, trial="t", start_at_ns=time.time_ns() + 3_000 * 10**9, package="p")
    with pytest.raises(Stopped):
        subject._met(share, team, lambda: len(team.rests) > 2)
    assert team.rests == [0.25] * 3

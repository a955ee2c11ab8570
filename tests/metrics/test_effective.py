from __future__ import annotations

import numpy as np
import pytest

from loadgen.metrics.effective import Growth, growing, in_flight_at_ends, independent, wilson

S = 1_000_000_000


def test_independent_requests_are_worth_their_number() -> None:
    random = np.random.default_rng(3)
    worth = [independent(random.random(2000) < 0.9) for _ in range(40)]
    assert 700 < np.median(worth) <= 2000


def test_requests_that_miss_together_are_worth_a_few() -> None:
    random = np.random.default_rng(4)
    worth = [independent(np.repeat(random.random(40) < 0.8, 50)) for _ in range(40)]
    assert 10 < np.median(worth) < 60  # 40 spells of 50


@pytest.mark.parametrize("kept", [[], [True], [True] * 50, [False] * 50, [True, False, True]])
def test_where_nothing_tells_they_stand_as_they_are(kept: list[bool]) -> None:
    assert independent(np.array(kept, bool)) == len(kept)


def test_wilson_is_that_of_the_books() -> None:
    low, high = wilson(81, 263, 263)  # Newcombe 1998, method 3
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert wilson(0, 20, 20)[0] == 0
    assert wilson(20, 20, 20)[1] == 1
    narrow, wide = wilson(900, 1000, 1000), wilson(900, 1000, 40)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_a_queue_that_grows_is_told_from_one_that_does_not() -> None:
    random = np.random.default_rng(5)
    assert growing(np.arange(500) / 10 + random.normal(5, 2, 500))
    assert not growing(20 + random.normal(0, 4, 500))
    assert not growing(np.arange(12))  # too few to say
    # A queue that fills at first and then stays is none that grows.
    assert not growing(np.minimum(np.arange(500), 60) + random.normal(0, 3, 500))


def test_growth_is_looked_for_now_and_then() -> None:
    growth = Growth()
    for at in range(200):
        growth.heard(0, at * S // 8, at)  # 25 s
    assert not growth.seen
    for at in range(200, 300):
        growth.heard(0, at * S // 8, at)
    assert growth.seen


def test_in_flight_follows_from_the_stamps() -> None:
    assert in_flight_at_ends([0, 1, 2, 9], [3, 5, 4, 10]).tolist() == [2, 1, 0, 0]

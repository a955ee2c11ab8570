"""``--share`` and ``--start-at`` as people write them."""

from __future__ import annotations

import datetime

import pytest

from loadgen.api.share import asked_share, share_of, start_ns
from loadgen.errors import BadInput
from loadgen.load_records import LoadSpec
from loadgen.records import Trial

NOW_S = datetime.datetime(2026, 5, 4, 9, 30, 0, 500_000).timestamp()  # of this host's zone
LOAD = LoadSpec(kind="closed", input_tokens=1, output_tokens=1, concurrency=4, workers=2)


@pytest.mark.parametrize(
    ("text", "in_s"),
    [
        (f"{int(NOW_S) + 7}", 6.5),
        (f"{int(NOW_S) + 7}.25", 6.75),
        ("09:31:00", 59.5),
        ("09:31", 59.5),
        ("2026-05-04T09:30:01", 0.5),
        ((datetime.datetime.fromtimestamp(NOW_S, datetime.UTC).strftime("%FT%H:%M:59Z")), 58.5),
    ],
)
def test_an_instant_is_taken_to_the_nanosecond(text: str, in_s: float) -> None:
    assert start_ns(text, NOW_S) - round(NOW_S * 10) * 100_000_000 == round(in_s * 1e9)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("09:29:59", r"that was 1\.5 s ago"),
        ("09:30:00.5", "not an instant"),
        ("11:00:00", "that is 5400 s away"),
        (f"{int(NOW_S) * 1000}", "not an instant"),  # milliseconds
        ("soon", "not an instant"),
        ("25:00:00", "not an instant"),
        ("99999-01-01T00:00:00", "not an instant"),
        ("", "not an instant"),
    ],
)
def test_an_instant_that_cannot_be_is_named(text: str, words: str) -> None:
    with pytest.raises(BadInput, match=f"^--start-at {text}: {words}.*accepted: Unix seconds"):
        start_ns(text, NOW_S)


@pytest.mark.parametrize(
    ("share", "words"),
    [
        ("2/2", "accepted: 0/2 to 1/2"),
        ("0/0", "accepted: I/N"),
        ("1", "accepted: I/N"),
        ("-1/2", "accepted: I/N"),
        ("0/9999999", "accepted: I/N"),
        ("0/2", "together with --start-at"),
    ],
)
def test_a_share_that_cannot_be_is_named(share: str, words: str) -> None:
    with pytest.raises(BadInput, match=f"^--share {share}: .*{words}"):
        asked_share(share, None)


def test_a_start_without_a_share_is_refused() -> None:
    assert asked_share(None, None) is None
    with pytest.raises(BadInput, match="--start-at 09:30: of which share"):
        asked_share(None, "09:30")


def test_a_share_has_an_id_of_its_own_and_a_place_for_each_worker() -> None:
    asked = asked_share("1/2", str(int(datetime.datetime.now().timestamp()) + 60))
    assert asked is not None
    part = share_of(Trial(id="t", load=LOAD), asked, text=False)
    assert part.share is not None
    assert (part.id, part.share.trial, part.share.words, part.load) == ("t-1-of-2", "t", "share 1/2", LOAD)
    narrow = LoadSpec(kind="closed", input_tokens=1, output_tokens=1, concurrency=3, workers=2)
    with pytest.raises(BadInput, match="--share 1/2: on all hosts together workers = 4: concurrency is 3"):
        share_of(Trial(id="t", load=narrow), asked, text=False)

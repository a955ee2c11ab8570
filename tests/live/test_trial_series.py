"""A trial's series: labels that no title breaks, and buckets as narrow as the panels' promise."""

from __future__ import annotations

from itertools import pairwise

from loadgen.live.trial_series import BOUNDS, SHOWN_BOUNDS, shown_labels


def test_labels_are_escaped() -> None:
    assert shown_labels({"model": 'a "b"\\\n'}) == '{model="a \\"b\\"\\\\\\n"}'
    assert shown_labels({}) == ""


def test_no_bucket_is_wider_than_a_twentieth_of_what_it_holds() -> None:
    assert max(high / low for low, high in pairwise(BOUNDS)) < 1.05
    assert (BOUNDS[0], BOUNDS[-1]) == (1e-6, 1e4)
    assert len(set(SHOWN_BOUNDS)) == len(BOUNDS)

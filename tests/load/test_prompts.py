"""Prompts: exact, unlike each other, the same again."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.errors import BadInput
from loadgen.load.prompts import SAFE_VOCAB, PromptSource, id_range

Rows = tuple[tuple[int, ...], ...]
VOCABS = st.sampled_from([None, 1024, 32000, 128256])


def rows(source: PromptSource, seq: int) -> Rows:
    """The prompts of a request as plain numbers."""
    return tuple(tuple(np.asarray(prompt).tolist()) for prompt in source.prompts(seq))


@settings(max_examples=50)
@given(
    seed=st.integers(0, 2**63 - 1),
    vocab=VOCABS,
    length=st.integers(1, 300),
    batch=st.integers(1, 16),
    seq=st.integers(0, 10**6),
)
def test_exact_length_and_ids_in_range(
    seed: int, vocab: int | None, length: int, batch: int, seq: int
) -> None:
    prompts = rows(PromptSource(seed, vocab, length, batch), seq)
    assert len(prompts) == batch
    low, high = id_range(vocab)
    for prompt in prompts:
        assert len(prompt) == length
        assert all(type(i) is int and low <= i < high for i in prompt)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**63 - 1), vocab=VOCABS, length=st.integers(1, 50), batch=st.integers(1, 8))
def test_every_prompt_starts_differently(seed: int, vocab: int | None, length: int, batch: int) -> None:
    source = PromptSource(seed, vocab, length, batch)
    prompts = [prompt for seq in range(30) for prompt in rows(source, seq)]
    assert len({prompt[:2] for prompt in prompts}) == len(prompts)
    assert all(a[0] != b[0] for a, b in pairwise(prompts))


def test_prompts_of_one_token_are_unique_as_far_as_the_vocabulary_goes() -> None:
    low, high = id_range(1024)
    source = PromptSource(7, 1024, 1)
    assert len({rows(source, seq) for seq in range(high - low)}) == high - low


def test_the_same_again_in_any_order_and_other_by_seed() -> None:
    forwards = [rows(PromptSource(5, 32000, 20, 3), seq) for seq in range(10)]
    other = PromptSource(5, 32000, 20, 3)
    assert [rows(other, seq) for seq in reversed(range(10))] == forwards[::-1]
    assert not set(forwards) & {rows(PromptSource(6, 32000, 20, 3), seq) for seq in range(10)}


def test_known_prompt() -> None:
    """Stored results are compared across versions: the prompts behind a seed must never change."""
    assert rows(PromptSource(1, 32000, 6), 0) == ((20396, 633, 25519, 24061, 17794, 2793),)


def test_a_length_per_call() -> None:
    source = PromptSource(1, 32000, 8)
    assert [len(source.prompts(0, n)[0]) for n in (1, 5, 8, 100)] == [1, 5, 8, 100]
    with pytest.raises(BadInput, match="at least one token"):
        source.prompts(0, 0)


def test_special_ids_stay_out() -> None:
    assert id_range(32000) == (3, 32000)
    assert id_range(128256) == (3, 128000)
    assert id_range(None) == (3, SAFE_VOCAB)
    with pytest.raises(BadInput, match="too small"):
        id_range(4)


def test_ids_spread_over_the_whole_vocabulary() -> None:
    ids = np.concatenate(PromptSource(2, 1024, 2048, 64).prompts(0))
    assert set(ids.tolist()) == set(range(3, 1024))

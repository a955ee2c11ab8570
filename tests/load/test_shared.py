"""Prompts that share pieces: the same ids wherever a block stands, and nothing else alike."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadgen.load.arrivals import schedule
from loadgen.load.client import block_tokens_of
from loadgen.load.prompts import PromptSource
from loadgen.load.shared import for_warmup, groups
from loadgen.load.workload import of_workload, workload_of
from loadgen.load_records import LoadSpec
from loadgen.traces.files import open_rows
from loadgen.workload_records import Prefixes, Replay, Spread

CONVERSATION = str(
    Path(__file__).parents[1] / "data" / "traces" / "mooncake_conversation_trace.first2000.jsonl"
)


def load(**more: Any) -> LoadSpec:
    shape = {"kind": "closed", "input_tokens": 100, "output_tokens": 8, "requests": 400}
    return LoadSpec(**{**shape, **more})


Prompt = tuple[int, ...]


def prompt_of(source: PromptSource, seq: int, tokens: int, blocks: tuple[int, ...]) -> Prompt:
    """The one prompt of a request as plain numbers."""
    (prompt,) = source.prompts(seq, tokens, blocks)
    return tuple(np.asarray(prompt).tolist())


def source(seed: int = 7, block_tokens: int = 512) -> PromptSource:
    return PromptSource(seed, 32_000, 1, block_tokens=block_tokens)


def test_requests_that_share_blocks_share_their_first_ids_on_any_worker() -> None:
    with open_rows(CONVERSATION) as rows:
        first = list(islice(rows, 40))
    one, other = source(), source()
    prompts = [prompt_of(one, seq, row.input_tokens, row.blocks) for seq, row in enumerate(first)]
    assert [len(prompt) for prompt in prompts] == [row.input_tokens for row in first]
    again = {seq: prompt_of(other, seq, first[seq].input_tokens, first[seq].blocks) for seq in (39, 3, 17)}
    assert all(prompts[seq] == prompt for seq, prompt in again.items())
    pairs = 0
    for i, a in enumerate(first):
        for j, b in enumerate(first[:i]):
            k = next(
                (n for n, (x, y) in enumerate(zip(a.blocks, b.blocks, strict=False)) if x != y),
                min(len(a.blocks), len(b.blocks)),
            )
            same = min(512 * k, a.input_tokens, b.input_tokens)
            assert prompts[i][:same] == prompts[j][:same]
            if k < min(len(a.blocks), len(b.blocks)):
                assert prompts[i][same] != prompts[j][same], "two blocks part at their first id"
                pairs += 1
    assert pairs > 500


def test_blocks_of_other_trials_and_of_the_warm_up_are_others() -> None:
    blocks = (0, 1, 2)
    mine = prompt_of(source(), 0, 1536, blocks)
    assert prompt_of(source(seed=8), 0, 1536, blocks)[:3] != mine[:3]
    warm = prompt_of(source(), 0, 1536, for_warmup(blocks))
    assert sum(a == b for a, b in zip(warm, mine, strict=True)) < 30
    assert max(mine) < 32_000
    assert min(mine) >= 3


def test_numbers_of_64_bits_name_blocks() -> None:
    found = [prompt_of(source(), 0, 512, (block,)) for block in (2**64 - 1, 2**64 - 2, 2**32 - 1)]
    assert len({prompt[:1] for prompt in found}) == 3


def test_blocks_that_are_no_longer_kept_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadgen.load.shared.KEPT_TOKENS", 1024)
    few = source()
    first = prompt_of(few, 0, 512, (1,))
    for block in range(2, 9):
        few.prompts(0, 512, (block,))
    assert prompt_of(few, 0, 512, (1,)) == first


def test_prefix_groups() -> None:
    spec = load(
        prefixes=Prefixes(groups=5, tokens=64, share=0.6),
        input_spread=Spread(kind="uniform", least=32, most=100),
    )
    arrivals = list(schedule(spec))
    counted = Counter(arrival.blocks for arrival in arrivals)
    assert set(counted) == {(), (0,), (1,), (2,), (3,), (4,)}
    assert 130 < counted[()] < 190
    prompts = source(block_tokens=block_tokens_of(spec) or 0)
    made: dict[tuple[int, ...], list[Prompt]] = {}
    for arrival in arrivals:
        prompt = prompt_of(prompts, arrival.number, arrival.input_tokens, arrival.blocks)
        assert len(prompt) == arrival.input_tokens
        made.setdefault(arrival.blocks, []).append(prompt)
    for blocks, members in made.items():
        if blocks:
            longest = max(members, key=len)[:64]
            assert all(member[:64] == longest[: min(64, len(member))] for member in members)
    rest = [prompt[64:] for prompt in made[(0,)] if len(prompt) > 68]
    assert len({tail[:2] for tail in rest}) == len(rest), "what follows a prefix is a request's own"
    assert len({prompt[:2] for prompt in made[()]}) == len(made[()])


def test_prefixes_are_the_same_on_any_worker_and_none_without_them() -> None:
    spec = load(prefixes=Prefixes(groups=3, tokens=8))
    assert list(islice(groups(spec), 50)) == list(islice(groups(spec), 50))
    assert set(islice(groups(spec), 50)) <= {(0,), (1,), (2,)}
    assert set(islice(groups(load()), 50)) == {()}
    assert block_tokens_of(load()) is None
    assert block_tokens_of(load(kind="trace", trace=CONVERSATION)) == 512


def test_the_predicted_share_of_hits() -> None:
    found = workload_of(load(prefixes=Prefixes(groups=5, tokens=25, share=0.5)))
    assert found == {"hit_share": pytest.approx(0.125)}
    assert workload_of(load()) is None
    trace = load(kind="trace", trace=CONVERSATION)
    facts = workload_of(trace)
    assert facts is not None
    assert facts["hit_share"] == pytest.approx(0.289, abs=5e-4)
    assert (facts["format"], facts["rows"], facts["block_tokens"]) == ("mooncake", 2000, 512)


def test_a_trace_on_a_coarse_clock_is_doubted_unless_it_is_spread() -> None:
    trace = load(kind="trace", trace=CONVERSATION)
    (doubt,) = of_workload(trace, workload_of(trace))
    assert doubt.kind == "trace-grid"
    spread = load(kind="trace", trace=CONVERSATION, replay=Replay(spread_s=3.0))
    assert list(of_workload(spread, workload_of(spread))) == []
    assert list(of_workload(load(), None)) == []

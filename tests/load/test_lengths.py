"""Lengths that are drawn: their distributions, their bounds, the same on any number of workers."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest
from fake_world import FakeDriver, World, play
from scipy import stats

from loadgen.load import dispatch
from loadgen.load.arrivals import schedule, share
from loadgen.load.lengths import draw, lengths
from loadgen.load_records import LoadSpec
from loadgen.metrics.summary import Accumulator
from loadgen.workload_records import Spread

WIDE = {"least": 1, "most": 2**31 - 1}


def load(**more: Any) -> LoadSpec:
    shape = {"kind": "closed", "input_tokens": 4096, "output_tokens": 8, "requests": 200, "concurrency": 4}
    return LoadSpec(**{**shape, **more})


def drawn(spread: Spread, count: int = 20_000) -> np.ndarray:  # type: ignore[type-arg]
    return draw(spread, np.random.default_rng(5), count)


@pytest.mark.parametrize(
    ("spread", "law"),
    [
        (Spread(kind="lognormal", median=20_000, sigma=0.7, **WIDE), stats.lognorm(0.7, scale=20_000)),
        (Spread(kind="gamma", mean=30_000, cv=0.5, **WIDE), stats.gamma(4, scale=7_500)),
        (Spread(kind="gamma", mean=30_000, cv=1.25, **WIDE), stats.gamma(0.64, scale=46_875)),
        (Spread(kind="uniform", least=1, most=100_000), stats.uniform(0.5, 100_000)),
    ],
)
def test_drawn_lengths_follow_their_law(spread: Spread, law: Any) -> None:
    assert stats.kstest(drawn(spread), law.cdf).pvalue > 0.01


def test_an_empirical_length_comes_as_often_as_in_its_file() -> None:
    spread = Spread(kind="empirical", least=1, most=90, values=(3, 50, 90), weights=(2.0, 1.0, 1.0))
    values, counts = np.unique(drawn(spread), return_counts=True)
    assert values.tolist() == [3, 50, 90]
    assert stats.chisquare(counts, np.array([0.5, 0.25, 0.25]) * 20_000).pvalue > 0.01


def test_lengths_are_clipped() -> None:
    spread = Spread(kind="lognormal", median=100, sigma=2.0, least=10, most=500)
    found = drawn(spread)
    assert (found.min(), found.max()) == (10, 500)
    uniform = drawn(Spread(kind="uniform", least=7, most=9))
    assert set(uniform.tolist()) == {7, 8, 9}


SPREAD = Spread(kind="lognormal", median=512, sigma=1.0, least=1, most=4096)


def test_each_worker_draws_what_one_would() -> None:
    spec = load(input_spread=SPREAD, output_spread=Spread(kind="uniform", least=1, most=8))
    whole = list(schedule(spec))
    parts = [list(share(schedule(spec), worker, 3)) for worker in range(3)]
    assert sorted(item for part in parts for item in part) == whole
    assert len({arrival.input_tokens for arrival in whole}) > 100


def test_inputs_outputs_and_seeds_do_not_hang_together() -> None:
    both = load(input_spread=SPREAD, output_spread=SPREAD)
    asked = list(islice(lengths(both, "input"), 500))
    given = list(islice(lengths(both, "output"), 500))
    assert abs(stats.spearmanr(asked, given).statistic) < 0.15
    assert list(islice(lengths(load(input_spread=SPREAD, seed=1), "input"), 500)) != asked
    assert list(islice(lengths(load(input_spread=SPREAD, kind="poisson", rate=1.0), "input"), 500)) == asked


def test_every_request_is_held_to_its_own_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "SLICE_GAP_S", 0)
    spec = load(input_spread=SPREAD, output_spread=Spread(kind="uniform", least=1, most=8), warmup=3)
    driver = FakeDriver(World(), spoil=lambda request: {"usage_prompt_tokens": len(request.prompts[0])})
    _, samples = play(spec, driver)
    assert [sample.error for sample in samples if sample.error] == []
    measured = sorted((s for s in samples if s.phase == "measured"), key=lambda s: s.seq)
    expected = [(arrival.input_tokens, arrival.output_tokens) for arrival in schedule(spec)]
    assert [(s.input_tokens, s.output_tokens_asked) for s in measured] == expected
    assert [s.input_tokens for s in samples if s.phase == "warmup"] == [asked for asked, _ in expected[:3]]
    seen = Accumulator(varied=True)
    for sample in samples:
        seen.add(sample)
    kept = seen.summary().lengths
    assert kept["input_asked"].max == kept["input_had"].max == max(asked for asked, _ in expected)
    assert kept["output_asked"].mean == kept["output_had"].mean == np.mean([given for _, given in expected])
    assert Accumulator().summary().lengths == {}

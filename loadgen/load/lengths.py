"""Lengths that are drawn anew for each request: seeded, clipped, and the same on any number of workers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from loadgen.load_records import LoadSpec
from loadgen.workload_records import Spread

CHUNK = 4096  # lengths drawn at once
_SEEDS = {"input": 0x696E7074, "output": 0x6F757470}  # neither hangs on the other, on due times or on prompts


def lengths(load: LoadSpec, which: Literal["input", "output"]) -> Iterator[int]:
    """The length in tokens of each request, from the first on, without an end."""
    spread = load.input_spread if which == "input" else load.output_spread
    if spread is None:
        yield from repeat(load.input_tokens if which == "input" else load.output_tokens)
        return
    random = np.random.default_rng([_SEEDS[which], load.seed])
    while True:
        yield from draw(spread, random, CHUNK).tolist()


def draw(spread: Spread, random: np.random.Generator, count: int) -> NDArray[np.int64]:
    """``count`` lengths: whole tokens, within ``least`` and ``most``."""
    if spread.kind == "uniform":
        return random.integers(spread.least, spread.most, count, dtype=np.int64, endpoint=True)
    found: NDArray[np.float64]
    if spread.kind == "empirical":
        weights = np.asarray(spread.weights or (1.0,) * len(spread.values))
        found = random.choice(np.asarray(spread.values, np.float64), count, p=weights / weights.sum())
    elif spread.kind == "lognormal":
        assert spread.median is not None
        assert spread.sigma is not None
        found = random.lognormal(np.log(spread.median), spread.sigma, count)
    else:
        assert spread.mean is not None
        assert spread.cv is not None
        shape = 1 / spread.cv**2
        found = random.gamma(shape, spread.mean / shape, count)
    clipped: NDArray[np.int64] = np.clip(np.rint(found), spread.least, spread.most).astype(np.int64)
    return clipped

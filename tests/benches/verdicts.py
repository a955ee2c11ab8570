"""How often ``compare`` and its gates err: worlds whose truth is known, through the project's own rows and folders.

Usage: python tests/benches/verdicts.py [--repeats 200] [--seed N] [--jobs 2] [--worlds 'slow|eager'] [--folders]

Every world has 16 cells, two trials each in a start, and k starts a side. It is compared twice: B like A, and B 3 %
slower with a gate at +3 %. In one world (``--folders``: in all) results are written and read as folders. Exit code 1
when a rate misses its goal by more than chance (a binomial tail of 1 in 200).
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: small matrices, and a process a core

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "aids"))

from cases import ENVIRONMENTS
from synthetic import World, grid, result, write

from loadgen.analysis.compare import Comparison, compare, compare_rows
from loadgen.analysis.table import Row, rows_of

SEED = 20261201  # rules were developed on other seeds (90001 and up)
CELLS, REPEATS_IN_START = 16, 2
SLOWER = 1.03
GATE = "e2e<=+3%"
LENDERS = 8  # servers of two starts each, beside one start a side
SLOW_FACTOR = 2.0
CHANCE = 0.005
Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Noise:
    """Standard deviations of the logarithm between trials, starts and start × cell; ``goal``: of A/A rates."""

    trial: float
    start: float = 0.0
    cell: float = 0.0
    slow: float = 0.0  # share of trials that take twice as long
    heavy: bool = (
        False  # Student's t with 3 degrees of freedom between trials, of the same standard deviation
    )
    memory: float = 0.0  # AR(1) over the trials of a side, of standard deviation ``trial``
    unlike: float = 0.0  # spread of the cells' own standard deviations (natural logarithm)
    hard: tuple[int, ...] = ()  # starts a side at which 7.5 % is the goal: not solved
    hard_cells: tuple[int, ...] = ()


WORLDS = {
    "independent 1 %": Noise(0.01),
    ".35 + .54": Noise(0.0035, 0.0054),
    ".35 + .50 + .65 cell": Noise(0.0035, 0.0050, 0.0065),
    "1 + 1": Noise(0.01, 0.01),
    "AR(1) 0.9, 3 %": Noise(0.03, memory=0.9),
    "t3 1 + .54": Noise(0.01, 0.0054, heavy=True),
    "unlike cells": Noise(0.0035, 0.0040, 0.0036, unlike=0.7, hard_cells=(2, 3)),
    ".35 + .54, 5 % slow": Noise(0.0035, 0.0054, slow=0.05),
    ".35 + .54, 10 % slow": Noise(0.0035, 0.0054, slow=0.10, hard=(2, 3)),
    "eager 10 + 10": Noise(0.10, 0.10),
    "eager 10 + 10, 10 % slow": Noise(0.10, 0.10, slow=0.10, hard=(2, 3)),
}
FOLDERS = ".35 + .54"  # the world that goes through folders as well


def times(noise: Noise, starts: int, cell_sds: Array, rng: np.random.Generator) -> Array:
    """Log times of one side, shape (starts, cells, repeats), about 0."""
    shape = (starts, CELLS, REPEATS_IN_START)
    drawn = rng.standard_t(3, shape) / 3**0.5 if noise.heavy else rng.standard_normal(shape)
    if noise.memory:
        path = drawn.transpose(0, 2, 1).reshape(-1).copy()  # passes over the cells, one after the other
        for at in range(1, len(path)):
            path[at] = noise.memory * path[at - 1] + (1 - noise.memory**2) ** 0.5 * path[at]
        drawn = path.reshape(starts, REPEATS_IN_START, CELLS).transpose(0, 2, 1)
    found = noise.trial * drawn * cell_sds[None, :, None]
    found += noise.start * rng.standard_normal((starts, 1, 1))
    found += noise.cell * rng.standard_normal((starts, CELLS, 1)) * cell_sds[None, :, None]
    found += np.log(SLOW_FACTOR) * (rng.random(shape) < noise.slow)
    return np.asarray(found)


WORLD = World(prefill=lambda p: 3e-2 * p.batch**0.5, step=lambda p: 3e-2 * p.batch**0.5, noise=0.0)
POINTS = grid(batch=(1, 2, 4, 8), input_tokens=(20, 128), output_tokens=(20, 100))
assert len(POINTS) == CELLS


def templates(tp: int = 1) -> list[list[Row]]:
    """A row of each repeat of each cell, to be filled with times."""
    points = [dataclasses.replace(point, tp=tp) for point in POINTS]
    return [
        rows_of([result(point, WORLD, repeat=repeat) for repeat in range(REPEATS_IN_START)], ENVIRONMENTS)
        for point in points
    ]


def filled(template: Sequence[Sequence[Row]], logs: Array, side: str) -> Iterator[Row]:
    """The rows of one server with these times, each start under a name of its own."""
    for start, cells in enumerate(logs):
        for rows, trials in zip(template, cells, strict=True):
            for row, log in zip(rows, trials, strict=True):
                trial = dataclasses.replace(row.trial, id=f"{row.id} {side} {start}", start=start)
                e2e = float(np.exp(log)) * row.values["e2e_s"]
                yield dataclasses.replace(
                    row,
                    source=side,
                    values={"e2e_s": e2e},
                    result=dataclasses.replace(row.result, trial=trial, start=f"{side} {start}"),
                )


def folder(path: Path, logs: Array, side: str) -> Path:
    """The same as a results folder, written as a sweep writes it."""
    results = [
        result(point, scaled(float(np.exp(log))), repeat=repeat, start=f"{side} {start}")
        for start, cells in enumerate(logs)
        for point, trials in zip(POINTS, cells, strict=True)
        for repeat, log in enumerate(trials)
    ]
    named = [
        dataclasses.replace(each, trial=dataclasses.replace(each.trial, id=f"{each.trial.id[:12]}{at:04x}"))
        for at, each in enumerate(results)
    ]
    return write(path, named, samples=False)


def scaled(factor: float) -> World:
    """The world, slower by a factor."""
    return World(
        prefill=lambda p: factor * WORLD.prefill(p), step=lambda p: factor * WORLD.step(p), noise=0.0
    )


@dataclasses.dataclass(frozen=True)
class Seen:
    """What one pair of comparisons said."""

    differs: bool
    any_cell: bool
    fails_alike: bool
    half_width: float
    covers: bool
    found: bool  # the true 3 %
    fails_at_level: bool


def seen(alike: Comparison, slower: Comparison) -> Seen:
    """The verdicts of B like A, and of B 3 % slower."""
    same, other = alike.overall["e2e_s"], slower.overall["e2e_s"]
    return Seen(
        differs=same.differs,
        any_cell=any(pair.ratios["e2e_s"].differs for pair in alike.pairs),
        fails_alike=alike.gates[0].verdict == "fails",
        half_width=float(np.log(same.high / same.value)) if same.high is not None else np.nan,
        covers=other.low is not None and other.high is not None and other.low <= SLOWER <= other.high,
        found=other.differs and other.value > 1,
        fails_at_level=slower.gates[0].verdict == "fails",
    )


def simulate(name: str, starts: int, repeats: int, seed: int, through_folders: bool) -> list[Seen]:
    """``repeats`` pairs of comparisons of one world with so many starts a side; one start borrows from 8 servers."""
    noise = WORLDS[name]
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), starts])
    own, lent = templates(), [templates(tp + 2) for tp in range(LENDERS)] if starts == 1 else []
    every = []
    for _ in range(repeats):
        cell_sds = np.exp(noise.unlike * rng.standard_normal(CELLS))
        a, b = times(noise, starts, cell_sds, rng), times(noise, starts, cell_sds, rng)
        if through_folders:
            with tempfile.TemporaryDirectory() as place:
                root = Path(place)
                one = folder(root / "a", a, "a")
                pair = [
                    compare(one, folder(root / name, logs, name), [GATE])
                    for name, logs in (("b", b), ("c", b + np.log(SLOWER)))
                ]
        else:
            left = list(filled(own, a, "a"))
            for at, template in enumerate(lent):
                left += filled(template, times(noise, 2, cell_sds, rng), f"lender {at}")
            pair = [
                compare_rows(left, list(filled(own, logs, "b")), [GATE]) for logs in (b, b + np.log(SLOWER))
            ]
        every.append(seen(*pair))
    return every


def share(every: Sequence[Seen], of: Callable[[Seen], bool]) -> float:
    """The share of repeats of which something is true."""
    return sum(map(of, every)) / len(every)


def misses(rate: float, repeats: int, goal: float) -> bool:
    """Whether a rate is above its goal by more than chance."""
    return float(stats.binom.sf(round(rate * repeats) - 1, repeats, goal)) < CHANCE


def told(name: str, starts: int, every: Sequence[Seen]) -> tuple[str, list[str]]:
    """A line of the table, and the goals missed."""
    noise, count = WORLDS[name], len(every)
    missed = []

    def rate(what: str, of: Callable[[Seen], bool], goal: float) -> str:
        found = share(every, of)
        if misses(found, count, goal):
            missed.append(f"{name}, {starts} starts: {what} {100 * found:.1f} %, goal {100 * goal:.1f} %")
        return f"{100 * found:5.1f}{'!' if misses(found, count, goal) else ' '}"

    goal = 0.075 if starts in noise.hard else 0.06
    cells = 0.0 if starts == 1 else 0.075 if starts in noise.hard_cells + noise.hard else 0.06
    gates = [
        rate("gate of B like A", lambda s: s.fails_alike, 0.06),
        rate("gate at its level", lambda s: s.fails_at_level, 0.075 if starts in noise.hard else 0.06),
    ]
    width = float(np.nanmedian([100 * each.half_width for each in every]))
    missing = rate("not covered", lambda s: not s.covers, 0.08)
    power = 100 * share(every, lambda s: s.found)
    line = (
        f"{name:26s} {starts:2d}  {rate('A/A overall', lambda s: s.differs, goal)}"
        f"  {rate('A/A any cell', lambda s: s.any_cell, cells)}"
        f"  {' '.join(gates) if starts > 1 else '   –     – '}"
        f"  {missing}  {width:6.2f}  {power:5.1f}"
    )
    if name == ".35 + .54" and starts == 3 and misses(share(every, lambda s: not s.found), count, 0.05):
        missed.append(f"{name}, 3 starts: a true 3 % is found too seldom")
    return line, missed if starts > 1 else [text for text in missed if "gate" not in text]


def main() -> int:
    """Simulate, print, judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--worlds", default="", help="a regular expression")
    parser.add_argument("--folders", action="store_true", help="every world through folders")
    given = parser.parse_args()
    began = time.monotonic()
    cases = [
        (name, k, given.folders) for name in WORLDS for k in (1, 2, 3, 5) if re.search(given.worlds, name)
    ]
    if given.folders:
        cases = [case for case in cases if case[1] > 1]
    elif re.search(given.worlds, FOLDERS):
        cases.append((FOLDERS, 3, True))
    print(f"{given.repeats} repeats, seed {given.seed}; rates in %; ! misses its goal by more than chance")
    print(
        f"{'world (trial + start sd)':26s}  k  overall   cell  gate: A/A, at +3  missed   ± %   3 % found",
        flush=True,
    )
    missed = []
    with ProcessPoolExecutor(given.jobs) as pool:
        waiting = [
            (name, k, through, pool.submit(simulate, name, k, given.repeats, given.seed, through))
            for name, k, through in cases
        ]
        for name, k, through, future in waiting:
            line, wrong = told(name, k, future.result())
            print(line + ("  through folders" if through else ""), flush=True)
            missed += wrong
    print("\n".join(["missed:", *missed] if missed else ["every goal is met"]))
    print(f"{time.monotonic() - began:.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

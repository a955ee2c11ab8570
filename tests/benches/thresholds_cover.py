"""How often intervals of thresholds hold the truth, drift passes for a difference, and F2 is told: against goals.

Usage: python tests/benches/thresholds_cover.py [--repeats 200] [--seed N] [--jobs 2] [--parts drift power cover]

*drift*: A and B are alike, and times rise by 1 % over the session, in the order in which a plan runs its starts.
*power*: B* is 4 on one GPU and 6 on two; F2 has to say so.
*cover*: B* (F1), the plateau's end (F3b) and the memory knee (F6a) of known curves. A place is covered when it lies in
(low, high]; the worst of five places is judged. Beside it: how many intervals are no wider than two doublings, since
one over the whole grid covers, too. Memory scatters as times do, and, last, not at all. Ten minutes on two cores.

Exit code 1 when a rate misses its goal by more than chance (the rule of verdicts.py).
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: small matrices, and a process a core

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "aids"))

from cases import ENVIRONMENTS
from findings_truth import Noise, world
from synthetic import Point, World, grid, result
from verdicts import CELLS, REPEATS_IN_START, filled, misses
from verdicts import POINTS as COMPARED
from verdicts import templates as compared_rows

from loadgen.analysis.compare import compare_rows
from loadgen.analysis.finding import Case, Finding, Rules
from loadgen.analysis.findings.latency import f1, f2
from loadgen.analysis.findings.memory import MEMORY, f6
from loadgen.analysis.findings.plateau import f3b
from loadgen.analysis.study import Study
from loadgen.analysis.table import Row, rows_of
from loadgen.analysis.thresholds import WIDEST
from loadgen.load_records import LoadSpec
from loadgen.plan.plan import make_plan
from loadgen.profile.profile import Cell, Profile
from loadgen.records import ServerSpec
from loadgen.theory.models import PRESETS

SEED = 20261217  # of the figures that are told; the bench was written with seeds 1 to 9
MARGIN = Rules().margin
MEASURED, LENDER = "llama-13b", "llama-30b"
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
PLACES = (2.9, 4.1, 5.7, 15.6, 45.0)  # early, late; just above a point of the grid, between two, just below
CURVES = {"steep": 1.0, "shallow": 0.3}  # the cost of a batch goes with its power
LENDERS = (1, 2, 4)  # tp of three servers of two starts, beside a server of one start
NOISES = {
    ".35/.36": Noise(trial=0.0035, start=0.0040, cell=0.0036),
    "1/.5": Noise(trial=0.01, start=0.01, cell=0.005),
    "5/2": Noise(trial=0.05, start=0.05, cell=0.02),
    "10/5": Noise(trial=0.10, start=0.10, cell=0.05),
}  # between trials / start × cell, in %; what a start has in common with itself cancels
COMPILED = ".35/.36"
STILL = "0/0"  # memory that does not scatter: one draw a place tells all
DRIFT = 0.01  # of times, over the session
OWN = Noise(trial=0.003, start=0.003)  # beside the drift
DRIFT_GOAL, COVER_GOAL, POWER_GOAL, SIZE_GOAL = 0.05, 0.92, 0.90, 0.05
Made = list[tuple[Row, tuple[object, ...], tuple[float, float], Point]]
Told = list[tuple[bool, bool]]  # by repeat: right or found, and beside it: narrow, or found in a cell


def positions(starts: int, in_turn: bool) -> np.ndarray:
    """When each trial runs, as a share of the session; shape (sides, starts, cells, repeats).

    ``in_turn``: in the order of the project's own plan; else all starts of A come before those of B.
    """
    servers = [
        ServerSpec(framework="hf", model=PRESETS[MEASURED], gpus=(0,), options={"engine": engine})
        for engine in ("generate", "compiled")
    ]
    loads = [
        LoadSpec(
            kind="static",
            input_tokens=point.input_tokens,
            output_tokens=point.output_tokens,
            batch_size=point.batch,
            requests=8,
        )
        for point in COMPARED
    ]
    cells = tuple(
        Cell(load=load, server=server, repeat=repeat, start=start)
        for server in servers
        for start in range(starts)
        for load in loads
        for repeat in range(REPEATS_IN_START)
    )
    plan = make_plan(Profile(name="drift", description="", file="", text="", sets=(), cells=cells))
    found = np.full((2, starts, CELLS, REPEATS_IN_START), np.nan)
    for at, trial in enumerate(plan.trials):
        load = loads.index(dataclasses.replace(trial.load, seed=loads[0].seed))
        found[servers.index(trial.server), trial.start, load, trial.repeat] = at
    assert not np.isnan(found).any()
    if not in_turn:
        found = np.arange(found.size, dtype=float).reshape(found.shape)
    return found / (found.size - 1)


def drifting(starts: int, in_turn: bool, repeats: int, seed: int) -> Told:
    """Whether A and B, which are alike, are said to differ: overall, and in any cell."""
    rng = np.random.default_rng([seed, 1, starts, in_turn])
    rows, when, found = compared_rows(), positions(starts, in_turn), []
    for _ in range(repeats):
        logs = np.log1p(DRIFT * when) + OWN.trial * rng.standard_normal(when.shape)
        logs += OWN.start * rng.standard_normal((2, starts, 1, 1))
        sides = [
            [
                dataclasses.replace(row, started_h=float(hour))
                for row, hour in zip(filled(rows, each, side), at.reshape(-1), strict=True)
            ]
            for each, at, side in zip(logs, when, "ab", strict=True)
        ]
        seen = compare_rows(*sides)
        found.append(
            (seen.overall["e2e_s"].differs, any(pair.ratios["e2e_s"].differs for pair in seen.pairs))
        )
    return found


def truth(point: Point, place: float, power: float) -> tuple[float, float]:
    """Seconds of a trial and bytes of a GPU; at the batch ``place`` B*, the plateau's end and the knee lie alike.

    Memory is a straight line in the batch where costs go with its first power, and a curve otherwise.
    """
    risen = (point.batch**power - 1) / (place**power - 1)
    dearer = (point.batch / place) ** power if point.input_tokens > 20 else 0.0
    return 0.2 * (1 + MARGIN * risen) * (1 + MARGIN * dearer), 30e9 * (1 + MARGIN * risen)


def rows_at(places: dict[int, float], power: float, starts: int) -> Made:
    """A row of each trial, one a start and cell: of the servers with these ``places`` by tp, and of lenders."""
    own = grid(tp=tuple(places), batch=BATCHES, input_tokens=(20, 128))
    points = [(point, start) for start in range(starts) for point in own]
    if starts == 1:
        lent = grid(model=(LENDER,), tp=LENDERS, batch=BATCHES, input_tokens=(20, 128))
        points += [(point, start) for start in range(2) for point in lent]
    points = [(dataclasses.replace(point, stream=False), start) for point, start in points]

    def at(point: Point) -> tuple[float, float]:
        return truth(point, places.get(point.tp, places[1]), power)

    still = World(prefill=lambda point: at(point)[0], step=lambda _point: 0.0)
    made = [result(point, still, repeat=start, start=f"start {start}") for point, start in points]
    found = []
    for row, (point, start) in zip(rows_of(made, ENVIRONMENTS, "truth"), points, strict=True):
        needs = dataclasses.replace(row, values={**row.values, MEMORY: at(point)[1]})
        found.append((needs, (point.model, point.tp, start), at(point), point))
    return found


def decided(
    made: Made, noise: Noise, rng: np.random.Generator, *claims: Callable[..., list[Finding]]
) -> Iterator[Finding]:
    """The first finding of each claim about the measured model, with one draw of the noise."""
    rows = list(world(made, noise, rng))
    case = Case(study=Study(rows), rows=rows, physics={}, ceilings={})
    (subject,) = (each for each in case.subjects() if each.model == MEASURED)
    for claim in claims:
        yield claim(case, subject, case.subjects()[subject])[0]


FIGURES = {"B*": f1, "plateau's end": f3b, "memory knee": f6}


def covering(noise: str, curve: str, starts: int, place: float, repeats: int, seed: int) -> dict[str, Told]:
    """By figure: whether its interval holds the place, and is no wider than two doublings."""
    rng = np.random.default_rng([seed, 2, zlib.crc32(f"{noise} {curve} {place}".encode()), starts])
    made = rows_at({1: place}, CURVES[curve], starts)
    chosen = {"memory knee": f6} if noise == STILL else FIGURES
    found: dict[str, Told] = {name: [] for name in chosen}
    for _ in range(1 if noise == STILL else repeats):
        told = decided(made, NOISES.get(noise, Noise(trial=0.0)), rng, *chosen.values())
        for name, finding in zip(chosen, told, strict=True):
            assert finding.effect is not None
            low, high = finding.effect.low, finding.effect.high
            assert low is not None
            assert high is not None
            found[name].append((low < place <= high, low > 0 and high / low <= WIDEST))
    return {name: told * repeats for name, told in found.items()} if noise == STILL else found


def growing(places: tuple[float, float], curve: str, starts: int, repeats: int, seed: int) -> Told:
    """Whether F2 holds (and whether it is refuted) of B* at ``places`` on one GPU and on two, at compiled's noise."""
    rng = np.random.default_rng([seed, 3, zlib.crc32(f"{places} {curve}".encode()), starts])
    made = rows_at({1: places[0], 2: places[1]}, CURVES[curve], starts)
    verdicts = [next(decided(made, NOISES[COMPILED], rng, f2)).verdict for _ in range(repeats)]
    return [(verdict == "holds", verdict == "refuted") for verdict in verdicts]


class Table:
    """Lines as they come, and the goals missed."""

    def __init__(self) -> None:
        self.missed: list[str] = []
        print(f"{'world':42s} {'figure':16s} {'goal':>8s} {'rate':>8s}", flush=True)

    def add(
        self, world: str, figure: str, told: Sequence[bool], goal: float | None, least: bool, beside: str = ""
    ) -> None:
        """A line: the share of ``told`` against the goal, at ``least`` or at most; no goal: shown alone."""
        rate, word, sign = float(np.mean(told)), "", "≥" if least else "≤"
        if goal is not None:
            wrong, allowed = (1 - rate, 1 - goal) if least else (rate, goal)
            word = "missed" if misses(wrong, len(told), allowed) else "ok"
            if word == "missed":
                self.missed.append(f"{world}: {figure} {rate:.1%}, goal {sign} {goal:.0%}")
        named = "–" if goal is None else f"{sign} {goal:.0%}"
        print(f"{world:42s} {figure:16s} {named:>8s} {rate:8.1%}  {word:7s} {beside}".rstrip(), flush=True)


def show_drift(table: Table, pool: ProcessPoolExecutor, repeats: int, seed: int) -> None:
    """A/A rates with a drift; without turns, too, to show that it would be seen."""
    cases = [
        ("A B, B A, …", True, 2),
        ("A B, B A, …", True, 3),
        ("A B, B A, …", True, 4),
        ("A A B B", False, 2),
    ]
    waiting = [pool.submit(drifting, starts, turn, repeats, seed) for _, turn, starts in cases]
    for (order, turn, starts), future in zip(cases, waiting, strict=True):
        told, name = future.result(), f"1 % drift, {order}, k {starts}"
        for at, figure in enumerate(("A/A overall", "A/A any cell")):
            table.add(name, figure, [each[at] for each in told], DRIFT_GOAL if turn else None, least=False)


def show_power(table: Table, pool: ProcessPoolExecutor, repeats: int, seed: int) -> None:
    """F2 of B* 4 against 6, with the goal at three starts a side; and of 4 against 4, which must not hold."""
    cases = [
        (places, curve, starts)
        for places in ((4.0, 6.0), (4.0, 4.0))
        for curve in CURVES
        for starts in (1, 2, 3)
    ]
    waiting = [pool.submit(growing, *case, repeats, seed) for case in cases]
    for (places, curve, starts), future in zip(cases, waiting, strict=True):
        grows = places[0] < places[1]
        goal = (POWER_GOAL if starts == 3 else None) if grows else SIZE_GOAL
        told, name = (
            future.result(),
            f"B* {places[0]:g} against {places[1]:g}, {COMPILED} %, {curve}, k {starts}",
        )
        beside = f"refuted {np.mean([refuted for _, refuted in told]):.1%}"
        table.add(name, "F2 holds", [holds for holds, _ in told], goal, grows, beside)


def show_cover(table: Table, pool: ProcessPoolExecutor, repeats: int, seed: int) -> None:
    """The place that is covered worst, of each world and figure, and over all places how many are narrow."""
    worlds = [(noise, curve, starts) for noise in NOISES for curve in CURVES for starts in (1, 2, 3)]
    worlds += [(STILL, curve, 1) for curve in CURVES]
    waiting: dict[tuple[str, str, int], list[Future[dict[str, Told]]]] = {
        case: [pool.submit(covering, *case, place, repeats, seed) for place in PLACES] for case in worlds
    }
    for (noise, curve, starts), futures in waiting.items():
        by_place = [future.result() for future in futures]
        for figure in by_place[0]:
            rates = [float(np.mean([covered for covered, _ in told[figure]])) for told in by_place]
            worst = int(np.argmin(rates))
            narrow = np.mean([each for told in by_place for _, each in told[figure]])
            beside = f"worst at {PLACES[worst]:g}; mean {np.mean(rates):.1%}; narrow {narrow:.0%}"
            name = f"noise {noise} %, {curve}, k {starts}"
            told = [covered for covered, _ in by_place[worst][figure]]
            table.add(name, figure, told, COVER_GOAL, True, beside)


PARTS = {"drift": show_drift, "power": show_power, "cover": show_cover}


def main() -> int:
    """Simulate, print, judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    given = parser.parse_args()
    began = time.monotonic()
    print(
        f"{given.repeats} repeats, seed {given.seed}; k: starts a side; one borrows from {len(LENDERS)} servers of two"
    )
    table = Table()
    with ProcessPoolExecutor(given.jobs) as pool:
        for part in given.parts:
            PARTS[part](table, pool, given.repeats, given.seed)
    print("\n".join(["missed:", *table.missed] if table.missed else ["every goal is met"]))
    print(f"{time.monotonic() - began:.0f} s")
    return 1 if table.missed else 0


if __name__ == "__main__":
    sys.exit(main())

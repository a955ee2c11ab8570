"""How right a search for capacity is, on simulated servers of known capacity and on null's queue, against goals.

Usage: python tests/benches/capacity.py [--repeats 40] [--searches 20] [--seed N] [--jobs 2] [--parts accuracy real]

*accuracy*: error and cover of searches at three goals on two engines; *near*: of those of a second start, told what
the first found on a server that is some per cent faster or slower. *cover*: Wilson's interval of one trial.
*growth*: the check that ends trials early. *slots*: where an interval is not to be trusted, a caveat says so.
*real*, only when named: `loadgen sweep` on null's queue, 70 s × ``--scale`` each, ``--jobs`` at once. On busy
cores, where the client would be the limit, a larger scale makes its lags small beside the queue's times.

The same code searches as in `loadgen capacity`; only the trials are simulated, by the figures that real ones are made
of. Truth is a simulation of hours. Exit 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: small matrices, and a process a core

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "aids"))
from simulated_server import Engine, Server, Servers, result_of

from loadgen.load_records import LoadSpec
from loadgen.metrics.effective import wilson
from loadgen.metrics.objectives import slo_of_options
from loadgen.plan.capacity import next_step
from loadgen.plan.capacity_estimate import Done
from loadgen.plan.capacity_outcome import outcome
from loadgen.records import Trial
from loadgen.results import capacity_log
from loadgen.search_records import Capacity, CapacitySearch
from loadgen.slo_records import Slo

SEED = 20261219  # of the figures that are told; the method was tuned with others
TRUTH_SEEDS, TRUTH_S = range(9000, 9008), 1500.0
STEP = 1.03
START_SPREAD = 0.1  # of the logarithm of what another start found about the truth


@dataclass(frozen=True, kw_only=True)
class World:
    """A server, what it is asked, and where to look for the truth (a rate of about its capacity)."""

    name: str
    server: Server
    objectives: tuple[str, ...]
    about: float
    lengths: tuple[int, int] = (512, 128)

    @property
    def load(self) -> LoadSpec:
        return LoadSpec(kind="poisson", input_tokens=self.lengths[0], output_tokens=self.lengths[1])

    def slo(self, goal: float) -> Slo:
        found = slo_of_options([*self.objectives, f"share={goal}"])
        assert found is not None
        return found

    def trial(self, goal: float, rate: float, seconds: float, lead_in_s: float, seed: int) -> Trial:
        load = replace(self.load, rate=rate, duration_s=seconds, lead_in_s=lead_in_s, seed=seed, requests=0)
        return Trial(id="", load=load, url="http://127.0.0.1:1", slo=self.slo(goal))

    def attained(self, rate: float, seed: int) -> tuple[int, int]:
        """Good and due requests of a long trial, by any goal's objectives."""
        found = result_of(
            self.trial(0.9, rate, TRUTH_S, 120.0, seed), self.server, stop_growing=False
        ).attained
        assert found is not None
        return found.good, found.due

    def truths(self, goals: Sequence[float], pool: ProcessPoolExecutor) -> dict[float, float]:
        """Capacity at each goal: where the attainment of hours falls through it."""
        rates = [self.about * STEP**place for place in range(-8, 9)]
        cases = list(product(rates, TRUTH_SEEDS))
        counts = np.array(list(pool.map(self.attained, *zip(*cases, strict=True)))).reshape(len(rates), -1, 2)
        good, due = counts.sum(axis=1).T
        logit = np.log(np.maximum(good / due, 1e-9) / np.maximum(1 - good / due, 1e-9))
        return {
            goal: float(np.exp(np.interp(-np.log(goal / (1 - goal)), -logit, np.log(rates))))
            for goal in goals
        }


CHUNKED = World(
    name="engine of 256 slots", server=Engine(), objectives=("ttft=500ms", "tpot=25ms"), about=17.6
)
SMALLER = World(
    name="engine of 128 slots",
    server=Engine(slots=128, step_ns=15_000_000, sequence_ns=150_000, prompt_ns=60_000),
    objectives=("ttft=1s", "tpot=40ms"),
    about=15.6,
    lengths=(256, 128),
)
FEW = World(name="eight places (M/G/8)", server=Servers(), objectives=("e2e=12s",), about=3.7)


def search(world: World, goal: float, seed: int, near: float | None = None) -> Capacity:
    point = replace(world.trial(goal, 1.0, 1.0, 0.0, seed), load=replace(world.load, seed=seed))
    asked = CapacitySearch(point=point, within=1e-6, near=near)
    done: list[Done] = []
    while (step := next_step(asked, done)) is not None:
        result = result_of(step.trial, world.server, stop_growing=step.role == "bracket")
        done.append(Done(role=step.role, result=result))
    return outcome(asked, done, "simulated")


class Judge:
    """Prints figures beside their goals."""

    def __init__(self) -> None:
        self.missed = 0

    def say(
        self, what: str, value: float, at_least: float | None = None, at_most: float | None = None
    ) -> None:
        kept = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
        goal = f"≥ {at_least:.3g}" if at_least is not None else f"≤ {at_most:.3g}"
        self.missed += not kept
        print(f"  {what:<58} {value:7.3f}  goal {goal:<8} {'ok' if kept else 'MISSED'}", flush=True)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all parts need: where to compute, how often, from which seed on, and who judges."""

    pool: ProcessPoolExecutor
    jobs: int
    repeats: int
    searches: int
    scale: int
    seed: int
    judge: Judge

    def seeds(self, part: int, count: int) -> range:
        """Seeds of a part, which no other part has."""
        return range(self.seed + 10_000 * part, self.seed + 10_000 * part + count)


def accuracy(bench: Bench) -> None:
    """Error and cover of searches of six windows."""
    goals = [0.9, 0.95, 0.99]
    for place, world in enumerate((CHUNKED, SMALLER)):
        truths = world.truths(goals, bench.pool)
        cases = list(product([world], goals, bench.seeds(place, bench.repeats)))
        every = list(bench.pool.map(search, *zip(*cases, strict=True)))
        for goal in goals:
            found = [each for each, case in zip(every, cases, strict=True) if case[1] == goal]
            told_accuracy(f"{world.name}, goal {goal:.0%}", truths[goal], found, bench.judge)


def near(bench: Bench) -> None:
    """The same at one goal, near what another start found."""
    for place, world in enumerate((CHUNKED, SMALLER)):
        truth = world.truths([0.95], bench.pool)[0.95]
        seeds = bench.seeds(7 + place, bench.repeats)
        before = truth * np.exp(
            np.random.default_rng(bench.seed + place).normal(0.0, START_SPREAD, len(seeds))
        )
        cases = zip(
            *[(world, 0.95, seed, float(at)) for seed, at in zip(seeds, before, strict=True)], strict=True
        )
        told_accuracy(
            f"{world.name}, goal 95%, near", truth, list(bench.pool.map(search, *cases)), bench.judge
        )


def told_accuracy(name: str, truth: float, found: Sequence[Capacity], judge: Judge) -> None:
    """Median and p95 of the error, how many intervals hold the truth, and how wide they are."""
    told = [each for each in found if each.capacity is not None and each.low and each.high]
    errors = np.array([each.capacity / truth - 1 for each in told if each.capacity])
    widths = [(each.high - each.low) / truth for each in told if each.low and each.high]
    cover = sum(holds(each, truth) for each in found) / len(found)
    kinds = Counter(caveat.kind for each in told for caveat in each.caveats)
    print(f"{name}, capacity {truth:.2f}/s, {len(found)} searches, {len(told)} told, caveats {dict(kinds)}")
    print(f"  mean error {errors.mean():+.1%}, median width of the interval {np.median(widths):.1%}")
    judge.say("median error", float(np.median(abs(errors))), at_most=0.035)
    judge.say("95th percentile of the error", float(np.quantile(abs(errors), 0.95)), at_most=0.10)
    judge.say("the 90 % interval covers", cover, at_least=0.85)


def holds(found: Capacity, truth: float) -> bool:
    """Whether an interval holds the truth; no interval holds none."""
    return bool(found.low and found.high and found.low <= truth <= found.high)


def slots(bench: Bench) -> None:
    """Where the interval is not to be trusted, a caveat says so."""
    truth = FEW.truths([0.95], bench.pool)[0.95]
    found = list(bench.pool.map(partial(search, FEW, 0.95), bench.seeds(2, bench.repeats)))
    wrong = [each for each in found if not holds(each, truth)]
    doubted = [each for each in wrong if each.caveats or each.capacity is None]
    print(
        f"{FEW.name}, goal 95%, capacity {truth:.2f}/s, {len(found)} searches: {len(wrong)} intervals miss it"
    )
    bench.judge.say("of those that miss, with a caveat", len(doubted) / max(1, len(wrong)), at_least=0.9)


def covered(world: World, goal: float, rate: float, seed: int) -> tuple[bool, bool]:
    """Whether Wilson's 95 % interval of a trial holds its goal: with all requests, and with the independent ones."""
    trial = world.trial(goal, rate, 240.0, 60.0, seed)
    found = result_of(trial, world.server, stop_growing=False).attained
    assert found is not None
    low, high = wilson(found.good, found.due, found.due)
    return low <= goal <= high, found.goals[0].low <= goal <= found.goals[0].high


def cover(bench: Bench) -> None:
    """Wilson's 95 % interval of one trial at capacity, with all requests and with the independent ones."""
    world, goal, repeats = CHUNKED, 0.9, 5 * bench.repeats
    truth = world.truths([goal], bench.pool)[goal]
    told = list(bench.pool.map(partial(covered, world, goal, truth), bench.seeds(3, repeats)))
    naive, ours = np.mean(told, axis=0)
    print(
        f"{world.name}, goal {goal:.0%}: {repeats} trials of 60 + 240 s at capacity; Wilson's 95 % interval covers"
    )
    print(f"  {'with all requests':<58} {naive:7.3f}")
    bench.judge.say("with the independent ones (batch means)", float(ours), at_least=0.8)


def seen_to_grow(world: World, goal: float, rate: float, seed: int) -> bool:
    """Whether the queue of a trial of 30 s from an empty server is seen to grow."""
    return result_of(world.trial(goal, rate, 30.0, 0.0, seed), world.server, stop_growing=True).caveats != ()


def growth(bench: Bench) -> None:
    """The check that ends trials early: at twice the capacity, and at capacity."""
    world, goal, repeats = CHUNKED, 0.95, 5 * bench.repeats
    truth = world.truths([goal], bench.pool)[goal]

    def share(rate: float, part: int) -> float:
        seeds = bench.seeds(part, repeats)
        return sum(bench.pool.map(partial(seen_to_grow, world, goal, rate), seeds)) / repeats

    print(f"{world.name}, goal {goal:.0%}: {repeats} trials of 30 s from an empty server")
    bench.judge.say("queue seen to grow at 2 × capacity", share(2 * truth, 4), at_least=0.85)
    bench.judge.say("falsely at capacity", share(truth, 5), at_most=0.15)


REAL = """
name = "real"
[server]
framework = "null"
model = "tiny"
gpus = []
[server.options]
slots = 16
step_ms = {step_ms:.1f}
sequence_us = {sequence_us}
prompt_us = {prompt_us}
[load]
mode = "poisson"
input_tokens = 32
output_tokens = 8
[slo]
tpot = "{tpot_ms}ms"
share = 0.9
[capacity]
window = "{window_s}s"
lead_in = "{lead_in_s}s"
within = 0.000001
[telemetry]
enabled = false
"""


def slowed(scale: int) -> tuple[World, str]:
    """null's queue with all its times so many times those of 20 ms steps, and the profile that searches it."""
    world = World(
        name=f"null's queue, steps of {20 * scale} ms and more",
        server=Engine(
            slots=16,
            step_ns=20_000_000 * scale,
            sequence_ns=1_000_000 * scale,
            prompt_ns=100_000 * scale,
            spread=0.0,
        ),
        objectives=(f"tpot={40 * scale}ms",),
        about=33.5 / scale,
        lengths=(32, 8),
    )
    return world, REAL.format(
        step_ms=20.0 * scale,
        sequence_us=1000 * scale,
        prompt_us=100 * scale,
        tpot_ms=40 * scale,
        window_s=10 * scale,
        lead_in_s=2 * scale,
    )


def one_real(profile: str, seed: int) -> tuple[Capacity, int]:
    """A real search in processes of its own, and how many trials it took."""
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "real.toml", Path(folder) / "out"
        file.write_text(profile)
        command = [
            str(Path(sys.executable).with_name("loadgen")), "sweep", str(file), "--set", f"load.seed={seed}",
            "--out", str(out), "--no-live", "--no-report",
        ]  # fmt: skip
        ended = subprocess.run(command, capture_output=True, text=True)
        found = capacity_log.outcomes(out)
        if len(found) != 1:
            raise RuntimeError(f"exit {ended.returncode}: {ended.stderr[-2000:]}")
        return found[0], len(capacity_log.trials(out))


def real(bench: Bench) -> None:
    """Real searches through `loadgen sweep` on null's queue, whose capacity the simulation of the same steps tells."""
    world, profile = slowed(bench.scale)
    truth = world.truths([0.9], bench.pool)[0.9]
    print(f"{world.name}, goal 90%, capacity {truth:.3g}/s, {bench.searches} real searches", flush=True)
    held = 0
    with ThreadPoolExecutor(bench.jobs) as waiting:
        for found, trials in waiting.map(partial(one_real, profile), bench.seeds(6, bench.searches)):
            inside = holds(found, truth)
            held += inside
            doubts = " ".join(caveat.kind for caveat in found.caveats)
            figures = " ".join(f"{each:.2f}" for each in (found.capacity, found.low, found.high) if each)
            print(f"  {found.ended} {found.why or figures} {inside} {trials} trials {doubts}", flush=True)
    bench.judge.say("intervals that hold the truth", held / bench.searches, at_least=0.85)


PARTS = {"accuracy": accuracy, "near": near, "cover": cover, "growth": growth, "slots": slots, "real": real}


def main() -> int:
    """Search, print, judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--searches", type=int, default=20, help="real ones")
    parser.add_argument("--scale", type=int, default=2, help="of real ones: all times of the queue, × 20 ms")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=[name for name in PARTS if name != "real"]
    )
    given = parser.parse_args()
    judge = Judge()
    with ProcessPoolExecutor(given.jobs) as pool:
        bench = Bench(
            pool=pool,
            jobs=given.jobs,
            repeats=given.repeats,
            searches=given.searches,
            scale=given.scale,
            seed=given.seed,
            judge=judge,
        )
        for name in given.parts:
            PARTS[name](bench)
    return 1 if judge.missed else 0


if __name__ == "__main__":
    sys.exit(main())

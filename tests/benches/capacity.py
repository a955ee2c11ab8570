"""How right a search for capacity is, on simulated servers of known capacity and on null's queue, against goals.

    python tests/benches/capacity.py              # simulated: minutes on one core
    python tests/benches/capacity.py --real 20    # besides: real searches on null's queue, a minute each

The same code searches as in `loadgen capacity`; only the trials are simulated, by the figures that real ones are made
of. Truth is a simulation of hours. Exit 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "aids"))
from simulated_server import Engine, Server, Servers, result_of

from loadgen.metrics.effective import wilson
from loadgen.metrics.objectives import slo_of_options
from loadgen.plan.capacity import next_step
from loadgen.plan.capacity_estimate import Done
from loadgen.plan.capacity_outcome import outcome
from loadgen.records import LoadSpec, Trial, TrialResult
from loadgen.results import capacity_log
from loadgen.search_records import Capacity, CapacitySearch
from loadgen.slo_records import Slo

TRUTH_SEEDS, TRUTH_S = range(9000, 9008), 1500.0
STEP = 1.03


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

    def truths(self, goals: list[float]) -> dict[float, float]:
        """Capacity at each goal: where the attainment of hours falls through it."""
        rates = [self.about * STEP**place for place in range(-8, 9)]
        shares = []
        for rate in rates:
            trials = [self.trial(goals[0], rate, TRUTH_S, 120.0, seed) for seed in TRUTH_SEEDS]
            found = [result_of(trial, self.server, stop_growing=False).attained for trial in trials]
            shares.append(sum(each.good for each in found if each) / sum(each.due for each in found if each))
        logit = [np.log(max(share, 1e-9) / max(1 - share, 1e-9)) for share in shares]
        return {
            goal: float(np.exp(np.interp(-np.log(goal / (1 - goal)), -np.array(logit), np.log(rates))))
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


def search(world: World, goal: float, seed: int) -> Capacity:
    point = replace(world.trial(goal, 1.0, 1.0, 0.0, seed), load=replace(world.load, seed=seed))
    asked = CapacitySearch(point=point, within=1e-6)
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


def accuracy(world: World, goals: list[float], repeats: int, judge: Judge) -> None:
    """Error and cover of searches of six windows of 30 + 90 s."""
    truths = world.truths(goals)
    for goal in goals:
        truth = truths[goal]
        found = [search(world, goal, seed) for seed in range(1, repeats + 1)]
        told = [each for each in found if each.capacity is not None and each.low and each.high]
        errors = np.array([each.capacity / truth - 1 for each in told if each.capacity])
        cover = (
            sum(bool(each.low and each.high and each.low <= truth <= each.high) for each in told) / repeats
        )
        kinds = Counter(caveat.kind for each in told for caveat in each.caveats)
        print(
            f"{world.name}, goal {goal:.0%}, capacity {truth:.2f}/s, {repeats} searches, caveats {dict(kinds)}"
        )
        judge.say("median error", float(np.median(abs(errors))), at_most=0.035)
        judge.say("95th percentile of the error", float(np.quantile(abs(errors), 0.95)), at_most=0.10)
        judge.say("the 90 % interval covers", cover, at_least=0.85)


def few_slots(repeats: int, judge: Judge) -> None:
    """Where the interval is not to be trusted, a caveat says so."""
    truth = FEW.truths([0.95])[0.95]
    found = [search(FEW, 0.95, seed) for seed in range(1, repeats + 1)]
    wrong = [each for each in found if not (each.low and each.high and each.low <= truth <= each.high)]
    doubted = [each for each in wrong if each.caveats or each.capacity is None]
    print(f"{FEW.name}, goal 95%, capacity {truth:.2f}/s, {repeats} searches: {len(wrong)} intervals miss it")
    judge.say("of those that miss, with a caveat", len(doubted) / max(1, len(wrong)), at_least=0.9)


def cover(world: World, goal: float, repeats: int, judge: Judge) -> None:
    """Wilson's 95 % interval of one trial at capacity, with all requests and with the independent ones."""
    truth = world.truths([goal])[goal]
    naive = ours = 0
    for seed in range(20_001, 20_001 + repeats):
        found = result_of(
            world.trial(goal, truth, 240.0, 60.0, seed), world.server, stop_growing=False
        ).attained
        assert found is not None
        low, high = wilson(found.good, found.due, found.due)
        naive += low <= goal <= high
        ours += found.goals[0].low <= goal <= found.goals[0].high
    print(
        f"{world.name}, goal {goal:.0%}: {repeats} trials of 60 + 240 s at capacity; Wilson's 95 % interval covers"
    )
    print(f"  {'with all requests':<58} {naive / repeats:7.3f}")
    judge.say("with the independent ones (batch means)", ours / repeats, at_least=0.8)


def growth(world: World, goal: float, repeats: int, judge: Judge) -> None:
    """The check that ends trials early: at twice the capacity, and at capacity."""
    truth = world.truths([goal])[goal]

    def share(rate: float, first: int) -> float:
        trials = [world.trial(goal, rate, 30.0, 0.0, seed) for seed in range(first, first + repeats)]
        grew = [result_of(trial, world.server, stop_growing=True).caveats != () for trial in trials]
        return sum(grew) / repeats

    print(f"{world.name}, goal {goal:.0%}: {repeats} trials of 30 s from an empty server")
    judge.say("queue seen to grow at 2 × capacity", share(2 * truth, 30_001), at_least=0.85)
    judge.say("falsely at capacity", share(truth, 40_001), at_most=0.15)


REAL = """
name = "real"
[server]
framework = "null"
model = "tiny"
gpus = []
[server.options]
slots = 16
step_ms = 20.0
sequence_us = 1000
prompt_us = 100
[load]
mode = "poisson"
input_tokens = 32
output_tokens = 8
[slo]
tpot = "40ms"
share = 0.9
[capacity]
window = "10s"
lead_in = "2s"
within = 0.000001
[telemetry]
enabled = false
"""
QUEUE = World(
    name="null's queue",
    server=Engine(slots=16, step_ns=20_000_000, sequence_ns=1_000_000, prompt_ns=100_000, spread=0.0),
    objectives=("tpot=40ms",),
    about=33.5,
    lengths=(32, 8),
)


def real(repeats: int, judge: Judge) -> None:
    """Real searches through `loadgen sweep` on null's queue, whose capacity the simulation of the same steps tells."""
    from loadgen.commands import sweep

    truth = QUEUE.truths([0.9])[0.9]
    print(f"{QUEUE.name}, goal 90%, capacity {truth:.2f}/s, {repeats} real searches of 6 × (2 + 10 s)")
    held = 0
    for seed in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            file, out = Path(folder) / "real.toml", Path(folder) / "out"
            file.write_text(REAL)
            profile, plan = sweep.make(str(file), (f"load.seed={seed}",), dry_run=False)
            options = sweep.SweepOptions(out=out, live=False, report_after=False)
            with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
                sweep.run(profile, plan, options)
            (found,) = capacity_log.outcomes(out)
            tried: list[TrialResult] = capacity_log.trials(out)
        inside = bool(found.low and found.high and found.low <= truth <= found.high)
        held += inside
        doubts = [caveat.kind for caveat in found.caveats]
        print(
            f"  {found.ended} {found.capacity} [{found.low}, {found.high}] {inside} {len(tried)} trials {doubts}",
            flush=True,
        )
    judge.say("intervals that hold the truth", held / repeats, at_least=0.85)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--real", type=int, default=0, metavar="N", help="real searches on null's queue")
    parser.add_argument("--only-real", action="store_true")
    arguments = parser.parse_args()
    judge = Judge()
    if not arguments.only_real:
        for world in (CHUNKED, SMALLER):
            accuracy(world, [0.9, 0.95, 0.99], arguments.repeats, judge)
        cover(CHUNKED, 0.9, 5 * arguments.repeats, judge)
        growth(CHUNKED, 0.95, 5 * arguments.repeats, judge)
        few_slots(arguments.repeats, judge)
    if arguments.real:
        real(arguments.real, judge)
    return 1 if judge.missed else 0


if __name__ == "__main__":
    sys.exit(main())

"""What difference between two servers a plan can tell: from its starts, repeats and cells, and from how noisy they are.

Per cell a start's mean varies by start + start × cell + trial/√repeats; over c cells the last two shrink by √c and the
first does not, which is why starts pay and repeats hardly do. All figures are of natural logarithms, so relative.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from loadgen.identity import server_key
from loadgen.labels import server_label
from loadgen.plan.plan import Plan
from loadgen.records import ServerSpec, Trial
from loadgen.theory.duration import start_s
from loadgen.units import show_share

CONFIDENCE, POWER = 0.95, 0.8  # two-sided; found 4 times in 5
USUAL_STARTS, USUAL_CELLS = 3, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Relative standard deviations: of a start, of a start in one cell, of a trial within a start.

    ``source`` names the results they were measured in, or says what they are assumed of (``assumed``).
    """

    start: float
    cell: float
    trial: float
    source: str
    assumed: bool = False


# What servers on one H200 and one H100 were seen to do; another machine may be louder.
QUIET = Noise(start=0.0054, cell=0.0065, trial=0.0035, source="engines that replay CUDA graphs", assumed=True)
BATCHING = Noise(start=0.01, cell=0.01, trial=0.03, source="engines that batch continuously", assumed=True)
EAGER = Noise(start=0.15, cell=0.10, trial=0.25, source="engines that launch every kernel", assumed=True)
DEFAULT_ENGINES = {"hf": "generate", "triton": "generate", "ds": "mii-fastgen"}
ASSUMED = {"compiled": QUIET, "generate": EAGER, "ds-inference-autotp": EAGER, "ds-inference-kernel": EAGER}


def assumed(server: ServerSpec) -> Noise:
    """The noise of a server of which no results are known, by the kind of its engine."""
    return ASSUMED.get(engine_of(server), BATCHING)


def engine_of(server: ServerSpec) -> str:
    """The engine that a server is asked for, its framework's own where it is not named."""
    return str(server.options.get("engine", DEFAULT_ENGINES.get(server.framework, "")))


def detectable(noise: Noise, starts: int, cells: int, repeats: int, df: float | None = None) -> float | None:
    """The smallest relative difference of the mean over ``cells`` that two servers of so many starts are told apart by.

    ``df``: 2(starts − 1), and half of what other servers lend; ``None`` without a degree of freedom. 5 % low at 2
    starts and 1.5 % at 3 against the noncentral t.
    """
    from scipy import stats

    free = 2.0 * (starts - 1) if df is None else df
    if free <= 0:
        return None
    variance = noise.start**2 + (noise.cell**2 + noise.trial**2 / repeats) / cells
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, free) + stats.t.ppf(POWER, free))
    return math.expm1(reach * math.sqrt(2 / starts * variance))


def best_repeats(noise: Noise, cells: int, start_s: float, trial_s: float) -> float:
    """Repeats in each start that tell most in a given time, for the mean over ``cells`` (Kalibera and Jones 2013)."""
    shared = noise.start**2 + noise.cell**2 / cells
    return math.sqrt(noise.trial**2 / cells * start_s / (shared * cells * trial_s))


def told(noise: Noise, starts: int, repeats: int, cells: int) -> str:
    """In a sentence, with where the noise is from."""
    sizes = [noise.start, noise.cell, noise.trial]
    parts = ", ".join(
        f"{name} {size * 100:.2g} %"
        for name, size in zip(("start", "start × cell", "trial"), sizes, strict=True)
    )
    source = f"noise assumed, as of {noise.source}" if noise.assumed else f"noise of {noise.source}"
    over = detectable(noise, starts, cells, repeats)
    if over is None:
        could = detectable(noise, USUAL_STARTS, cells, repeats)
        assert could is not None
        return (
            f"one start a side: nothing can be told between two servers; starts = {USUAL_STARTS} could tell "
            f"{show_share(could)} over {_cells(cells)} ({source}: {parts})"
        )
    one = detectable(noise, starts, 1, repeats)
    assert one is not None
    each = "one repeat" if repeats == 1 else f"{repeats} repeats"
    within = f", {show_share(one)} in one" if cells > 1 else ""
    return (
        f"{starts} starts a side of {each} each: differences from {show_share(over)} can be told between two servers "
        f"over {_cells(cells)}{within} ({source}: {parts})"
    )


def _cells(count: int) -> str:
    return f"{count} cells" if count > 1 else "one cell"


def of_plan(
    plan: Plan,
    estimates: Mapping[str, float | None] | None = None,
    noise_of: Callable[[ServerSpec], Noise] = assumed,
) -> list[str]:
    """What the plan can tell, a line for each kind of server in it; servers that are planned alike share one.

    ``estimates``: expected seconds of the trials by id, where they are known: they say which repeats do not pay.
    """
    lines: dict[str, list[str]] = defaultdict(list)
    for trials in _by_server(plan.trials).values():
        server = trials[0].server
        if server is None:
            line = "an endpoint that already runs is one start: nothing can be told between two servers"
            lines[line].append(str(trials[0].url))
            continue
        at_start = Counter((replace(trial.load, seed=0), trial.start) for trial in trials)
        starts, repeats = len({start for _, start in at_start}), min(at_start.values())
        cells, noise = len({load for load, _ in at_start}), noise_of(server)
        line = told(noise, starts, repeats, cells)
        seconds = [(estimates or {}).get(trial.id) for trial in trials]
        known = [each for each in seconds if each]
        if repeats > 1 and known and len(known) == len(seconds):
            best = best_repeats(noise, cells, start_s(server), sum(known) / len(known))
            pays = max(1, math.ceil(best))
            line += f"; more starts of {pays} each tell more in the same time" if repeats > pays else ""
        lines[line].append(server_label(server))
    return [f"{', '.join(dict.fromkeys(names))}: {line}" for line, names in lines.items()]


def _by_server(trials: Sequence[Trial]) -> dict[str, list[Trial]]:
    """The trials of each server, all its starts together."""
    found: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        found[server_key(replace(trial, start=0))].append(trial)
    return found

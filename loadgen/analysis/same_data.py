"""Did two servers multiply the same kind of numbers, where that decides how fast a GPU may run?

At the power cap numbers that switch fewer bits leave the clock higher: on an H200 a matrix product of zeros runs 13 %
faster than one of random numbers. Below the cap the clock is that of the GPU, whatever the numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from loadgen.analysis.table import Row
from loadgen.engine_facts import Weights, weights_of

OTHER_DATA = "not the same data"
AT_CAP = 0.10  # of the readings of a load: a single one is a spike
POWER_CAP = re.compile(r"power cap in ([0-9.]+) % of the readings")


def other_data(one: Sequence[Row], other: Sequence[Row]) -> str:
    """Why two cells' times cannot be told apart from their data's; empty where they can.

    Both ran at the power cap, and weights of different makers, or distributions, were multiplied.
    """
    if not (at_cap(one) and at_cap(other)):
        return ""
    ours, theirs = weights(one), weights(other)
    if ours is not None and theirs is not None and ours.like(theirs):
        return ""
    sides = [
        f"{each.text if each else 'weights not told'}{clock_text(rows)}"
        for each, rows in ((ours, one), (theirs, other))
    ]
    return f"both ran at the power cap, where the data decide the clock, on other weights: {', against '.join(sides)}"


def at_cap(rows: Iterable[Row]) -> bool:
    """Whether the power cap held the clocks of a cell's GPUs down."""
    return any(power_cap_share(row) >= AT_CAP for row in rows)


def power_cap_share(row: Row) -> float:
    """The share of the readings of a trial's load in which its power cap held a GPU's clock down; the most of any."""
    told = [POWER_CAP.search(caveat.message) for caveat in row.result.caveats if caveat.kind == "throttled"]
    return max((float(each[1]) / 100 for each in told if each), default=0.0)


def weights(rows: Iterable[Row]) -> Weights | None:
    """Whose numbers a cell's runs multiplied; ``None`` where it is not told, or its runs differ."""
    found = [weights_of(row.result.engine, row.trial.server) for row in rows]
    first = found[0] if found else None
    return (
        first if first is not None and all(each is not None and first.like(each) for each in found) else None
    )


def clock_text(rows: Iterable[Row]) -> str:
    """`` at 1.81 GHz``: the mean SM clock over a cell's loads; empty where it was not read."""
    telemetries = [row.result.telemetry for row in rows if row.result.telemetry is not None]
    loads = [each.phases.get("load") for each in telemetries]
    clocks = [load.sm_clock_mean_hz for load in loads if load is not None and load.sm_clock_mean_hz]
    return f" at {sum(clocks) / len(clocks) / 1e9:.2f} GHz" if clocks else ""

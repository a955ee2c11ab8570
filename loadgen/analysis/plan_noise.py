"""How noisy the servers of earlier results were, for a plan that is to say what it can tell."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from loadgen.analysis.analyse import analyse
from loadgen.analysis.starts import Server
from loadgen.analysis.variance import Spread
from loadgen.plan.detectable import Noise, assumed, engine_of
from loadgen.records import ServerSpec

METRIC = "e2e_s"


def measured(folders: Sequence[str | Path]) -> Callable[[ServerSpec], Noise]:
    """The noise of a planned server: of its engine in these results, else assumed. Raises StoreError for no results."""
    study = analyse(folders).study
    groups: dict[str, list[Server]] = defaultdict(list)
    for server in study.servers:
        groups[server.key.label].append(server)
    known = {label: noise_of(servers, ", ".join(map(str, folders))) for label, servers in groups.items()}

    def noise(server: ServerSpec) -> Noise:
        return known.get(f"{server.framework}/{engine_of(server)}") or assumed(server)

    return noise


def noise_of(servers: Sequence[Server], source: str) -> Noise | None:
    """Pooled over the servers of one engine; ``None`` without two starts of one of them that share two cells."""
    spread = sum((server.spread(METRIC) for server in servers), Spread())
    if not spread.df or not spread.rest_df:
        return None
    trials = [server.trial_variance(METRIC) for server in servers]
    df = sum(count for _, count in trials)
    trial = sum(variance * count for variance, count in trials if count) / df if df else 0.0
    cells = sum(len(server.starts) * len(server.cells) for server in servers)
    repeats = max(1.0, sum(len(server.rows) for server in servers) / cells)
    return Noise(
        start=math.sqrt(max(0.0, spread.of_starts - spread.share / spread.df * spread.of_rest)),
        cell=math.sqrt(max(0.0, spread.of_rest - trial / repeats)),
        trial=math.sqrt(trial),
        source=f"{servers[0].key.label} in {source}",
    )

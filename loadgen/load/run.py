"""A trial's load from this process, from workers of its own, or from several nodes; or a share of it from this host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loadgen.load.client import LoadOutcome, OnStart, Stop, run_here
from loadgen.load.dispatch import OnSample
from loadgen.protocols import DriverFactory
from loadgen.records import Trial


def run_trial_load(
    trial: Trial,
    base_url: str,
    make_driver: DriverFactory,
    driver_options: Mapping[str, Any],
    on_sample: OnSample,
    *,
    workers: int | None = None,
    on_start: OnStart = lambda start_ns: None,
    stop: Stop = lambda: False,
) -> LoadOutcome | None:
    """Send a trial's load to ``base_url`` from this process, or from ``workers`` of its own (the trial's number): on
    each of the trial's nodes, where it has several.

    ``on_start`` is told the instant that due times count from, before the first sample behind the warm-up. ``stop`` is
    asked a few times a second; once it says true, sending ends and the result is None (a server that
    died needs no million failed requests).

    Owns the event loop. Workers hand their samples over at the end, in the order the requests ended; they import
    ``make_driver`` by its name. Raises WorkerDied when one ends early, and what ``run_load`` raises.
    """
    count = trial.load.workers if workers is None else workers
    if trial.share is not None:
        from loadgen.load.share import run_share

        return run_share(
            trial,
            base_url,
            make_driver,
            driver_options,
            on_sample,
            share=trial.share,
            workers=count,
            on_start=on_start,
            stop=stop,
        )
    if trial.load.nodes > 1:
        from loadgen.load.nodes import run_nodes

        return run_nodes(
            trial,
            base_url,
            make_driver,
            driver_options,
            on_sample,
            nodes=trial.load.nodes,
            workers=count,
            on_start=on_start,
            stop=stop,
        )
    if count > 1:
        from loadgen.load.workers import run_workers

        return run_workers(
            trial,
            base_url,
            make_driver,
            driver_options,
            on_sample,
            workers=count,
            on_start=on_start,
            stop=stop,
        )
    return run_here(trial, base_url, make_driver, driver_options, on_sample, on_start=on_start, stop=stop)

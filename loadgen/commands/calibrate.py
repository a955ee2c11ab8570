"""``loadgen calibrate``: how exact this client is on this machine, at a trial's own load."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from loadgen.api.loads import Load, load_spec
from loadgen.errors import BadInput
from loadgen.load_records import LoadSpec
from loadgen.plan.plan import make_plan
from loadgen.profile.read import load_profile
from loadgen.selfcheck.calibrate import Calibration, calibrate, rows
from loadgen.text_table import Table

OF_LOAD = {field.name for field in dataclasses.fields(Load)} - {
    "nodes"
}  # the options that a profile stands for


def run(
    *,
    like: str | None,
    sets: tuple[str, ...],
    ttft_ms: float,
    itl_ms: float,
    bound_ms: float,
    ray: str | None = None,
    ray_without_token: bool = False,
    nodes: int | None = None,
    **load: Any,
) -> int:
    """Replay a load against the null server and print the client's own errors; those of a cluster's nodes, where one is
    named. Returns the exit code."""
    from loadgen.live import terminal

    def note(line: str) -> None:
        click.echo(line, err=True)

    spec = busiest(like, sets) if like else load_spec(Load(**load))
    if ray is None and nodes is not None:
        raise BadInput(
            f"--nodes {nodes}: of which cluster? (accepted: --ray auto, or --ray HOST:PORT of its head)"
        )
    if ray is not None:
        from loadgen.selfcheck import cluster_cost

        costs = cluster_cost.measure(
            spec, ray, nodes=nodes, without_token=ray_without_token, ttft_ms=ttft_ms, itl_ms=itl_ms,
            bound_ms=bound_ms, note=note,
        )  # fmt: skip
        terminal.print_tables([cluster_cost.table(costs)])
        return 0
    found: Calibration = calibrate(spec, ttft_ms=ttft_ms, itl_ms=itl_ms, bound_ms=bound_ms, note=note)
    table = Table(title="This client, on this machine", head=("figure", "value"), rows=tuple(rows(found)))
    terminal.print_tables([table])
    return 0


def busiest(profile: str, sets: tuple[str, ...]) -> LoadSpec:
    """The load of a profile that asks most of the client: the most in flight, or sent per second."""
    found = load_profile(profile, sets)
    if found.findings:
        from loadgen.analysis.findings import (
            declared,  # it imports the analysis, which most sweeps need at the end
        )

        declared.parse(found.findings, found.file)
    loads = [trial.load for trial in make_plan(found).trials]
    return max(
        loads, key=lambda load: (load.due_rate or 0.0, load.concurrency, load.batch_size, load.input_tokens)
    )

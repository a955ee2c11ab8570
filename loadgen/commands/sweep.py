"""``loadgen sweep``: a profile's plan, run trial by trial under a live view, then reported."""

from __future__ import annotations

import glob
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click

from loadgen.api.sweeps import SweepOptions, conduct
from loadgen.errors import BadInput, MissingDependency
from loadgen.plan.plan import Plan
from loadgen.profile.profile import Profile
from loadgen.protocols import Watcher
from loadgen.results.other_folders import held
from loadgen.telemetry_records import TelemetrySpec


def run(
    profile: Profile,
    plan: Plan,
    options: SweepOptions,
    *,
    live: bool | None = None,
    metrics_port: int | None = None,
    report_after: bool = True,
) -> int:
    """Run what is missing, then report. Returns the exit code: 1 when a trial failed.

    ``live`` None: a live view where there is a terminal. Raises what ``conduct`` raises.
    """
    from loadgen.commands import report

    folder = options.out or Path("results") / profile.name
    if options.resume and not (folder / "sweep.json").exists():
        click.echo(f"--resume: {folder} holds no results yet, so all trials run", err=True)
    profile = replace(profile, telemetry=scraped(profile.telemetry, metrics_port))
    swept = conduct(profile, plan, options, watching(live, metrics_port, profile.telemetry))
    if report_after:
        try:
            report.end(folder)
        except MissingDependency as error:  # of a page to look at, when all results are on disk
            click.echo(f"no report: {error}", err=True)
    if options.time_limit_s is not None and swept.left:
        planned = len(swept.results) + swept.left
        click.echo(f"time limit: {swept.left} of {planned} trials are left; --resume goes on")
    for line in swept.unsettled:
        click.echo(line, err=True)
    if swept.failed or swept.limited:
        click.echo(f"{swept.failed} trials failed, {swept.limited} counted as failed by --strict", err=True)
    return 1 if swept.failed or swept.limited or swept.unsettled else 0


def missing(profile: Profile, plan: Plan, options: SweepOptions) -> Plan:
    """What would run: the plan without what folders of ``have`` hold and, to ``resume``, the sweep's own.

    Raises BadInput and StoreError as ``other_folders.held`` does.
    """
    folder = options.out or Path("results") / profile.name
    done = held(options.have, options.retry_failed)
    if options.resume and (folder / "sweep.json").exists():
        done |= held([glob.escape(str(folder))], options.retry_failed)
    return plan.without(done)


@contextmanager
def watching(live: bool | None, metrics_port: int | None, telemetry: TelemetrySpec) -> Iterator[Watcher]:
    """The console, and with a port the live figures there besides."""
    from loadgen.live.console import console

    with console(live=live is not False) as shown, exposed(shown, metrics_port, telemetry) as watcher:
        yield watcher


def scraped(telemetry: TelemetrySpec, metrics_port: int | None) -> TelemetrySpec:
    """Telemetry whose exporter has the port after that of the live figures, unless the profile names one.

    So a Prometheus can be told both before the sweep starts. Raises BadInput for one that is taken.
    """
    if not metrics_port or not telemetry.enabled or not telemetry.exporter or telemetry.exporter_port:
        return telemetry
    port = metrics_port + 1
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise BadInput(
                f"--metrics-port {metrics_port}: the exporter cannot listen on the port after it, {port}: "
                f"{error.strerror or error} (accepted: two free ports in a row, or [telemetry] exporter_port)"
            ) from None
    return replace(telemetry, exporter_port=port)


@contextmanager
def exposed(shown: Watcher, port: int | None, telemetry: TelemetrySpec) -> Iterator[Watcher]:
    """The watcher, and with a port the live figures there besides. Raises BadInput for a port that is taken."""
    if port is None:
        yield shown
        return
    from loadgen.live.prometheus import LiveMetrics, MetricsPort

    metrics = LiveMetrics(shown)
    with MetricsPort(metrics, port) as place:
        shown.note(f"live figures for Prometheus: {place.url}")
        if telemetry.exporter_port:
            named = f"http://127.0.0.1:{telemetry.exporter_port}/metrics"
            shown.note(f"GPUs and the server's processes, while a server is up: {named}")
        yield metrics

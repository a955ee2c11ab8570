"""``loadgen run``: one trial against an endpoint that already runs."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import orjson

from loadgen.api.loads import Load
from loadgen.api.nodes import connected
from loadgen.api.runs import Target, ask, measure, stored
from loadgen.api.share import asked_share
from loadgen.drivers.openai import OPTIONS, check_options
from loadgen.errors import BadInput, StoreError
from loadgen.launch.target import TRITON_OPTIONS
from loadgen.profile.told import told_set
from loadgen.records import TrialResult
from loadgen.report import format_of, sections
from loadgen.results.writing import check_place


def run(
    *,
    argv: tuple[str, ...],
    url: str,
    model: str | None,
    vocab: int | None,
    exact: bool,
    out: Path | None,
    live: bool | None,
    strict: bool,
    export: Path | None = None,
    endpoint: str | None = None,
    prompt: str | None = None,
    tokenizer: str | None = None,
    protocol: str | None = None,
    extra_body: str | None = None,
    headers: Sequence[str] = (),
    options: Sequence[str] = (),
    slo: Sequence[str] = (),
    ray: str | None = None,
    ray_without_token: bool = False,
    share: str | None = None,
    start_at: str | None = None,
    **load: Any,
) -> int:
    """Ask the endpoint what it takes, load it, print its figures. Returns the exit code.

    ``export`` names a file that gets the results, too, in the format of its name. ``share`` and ``start_at``: only this
    part of the load is sent, from then on.
    """
    from loadgen.live.console import console

    if export is not None:
        format_of(export, "--export")
        check_place(export, "--export")
    part = asked_share(share, start_at)
    if part is not None and out is None:
        raise BadInput(f"--share {share}: needs --out (the folder that `loadgen merge` takes)")
    for option, given in (("--ray", ray), ("--export", export), ("--nodes", load.get("nodes", 1) > 1)):
        if part is not None and given:
            raise BadInput(f"--share {share}: has no {option} (accepted: one or the other)")
    target = Target(
        model=model,
        vocab=vocab,
        exact=exact,
        protocol=protocol,
        tokenizer=tokenizer,
        driver=driver_options(endpoint, prompt, extra_body, headers, options, grpc=url.startswith("grpc")),
    )
    ready = ask(url, Load(**load), target, slo, out, part)
    with contextlib.ExitStack() as stack:
        stack.enter_context(connected([ready.trial.load], ray, ray_without_token))
        folder = out
        if export is not None and out is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loadgen-run-"))) / "run"
        store, environment = stack.enter_context(stored(folder, ready.trial, argv))
        with console(live=live is not False) as watcher:
            result = measure(ready, watcher, store, environment)
        if export is not None and folder is not None:
            write_export(folder, export)
    print_result(result)
    if result.failure is not None and result.failure.error == BadInput.__name__:
        return 2  # found by the load itself, such as a trace with fewer rows than were asked for
    limited = strict and any(caveat.client for caveat in result.caveats)
    return 1 if result.failure is not None or limited else 0


def merge(parts: Sequence[Path], target: Path) -> int:
    """Merge the shares of a load, print the trial's figures. Returns the exit code."""
    from loadgen.api.merging import merge as merge_shares

    result = merge_shares(parts, target)
    print_result(result)
    click.echo(f"merged: {len(parts)} shares in {target}; its report: loadgen report {target}")
    return 0 if result.failure is None else 1


def write_export(folder: Path, out: Path) -> None:
    """Write a results folder as the file that ``--export`` names. Raises StoreError where it cannot be written."""
    from loadgen.report.export import write

    try:
        for path in write([folder], format_of(out, "--export"), out):
            click.echo(f"exported: {path}")
    except OSError as error:
        raise StoreError(f"--export {out}: cannot be written: {error.strerror or error}") from None


def driver_options(
    endpoint: str | None,
    prompt: str | None,
    extra_body: str | None,
    headers: Sequence[str],
    options: Sequence[str],
    *,
    grpc: bool = False,
) -> dict[str, Any]:
    """The command line as options of the driver: of OpenAI's, else of those over gRPC, which look at their values
    themselves. Raises BadInput that names the option and what is accepted."""
    found: dict[str, Any] = {"endpoint": endpoint, "prompt": prompt}
    if extra_body is not None:
        try:
            found["extra_body"] = orjson.loads(extra_body)
        except ValueError as error:
            raise BadInput(
                f"--extra-body: not JSON ({error}; accepted: an object such as '{{\"top_k\": 1}}')"
            ) from None
    named = [line.partition(":") for line in headers]
    if not all(colon for _, colon, _ in named):  # not shown: it may be a credential's value
        raise BadInput("--header: one is not a header (accepted: 'NAME: VALUE')")
    if named:
        found["headers"] = {name.strip(): value.strip() for name, _, value in named}
    apart = {"endpoint", "prompt", "extra_body", "headers", "words"}
    accepted = TRITON_OPTIONS if grpc else [name for name in OPTIONS if name not in apart]
    for pair in options:
        key, equals, text = pair.partition("=")
        if not equals or key not in accepted or key in found:
            known = ", ".join(name for name in accepted if name not in found)
            raise BadInput(f"--option {told_set(pair)}: not KEY=VALUE of the driver (accepted: {known})")
        found[key] = {"true": True, "false": False}.get(text, text)
    return found if grpc else check_options(found)


def print_result(result: TrialResult) -> None:
    """Print one trial in full."""
    from loadgen.live import terminal

    terminal.print_tables(sections.result_tables(result))

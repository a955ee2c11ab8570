"""``loadgen run``: one trial against an endpoint that already runs."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import orjson

from loadgen import urls
from loadgen.commands import nodes
from loadgen.drivers.openai import OPTIONS, check_options
from loadgen.errors import BadInput, StoreError
from loadgen.launch.discover import Asked
from loadgen.launch.endpoint import fitted
from loadgen.launch.target import TRITON_OPTIONS, find_out
from loadgen.metrics.objectives import slo_of_options, unseen_objectives
from loadgen.plan.plan import endpoint_trial
from loadgen.profile.bounds import (
    MOST,
    MOST_AT_ONCE,
    MOST_WORKERS,
    call_problem,
    default_lead_in_s,
    duration_problem,
)
from loadgen.profile.workloads import (
    NO_THINK,
    pairs,
    read_length,
    read_prefixes,
    read_replay,
    read_think,
    read_turns,
)
from loadgen.records import LoadSpec, Timeouts, Trial, TrialResult
from loadgen.report import format_of, sections
from loadgen.traces.files import TraceExtent, measure_trace
from loadgen.trial import run_trial
from loadgen.units import SPAN, parse_span
from loadgen.workload_records import Replay, Sessions, Spread


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
    **load: Any,
) -> int:
    """Ask the endpoint what it takes, load it, print its figures. Returns the exit code.

    ``export`` names a file that gets the results, too, in the format of its name.
    """
    from loadgen.live.console import console

    if export is not None:
        format_of(export, "--export")
    urls.check(url, "--url")
    urls.check_key()
    if out is not None:
        refuse_used(out)
    spec = load_spec(**load)
    objectives = slo_of_options(slo)
    if objectives is not None and not spec.stream and (unseen := unseen_objectives(objectives)):
        raise BadInput(f"--slo {unseen[0]}: cannot be told without streaming (accepted: e2e, or --stream)")
    asked = Asked(
        options=driver_options(endpoint, prompt, extra_body, headers, options, grpc=url.startswith("grpc")),
        protocol=protocol,
        model=model,
        tokenizer=tokenizer,
        vocab=vocab,
        stream=spec.stream,
        exact=exact,
        batches=spec.batch_size > 1,
    )
    base_url = url if "?" in url else url.rstrip("/").removesuffix("/v1")
    found, place = find_out(base_url, asked)
    trial = endpoint_trial(
        dataclasses.replace(as_it_fits(spec, place.context), at_most=found.at_most and not exact),
        base_url,
        found.model,
        found.vocab if vocab is None or place.text else vocab,
        driver=found.choice,
        exact=exact,
    )
    trial = dataclasses.replace(trial, slo=objectives)
    fitted(trial, place)
    with contextlib.ExitStack() as stack:
        stack.enter_context(nodes.connected([spec], ray, ray_without_token))
        folder = out
        if export is not None and out is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loadgen-run-"))) / "run"
        store, environment = open_store(stack, folder, trial, argv)
        with console(live=live is not False) as watcher:
            watcher.plan([trial], [])
            if found.line:
                watcher.note(f"{base_url}: {found.line}")
            writer = store.sample_writer(trial.id) if store is not None else None
            result = run_trial(trial, place, watcher, environment=environment, writer=writer)
            watcher.result(result)
        if store is not None:
            store.append(result)
        if export is not None and folder is not None:
            write_export(folder, export)
    print_result(result)
    if result.failure is not None and result.failure.error == BadInput.__name__:
        return 2  # found by the load itself, such as a trace with fewer rows than were asked for
    limited = strict and any(caveat.client for caveat in result.caveats)
    return 1 if result.failure is not None or limited else 0


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
    if bare := next((name for name, colon, _ in named if not colon), None):
        raise BadInput(f"--header {urls.shown(bare)}: not a header (accepted: 'NAME: VALUE')")
    if named:
        found["headers"] = {name.strip(): value.strip() for name, _, value in named}
    apart = {"endpoint", "prompt", "extra_body", "headers", "words"}
    accepted = TRITON_OPTIONS if grpc else [name for name in OPTIONS if name not in apart]
    for pair in options:
        key, equals, text = pair.partition("=")
        if not equals or key not in accepted or key in found:
            known = ", ".join(name for name in accepted if name not in found)
            raise BadInput(f"--option {pair}: not KEY=VALUE of the driver (accepted: {known})")
        found[key] = {"true": True, "false": False}.get(text, text)
    return found if grpc else check_options(found)


def as_it_fits(load: LoadSpec, context: int | None) -> LoadSpec:
    """The load with what is left out of its trace, or cut, by the context that the server told, and its sessions ended
    by it. Raises BadInput."""
    replay = load.replay
    if load.sessions is not None:
        return dataclasses.replace(load, sessions=dataclasses.replace(load.sessions, max_context=context))
    if load.kind != "trace" or load.trace is None or replay is None or replay.too_long == "fail":
        return load
    if replay.max_context is None:
        if context is None:
            raise BadInput(
                f"--replay too_long={replay.too_long}: the server does not tell its context (accepted: max_context "
                "beside it)"
            )
        replay = dataclasses.replace(replay, max_context=context)
    extent = extent_of(load.trace, replay, load.requests)
    return dataclasses.replace(
        load, replay=replay, input_tokens=extent.input_tokens, output_tokens=extent.output_tokens
    )


def refuse_used(out: Path) -> None:
    """Raise BadInput for a folder that holds results, or that another process writes to now."""
    from loadgen.results.store import open_to_go_on, refuse_busy

    refuse_busy(out)
    if (out / "sweep.json").exists():
        open_to_go_on(out)  # a kept copy has words of its own
        raise BadInput(f"--out {out}: already holds results (accepted: a new or empty folder)")


def open_store(
    stack: contextlib.ExitStack, out: Path | None, trial: Trial, argv: tuple[str, ...]
) -> tuple[Any, str]:
    """The results folder, when one was asked for, and the environment's id. Raises BadInput for one that another
    process writes to."""
    if out is None:
        return None, ""
    from loadgen.results.store import Store
    from loadgen.system.environment import capture

    environment = capture(argv)
    record = {"name": out.name, "description": f"loadgen run {trial.url}", "argv": list(argv)}
    store = stack.enter_context(Store.create(out, record))
    store.add_environment(environment)
    return store, environment.id


def load_spec(
    *,
    mode: str,
    concurrency: int,
    batch_size: int,
    rate: float | None,
    rate_end: float | None,
    burstiness: float,
    trace: str | None,
    max_rate: float | None,
    input_tokens: int | str,
    output_tokens: int | str,
    requests: int,
    warmup: int | None,
    stream: bool,
    seed: int,
    workers: int,
    timeout: float,
    nodes: int = 1,
    duration: str | None = None,
    lead_in: str | None = None,
    replay: str | None = None,
    prefixes: str | None = None,
    users: int | None = None,
    turns: str | None = None,
    think: str | None = None,
) -> LoadSpec:
    """The command line as a LoadSpec. Raises BadInput that names the option, its value and what is accepted."""
    for option, value, most in (
        ("--concurrency", concurrency, MOST_AT_ONCE), ("--batch-size", batch_size, MOST_AT_ONCE),
        ("--requests", requests, MOST), ("--workers", workers, MOST_WORKERS), ("--nodes", nodes, MOST_WORKERS),
        ("--users", 1 if users is None else users, MOST_AT_ONCE),
    ):  # fmt: skip
        unbound = option == "--requests" and value == 0  # a whole trace, or as many as a duration holds
        if not (1 <= value <= most or unbound):
            raise BadInput(f"{option} {value}: not a count (accepted: 1 to {most})")
    for option, number in (
        ("--rate", rate),
        ("--rate-end", rate_end),
        ("--max-rate", max_rate),
        ("--timeout", timeout),
        ("--burstiness", burstiness),
    ):
        if number is not None and not 0 < number <= MOST:
            raise BadInput(f"{option} {number:g}: must be above 0 and finite (accepted: up to {MOST:g})")
    if warmup is not None and not 0 <= warmup <= MOST:
        raise BadInput(f"--warmup {warmup}: not a count (accepted: 0 to {MOST})")
    duration_s, lead_in_s = _span("--duration", duration), _span("--lead-in", lead_in)
    problem = duration_problem(mode, requests, duration_s, lead_in_s)
    if problem is not None:
        key, why, accepted = problem
        told = {"requests": requests, "duration": duration, "lead_in": lead_in}[key]
        raise BadInput(f"--{key.replace('_', '-')} {told}: {why} (accepted: {accepted})")
    if mode in ("constant", "poisson", "gamma", "ramp") and rate is None:
        raise BadInput(f"--mode {mode} needs --rate (requests per second)")
    if mode == "ramp" and rate_end is None:
        raise BadInput("--mode ramp needs --rate-end (requests per second)")
    if mode == "trace" and trace is None:
        raise BadInput("--mode trace needs --trace FILE")
    talk = _sessions(mode, users, turns, think)
    lengths = {
        "input": read_length(input_tokens, "--input-tokens"), "output": read_length(output_tokens, "--output-tokens")
    }  # fmt: skip
    spreads = {way: length for way, length in lengths.items() if isinstance(length, Spread)}
    if spreads and mode in ("static", "trace"):
        raise BadInput(f"--mode {mode}: lengths are its own (accepted: a distribution in the other modes)")
    taken = read_replay(pairs(replay or "", "--replay"), "--replay")
    shared = None if prefixes is None else read_prefixes(pairs(prefixes, "--prefixes"), "--prefixes")
    if shared is not None and mode in ("static", "trace"):
        raise BadInput(f"--prefixes {prefixes}: has no effect in mode {mode} (accepted: the other modes)")
    if replay is not None and mode != "trace":
        raise BadInput(f"--replay {replay}: has no effect in mode {mode} (accepted: --mode trace)")
    if trace is not None and (taken.too_long == "fail" or taken.max_context is not None):
        extent = extent_of(trace, taken, requests if mode == "trace" else 0)
        if mode == "trace":
            lengths = {"input": extent.input_tokens, "output": extent.output_tokens}
    in_flight = concurrency if mode == "closed" else talk.users if talk is not None else 1
    too_big = call_problem(batch_size if mode == "static" else 1, most_of(lengths["input"]))
    if too_big is not None:
        raise BadInput(f"--input-tokens: {too_big}")
    return LoadSpec(
        kind=mode,  # type: ignore[arg-type]  # click checked it
        input_tokens=most_of(lengths["input"]),
        output_tokens=most_of(lengths["output"]),
        input_spread=spreads.get("input"),
        output_spread=spreads.get("output"),
        replay=None if taken == Replay() else taken,
        prefixes=shared,
        sessions=talk,
        batch_size=batch_size if mode == "static" else 1,
        concurrency=in_flight if mode == "closed" else 1,
        rate=rate,
        rate_end=rate_end,
        burstiness=burstiness,
        trace=trace,
        requests=requests,
        warmup=in_flight if warmup is None else warmup,
        duration_s=duration_s,
        lead_in_s=default_lead_in_s(mode, duration_s) if lead_in_s is None else lead_in_s,
        max_rate=max_rate,
        stream=stream,
        seed=seed,
        workers=workers,
        nodes=nodes,
        timeouts=Timeouts(total_s=timeout, first_byte_s=timeout),
    )


def _sessions(mode: str, users: int | None, turns: str | None, think: str | None) -> Sessions | None:
    given = {"--users": users, "--turns": turns, "--think": think}
    if mode != "sessions":
        for option, value in given.items():
            if value is not None:
                raise BadInput(f"{option} {value}: has no effect in mode {mode} (accepted: --mode sessions)")
        return None
    if users is None or turns is None:
        raise BadInput(
            f"--mode sessions needs {'--users (sessions at once)' if users is None else '--turns'}"
        )
    return Sessions(
        users=users,
        turns=read_turns(turns, "--turns"),
        think_ms=NO_THINK if think is None else read_think(think, "--think"),
    )


def extent_of(trace: str, replay: Replay, requests: int) -> TraceExtent:
    """How far a trace reaches as it is taken. Raises BadInput, also for one of fewer ``requests``."""
    try:
        extent = measure_trace(trace, replay)
    except BadInput as error:
        raise BadInput(f"--trace {error}") from None
    if requests > extent.requests:
        raise BadInput(
            f"--requests {requests}: the trace has {extent.requests} (accepted: up to {extent.requests})"
        )
    return extent


def most_of(length: int | Spread) -> int:
    """The largest length that there will be."""
    return length.most if isinstance(length, Spread) else length


def _span(option: str, text: str | None) -> float | None:
    if text is None:
        return None
    seconds = parse_span(text)
    least = "" if option == "--lead-in" else " above 0"
    if seconds is None or seconds > MOST or (least and seconds == 0):
        raise BadInput(f"{option} {text}: no span of time{least} (accepted: {SPAN})")
    return seconds


def print_result(result: TrialResult) -> None:
    """Print one trial in full."""
    from loadgen.live import terminal

    terminal.print_tables(sections.result_tables(result))

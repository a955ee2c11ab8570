"""One load, as the command line and a program name it → a LoadSpec."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from loadgen.errors import BadInput
from loadgen.load_records import LoadKind, LoadSpec, Timeouts
from loadgen.profile.bounds import (
    MOST,
    MOST_AT_ONCE,
    MOST_WORKERS,
    USED_BY,
    call_problem,
    default_lead_in_s,
    duration_problem,
    paced,
)
from loadgen.profile.workloads import (
    NO_THINK,
    pairs,
    read_cancel,
    read_length,
    read_prefixes,
    read_replay,
    read_think,
    read_turns,
)
from loadgen.traces.datasets import measure_texts
from loadgen.traces.files import TraceExtent, measure_trace
from loadgen.units import SPAN, parse_span
from loadgen.workload_records import Dataset, Replay, Sessions, Spread

REQUESTS = 64  # where neither a number nor a duration bounds a load
MODES = get_args(LoadKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What ``run`` sends: the options of ``loadgen run``, by their names and with their defaults.

    ``mode``: "closed" keeps ``concurrency`` requests in flight, "static" one call of ``batch_size`` sequences;
    "constant", "poisson", "gamma" and "ramp" send at due times, at ``rate`` requests per second; "trace" replays a
    file, at ``rate`` or its own pace; "sessions" are conversations of ``turns`` requests, ``users`` at once, who
    ``think`` between them. Lengths are tokens, or distributions as text or as a table; ``dataset`` is a file of
    prompts, which brings its own.
    ``cancel`` gives a part of the requests up.
    ``requests`` ``None``: 64, or as many as ``duration`` holds.
    ``duration`` and ``lead_in`` are spans such as "120s", ``timeout`` is seconds.
    """

    mode: LoadKind = "closed"
    concurrency: int = 1
    batch_size: int = 1
    rate: float | None = None
    rate_end: float | None = None
    burstiness: float = 1.0
    trace: str | None = None
    max_rate: float | None = None
    input_tokens: int | str | Mapping[str, Any] = 128
    output_tokens: int | str | Mapping[str, Any] = 64
    requests: int | None = None
    warmup: int | None = None
    stream: bool = True
    seed: int = 0
    workers: int = 1
    timeout: float = 1800.0
    nodes: int = 1
    duration: str | None = None
    lead_in: str | None = None
    replay: str | Mapping[str, Any] | None = None
    prefixes: str | Mapping[str, Any] | None = None
    users: int | None = None
    turns: int | str | Mapping[str, Any] | None = None
    think: str | Mapping[str, Any] | None = None
    dataset: str | None = None
    cancel: str | Mapping[str, Any] | None = None


def load_spec(load: Load, tokenizer: str | None = None) -> LoadSpec:
    """A load as it is sent and stored; ``tokenizer`` is the folder of the target's. Raises BadInput that names the
    option of ``loadgen run``, its value and what is accepted."""
    _check_kinds(load)
    mode = load.mode
    requests = load.requests
    if requests is None:
        requests = REQUESTS if load.duration is None else 0
    duration_s, lead_in_s = _span("--duration", load.duration), _span("--lead-in", load.lead_in)
    problem = duration_problem(mode, requests, duration_s, lead_in_s)
    if problem is not None:
        key, why, accepted = problem
        told = {"requests": requests, "duration": load.duration, "lead_in": load.lead_in}[key]
        raise BadInput(f"{_option(key)} {told}: {why} (accepted: {accepted})")
    if mode in ("constant", "poisson", "gamma", "ramp") and load.rate is None:
        raise BadInput(f"--mode {mode} needs --rate (requests per second)")
    if mode == "ramp" and load.rate_end is None:
        raise BadInput("--mode ramp needs --rate-end (requests per second)")
    if mode == "trace" and load.trace is None:
        raise BadInput("--mode trace needs --trace FILE")
    _check_used(load)
    talk = _sessions(load)
    lengths = {
        "input": read_length(load.input_tokens, "--input-tokens"),
        "output": read_length(load.output_tokens, "--output-tokens"),
    }
    spreads = {way: length for way, length in lengths.items() if isinstance(length, Spread)}
    if spreads and mode in ("static", "trace"):
        raise BadInput(f"--mode {mode}: lengths are its own (accepted: a distribution in the other modes)")
    taken = read_replay(_table("--replay", load.replay) or {}, "--replay")
    if mode == "trace":
        try:
            taken = paced(taken, load.rate)
        except BadInput as error:
            raise BadInput(f"--rate {load.rate}: {error}") from None
    named = _table("--prefixes", load.prefixes)
    shared = None if named is None else read_prefixes(named, "--prefixes")
    if (
        mode == "trace"
        and load.trace is not None
        and (taken.too_long == "fail" or taken.max_context is not None)
    ):
        extent = extent_of(load.trace, taken, requests)
        lengths = {"input": extent.input_tokens, "output": extent.output_tokens}
    dataset = load.dataset
    if dataset is not None and shared is not None:
        raise BadInput(f"--prefixes {load.prefixes}: stands beside --dataset (accepted: one of the two)")
    if dataset is not None and tokenizer is None:
        raise BadInput(f"--dataset {dataset}: needs --tokenizer (the folder of the target's tokenizer)")
    given = _table("--cancel", load.cancel)
    given_up = None if given is None else read_cancel(given, "--cancel")
    if given_up is not None and given_up.after_tokens is not None and not load.stream:
        raise BadInput(
            f"--cancel {load.cancel}: no token comes before the end (accepted: after_s, or --stream)"
        )
    in_flight = load.concurrency if mode == "closed" else talk.users if talk is not None else 1
    too_big = call_problem(load.batch_size, most_of(lengths["input"]))
    if too_big is not None:
        raise BadInput(f"--input-tokens: {too_big}")
    return LoadSpec(
        kind=mode,
        input_tokens=most_of(lengths["input"]),
        output_tokens=most_of(lengths["output"]),
        input_spread=spreads.get("input"),
        output_spread=spreads.get("output"),
        replay=None if taken == Replay() else taken,
        prefixes=shared,
        sessions=talk,
        cancel=given_up,
        dataset=None if dataset is None else Dataset(path=dataset, tokenizer=str(tokenizer)),
        batch_size=load.batch_size,
        concurrency=load.concurrency,
        rate=None if mode == "trace" else load.rate,
        rate_end=load.rate_end,
        burstiness=load.burstiness,
        trace=load.trace,
        requests=requests,
        warmup=in_flight if load.warmup is None else load.warmup,
        duration_s=duration_s,
        lead_in_s=default_lead_in_s(mode, duration_s) if lead_in_s is None else lead_in_s,
        max_rate=load.max_rate,
        stream=load.stream,
        seed=load.seed,
        workers=load.workers,
        nodes=load.nodes,
        timeouts=Timeouts(total_s=load.timeout, first_byte_s=load.timeout),
    )


def _sessions(load: Load) -> Sessions | None:
    if load.mode != "sessions":
        return None
    if load.users is None or load.turns is None:
        raise BadInput(
            f"--mode sessions needs {'--users (sessions at once)' if load.users is None else '--turns'}"
        )
    return Sessions(
        users=load.users,
        turns=read_turns(load.turns, "--turns"),
        think_ms=NO_THINK if load.think is None else read_think(load.think, "--think"),
    )


def _check_used(load: Load) -> None:
    """What is named and has no effect would be taken for something that was measured. Raises BadInput."""
    for field in dataclasses.fields(Load):
        modes = [mode for mode, keys in USED_BY.items() if field.name in keys]
        value = getattr(load, field.name)
        if modes and load.mode not in modes and value != field.default:
            accepted = f"--mode {' or '.join(modes)}"
            raise BadInput(
                f"{_option(field.name)} {value}: has no effect in mode {load.mode} (accepted: {accepted})"
            )


def _check_kinds(load: Load) -> None:
    """Every value against its kind and range, whoever named it. Raises BadInput."""
    if load.mode not in MODES:
        raise BadInput(f"--mode {load.mode}: not a mode (accepted: {', '.join(MODES)})")
    for key, least, most in (
        ("concurrency", 1, MOST_AT_ONCE), ("batch_size", 1, MOST_AT_ONCE), ("requests", 0, MOST),
        ("workers", 1, MOST_WORKERS), ("nodes", 1, MOST_WORKERS), ("warmup", 0, MOST), ("users", 1, MOST_AT_ONCE),
    ):  # fmt: skip
        value = getattr(load, key)
        if value is None and key in ("requests", "warmup", "users"):
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise BadInput(f"{_option(key)} {value}: not a count (accepted: {least} to {most})")
    for key in ("rate", "rate_end", "max_rate", "timeout", "burstiness"):
        value = getattr(load, key)
        if value is None and key in ("rate", "rate_end", "max_rate"):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MOST:
            raise BadInput(f"{_option(key)} {value}: must be above 0 and finite (accepted: up to {MOST:g})")
    if isinstance(load.seed, bool) or not isinstance(load.seed, int):
        raise BadInput(f"--seed {load.seed}: not a whole number (accepted: whole numbers)")
    if not isinstance(load.stream, bool):
        raise BadInput(f"--stream {load.stream}: neither True nor False (accepted: these)")
    for key in ("trace", "dataset", "duration", "lead_in"):
        value = getattr(load, key)
        if value is not None and not isinstance(value, str):
            raise BadInput(
                f"{_option(key)} {value}: not text (accepted: {'a file' if key in ('trace', 'dataset') else SPAN})"
            )


def _option(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def _table(option: str, given: str | Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if given is None or isinstance(given, Mapping):
        return given
    if not isinstance(given, str):
        raise BadInput(f"{option} {given}: not a table (accepted: KEY=VALUE,… as text, or a mapping)")
    return pairs(given, option)


def as_it_fits(load: LoadSpec, context: int | None) -> LoadSpec:
    """The load with what is left out of its trace, or cut, by the context that the server told, and its sessions ended
    by it. Raises BadInput."""
    replay = load.replay
    if load.dataset is not None:
        return with_texts(load, dataclasses.replace(load.dataset, max_context=context))
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


def with_texts(load: LoadSpec, dataset: Dataset) -> LoadSpec:
    """A load with the lengths of a data set's prompts. Raises BadInput, also for one of fewer prompts than requests."""
    try:
        found = measure_texts(dataset, load.requests or None)
    except BadInput as error:
        raise BadInput(f"--dataset {error}") from None
    have = len(found.rows)
    if load.requests > have:
        raise BadInput(
            f"--requests {load.requests}: the data set has {have} prompts (accepted: up to {have})"
        )
    output = max(found.output_tokens, load.output_tokens if found.untold else 1)
    spread = load.output_spread if found.untold else None
    return dataclasses.replace(
        load, dataset=dataset, input_tokens=found.input_tokens, input_spread=None, output_tokens=output,
        output_spread=spread,
    )  # fmt: skip


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

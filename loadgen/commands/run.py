"""``loadgen run``: one trial against an endpoint that already runs."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path
from typing import Any

import httpx

from loadgen import urls
from loadgen.errors import BadInput
from loadgen.launch.endpoint import Endpoint, server_info
from loadgen.plan.plan import endpoint_trial
from loadgen.records import LoadSpec, Timeouts, Trial, TrialResult
from loadgen.report import sections
from loadgen.traces.files import measure_trace
from loadgen.trial import run_trial

DEFAULT_VOCAB = 32000
MOST = 10**12  # of whatever is counted


def run(
    *,
    argv: tuple[str, ...],
    url: str,
    model: str | None,
    vocab: int | None,
    out: Path | None,
    live: bool | None,
    strict: bool,
    **load: Any,
) -> int:
    """Load the endpoint, print its figures. Returns the exit code."""
    from loadgen.live.console import console

    urls.check(url, "--url")
    urls.check_key()
    base_url = url.rstrip("/").removesuffix("/v1")
    spec = load_spec(**load)
    info_url = f"{base_url}/info"
    info = server_info(info_url)
    name = model or first_model(base_url)
    trial = endpoint_trial(spec, base_url, name, vocab or vocab_of(info))
    endpoint = Endpoint(base_url=base_url, info_url=info_url if info else None)
    with contextlib.ExitStack() as stack:
        store, environment = open_store(stack, out, trial, argv)
        with console(live=live is not False) as watcher:
            watcher.plan([trial], [])
            writer = store.sample_writer(trial.id) if store is not None else None
            result = run_trial(trial, endpoint, watcher, environment=environment, writer=writer)
            watcher.result(result)
        if store is not None:
            store.append(result)
    print_result(result)
    if result.failure is not None and result.failure.error == BadInput.__name__:
        return 2  # found by the load itself, such as a trace with fewer rows than were asked for
    limited = strict and any(caveat.client for caveat in result.caveats)
    return 1 if result.failure is not None or limited else 0


def open_store(
    stack: contextlib.ExitStack, out: Path | None, trial: Trial, argv: tuple[str, ...]
) -> tuple[Any, str]:
    """The results folder, when one was asked for, and the environment's id. Raises BadInput for one with results."""
    if out is None:
        return None, ""
    from loadgen.results.store import Store, open_to_go_on
    from loadgen.system.environment import capture

    environment = capture(argv)
    record = {"name": out.name, "description": f"loadgen run {trial.url}", "argv": list(argv)}
    if (out / "sweep.json").exists():
        open_to_go_on(out)  # a kept copy has words of its own
        raise BadInput(f"--out {out}: already holds results (accepted: a new or empty folder)")
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
    input_tokens: int,
    output_tokens: int,
    requests: int,
    warmup: int | None,
    stream: bool,
    seed: int,
    workers: int,
    timeout: float,
) -> LoadSpec:
    """The command line as a LoadSpec. Raises BadInput that names the option, its value and what is accepted."""
    for option, value in (
        ("--concurrency", concurrency), ("--batch-size", batch_size), ("--input-tokens", input_tokens),
        ("--output-tokens", output_tokens), ("--requests", requests), ("--workers", workers),
    ):  # fmt: skip
        whole_trace = option == "--requests" and mode == "trace" and value == 0
        if not (1 <= value <= MOST or whole_trace):
            raise BadInput(f"{option} {value}: not a count (accepted: 1 to {MOST})")
    for option, number in (
        ("--rate", rate),
        ("--rate-end", rate_end),
        ("--max-rate", max_rate),
        ("--timeout", timeout),
    ):
        if number is not None and not (number > 0 and math.isfinite(number)):
            raise BadInput(f"{option} {number:g}: must be above 0 and finite")
    if mode in ("constant", "poisson", "gamma", "ramp") and rate is None:
        raise BadInput(f"--mode {mode} needs --rate (requests per second)")
    if mode == "ramp" and rate_end is None:
        raise BadInput("--mode ramp needs --rate-end (requests per second)")
    if mode == "trace" and trace is None:
        raise BadInput("--mode trace needs --trace FILE")
    if trace is not None:
        try:
            have = measure_trace(trace).requests
        except BadInput as error:
            raise BadInput(f"--trace {error}") from None
        if mode == "trace" and requests > have:
            raise BadInput(f"--requests {requests}: the trace has {have} (accepted: up to {have})")
    in_flight = concurrency if mode == "closed" else 1
    return LoadSpec(
        kind=mode,  # type: ignore[arg-type]  # click checked it
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        batch_size=batch_size if mode == "static" else 1,
        concurrency=in_flight,
        rate=rate,
        rate_end=rate_end,
        burstiness=burstiness,
        trace=trace,
        requests=requests,
        warmup=in_flight if warmup is None else warmup,
        max_rate=max_rate,
        stream=stream,
        seed=seed,
        workers=workers,
        timeouts=Timeouts(total_s=timeout, first_byte_s=timeout),
    )


def first_model(base_url: str) -> str:
    """The first model that the endpoint lists. Raises BadInput when it cannot be asked."""
    key = os.environ.get("LOADGEN_API_KEY")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        reply = httpx.get(f"{base_url}/v1/models", headers=headers, timeout=10.0)
        return str(reply.raise_for_status().json()["data"][0]["id"])
    except httpx.InvalidURL as error:
        raise BadInput(f"--url {base_url}: {error} (accepted: such as http://127.0.0.1:8000)") from None
    except httpx.TransportError as error:
        raise BadInput(f"--url {base_url}: no server answers there ({error})") from None
    except (httpx.HTTPStatusError, ValueError, LookupError, TypeError) as error:
        raise BadInput(
            f"--url {base_url}: /v1/models names no model ({error}); give one with --model"
        ) from None


def vocab_of(info: dict[str, Any]) -> int:
    """The vocabulary the server reports, else a size that every llama has."""
    found = info.get("vocab")
    return found if type(found) is int and 0 < found <= MOST else DEFAULT_VOCAB


def print_result(result: TrialResult) -> None:
    """Print one trial in full."""
    from loadgen.live import terminal

    terminal.print_tables(sections.result_tables(result))

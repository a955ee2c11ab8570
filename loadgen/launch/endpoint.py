"""Where a trial's requests go, and what the server there says of itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import orjson

from loadgen.errors import BadInput, ServerError
from loadgen.launch import engine_counters, triton_counters
from loadgen.launch.family import Family
from loadgen.launch.page import fetch
from loadgen.load.prompts import SAFE_VOCAB
from loadgen.records import ServerSpec, Trial
from loadgen.telemetry.cores import gpus_of, listening, read_cores
from loadgen.telemetry_records import ServerCores
from loadgen.traces.files import PLAIN, measure_trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a trial's requests go. ``fault`` tells whether the server behind it has died meanwhile.

    ``start`` is the identity of the start that serves it: equal for all trials that one server process serves.
    ``family`` are its processes, and ``judge`` takes those of before and says, after a wait, what lost requests meant:
    the server's end or hang, None when it is well. ``hung`` says without a wait whether it answers nothing now. An
    endpoint that somebody else runs has none of these but the last (see restarts.py); what was found out about it are
    ``facts``, ``at_most`` (its outputs may end early), the bounds ``vocab`` of ids and ``context`` of a request's
    tokens, and ``text``: prompts go out as it. ``if_silent`` says what to try where it takes requests and answers none.
    ``processes`` are the ids of those that serve it; where nobody tells, they are looked for by the port.
    """

    base_url: str
    protocol: str = "openai"
    driver_options: Mapping[str, Any] = field(default_factory=dict)
    info_url: str | None = None
    metrics_url: str | None = None
    records_url: str | None = None
    start: str | None = None
    fault: Callable[[], ServerError | None] = lambda: None
    family: Callable[[], Family] = frozenset
    judge: Callable[[Family], ServerError | None] = lambda _before: None
    hung: Callable[[], bool] = lambda: False
    facts: Mapping[str, Any] = field(default_factory=dict)
    at_most: bool = False
    vocab: int | None = None
    context: int | None = None
    text: bool = False
    if_silent: str = ""
    processes: Callable[[], Collection[int]] | None = None


def server_info(url: str | None) -> dict[str, Any]:
    """What the server says of itself; empty when it has no such page or does not answer with JSON.

    A ``file:`` URL is a page that the server, or its launcher, wrote into its run folder (Triton serves none).
    """
    if url is None:
        return {}
    try:
        if url.startswith("file:"):
            found = orjson.loads(Path(unquote(urlsplit(url).path)).read_bytes())
        else:
            found = orjson.loads(fetch(url, 5.0) or b"{}")  # refuses what could not be stored either
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def page_of(endpoint: Endpoint) -> dict[str, Any]:
    """All that is known of what really runs: found out, or read back at the start, and told by its page now."""
    return {**endpoint.facts, **server_info(endpoint.info_url)}


def metrics_text(url: str | None) -> str | None:
    """The server's own counters as text; ``None`` where no page came. A stalled one costs seconds, never the trial."""
    page = None if url is None else fetch(url, 2.0)
    return None if page is None else page.decode("utf-8", "replace")


def engine_of(endpoint: Endpoint, counters_before: str | None, counters: str | None) -> dict[str, Any]:
    """What really ran, in the server's own words, and what its counters before and after say of this trial: nothing
    where one of the two pages did not come."""
    info = page_of(endpoint)
    if counters_before is None or counters is None:
        return info
    seen = triton_counters.server_side_times(counters_before, counters, info)
    seen = seen or engine_counters.server_side_counts(counters_before, counters)
    return {**info, "server_side": seen} if seen else info


def fitted(trial: Trial, endpoint: Endpoint) -> Trial:
    """The trial as it can be sent to an endpoint that already runs: ids that it knows, lengths that it can give.

    Raises BadInput for more tokens than its context holds, and for ids beyond its vocabulary.
    """
    if trial.server is not None:
        return trial
    load = trial.load
    longest = load.longest
    if load.kind == "trace" and load.trace is not None:
        longest = measure_trace(load.trace, load.replay or PLAIN).longest
    dataset = load.dataset
    if dataset is not None and dataset.max_context is None:
        dataset = replace(dataset, max_context=endpoint.context)
    if endpoint.context is not None and dataset is None and longest > endpoint.context:
        raise BadInput(
            f"input_tokens = {load.input_tokens}, output_tokens = {load.output_tokens}: more than the server's context "
            f"(accepted: a sum up to {endpoint.context})"
        )
    if (
        endpoint.vocab is not None
        and trial.vocab is not None
        and trial.vocab > endpoint.vocab
        and not endpoint.text
    ):
        raise BadInput(
            f"vocab = {trial.vocab}: ids that the server does not know (accepted: up to {endpoint.vocab})"
        )
    vocab = trial.vocab
    if endpoint.vocab is not None and (vocab is None or endpoint.text):
        vocab = endpoint.vocab if endpoint.text else min(endpoint.vocab, SAFE_VOCAB)  # what None means else
    at_most = load.at_most or (endpoint.at_most and not trial.exact)
    sessions = load.sessions
    if sessions is not None and sessions.max_context is None:
        sessions = replace(sessions, max_context=endpoint.context)
    return replace(
        trial, vocab=vocab, load=replace(load, at_most=at_most, sessions=sessions, dataset=dataset)
    )


def server_cores(endpoint: Endpoint, spec: ServerSpec | None) -> ServerCores | None:
    """What CPU the server's processes may use; ``None`` where they are not this machine's, or not ours to see."""
    pids = listening(endpoint.base_url) if endpoint.processes is None else endpoint.processes()
    if not pids:
        return None
    return read_cores(pids, gpus=gpus_of(pids) if spec is None else len(spec.gpus) or None)

"""One trial against an endpoint that already runs: asked, loaded, summed up, and stored where a folder is named."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from loadgen import urls
from loadgen.api.alone import alone
from loadgen.api.loads import Load, as_it_fits, load_spec
from loadgen.api.nodes import connected
from loadgen.api.share import Asked as AskedShare
from loadgen.api.share import share_of, waiting_words
from loadgen.drivers.openai import check_options
from loadgen.errors import BadInput
from loadgen.launch.discover import Asked
from loadgen.launch.endpoint import Endpoint, fitted
from loadgen.launch.target import find_out
from loadgen.metrics.objectives import slo_of_options, unseen_objectives
from loadgen.plan.bisection import Unseen
from loadgen.plan.plan import endpoint_trial
from loadgen.protocols import Watcher
from loadgen.records import Trial, TrialResult
from loadgen.results.store import Store, open_to_go_on, refuse_busy
from loadgen.system.environment import capture
from loadgen.trial import run_trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is fixed about an endpoint; what is not is found out. ``driver`` are options of its driver, as [target] of a
    profile takes them: endpoint, prompt, extra_body, headers, extras, …"""

    model: str | None = None
    vocab: int | None = None
    exact: bool = False
    protocol: str | None = None
    tokenizer: str | None = None
    driver: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """An endpoint that was asked, and the trial that it will be loaded with; ``line`` says what was chosen."""

    trial: Trial
    place: Endpoint
    line: str


def run(
    url: str,
    load: Load | None = None,
    *,
    target: Target | None = None,
    slo: Sequence[str] = (),
    out: str | Path | None = None,
) -> TrialResult:
    """Load an endpoint that already runs, once: what ``loadgen run`` does, without its printing.

    ``slo`` are objectives such as ``"ttft=500ms"``; ``out`` is a new or empty folder for the results, with every
    request's times. A fault of the server's is the result's ``failure``. Raises BadInput for what cannot be used: it
    names the option of ``loadgen run``. The key of an endpoint is read from LOADGEN_API_KEY.

    Blocks until the load has ended; within a running event loop, as in a notebook, that loop stands still meanwhile
    (``await asyncio.to_thread(loadgen.run, …)`` lets it go on, at the price of the client's exactness). Calls from
    several threads take turns.
    """
    return alone(
        lambda: _run(url, load or Load(), target or Target(), slo, None if out is None else Path(out))
    )


def _run(url: str, load: Load, target: Target, slo: Sequence[str], out: Path | None) -> TrialResult:
    ready = ask(url, load, target, slo, out)
    with connected([ready.trial.load], None, False), stored(out, ready.trial, ()) as (store, environment):
        return measure(ready, Unseen(), store, environment)


def ask(
    url: str,
    load: Load,
    target: Target,
    slo: Sequence[str],
    out: Path | None,
    share: AskedShare | None = None,
) -> Ready:
    """Check a load and a folder, and ask an endpoint what it takes; the trial is the ``share`` of it that was asked
    for. Raises BadInput."""
    urls.check(url, "--url")
    urls.check_key()
    if out is not None:
        refuse_used(out)
    spec = load_spec(load, target.tokenizer)
    objectives = slo_of_options(slo)
    if objectives is not None and not spec.stream and (unseen := unseen_objectives(objectives)):
        raise BadInput(f"--slo {unseen[0]}: cannot be told without streaming (accepted: e2e, or --stream)")
    asked = Asked(
        options=target.driver if url.startswith("grpc") else check_options(target.driver),
        protocol=target.protocol,
        model=target.model,
        tokenizer=target.tokenizer,
        vocab=target.vocab,
        stream=spec.stream,
        exact=target.exact,
        batches=spec.batch_size > 1,
    )
    base_url = url if "?" in url else url.rstrip("/").removesuffix("/v1")
    found, place = find_out(base_url, asked)
    trial = endpoint_trial(
        replace(as_it_fits(spec, place.context), at_most=found.at_most and not target.exact),
        base_url,
        found.model,
        found.vocab if target.vocab is None or place.text else target.vocab,
        driver=found.choice,
        exact=target.exact,
    )
    trial = replace(trial, slo=objectives)
    fitted(trial, place)
    if share is not None:
        trial = share_of(trial, share, text=place.text)
    return Ready(trial=trial, place=place, line=f"{base_url}: {found.line}" if found.line else "")


def measure(ready: Ready, watcher: Watcher, store: Store | None = None, environment: str = "") -> TrialResult:
    """Load the endpoint, and keep the result where there is a ``store``."""
    watcher.plan([ready.trial], [])
    if ready.line:
        watcher.note(ready.line)
    if ready.trial.share is not None:
        watcher.note(waiting_words(ready.trial.share))
    result = run_trial(
        ready.trial,
        ready.place,
        watcher,
        environment=environment,
        writer=None if store is None else store.sample_writer(ready.trial.id),
    )
    watcher.result(result)
    if store is not None:
        store.append(result)
    return result


def refuse_used(out: Path) -> None:
    """Raise BadInput for a folder that holds results, or that another process writes to now."""
    refuse_busy(out)
    if (out / "sweep.json").exists():
        open_to_go_on(out)  # a kept copy has words of its own
        raise BadInput(f"--out {out}: already holds results (accepted: a new or empty folder)")


@contextlib.contextmanager
def stored(out: Path | None, trial: Trial, argv: tuple[str, ...]) -> Iterator[tuple[Store | None, str]]:
    """The results folder, when one was asked for, and the environment's id. Raises BadInput for one that another
    process writes to."""
    if out is None:
        yield None, ""
        return
    record = {"name": out.name, "description": f"loadgen run {trial.url}", "argv": list(argv)}
    environment = capture(argv)
    with Store.create(out, record) as store:
        store.add_environment(environment)
        yield store, environment.id

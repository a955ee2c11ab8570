"""A smallest request, one token of input and output: it tells a hung engine from one that is slow or refuses much."""

from __future__ import annotations

from dataclasses import replace

from loadgen.drivers.find import driver_factory
from loadgen.errors import LoadgenError, ServerError, ServerHung, unserved
from loadgen.launch.endpoint import Endpoint
from loadgen.load.run import run_trial_load
from loadgen.records import Failure, Trial
from loadgen.system import interrupt

PROBE_S = 30.0  # for the one token


def probed(trial: Trial, endpoint: Endpoint) -> ServerError | None:
    """ServerHung when a smallest request times out, too, as the last one has: pages may live where an engine hangs."""
    errors = answers_to_smallest(trial, endpoint)
    if any(not unserved(error) for error in errors):
        return None
    words = f"requests time out, the smallest one, too: {errors[-1]}"
    return endpoint.fault() or ServerHung(
        f"{words}; to try: {endpoint.if_silent}" if endpoint.if_silent else words
    )


def gone_on(trial: Trial, endpoint: Endpoint) -> Failure | None:
    """The failure of a trial whose server does not serve a smallest request behind those that were cancelled."""
    errors = answers_to_smallest(trial, endpoint)
    if any(not unserved(error) for error in errors):
        return None
    words = f"behind the requests that were cancelled the smallest one is not served: {errors[-1]}"
    return Failure(error=ServerHung.__name__, message=words, phase="load")


def answers_to_smallest(trial: Trial, endpoint: Endpoint) -> list[str | None]:
    """The errors of a trial's load made one request of one token, ``None`` of one that was served."""
    errors: list[str | None] = []
    try:
        run_trial_load(
            smallest(trial),
            endpoint.base_url,
            driver_factory(endpoint.protocol),
            endpoint.driver_options,
            lambda sample, _in_flight: errors.append(sample.error),
            stop=interrupt.asked,
        )
    except LoadgenError as error:
        errors.append(f"{type(error).__name__}: {error}")
    interrupt.check()
    return errors


def smallest(trial: Trial) -> Trial:
    """A trial's load made one request of one token, which gets no more time than one of its own."""
    limits = trial.load.timeouts
    limit_s = min(PROBE_S, limits.total_s)
    load = replace(
        trial.load,
        kind="static",
        input_tokens=1,
        output_tokens=1,
        input_spread=None,
        output_spread=None,
        prefixes=None,
        sessions=None,
        dataset=None,
        cancel=None,
        batch_size=1,
        concurrency=1,
        trace=None,
        replay=None,
        requests=1,
        warmup=0,
        duration_s=None,
        lead_in_s=0.0,
        max_rate=None,
        workers=1,
        nodes=1,
        timeouts=replace(limits, first_byte_s=min(limit_s, limits.first_byte_s), total_s=limit_s),
    )
    return replace(trial, load=load, share=None)

"""Doubts about a trial's numbers, each with a remedy. Pure: observations, summary and client figures in, caveats out.

A caveat with ``client`` set says that the load generator, and not the server, was the limit: such a trial is marked
wherever it is shown, and fails ``sweep --strict``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from loadgen.load_records import LoadSpec
from loadgen.metrics.observations import Mismatch, Observations
from loadgen.metrics.percentiles import FEW_INDEPENDENT, WITH_INTERVAL, percentile, tail, tail_words
from loadgen.metrics.summary import Accumulator
from loadgen.metrics.why import explained
from loadgen.records import Caveat, ClientQuality, Dist, Summary, Trial
from loadgen.units import show_number, show_s, show_share

SPREAD = {"static": 0.10, "closed": 0.30}  # of the mean; equal batches repeat within a few percent,
# requests in a continuous batch do not. An open loop's spread is its arrivals' and no fault.
SLOW_FIRST = 1.5  # × median: what compiling, caching or a cold clock adds shows first
SLOW_FIRST_ABOVE_S = 0.001  # below a millisecond any hiccup is that large
LAG_SHARE = (
    0.05  # of the median latency that the lag is part of: at 5 % a reader would draw wrong conclusions
)
LAG_FLOOR_S = 0.001  # a loop or timer is seldom better than this on a shared core
CPU_SHARE = 0.9  # of a core, as an average: the bursts within it reached 1 long before
COALESCED = 0.01  # of all reads: then p99 of the gaps between tokens is no longer the server's
CLOCK_S, CLOCK_SHARE = 0.001, 0.01  # of nodes: above either their requests do not come as they were to
IN_FLIGHT = 0.95  # of the target: below, throughput is that of a lower concurrency
GROWTH = 2.0  # latency at the end over that at the start: a server that keeps up stays near 1
GROWTH_SAMPLES = 30  # fewer cannot tell a trend from chance
SKEW_SHARE = 0.05  # of the batch's E2E latency


def caveats(trial: Trial, seen: Accumulator, summary: Summary, client: ClientQuality | None) -> list[Caveat]:
    """Every doubt about a summary, those that void it first. Without the client's figures it goes unchecked."""
    load, observations = trial.load, seen.observations
    found = [*_of_share(trial), *of_samples(load, observations, summary, seen.firsts)]
    if client is not None:
        found += of_client(load, summary, client)
    return sorted(found, key=lambda caveat: not caveat.client)


def of_samples(
    load: LoadSpec, observations: Observations, summary: Summary, firsts: Mapping[str, str] | None = None
) -> Iterator[Caveat]:
    """Doubts that the samples raise; ``firsts`` are the first errors of each class in their own words."""
    yield from _failures(summary, firsts or {})
    yield from _token_times(load, observations)
    e2e = summary.e2e_s
    if e2e is None:
        return
    yield from _few(e2e)
    limit = SPREAD.get(load.kind)
    if limit is not None and e2e.stdev is not None and e2e.mean > 0 and e2e.stdev / e2e.mean > limit:
        yield Caveat(
            kind="spread",
            message=f"E2E latency's standard deviation is {show_share(e2e.stdev / e2e.mean)} of its mean",
            remedy="measure more requests; look for other work on the machine and for clocks that moved",
        )
    first_s = observations.first_e2e_ns / 1e9
    if e2e.n >= 3 and first_s > SLOW_FIRST * e2e.p50 and first_s - e2e.p50 > SLOW_FIRST_ABOVE_S:
        yield Caveat(
            kind="slow-first",
            message=f"the first measured request took {show_s(first_s)}, the median {show_s(e2e.p50)}",
            remedy=f"raise warmup above {load.warmup}",
        )
    growth = observations.growth() if load.open_loop and observations.ok >= GROWTH_SAMPLES else None
    if growth is not None and growth > GROWTH:
        yield Caveat(
            kind="overload",
            message=f"latency grew {show_number(growth)}-fold during the trial: the server did not keep up, "
            "and percentiles depend on how long it ran",
            remedy="lower the rate, or read this trial as beyond capacity",
        )


def _few(e2e: Dist) -> Iterator[Caveat]:
    """Of the median. A higher percentile says itself, where it is shown, what so few samples leave of it."""
    if e2e.n < WITH_INTERVAL["p50"]:
        none = ", ".join(name for name in WITH_INTERVAL if percentile(e2e, name) is None)
        from_here = ", ".join(f"{name} from {n}" for name, n in WITH_INTERVAL.items())
        yield Caveat(
            kind="few-samples",
            message=f"{e2e.n} valid samples: the median has no interval within this run, and there is no {none}",
            remedy=f"measure more requests (intervals have {from_here})",
        )
    elif e2e.n >= FEW_INDEPENDENT and e2e.independent is not None and e2e.independent < FEW_INDEPENDENT:
        yield Caveat(
            kind="few-independent",
            message=f"{e2e.n} valid samples are worth {show_number(e2e.independent)} independent ones, since latencies "
            "hang on those before them: intervals are widened for that, and may still be too narrow",
            remedy="measure several times as many requests, and repeat the trial",
        )


def _failures(summary: Summary, firsts: Mapping[str, str]) -> Iterator[Caveat]:
    total = summary.requests_ok + summary.requests_failed
    wrong = summary.errors.get("WrongLength", 0)
    if wrong:
        yield Caveat(
            kind="wrong-length",
            message=f"{wrong} of {total} replies had another number of tokens than asked for; they give no latency and "
            "no tokens, and their time counts",
            remedy="make the server ignore end-of-sequence and check its length limits",
        )
    if summary.requests_failed > wrong:
        others = {name: count for name, count in summary.errors.items() if name != "WrongLength"}
        listed, _, hint = explained(others, firsts).partition("; remedy: ")
        hint = hint or "read the server's log"
        yield Caveat(
            kind="failed-requests",
            message=f"{summary.requests_failed - wrong} of {total} requests failed ({listed}); latencies are of the "
            "served ones, rates over the time of all",
            remedy=f"{hint}; latency of the rest may be too good",
        )


def _token_times(load: LoadSpec, observations: Observations) -> Iterator[Caveat]:
    if observations.uncounted:
        yield Caveat(
            kind="tokens-uncounted",
            message=f"output tokens of {observations.uncounted} of {observations.ok} replies are counted by nobody "
            "(neither token ids nor usage): no token rate, and a short output would go unseen",
            remedy="use a server that sends usage or token ids",
        )
    if observations.short:
        mean = observations.short_tokens / observations.short
        yield Caveat(
            kind="output-at-most",
            message=f"{observations.short} of {observations.ok} outputs ended early, with {show_number(mean)} of "
            f"{load.output_tokens * load.batch_size} tokens on average; rates count what came",
            remedy="compare by TPOT and tokens per second; --exact makes a short output an error",
        )
    if observations.prompt_uncounted:
        yield Caveat(
            kind="prompt-uncounted",
            message=f"no input tokens are counted in {observations.prompt_uncounted} of {observations.ok} replies: "
            "prompts went out as text, and their length is a guess",
            remedy="use a server that sends usage, or --prompt ids",
        )
    if observations.output_mismatch.count:
        yield _mismatch("token-mismatch", "output tokens", observations.output_mismatch, observations.ok)
    if observations.prompt_mismatch.count:
        yield _mismatch("prompt-mismatch", "input tokens", observations.prompt_mismatch, observations.ok)
    if load.stream and observations.unstreamed:
        yield Caveat(
            kind="not-streamed",
            message=f"{observations.unstreamed} of {observations.ok} replies were not streamed: they have no TTFT",
            remedy="let the server stream, or set stream = false",
        )
    if load.stream and observations.one_piece:
        yield Caveat(
            kind="one-piece",
            message=f"{observations.one_piece} of {observations.ok} streamed replies came in one piece "
            "or as good as at once: their TTFT is their E2E latency, and they show no TPOT",
            remedy="look for a buffering proxy or a server that collects its output",
        )
    if load.stream and observations.chunked:
        each = observations.chunked_tokens / observations.chunks
        yield Caveat(
            kind="chunked",
            message=f"{observations.chunked} of {observations.ok} replies have {show_number(each)} tokens a chunk: "
            "TTFT is that of the first chunk, TPOT counts it as one token and is too good, ITL is between chunks",
            remedy="let the server send each token as it comes; compare by E2E latency and tokens per second",
        )


def _mismatch(kind: str, what: str, mismatch: Mismatch, total: int) -> Caveat:
    return Caveat(
        kind=kind,
        message=f"{what}: counts disagree in {mismatch.count} of {total} replies ({'; '.join(mismatch.examples)})",
        remedy="trust token ids; find out what the server adds or leaves out (BOS, chat template, stop token)",
    )


def of_client(load: LoadSpec, summary: Summary, client: ClientQuality) -> Iterator[Caveat]:
    """Doubts about the load generator itself."""
    first = summary.ttft_s or summary.e2e_s
    median_s = first.p50 if first is not None else None
    limit_s = LAG_FLOOR_S if median_s is None else max(LAG_FLOOR_S, LAG_SHARE * median_s)
    if client.send_lag_s is not None and tail(client.send_lag_s, "p99") > limit_s:
        yield Caveat(
            kind="send-lag",
            message=f"requests were sent late: p50 {show_s(client.send_lag_s.p50)}, "
            f"{tail_words(client.send_lag_s, 'p99')} after they were due; latency from due time contains that",
            remedy="use more workers, a quieter machine or a lower rate",
            client=True,
        )
    lag = client.loop_lag_s
    if client.stamps == "user":
        yield Caveat(
            kind="user-stamps",
            message="arrivals were stamped by the client's loop, not by the kernel: its lag is in every latency"
            + (f" ({tail_words(lag, 'p99')})" if lag is not None else ""),
            remedy="use plain HTTP on Linux where kernel stamps are wanted",
        )
        if lag is not None and tail(lag, "p99") > limit_s:
            yield Caveat(
                kind="loop-lag",
                message=f"the client's loop ran late: {tail_words(lag, 'p99')}",
                remedy="use more workers or a quieter machine",
                client=True,
            )
    if client.cpu_share is not None and client.cpu_share > CPU_SHARE:
        yield Caveat(
            kind="client-cpu",
            message=f"a load generator process used {show_share(client.cpu_share)} of its core",
            remedy=f"raise workers above {client.workers}",
            client=True,
        )
    if client.reads and client.coalesced_reads and client.coalesced_reads / client.reads > COALESCED:
        yield Caveat(
            kind="coalesced",
            message=f"{show_share(client.coalesced_reads / client.reads)} of reads held several chunks, whose "
            "earlier arrival times are lost: short gaps between tokens are not to be trusted",
            remedy="use more workers; if that does not help, the server or the network sends them together",
        )
    yield from _in_flight(load, summary, client)
    yield from _clocks(load, client)
    skew = client.arrival_skew_s
    if skew is not None:
        large = summary.e2e_s is not None and skew.p50 > SKEW_SHARE * summary.e2e_s.p50
        yield Caveat(
            kind="arrival-skew",
            message=f"batches of {load.batch_size} went out as single calls, first to last in {show_s(skew.p50)} "
            f"(median), {show_s(skew.max)} at most",
            remedy="none needed: it is small against the latency"
            if not large
            else "use a protocol with batch calls",
            client=large,
        )


def _of_share(trial: Trial) -> Iterator[Caveat]:
    """That a part is not the whole."""
    if trial.share is not None:
        yield Caveat(
            kind="share",
            message=f"{trial.share.words}: other hosts sent the rest of this load. Rates, counts and requests in "
            "flight are this part's alone, none of them the server's",
            remedy="loadgen merge makes one trial of all shares",
        )


def _clocks(load: LoadSpec, client: ClientQuality) -> Iterator[Caveat]:
    """Several hosts, as exactly as they can be said to send at once. Even gaps are the only ones that this shows in."""
    if len(client.nodes) < 2:
        return
    began = [node.began_s for node in client.nodes if node.began_s is not None]
    skew_s = max(began) - min(began) if began else 0.0
    known = [node.bound_s for node in client.nodes if node.bound_s is not None]
    if len(known) < len(client.nodes):
        yield Caveat(
            kind="clock",
            message=f"the {len(client.nodes)} hosts began within {show_s(skew_s)} of each other, each by its own "
            "clock, which nobody compared: rates, in-flight figures and how requests interleave hold as far as these "
            "clocks agree; latencies are of one host each",
            remedy="synchronise the hosts' clocks (chrony, PTP); --ray measures them",
        )
        return
    gap_s = 1 / load.rate if load.kind == "constant" and load.rate else None
    limit_s = CLOCK_S if gap_s is None else min(CLOCK_S, CLOCK_SHARE * gap_s)
    if skew_s + max(known) > limit_s:
        yield Caveat(
            kind="clock",
            message=f"the {len(client.nodes)} nodes began within {show_s(skew_s)} ± {show_s(max(known))}: their "
            "requests interleave no more exactly than that, nor do in-flight figures; latencies are of one host each",
            remedy="nodes closer to each other, on a quieter network; fewer nodes",
        )


def _in_flight(load: LoadSpec, summary: Summary, client: ClientQuality) -> Iterator[Caveat]:
    target, mean = client.in_flight_target, summary.in_flight_mean
    if target is None or mean is None or mean >= IN_FLIGHT * target:
        return
    short = f"{show_number(mean)} of {target} requests were in flight on average"
    if summary.requests_ok + summary.requests_failed <= target:
        yield Caveat(
            kind="in-flight",
            message=f"{short}: there were no more requests than places",
            remedy=f"measure several times {target} requests",
        )
    elif load.max_rate is not None:
        yield Caveat(
            kind="in-flight",
            message=f"{short}: max_rate = {show_number(load.max_rate)} held requests back",
            remedy="read this trial by its rate, not by its concurrency",
        )
    elif summary.requests_failed > (1 - IN_FLIGHT) * summary.requests_ok:
        yield Caveat(
            kind="in-flight",
            message=f"{short}: requests that failed left their places early",
            remedy="see to the failed requests first",
        )
    else:
        # In a closed loop only the client acts between a completion and the next send.
        yield Caveat(
            kind="in-flight",
            message=f"{short}: places stood empty between a completion and the next send, "
            "so throughput is the client's and not the server's",
            remedy="use more workers; let the server keep connections alive if they are opened for each request",
            client=True,
        )

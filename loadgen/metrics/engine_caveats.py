"""Doubts that a server's own counters raise: batches that were none, prompts that were not computed. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from loadgen.load_records import LoadSpec
from loadgen.records import Caveat, ClientQuality, Summary
from loadgen.units import show_number, show_share

WAVES = (
    1.5  # steps a call over those of one batch: two waves take twice as many, a prompt in pieces a few more
)
# Kinds that say that a batch's sequences were not in the engine together, whatever it served in the end.
APART = frozenset({"batch-waves", "sequence-limit", "kv-limit", "preemptions"})
EXTRA_STEPS = 0.5  # a call, on average: below, single calls were slow to be taken up
CACHED = 0.01  # of the prompt tokens: from here on the prefill that was measured is a smaller one


def of_engine(
    load: LoadSpec,
    calls: int,
    engine: Mapping[str, object],
    client: ClientQuality | None = None,
    summary: Summary | None = None,
) -> Iterator[Caveat]:
    """``calls`` were sent in all, warm-up included; ``engine`` is a result's, with ``server_side`` counters in it. What
    the replies say of a prefix cache (``summary``) counts where the server has no counter of it."""
    single = client is not None and client.arrival_skew_s is not None
    if single and engine.get("in_flight_batching") is False and engine.get("dynamic_batching") is not True:
        yield Caveat(
            kind="batch-waves",
            message=f"batches of {load.batch_size} went out as single calls to a server that runs one call at a time: "
            "its sequences ran one after the other",
            remedy="a route that takes a list of prompts (completions), or an engine with in-flight batching",
        )
    yield from _of_room(load, engine)
    told = engine.get("server_side")
    seen: Mapping[str, object] = told if isinstance(told, Mapping) else {}
    output, steps = _count(seen, "output_tokens"), _count(seen, "steps")
    cached, prompt = _count(seen, "cached_prompt_tokens"), _count(seen, "prompt_tokens")
    if (cached is None or prompt is None) and summary is not None:
        cached, prompt = summary.cached_tokens, summary.cached_of_tokens
    preempted = _count(seen, "preemptions")
    # Another count of tokens means requests of others, or failed ones: then steps say nothing of these batches.
    ours = calls > 0 and output == calls * load.batch_size * load.output_tokens
    if load.kind == "static" and load.batch_size > 1 and ours and steps is not None:
        yield from _of_steps(load, steps / calls)
    # Then a cache is what is measured.
    shares = load.prefixes is not None or load.sessions is not None or load.kind == "trace"
    if cached is not None and prompt is not None and cached > CACHED * prompt and not shares:
        yield Caveat(
            kind="prefix-cache",
            message=f"the server took {cached} prompt tokens from its prefix cache "
            f"({show_share(cached / prompt) if prompt else 'all'} of those it counted): they were not computed",
            remedy="turn the prefix cache off, or read TTFT as that of prompts it partly knows",
        )
    if preempted is not None and preempted > 0:
        yield Caveat(
            kind="preemptions",
            message=f"the server put {preempted} sequences back for want of KV cache, and did their work again",
            remedy="lower the load, or give the server more KV cache",
        )


def _count(seen: Mapping[str, object], name: str) -> int | None:
    """One of a server's counters; ``None`` where it tells none, or what no counter holds."""
    value = seen.get(name)
    return value if isinstance(value, int) and 0 <= value < 2**63 else None


def _of_room(load: LoadSpec, engine: Mapping[str, object]) -> Iterator[Caveat]:
    """Of an engine that said how many sequences it runs at once, and in CUDA graphs, and how large its cache is."""
    sequences, most, tokens = load.sequences, engine.get("max_sequences"), engine.get("kv_tokens")
    if sequences is None:
        return
    if isinstance(most, int) and sequences > most:
        yield Caveat(
            kind="sequence-limit",
            message=f"{sequences} sequences were in flight, and the server runs {most} at once: the others waited",
            remedy="start it with a max_batch of as many, or read latencies as those of its queue",
        )
    replayed = engine.get("graphs_up_to")
    if isinstance(replayed, int) and sequences > replayed:
        yield Caveat(
            kind="beyond-graphs",
            message=f"{sequences} sequences were in flight, and the server replays CUDA graphs of up to {replayed}: "
            "larger batches are launched kernel by kernel",
            remedy="raise the largest batch that is captured (vllm: max_cudagraph_capture_size), or read it as eager",
        )
    need = sequences * (load.input_tokens + load.output_tokens)
    if isinstance(tokens, int) and load.kind != "trace" and need > tokens:
        yield Caveat(
            kind="kv-limit",
            message=f"{sequences} sequences at their full length are {need} tokens, and the server's cache holds "
            f"{tokens}: they cannot all run together",
            remedy="lower the load, or give the server more KV cache",
        )


def _of_steps(load: LoadSpec, steps: float) -> Iterator[Caveat]:
    extra = steps - load.output_tokens
    took = f"a call of {load.batch_size} × {load.output_tokens} tokens took {show_number(steps)} steps of the engine"
    if load.output_tokens > 1 and steps >= WAVES * load.output_tokens and extra >= 2:
        yield Caveat(
            kind="batch-waves",
            message=f"{took}, one batch takes {load.output_tokens}: its sequences did not run together",
            remedy="let the server run as many sequences as the batch has (vLLM --max-num-seqs, llama.cpp -np)",
        )
    elif extra >= EXTRA_STEPS:
        yield Caveat(
            kind="batch-steps",
            message=f"{took}, one batch takes {load.output_tokens}: it began in pieces, so TTFT is that of the first "
            "sequences, and E2E holds the steps more",
            remedy="read it as this server's static batch; compare servers by steps as well as by time",
        )

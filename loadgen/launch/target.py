"""An endpoint that already runs, found out before any load, whatever it speaks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from loadgen.drivers import grpc_discover
from loadgen.drivers.grpc_discover import PROTOCOLS, TRITON
from loadgen.errors import BadInput, DriverError
from loadgen.launch.discover import Asked, Found, discover, endpoint_of
from loadgen.launch.endpoint import Endpoint
from loadgen.launch.probes import PROBE_TOKENS, Late, Prober
from loadgen.load.prompts import FIRST_ID, SAFE_VOCAB

NO_LISTS = frozenset({"lmdeploy"})
LISTS_S = 10.0
TRITON_OPTIONS = ("merged", "variant")  # what its metadata may not tell


def find_out(url: str, asked: Asked) -> tuple[Found, Endpoint]:
    """What an endpoint takes, and how it is loaded. Raises BadInput for one that cannot be loaded as asked."""
    over_grpc = url.partition("://")[0] == "grpc"
    if asked.protocol is not None and over_grpc != (asked.protocol in PROTOCOLS):
        raise BadInput(
            f"protocol = {asked.protocol!r}: not spoken at {url} (accepted: openai for http:// and https://, "
            f"{' or '.join(PROTOCOLS)} for grpc://)"
        )
    if over_grpc:
        found = _over_grpc(url, asked)
        text = "words" in found.options
        return found, Endpoint(
            base_url=url,
            protocol=found.protocol,
            driver_options=found.options,
            facts=found.facts,
            at_most=found.at_most,
            vocab=found.vocab if text else found.vocabulary,
            context=found.context,
            text=text,
        )
    found = discover(url, asked)
    if asked.batches and not found.ours and not _takes_lists(url, found, asked.stream):
        found = replace(
            found,
            options={**found.options, "batches": False},
            choice={**found.choice, "batches": False},
            facts={**found.facts, "static_batches": "single calls released together"},
            line=f"{found.line}, no lists of prompts: a static batch is single calls, released together",
        )
    return found, endpoint_of(url, found)


def _takes_lists(url: str, found: Found, stream: bool) -> bool:
    """Whether completions answer a list of prompts as one batch. llama.cpp's stream then begins with ``null``, and its
    whole answer has the first prompt's usage; LMDeploy gives all choices the index 0."""
    if found.options.get("endpoint", "completions") != "completions" or found.options.get("batches") is False:
        return True  # not a question
    if found.facts.get("engine") in NO_LISTS:
        return False
    ids = (found.vocab - 1,) * (PROBE_TOKENS + found.options.get("words", {}).get("overhead", 0))
    try:
        reply = Prober(url, found.model, stream, LISTS_S).send(found.options, ids, PROBE_TOKENS, rows=2)
    except (DriverError, Late):
        return True  # the load will tell
    if reply.output_tokens is not None:
        counts = reply.output_tokens
        return reply.error is None and len(counts) == 2 and (found.at_most or set(counts) == {PROBE_TOKENS})
    total = reply.usage_output_tokens
    whole = total is None or total == 2 * PROBE_TOKENS or (found.at_most and total > PROBE_TOKENS)
    return reply.error is None and whole


def _over_grpc(url: str, asked: Asked) -> Found:
    given = {key: value for key, value in asked.options.items() if value is not None}
    server = grpc_discover.discover(
        url, protocol=asked.protocol, model=asked.model, vocab=asked.vocab, tokenizer=asked.tokenizer
    )
    accepted = TRITON_OPTIONS if server.protocol == TRITON else ()
    for name in given:
        if name not in accepted:
            raise BadInput(
                f"{name} = {given[name]!r}: not of {server.protocol} (accepted: {', '.join(accepted) or 'none'})"
            )
    options: dict[str, Any] = {**server.options, **given}
    # Without the first id outside the vocabulary as end id, a model's own may end a row.
    at_most = server.protocol == TRITON and server.vocab is None
    usual = {"variant": "a", "merged": False, "text": "ids"}
    decisive = {key: options[key] for key in usual if options.get(key, usual[key]) != usual[key]}
    lengths = "at most" if at_most else "exact"
    return Found(
        protocol=server.protocol,
        model=server.model,
        options=options,
        choice={"protocol": server.protocol, **decisive},
        at_most=at_most and not asked.exact,
        vocab=FIRST_ID + server.words if server.words else server.vocab or SAFE_VOCAB,
        vocabulary=server.vocab,
        context=server.max_context,
        facts={**server.engine, "route": server.protocol, "lengths": lengths, "chosen": server.chosen},
        line=f"{server.chosen}, lengths {lengths}"
        + (" (--vocab would force them)" if at_most else "")
        + (f", context {server.max_context}" if server.max_context else ""),
    )

"""What an endpoint that somebody else runs takes, asked before any load by some pages and requests of a few tokens.

Routes are tried from the most exact on: completions by token ids, completions by text, chat. In each, what the server
refuses by name is left out, then all that OpenAI's API does not know. Text is made of words that the server itself
counts as one token each. Nothing is guessed above what it said: ids stay under the smallest vocabulary known.

Lengths are taken for exact where the server is known to heed ``ignore_eos``, by its name or by token ids in its answer,
and gave as many tokens as were asked for. Elsewhere an output may end early.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from loadgen.drivers.openai_endpoint import EXTRAS, Endpoint, extras_of, named_route
from loadgen.drivers.words import COMMON, LONG_OPENING, OPENING, Words, from_tokenizer, measure
from loadgen.errors import BadInput, DriverError, Refused
from loadgen.launch import endpoint as places
from loadgen.launch.pages import (
    HEED_IGNORE_EOS,
    METRICS,
    Pages,
    answers,
    known_facts,
    nothing_there,
    read_pages,
)
from loadgen.launch.probes import PROBE_TOKENS, Late, Prober, Settled, form_of, settle
from loadgen.launch.tokenize_page import count_tokens
from loadgen.load.prompts import FIRST_ID, SAFE_VOCAB
from loadgen.records import Trial

LIMIT_S = 15.0  # for all of it
PAGES_S = 5.0
ANSWER_S = 10.0  # for a page of one that may hang; it is asked twice
FORMS = (("completions", "ids"), ("completions", "text"), ("chat", "text"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the user fixed: ``options`` of the driver, the protocol, the model, the folder of its tokenizer, the size of
    its vocabulary, whether to stream, whether an output that ends early is an error (``exact``), and whether there are
    static ``batches``."""

    options: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    tokenizer: str | None = None
    vocab: int | None = None
    protocol: str | None = None
    stream: bool = True
    exact: bool = False
    batches: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was chosen. ``options`` are the driver's, whole; ``choice`` what of them decides a result and is not the
    default (it goes into the trial's id); ``facts`` what stands in the result's ``engine``; ``line`` says it in words.

    ``vocab`` bounds the ids of prompts; ``context`` and ``vocabulary`` are None where the server does not tell.
    ``reached``: a page of it answered.
    """

    model: str
    options: Mapping[str, Any]
    choice: Mapping[str, Any]
    at_most: bool
    vocab: int
    vocabulary: int | None
    context: int | None
    facts: Mapping[str, Any]
    line: str
    ours: bool = False
    metrics: bool = False
    reached: bool = True
    protocol: str = "openai"


def asked_of(trial: Trial) -> Asked:
    """What a trial against an endpoint that already runs fixed."""
    options = dict(trial.driver)
    tokenizer, protocol = options.pop("tokenizer", None), options.pop("protocol", None)
    return Asked(
        options=options,
        protocol=None if protocol is None else str(protocol),
        model=trial.model_name,
        tokenizer=None if tokenizer is None else str(tokenizer),
        vocab=trial.vocab,
        stream=trial.load.stream,
        exact=trial.exact,
    )


def unreachable(trial: Trial) -> str | None:
    """Why no connection to a trial's endpoint comes about, in the system's words; ``None`` where one does."""
    if trial.url is None or trial.url.startswith("grpc"):
        return None  # gRPC's own wait tells
    asked = asked_of(trial)
    return nothing_there(Endpoint(trial.url, asked.model or "", asked.options), PAGES_S)


def endpoint_of(url: str, found: Found) -> places.Endpoint:
    """The endpoint as it is loaded."""
    text = found.options.get("prompt") == "text"
    wire = Endpoint(url, found.model, found.options)
    return places.Endpoint(
        base_url=url,
        driver_options=found.options,
        hung=lambda: found.reached and not (answers(wire, ANSWER_S) or answers(wire, ANSWER_S)),
        info_url=wire.page("/info") if found.ours else None,
        metrics_url=wire.page(METRICS) if found.metrics and wire.socket is None else None,
        facts=found.facts,
        at_most=found.at_most,
        vocab=found.vocab if text else found.vocabulary,
        context=found.context,
        text=text,
    )


def discover(url: str, asked: Asked, limit_s: float = LIMIT_S) -> Found:
    """Ask an endpoint what it takes. Raises BadInput where no server answers and no model is named, for options that
    cannot be, and, with ``exact``, where lengths cannot be.

    A server that takes nothing is not judged here: the load will be refused with the same words.
    """
    began_s = time.monotonic()
    endpoint = Endpoint(url, asked.model or "", asked.options)
    pages = read_pages(endpoint, min(PAGES_S, limit_s))
    model = pages.model(asked.model, url)
    own = from_tokenizer(asked.tokenizer, OPENING) if asked.tokenizer is not None else None
    if pages.ours() and not (asked.options.keys() & {"endpoint", "prompt", "extras"} or named_route_of(url)):
        return _ours(pages, model, asked)
    left_s = limit_s - (time.monotonic() - began_s)
    prober = Prober(url, model, asked.stream, left_s)
    refusals: dict[str, str] = {}
    settled: Settled | None = None
    forms = _forms(url, asked.options)
    form, late = forms[0], False
    try:
        for form in forms:
            settled = settle(prober, {**asked.options, "endpoint": form[0], "prompt": form[1]}, refusals)
            if settled is not None:
                break
    except Late:
        late = True
    except DriverError as error:
        refusals.setdefault("connection", f"{type(error).__name__}: {error}")
    if settled is None:
        if late and form_of({"endpoint": form[0], "prompt": form[1]}) in refusals:
            form = next(
                (each for each in forms[forms.index(form) + 1 :]), form
            )  # it is another one that may be slow
        return _unsettled(pages, model, asked, refusals, form if late else forms[0], late)
    forced = _forced(settled, pages, model)
    page = Endpoint(url, model, settled.options)
    words, told = _words(prober, page, settled.options, own, forced, asked.exact)
    return _found(pages, model, asked, settled, refusals, forced, words, told)


def named_route_of(url: str) -> str | None:
    """The route that an endpoint's URL names, ``None`` where it is a prefix to routes."""
    return named_route(url.partition("?")[0].rstrip("/"))


def _ours(pages: Pages, model: str, asked: Asked) -> Found:
    vocabulary, context = pages.vocabulary(model), pages.context(model)
    parts = [
        "completions by token ids to a server of loadgen's own, lengths exact, tokens by ids",
        f"context {context}" if context else "",
        f"vocabulary {vocabulary}" if vocabulary else "",
    ]
    return Found(
        model=model,
        options=dict(asked.options),
        choice=_choice(asked.options),
        at_most=False,
        vocab=vocabulary or SAFE_VOCAB,
        vocabulary=vocabulary,
        context=context,
        facts={},
        line=", ".join(filter(None, parts)),
        ours=True,
        metrics=pages.metrics,
        reached=pages.reached,
    )


def _forms(url: str, options: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The routes and kinds of prompt to try, the most exact first."""
    route, prompt = options.get("endpoint") or named_route_of(url), options.get("prompt")
    if route == "messages":
        return [("messages", "text")]
    return [form for form in FORMS if route in (None, form[0]) and prompt in (None, form[1])]


def _forced(settled: Settled, pages: Pages, model: str) -> bool:
    reply = settled.reply
    known = pages.ours() or pages.entry(model).get("owned_by") in HEED_IGNORE_EOS
    heeds = known or reply.counted_by == "ids"
    return heeds and "ignore_eos" in settled.options["extras"] and reply.output_tokens == (PROBE_TOKENS,)


def _words(
    prober: Prober, page: Endpoint, options: Mapping[str, Any], own: Words | None, forced: bool, exact: bool
) -> tuple[Words | None, str]:
    """The words of text prompts, and what is to be said of their lengths; None for prompts of ids."""
    if options["prompt"] == "ids":
        return None, ""
    opening = OPENING if forced else LONG_OPENING
    plain = own or Words(words=COMMON, overhead=0, opening=opening)

    def ask(text: str) -> int | None:
        one = Words(words=(text,), overhead=0, opening="", glue="").option()
        try:
            reply = prober.send({**options, "words": one}, (0,), 1)
        except Late:
            raise Refused(
                "no answer within the time for asking"
            ) from None  # two texts that were counted will do
        if reply.error is not None:
            raise Refused(reply.error)
        return reply.usage_prompt_tokens

    by_page = ""
    try:
        long_opening = "" if forced else LONG_OPENING
        found = measure(ask, own, long_opening=long_opening)
        if (
            found is None and not exact
        ):  # a reply that counts nothing proves nothing, so exact lengths it has not
            by_page = ", by its /tokenize"
            found = measure(
                lambda text: count_tokens(page, text, prober.left_s), own, long_opening=long_opening
            )
    except (BadInput, Refused) as error:
        if exact or (own is not None and isinstance(error, BadInput)):
            raise
        return plain, f"input lengths count words, not tokens ({_short(str(error))})"
    if found is None and exact:
        raise BadInput("--exact: the server counts no prompt tokens, and prompts go out as text")
    if found is None:
        return plain, "input lengths are counted by nobody"
    return found, f"{found.overhead} tokens of each input stand beside the words{by_page}"


def _found(
    pages: Pages, model: str, asked: Asked, settled: Settled, refusals: Mapping[str, str], forced: bool,
    words: Words | None, told: str,
) -> Found:  # fmt: skip
    options, reply = settled.options, settled.reply
    vocabulary = pages.vocabulary(model)
    form = form_of(options)
    why = "; ".join(f"{name} refused: {_short(words_)}" for name, words_ in refusals.items() if name != form)
    extras = ", ".join(options["extras"]) or "no extras"
    counted = {"ids": "tokens by ids", "usage": "tokens by usage", None: "tokens counted by nobody"}
    parts = [
        f"{form} ({why})" if why else form,
        f"with {extras}",
        "lengths exact" if forced else "output at most as long as asked",
        told,
        counted[reply.counted_by],
        "streamed" if reply.token_ns else "whole" if not asked.stream else "not streamed, though asked to",
        f"context {context}" if (context := pages.context(model)) else "context unknown",
        f"vocabulary {vocabulary}" if vocabulary else "",
    ]
    line = ", ".join(part for part in parts if part)
    driver = {**options, "words": words.option()} if words is not None else options
    return Found(
        model=model,
        options=driver,
        choice=_choice(options),
        at_most=not forced,
        vocab=FIRST_ID + len(words.words) if words is not None else (vocabulary or SAFE_VOCAB),
        vocabulary=vocabulary,
        context=context,
        facts={
            **dict(known_facts(pages, model)),
            "route": form,
            "extras": extras,
            "lengths": "exact" if forced else "at most",
            "chosen": line,
        },
        line=line,
        ours=pages.ours(),
        metrics=pages.metrics,
        reached=pages.reached,
    )


def _unsettled(
    pages: Pages, model: str, asked: Asked, refusals: Mapping[str, str], form: tuple[str, str], late: bool
) -> Found:
    """What is sent where nothing was taken: the first form, whose failure the load will tell; where time was over, the
    one that was not refused."""
    route, prompt = form
    options = {**asked.options, "endpoint": route, "prompt": prompt}
    why = "; ".join(f"{name}: {_short(words)}" for name, words in refusals.items())
    line = (
        f"{form_of(options)}, as nothing was taken"
        + (" in time" if late else "")
        + (f" ({why})" if why else "")
    )
    return Found(
        model=model,
        options=options,
        choice=_choice(options),
        at_most=late and not asked.exact,
        vocab=(pages.vocabulary(model) or SAFE_VOCAB) if prompt == "ids" else FIRST_ID + len(COMMON),
        vocabulary=pages.vocabulary(model),
        context=pages.context(model),
        facts={**dict(known_facts(pages, model)), "route": form_of(options), "chosen": line},
        line=line,
        metrics=pages.metrics,
        reached=pages.reached,
    )


def _choice(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that decide a result and are not what was always sent, so that older ids stay."""
    usual = {"endpoint": "completions", "prompt": "ids", "limit": "max_tokens"}
    chosen = {key: value for key, value in options.items() if value is not None and value != usual.get(key)}
    for name in ("transport", "stamps", "request_ids", "words"):
        chosen.pop(name, None)
    if "extras" in chosen:
        extras = extras_of(chosen.pop("extras"))
        chosen |= {} if extras == EXTRAS else {"extras": list(extras)}
    return chosen


def _short(words: str) -> str:
    text = words.removeprefix("Refused: ")
    return text[:120] + "…" if len(text) > 120 else text

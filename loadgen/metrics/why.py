"""Why requests failed, in the server's own words, with what to do about it."""

from __future__ import annotations

import re
from collections.abc import Mapping

# What an error says → the remedy; the first that fits counts.
REMEDIES = tuple(
    (re.compile(pattern, re.I), remedy)
    for pattern, remedy in (
        (r"^Refused: 40[13]\b", "set LOADGEN_API_KEY, or name the header that it wants with --header"),
        (r"^Refused: 404\b.*\bmodel\b", "name a model that the server has with --model"),
        (r"^Refused: 40[45]\b", "give the path of its API in --url, or choose with --endpoint"),
        (r"^Refused: 429\b", "lower the rate or the concurrency, or raise the server's limit"),
        (r"out of vocabulary|token id|invalid tokens", "lower --vocab, or send text with --prompt text"),
        (
            r"context|too long|max_model_len|maximum.*length|max_total_tokens|exceed",
            "ask for fewer input or output tokens, or start the server with a longer context",
        ),
        (
            r"ignore_eos|min_tokens|return_token_ids|extra (inputs|fields)|unexpected|unrecognized|not permitted|"
            r"unknown (field|param)",
            "leave the fields out that it does not know with -o extras=false, or add its own with --extra-body",
        ),
        (
            r"must be a string|string_type|valid string|expected.*string|nor a string",
            "it takes no token ids: send text with --prompt text, or --endpoint chat",
        ),
        (r"^Refused: 5\d\d\b", "read the server's log"),
        (r"^ConnectFailed", "see whether the server runs and listens there"),
        (r"^TimedOut", "raise the time-out, or ask for less at once"),
        (
            r"^WrongLength",
            "make the server ignore end-of-sequence; without --exact a shorter output counts as it is",
        ),
        (r"^BadReply", "see whether the URL is that of an OpenAI-compatible API"),
        (r"^Refused", "read the server's log"),
    )
)


def remedy(error: str) -> str:
    """What to do about an error, ``ClassName: message``; empty where nothing is known."""
    return next((words for pattern, words in REMEDIES if pattern.search(error)), "")


def explained(errors: Mapping[str, int], firsts: Mapping[str, str]) -> str:
    """Errors by class with how often, the first of each in its own words, and the remedy of the most frequent one."""
    told = []
    for name, count in sorted(errors.items()):
        first = firsts.get(name, "").partition(": ")[2]
        told.append(f"{name} × {count}" + (f" ({first})" if first else ""))
    worst = max(errors, key=lambda name: errors[name], default="")
    hint = remedy(firsts.get(worst, ""))
    return ", ".join(told) + (f"; remedy: {hint}" if hint else "")

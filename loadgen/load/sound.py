"""The edge where a server's reply becomes a sample: its values, which columns must hold, and its lengths."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from loadgen import urls
from loadgen.errors import BadReply, WrongLength
from loadgen.request_records import Reply

MOST = 2**31 - 1  # of tokens: more are not counted, and sums of more do not fit what stores them
USUAL_FINISH = frozenset({None, "length", "stop", "max_tokens", "end_turn", "eos_token", "none"})
LISTS = ("tokens_per_arrival", "first_tokens")


def sound(reply: Reply) -> Reply:
    """The reply itself, or, where a value is out of its type's range, what is left of it, as a BadReply.

    Text becomes valid UTF-8: JSON may hold halves of surrogate pairs, which can be neither stored nor printed. A key
    that a server repeats in its refusal is taken out.
    """
    if _usual(reply):
        return reply
    for name in ("finish", "error"):
        text = getattr(reply, name)
        if text is not None and (told := urls.shown(text)) != text:
            changed: dict[str, Any] = {name: told}
            reply = replace(reply, **changed)
    wrong = {
        name: value
        for name, value in (
            ("tokens_per_arrival", reply.tokens_per_arrival),
            ("output_tokens", reply.output_tokens or ()),
            ("first_tokens", reply.first_tokens),
            ("usage_prompt_tokens", _one(reply.usage_prompt_tokens)),
            ("usage_output_tokens", _one(reply.usage_output_tokens)),
            ("cached_tokens", _one(reply.cached_tokens)),
        )
        if value and not _fits(value)
    }
    if not wrong:
        return reply
    name, value = next(iter(wrong.items()))
    shown = next(item for item in value if not _fits((item,)))
    words = (
        f"{BadReply.__name__}: {name} holds {urls.shown(str(shown))[:40]!r} (expected whole numbers from 0)"
    )
    words = words.encode("utf-8", "replace").decode("utf-8")
    left: dict[str, object] = {key: None if key not in LISTS else () for key in wrong}
    if "output_tokens" in wrong:
        left["counted_by"] = None
    if "tokens_per_arrival" in wrong:  # it runs beside the times
        left["token_ns"] = ()
    return replace(reply, error=reply.error or words, **left)  # type: ignore[arg-type]


def length_error(reply: Reply, batch_size: int, asked: int, *, at_most: bool = False) -> str | None:
    """What ``Sample.error`` says of a reply with another number of sequences or tokens than asked for; with
    ``at_most``: with more, or with none.

    Where tokens are known of the batch as a whole only, that must be right; a reply nobody counted passes.
    """
    name, received = WrongLength.__name__, reply.output_tokens
    if received is None:
        total, most = reply.usage_output_tokens, batch_size * asked
        if total is not None and total != most and not (at_most and 0 < total < most):
            return f"{name}: asked {batch_size} × {asked} tokens, usage says {total} in all"
        return None
    if len(received) != batch_size:
        return f"{name}: asked {batch_size} sequences, got {len(received)}"
    for place, count in enumerate(received):
        if count != asked and not (at_most and 0 < count < asked):
            return f"{name}: asked {asked}, got {count} (sequence {place})"
    return None


def _usual(reply: Reply) -> bool:
    """Whether a reply is sound at a glance, as nearly all are."""
    if reply.error is not None or reply.finish not in USUAL_FINISH:
        return False
    for count in (reply.usage_prompt_tokens, reply.usage_output_tokens, reply.cached_tokens):
        if count is not None and not (count.__class__ is int and 0 <= count <= MOST):
            return False
    for counts in (reply.tokens_per_arrival, reply.output_tokens, reply.first_tokens):
        if counts and not _fits(counts):
            return False
    return True


def _one(value: int | None) -> tuple[int, ...]:
    return () if value is None else (value,)


def _fits(values: tuple[int, ...] | None) -> bool:
    if not values:
        return True
    if len(values) == 1:
        return values[0].__class__ is int and 0 <= values[0] <= MOST
    kinds = set(map(type, values))
    return kinds <= {int} and min(values) >= 0 and max(values) <= MOST

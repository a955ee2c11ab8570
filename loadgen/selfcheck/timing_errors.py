"""The client's times against the server's own: what a calibration compares. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loadgen.launch.null_log import Sent
from loadgen.load_records import LoadSpec
from loadgen.metrics.distribution import Values
from loadgen.records import Dist
from loadgen.request_records import Reply
from loadgen.units import NS_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """How far the client's arrival times are from the server's send times, token by token, as absolute values.

    ``ttft_s``: of each request's first token. ``itl_s``: of each gap between the tokens of successive writes.
    ``e2e_s``: of each request's last token, or of the whole answer where it does not stream. ``late_s``: how late
    the null server itself was against its schedule; ``None`` when it had none.
    """

    ttft_s: Dist | None
    itl_s: Dist | None
    e2e_s: Dist | None
    late_s: Dist | None


def compare(replies: Sequence[Reply], log: Mapping[str, Sent], ttft_ns: int, itl_ns: int) -> Errors:
    """The errors of all replies whose answer is in the log, and the server's own lateness. Pure."""
    ttft, itl, e2e, late = Values(), Values(), Values(), Values()
    for reply in replies:
        sent = log.get(f"measured-{reply.seq}")
        if sent is None:
            continue
        if not reply.token_ns:
            e2e.add(abs(reply.end_ns - sent.writes_ns[-1]))
            continue
        came, went = by_token(reply.token_ns, reply.tokens_per_arrival), by_token(sent.writes_ns, sent.tokens)
        ttft.add(abs(came[0] - went[0]))
        e2e.add(abs(came[-1] - went[-1]))
        itl.extend(
            abs((came[at] - came[at - 1]) - (went[at] - went[at - 1]))
            for at in range(1, min(len(came), len(went)))
            if went[at] != went[at - 1]
        )
        if itl_ns:
            steps = range(0, len(went), sent.sequences)
            late.extend(
                went[at] - (sent.received_ns + ttft_ns + step * itl_ns) for step, at in enumerate(steps)
            )
    to_s = 1 / NS_PER_S
    return Errors(ttft_s=ttft.dist(to_s), itl_s=itl.dist(to_s), e2e_s=e2e.dist(to_s), late_s=late.dist(to_s))


def by_token(times_ns: Sequence[int], tokens: Sequence[int]) -> array[int]:
    """The time of every single token."""
    times = array("q")
    for at_ns, count in zip(times_ns, tokens, strict=True):
        times.extend([at_ns] * count)
    return times


def rate_share(
    load: LoadSpec, replies: Sequence[Reply], due_ns: Sequence[int], answers: Sequence[Sent]
) -> float | None:
    """The load that was kept up over the load that was asked for; None where that cannot be told.

    In a closed loop: the share of time that its places were occupied at the server. In open loop: the planned span
    of the sends over the real one.
    """
    places = load.in_flight
    if places is None:
        if len(due_ns) < 2:
            return None
        took = max(reply.sent_ns for reply in replies) - min(reply.sent_ns for reply in replies)
        return (max(due_ns) - min(due_ns)) / took if took else None
    if not answers:
        return None
    occupied = sum(sent.writes_ns[-1] - sent.received_ns for sent in answers)
    span = max(sent.writes_ns[-1] for sent in answers) - min(reply.sent_ns for reply in replies)
    return occupied / (places * span) if span else None


def server_share(answers: Sequence[Sent], ttft_ns: int, itl_ns: int) -> float | None:
    """The scheduled length of the answers over their real one: below 1 when the null server fell behind.

    None for a server that sends as fast as it can: it has no pace to keep.
    """
    if not itl_ns:
        return None
    steps = sum(sum(sent.tokens) // sent.sequences - 1 for sent in answers)
    scheduled = len(answers) * ttft_ns + steps * itl_ns
    real = sum(sent.writes_ns[-1] - sent.received_ns for sent in answers)
    return scheduled / real if real else None

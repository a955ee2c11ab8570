"""The samples and outcomes of several workers, nodes or hosts as those of one load."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from loadgen.load.client import LoadOutcome
from loadgen.load.dispatch import OnSample
from loadgen.load.quality import Figures, ReplyFigures, client_quality
from loadgen.metrics.in_flight import in_flight
from loadgen.request_records import Sample
from loadgen.workload_records import SessionFigures


class Merged:
    """What the merged samples say, besides being handed on."""

    def __init__(self) -> None:
        self.replies = ReplyFigures()
        self.sent_ns, self.end_ns = array("q"), array("q")


def merge(parts: Sequence[Iterable[Sample]], on_sample: OnSample) -> Merged:
    """Hand on the samples of several workers in the order in which they ended."""
    merged = Merged()
    for sample in heapq.merge(*parts, key=lambda sample: sample.reply.end_ns):
        if sample.phase != "warmup":
            merged.replies.add(sample.reply, sample.due_ns)
            merged.sent_ns.append(sample.reply.sent_ns)
            merged.end_ns.append(sample.reply.end_ns)
        on_sample(sample, 0)
    return merged


def shift(sample: Sample, theta_ns: int) -> None:
    """Move all times of a sample back alike, so that every difference stays what it was on its host."""
    reply = sample.reply
    if sample.due_ns is not None:
        sample.due_ns -= theta_ns
    if sample.offset_ns is not None:
        sample.offset_ns -= theta_ns
    reply.sent_ns -= theta_ns
    reply.end_ns -= theta_ns
    reply.token_ns = tuple([at_ns - theta_ns for at_ns in reply.token_ns])
    if reply.begun_ns is not None:
        reply.begun_ns -= theta_ns
    if reply.first_answer_ns is not None:
        reply.first_answer_ns -= theta_ns


def joined(outcomes: Sequence[Mapping[str, Any]], start_ns: int, merged: Merged) -> LoadOutcome:
    """The outcomes of all workers as one."""
    targets = [one for outcome in outcomes if (one := outcome["in_flight_target"]) is not None]
    target = sum(targets) if targets else None
    figures = tuple(Figures(**one) for outcome in outcomes for one in outcome["processes"])
    mean, most = in_flight(merged.sent_ns, merged.end_ns)

    def total(key: str) -> int:
        return sum(outcome[key] for outcome in outcomes)

    return LoadOutcome(
        quality=client_quality(figures, merged.replies, target),
        in_flight_mean=mean,
        in_flight_max=most,
        in_flight_target=target,
        start_ns=start_ns,
        requests_sent=total("requests_sent"),
        requests_failed=total("requests_failed"),
        warmup_sent=total("warmup_sent"),
        warmup_failed=total("warmup_failed"),
        processes=figures,
        sessions=sum_of_sessions([outcome["sessions"] for outcome in outcomes]),
    )


def sum_of_sessions(parts: Sequence[dict[str, Any] | None]) -> SessionFigures | None:
    """The figures of all workers' sessions together: sessions of different workers are different ones."""
    known = [part for part in parts if part is not None]
    if not known:
        return None
    names = known[0].keys()
    told = {name: [part[name] for part in known if part[name] is not None] for name in names}
    figures: dict[str, Any] = {name: sum(values) if values else None for name, values in told.items()}
    return SessionFigures(**figures)

"""What the load generator observes of itself while it measures: whether the client or the server was measured."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from loadgen.metrics.distribution import Values
from loadgen.metrics.percentiles import tail
from loadgen.protocols import Clock
from loadgen.records import ClientQuality
from loadgen.request_records import Reply, Sample
from loadgen.system.timer import Timer, TimerFactory
from loadgen.units import NS_PER_S, seconds

LAG_EVERY_NS = 50_000_000  # twenty looks a second cost nothing and see every stall of 50 ms


@dataclass(slots=True, kw_only=True)
class Figures:
    """One client process's own figures over its measured phase, as it can send them to its parent in JSON."""

    driver: str
    stamps: str
    loop: str
    wall_s: float = 0.0
    cpu_s: float = 0.0
    rss_bytes: int | None = None
    loop_lags_ns: list[int] = field(default_factory=list)
    skews_ns: list[int] = field(default_factory=list)


class ReplyFigures:
    """What the replies say of the client: send lag, stamp lag, coalesced reads."""

    def __init__(self) -> None:
        self.send_lag, self.stamp_lag = Values(), Values()
        self.reads = self.coalesced = 0

    def add(self, reply: Reply, due_ns: int | None) -> None:
        """Take a measured reply, failed ones too: the client was just as busy with them."""
        if due_ns is not None:
            self.send_lag.add(reply.sent_ns - due_ns)
        if reply.lag_ns is not None:
            self.stamp_lag.add(reply.lag_ns)
        self.reads += reply.reads
        self.coalesced += reply.coalesced


class FirstSend:
    """When a host sent its first request behind the warm-up, against when that was to be: by its due time, else at
    ``start_ns``, the common start on the samples' clock."""

    def __init__(self, start_ns: int) -> None:
        self._start_ns = start_ns
        self._first: tuple[int, int] | None = None

    def note(self, sample: Sample) -> None:
        """Take a sample, in any order."""
        if sample.phase != "warmup":
            sent_ns = sample.reply.sent_ns
            late = (sent_ns, sent_ns - (self._start_ns if sample.due_ns is None else sample.due_ns))
            self._first = late if self._first is None else min(self._first, late)

    @property
    def late_s(self) -> float | None:
        """How late it was; ``None`` where nothing was sent."""
        return None if self._first is None else seconds(self._first[1])


class SelfWatch:
    """CPU, memory and loop lag of this process from ``start`` to ``stop``."""

    def __init__(self, make_timer: TimerFactory, clock: Clock) -> None:
        self._clock = clock
        self._lags = array("q")
        self._timer: Timer = make_timer(self._tick)
        self._began_ns, self._began_cpu_s = clock(), time.process_time()
        self._due_ns = self._began_ns + LAG_EVERY_NS
        self._timer.arm(self._due_ns)

    def _tick(self) -> None:
        now_ns = self._clock()
        self._lags.append(now_ns - self._due_ns)
        self._due_ns = max(self._due_ns + LAG_EVERY_NS, now_ns)
        self._timer.arm(self._due_ns)

    def stop(self, figures: Figures) -> None:
        """Put what was seen into ``figures``."""
        self._timer.close()
        figures.wall_s = seconds(self._clock() - self._began_ns)
        figures.cpu_s = time.process_time() - self._began_cpu_s
        figures.rss_bytes = peak_rss_bytes()
        figures.loop_lags_ns = self._lags.tolist()


def peak_rss_bytes() -> int | None:
    """This process's peak resident memory; None where the system does not tell.

    Not getrusage: its maximum survives exec, so a child would report its parent's.
    """
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except FileNotFoundError:
        return None
    return None


def client_quality(
    processes: Iterable[Figures], replies: ReplyFigures, in_flight_target: int | None
) -> ClientQuality:
    """The client's figures of a trial, over one or more processes: the busiest one's CPU share, everyone's lags."""
    parts = list(processes)
    loop_lag, skew = Values(), Values()
    for part in parts:
        loop_lag.extend(part.loop_lags_ns)
        skew.extend(part.skews_ns)
    to_s = 1 / NS_PER_S
    shares = [part.cpu_s / part.wall_s for part in parts if part.wall_s > 0]
    rss = [part.rss_bytes for part in parts if part.rss_bytes is not None]
    # One process without kernel stamps makes the whole trial's stamps as good as its own.
    stamps = "kernel" if all(part.stamps == "kernel" for part in parts) else "user"
    return ClientQuality(
        driver=parts[0].driver,
        stamps=cast(Literal["kernel", "user"], stamps),
        cpu_share=max(shares) if shares else None,
        cpu_s=sum(part.cpu_s for part in parts),
        loop_lag_s=loop_lag.dist(to_s),
        stamp_lag_s=replies.stamp_lag.dist(to_s),
        send_lag_s=replies.send_lag.dist(to_s),
        reads=replies.reads or None,
        coalesced_reads=replies.coalesced if replies.reads else None,
        in_flight_target=in_flight_target,
        arrival_skew_s=skew.dist(to_s),
        loop=parts[0].loop,
        workers=len(parts),
        rss_bytes=sum(rss) if rss else None,
    )


def quality_of_hosts(hosts: Sequence[ClientQuality], replies: ReplyFigures) -> ClientQuality:
    """The client's figures of a load from several hosts, of each of which they are known. What the replies say is told
    anew; of the loops' lags only distributions are there, and the worst one is taken."""
    to_s = 1 / NS_PER_S
    first = hosts[0]

    def known(name: str) -> list[Any]:
        return [value for host in hosts if (value := getattr(host, name)) is not None]

    return replace(
        first,
        stamps="kernel" if all(host.stamps == "kernel" for host in hosts) else "user",
        cpu_share=max(known("cpu_share"), default=None),
        cpu_s=sum(known("cpu_s")) if known("cpu_s") else None,
        loop_lag_s=max(known("loop_lag_s"), key=lambda lag: tail(lag, "p99"), default=None),
        stamp_lag_s=replies.stamp_lag.dist(to_s),
        send_lag_s=replies.send_lag.dist(to_s),
        reads=replies.reads or None,
        coalesced_reads=replies.coalesced if replies.reads else None,
        in_flight_target=sum(known("in_flight_target")) if known("in_flight_target") else None,
        workers=sum(host.workers for host in hosts),
        rss_bytes=sum(known("rss_bytes")) if known("rss_bytes") else None,
        nodes=tuple(node for host in hosts for node in host.nodes),
    )

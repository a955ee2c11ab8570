"""A rank of the ``ds`` server: what each engine offers (Rank), and where it runs (RankPlace)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from loadgen.servers._ds.channel import Follower, Leader
from loadgen.servers._torch.memory import Figures


class Rank(Protocol):
    """An engine that stands on this rank."""

    def lead(self, leader: Leader) -> Any:
        """Rank 0: the pipeline that MII's service calls, not yet started."""

    def follow(self, follower: Follower) -> None:
        """Any other rank: work with rank 0 until it leaves."""

    def check(self, ask: Callable[[int], str]) -> None:
        """Rank 0, before serving: raise RuntimeError if it computes what it should not. ``ask(n)`` gives n tokens."""

    def facts(self) -> dict[str, Any]:
        """What ``/info`` tells of it beside the common things."""

    def memory(self) -> Figures:
        """Rank 0: the memory figures of every rank (``_torch/memory.py``)."""

    @property
    def begin_memory(self) -> Callable[[], None] | None:
        """Rank 0: count the peaks of every rank anew; None where each batch does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankPlace:
    """Which rank this is, where it runs, and its pipes to the others: (down, up) descriptors."""

    rank: int
    run_dir: str
    grpc_port: int
    http_port: int
    zmq_port: int
    pipes: tuple[tuple[int, int], ...]

"""``--ray``: a cluster whose nodes send a load, where that is of several, or else run a sweep's groups of trials."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from loadgen.errors import BadInput
from loadgen.load_records import LoadSpec

if TYPE_CHECKING:
    from loadgen.cluster.connection import Cluster


def of_several(loads: Sequence[LoadSpec]) -> int:
    """The most nodes that one load is of; 1 where none is of several."""
    return max((load.nodes for load in loads), default=1)


@contextlib.contextmanager
def reached(address: str | None, without_token: bool) -> Iterator[Cluster | None]:
    """A connection to the cluster at ``address``, ``None`` without one. Raises what ``connection.connected`` raises."""
    if address is None:
        yield None
        return
    from loadgen.cluster import connection

    with connection.connected(address, without_token=without_token) as cluster:
        yield cluster


@contextlib.contextmanager
def connected(
    loads: Sequence[LoadSpec], address: str | None, without_token: bool, *, groups: bool = False
) -> Iterator[Cluster | None]:
    """The same, where it fits the loads: with ``groups``, nodes may run them in place of sending them together.

    Raises BadInput where loads are of several nodes and no cluster is named, and where one is named and does nothing.
    """
    most = of_several(loads)
    if address is None and most > 1:
        raise BadInput(
            f"nodes = {most}: of which cluster? (accepted: --ray auto, or --ray HOST:PORT of its head)"
        )
    if address is not None and most == 1 and not groups:
        raise BadInput(
            f"--ray {address}: no load is of several nodes (accepted: --nodes 2 or more; groups of trials are spread "
            "by `sweep`)"
        )
    with reached(address, without_token) as cluster:
        yield cluster

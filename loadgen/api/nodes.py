"""``--ray``: the cluster whose nodes send a load."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from loadgen.errors import BadInput
from loadgen.records import LoadSpec


@contextlib.contextmanager
def connected(loads: Sequence[LoadSpec], address: str | None, without_token: bool) -> Iterator[None]:
    """A connection to the cluster at ``address`` where loads are of several nodes.

    Raises BadInput where they are and no cluster is named, and where one is named and none is.
    """
    most = max((load.nodes for load in loads), default=1)
    if address is None:
        if most > 1:
            raise BadInput(
                f"nodes = {most}: of which cluster? (accepted: --ray auto, or --ray HOST:PORT of its head)"
            )
        yield
        return
    if most == 1:
        raise BadInput(
            f"--ray {address}: no load is of several nodes (accepted: --nodes 2 or more, or nodes = 2 in [load])"
        )
    from loadgen.cluster import connection

    with connection.connected(address, without_token=without_token):
        yield

"""One request as its schedule has it."""

from __future__ import annotations

from typing import NamedTuple

from loadgen.traces.datasets import Text


class Arrival(NamedTuple):
    """One request of a schedule: its place, when it is due (ns from the start, None: at once), its lengths, and the
    blocks that its prompt shares with others.

    ``session`` is equal for the turns of one conversation. A turn is due no earlier than ``think_ns`` behind the reply
    to the one before it. Of a load of sessions the first turn holds those that come ``then``; ``input_tokens`` are what
    each adds to a context of ``context_tokens``, as they will be where every reply has the length that was asked for.
    ``text`` is the prompt of a data set.
    """

    number: int
    offset_ns: int | None
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()
    session: int | None = None
    think_ns: int = 0
    context_tokens: int = 0
    then: tuple[Arrival, ...] = ()
    text: Text | None = None

"""The conversations of a load of sessions: how many turns each has, their lengths, and how long its user thinks.

A session follows from the load's seed and its number alone: any worker can make it without those before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import numpy as np

from loadgen.load.arrival import Arrival
from loadgen.load.lengths import draw
from loadgen.load.shared import groups
from loadgen.load_records import LoadSpec
from loadgen.workload_records import Spread

NS_PER_MS = 1_000_000
_SEED = 0x73657373


def session_arrivals(load: LoadSpec) -> Iterator[Arrival]:
    """The first turn of each session, with those behind it, in order: ``load.requests`` turns in all, of which the last
    session has what is left, or without an end where a duration bounds the load.

    The first prompt begins with the session's shared prefix, where it has one, and its own tokens follow.
    """
    assert load.sessions is not None
    number = 0
    bound = None if load.duration_s is not None else load.requests
    for session, blocks in zip(count(), groups(load), strict=False):
        if bound is not None and number >= bound:
            return
        turns = list(_turns(load, session, number, blocks))
        if bound is not None:
            del turns[bound - number :]
        number += len(turns)
        yield turns[0]._replace(then=tuple(turns[1:]))


def _turns(load: LoadSpec, session: int, number: int, blocks: tuple[int, ...]) -> Iterator[Arrival]:
    told = load.sessions
    assert told is not None
    random = np.random.default_rng([_SEED, load.seed, session])
    turns = int(draw(told.turns, random, 1)[0])
    asked = draw(load.input_spread or _always(load.input_tokens), random, turns).tolist()
    given = draw(load.output_spread or _always(load.output_tokens), random, turns).tolist()
    thought = draw(told.think_ms, random, turns).tolist()
    if blocks and load.prefixes is not None:
        asked[0] += load.prefixes.tokens
    context = 0
    for turn, (input_tokens, output_tokens, think_ms) in enumerate(zip(asked, given, thought, strict=True)):
        length = context + input_tokens + output_tokens
        if turn and told.max_context is not None and length > told.max_context:
            return
        yield Arrival(
            number + turn,
            None,
            input_tokens,
            output_tokens,
            blocks if not turn else (),
            session,
            think_ms * NS_PER_MS if turn else 0,
            context,
        )
        context = length


def _always(tokens: int) -> Spread:
    return Spread(kind="uniform", least=tokens, most=tokens)

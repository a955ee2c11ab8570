"""What a load is like beyond its rate: how a trace is replayed, how lengths are spread, what prompts share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TooLong = Literal["fail", "skip", "cut"]
SpreadKind = Literal["uniform", "lognormal", "gamma", "empirical"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """How a trace becomes a load.

    ``format`` names its reader, ``None``: recognised. Rows from ``from_s`` on and before ``to_s`` of the trace's time
    are taken, of these a share ``sample`` of whole sessions (of rows, where it has none). ``speed`` divides all times,
    or ``rate`` sets it so that so many requests come per second on average. ``spread_s`` moves each request later by a
    seeded time below it, where a trace's clock is coarse. Requests over ``max_context`` tokens in all are an error,
    left out, or cut at the end of their prompt. ``block_tokens``: tokens that each id of a prompt's blocks stands for.
    """

    format: str | None = None
    speed: float = 1.0
    rate: float | None = None
    sample: float = 1.0
    from_s: float = 0.0
    to_s: float | None = None
    spread_s: float = 0.0
    max_context: int | None = None
    too_long: TooLong = "fail"
    block_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Lengths in tokens, drawn anew for each request and clipped to ``least`` … ``most``.

    ``uniform`` between the two; ``lognormal`` by ``median`` and ``sigma`` (of the logarithm); ``gamma`` by ``mean`` and
    ``cv``; ``empirical``: one of ``values``, as often as its share of ``weights``.
    """

    kind: SpreadKind
    least: int
    most: int
    median: float | None = None
    sigma: float | None = None
    mean: float | None = None
    cv: float | None = None
    values: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Prompts out of a file (see traces/texts.py).

    ``path`` is the file. Prompts are as long as the tokenizer in the folder ``tokenizer`` says. What is over
    ``max_context`` tokens in all is left out.
    """

    path: str
    tokenizer: str
    max_context: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """Conversations, ``users`` of them at once: where one ends, the next begins. Each has ``turns`` requests. Behind a
    reply its user thinks for ``think_ms`` (milliseconds), and the next prompt is all that was sent and received before,
    with the load's input tokens behind it. A turn that would not fit into ``max_context`` tokens is none."""

    users: int
    turns: Spread
    think_ms: Spread
    max_context: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFigures:
    """What became of sessions, behind the warm-up.

    ``begun`` and ``whole`` (every turn of it served) are ``None`` of a trace, which does not say where one ends.
    ``failed`` ended with a turn that failed, ``cancelled`` with one given up; ``not_sent`` are the turns behind those.
    ``filled``: replies that came back without their token ids, so that filler of their length stands for them in the
    prompts that follow. ``held`` turns of a trace were due before the reply to the turn before them. ``active_mean``:
    sessions at once, thinking included, over the counted window or the whole load.
    """

    begun: int | None
    whole: int | None
    failed: int
    not_sent: int
    filled: int
    held: int = 0
    cancelled: int = 0
    active_mean: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Which part of a trial one host of several sends; its load is the whole trial's.

    ``package`` is a hash of loadgen's files on the host, which must be equal on all: one schedule is cut by all of
    them. ``text``: prompts went out as text, of which the server's count of tokens is the better one.
    """

    number: int
    of: int
    trial: str
    start_at_ns: int
    package: str
    text: bool = False

    @property
    def words(self) -> str:
        """As people are told of it: ``share 0/2``."""
        return f"share {self.number}/{self.of}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """A ``share`` of the requests is given up by the client, which closes the connection: ``after_s`` seconds behind
    the send, or once ``after_tokens`` output tokens have come. One that has ended by then is as any other."""

    share: float
    after_s: float | None = None
    after_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefixes:
    """Prompts that begin alike: a ``share`` of the requests has one of ``groups`` prefixes of ``tokens`` tokens, each
    as likely as the others. A prompt that is not longer than its prefix is the beginning of it."""

    groups: int
    tokens: int
    share: float = 1.0

"""Turns of conversations: each is sent when the reply before it has come and its user has thought.

What follows a reply is made as soon as that is decoded: the prompt of the next turn, which holds the reply, serialised
and put behind those that are due earlier. A session has one turn in flight at most, whatever its trace says.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from loadgen.errors import cancelled
from loadgen.load.arrival import Arrival
from loadgen.load.dispatch import SLICE_NS, Dispatcher
from loadgen.load_records import Window
from loadgen.request_records import FIRST_TOKENS, Ids, Sample
from loadgen.workload_records import SessionFigures

Filler = Callable[[int, int], Ids]  # (seq, tokens): stands for the reply to that request
WAITING = 4  # replies: where there are more, one is decoded in each slice, whatever is due
KEPT_TOKENS = 16_000_000  # of contexts of a trace's sessions that have no turn under way, 64 MB …
KEPT_SESSIONS = 200_000  # … and so many of these


class Context(NamedTuple):
    """What a session has sent and received, when its last reply ended, and how much of it an endless cache would hold:
    all, but for a reply that filler stands for."""

    ended_ns: int
    ids: Ids | None = None
    known: int | None = None


class _Open:
    """A session with a turn under way or to come."""

    __slots__ = ("began_ns", "waiting")

    def __init__(self, began_ns: int, waiting: deque[tuple[int, Arrival, Any]]) -> None:
        self.began_ns, self.waiting = began_ns, waiting


class SessionDispatcher(Dispatcher):
    """A phase whose requests are turns of sessions. ``users`` bounds the sessions at once; ``None`` begins each when
    its trace has it.

    A prompt is what was sent and received before, and its own tokens behind that; but blocks of a trace make it alone.
    ``filler`` gives the ids that stand for a reply that has told none. ``window`` is asked for the counted one.
    """

    def __init__(
        self,
        *,
        users: int | None,
        filler: Filler,
        window: Callable[[], Window | None],
        **more: Any,
    ) -> None:
        super().__init__(places=None, **more)
        self._users, self._filler, self._window = users, filler, window
        if users is not None:
            self._lookahead = 2 * users  # first turns: as many are ready as there may be places
        self._open: dict[int, _Open] = {}
        self._turns: list[tuple[int, int, Arrival, Any]] = []  # by due time: what follows a reply
        self._idle: OrderedDict[int, Context] = OrderedDict()  # a trace's, with no turn under way
        self._idle_tokens = 0
        self._gone: set[int] = set()  # sessions of a trace that have failed
        self._sent: dict[int, tuple[Ids, int]] = {}  # by request: its prompt, and how much of it is known
        self._begun = self._whole = self._broken = self._cancelled = 0
        self._not_sent = self._filled = self._held = 0
        self._active_ns = self._last_ns = 0
        self._turn_is_next = False

    def figures(self) -> SessionFigures:
        """What became of the sessions, once the phase has ended."""
        window, counted = self._window(), self._users is not None
        until_ns = window.end_ns if window is not None else self._last_ns
        over_ns = until_ns - (window.start_ns if window is not None else self.start_ns)
        active_ns = self._active_ns + sum(self._lasted(one, until_ns) for one in self._open.values())
        return SessionFigures(
            begun=self._begun if counted else None,
            whole=self._whole if counted else None,
            failed=self._broken,
            not_sent=self._not_sent,
            filled=self._filled,
            held=self._held,
            cancelled=self._cancelled,
            active_mean=active_ns / over_ns if counted and over_ns > 0 else None,
        )

    # Sending.

    def _next_due(self) -> int | None:
        first = None
        if self._ready:
            if self._users is None:
                first = super()._next_due()
            elif len(self._open) < self._users:
                first = self._clock()
        turn = self._turns[0][0] if self._turns else None
        self._turn_is_next = turn is not None and (first is None or turn <= first)
        return turn if self._turn_is_next else first

    def _start(self, due_ns: int | None) -> None:
        if self._turn_is_next:
            due_ns, seq, arrival, prepared = heapq.heappop(self._turns)
            self._send(seq, arrival, prepared, due_ns)
            return
        seq, arrival, prepared = self._ready.popleft()
        self._ready_tokens -= arrival.input_tokens
        session = arrival.session
        if session is None:
            self._send(seq, arrival, prepared, due_ns)
        elif self._users is not None:
            self._begun += 1
            rest = ((self._first_seq + each.number, each, None) for each in arrival.then)
            self._open[session] = _Open(self._clock(), deque(rest))
            self._send(seq, arrival, prepared, None)
        elif session in self._gone:
            self._not_sent += 1
            self._wake.set()  # it may have been the last
        elif (busy := self._open.get(session)) is not None:
            self._held += 1
            busy.waiting.append((seq, arrival, prepared))
        else:
            self._open[session] = _Open(self._clock(), deque())
            self._take_up(seq, arrival, prepared, self._of_idle(session))

    def _take_up(self, seq: int, arrival: Arrival, prepared: Any, before: Context | None) -> None:
        """Send a turn that may go out, or put it where its time will come."""
        due_ns = None if arrival.offset_ns is None else self.start_ns + arrival.offset_ns
        if before is not None:
            due_ns = max(due_ns or 0, before.ended_ns + arrival.think_ns)
        if prepared is None:
            arrival, prepared = self._grown(seq, arrival, before)
        assert due_ns is not None, "only the first turns of users have none"
        heapq.heappush(self._turns, (due_ns, seq, arrival, prepared))
        self._launch()

    def _goes_on(self, due_ns: int | None) -> bool:
        if super()._goes_on(due_ns):
            return True
        self._turns.clear()
        return False

    # Behind a reply.

    def _to_come(self) -> bool:
        if self._turns and not (self.in_flight or self._raws):  # nothing that is out keeps the load going on
            return self._goes_on(self._turns[0][0])
        return super()._to_come() or bool(self._turns)

    async def _rest(self) -> None:
        if self._raws:  # a session waits for each
            await asyncio.sleep(0)
        else:
            await super()._rest()

    def _slice(self) -> None:
        now_ns = self._clock()
        until_ns = now_ns + SLICE_NS * 5
        if self._due_ns is not None:
            until_ns = min(until_ns, self._due_ns - self._guard_ns())
        forced = len(self._raws) > WAITING
        while self._raws and (forced or now_ns < until_ns):
            forced = False
            self._decode_one()
            began_ns, now_ns = now_ns, self._clock()
            self._note_piece(now_ns - began_ns)
        super()._slice()

    def _made(self, seq: int, arrival: Arrival) -> Any:
        if self._users is not None:
            return self._grown(seq, arrival, None)[1]
        if arrival.session is None or arrival.blocks:
            return super()._made(seq, arrival)
        return None  # its prompt may hold replies that have not come

    def _grown(self, seq: int, arrival: Arrival, before: Context | None) -> tuple[Arrival, Any]:
        """A turn's request behind its context, and its arrival with the length that it comes to.

        A trace tells the length of the whole prompt: one that is no longer than the context begins anew.
        """
        context = None if before is None else before.ids
        new = arrival.input_tokens
        if context is not None and self._users is None:
            new -= len(context)
            if new < 1:
                context, new = None, arrival.input_tokens
        shared = (arrival.blocks,) if arrival.blocks else ()
        own = self._prompts(seq, new, *shared)[0]
        if context is None:
            prompt, known = own, self._prefix if arrival.blocks else 0
        else:
            assert before is not None
            prompt, known = np.concatenate([context, np.asarray(own, np.int32)]), before.known or 0
        self._sent[seq] = (prompt, known)
        return arrival._replace(input_tokens=len(prompt)), self._prepared(
            seq, arrival, (prompt,), max(arrival.output_tokens, FIRST_TOKENS)
        )

    @property
    def _prefix(self) -> int:
        return self._load.prefixes.tokens if self._load.prefixes is not None else 0

    def _ended(self, sample: Sample, arrival: Arrival) -> None:
        reply = sample.reply
        ids, reply.first_tokens = reply.first_tokens, reply.first_tokens[:FIRST_TOKENS]
        sent = self._sent.pop(reply.seq, None)
        sample.session, sample.known_tokens = arrival.session, None if sent is None else sent[1]
        if arrival.session is not None and arrival.offset_ns is not None:
            sample.offset_ns = self.start_ns + arrival.offset_ns
        super()._ended(sample, arrival)
        self._last_ns = max(self._last_ns, reply.end_ns)
        if arrival.session is not None:
            prompt = None if sent is None else sent[0]
            self._follow(sample, arrival.session, prompt, ids)

    def _follow(self, sample: Sample, session: int, prompt: Ids | None, ids: tuple[int, ...]) -> None:
        one = self._open[session]
        if sample.error is not None:
            gave_up = cancelled(sample.error)
            self._cancelled += gave_up
            self._broken += not gave_up
            self._not_sent += len(one.waiting)
            if self._users is None:
                self._gone.add(session)
            self._close(session, one, sample.reply.end_ns)
            return
        before = self._context_after(sample, prompt, ids)
        if one.waiting:
            self._take_up(*one.waiting.popleft(), before)
            return
        self._whole += 1
        if self._users is None:
            self._keep(session, before)
        self._close(session, one, before.ended_ns)

    def _context_after(self, sample: Sample, prompt: Ids | None, ids: Ids) -> Context:
        reply = sample.reply
        if prompt is None:
            return Context(reply.end_ns)
        told = reply.output_tokens[0] if reply.output_tokens else sample.output_tokens_asked
        own = reply.counted_by == "ids" and len(ids) == told and "ids" in self._driver.can
        if not own:
            self._filled += 1
            ids = self._filler(reply.seq, told)
        context = np.concatenate([prompt, np.asarray(ids, np.int32)])
        return Context(reply.end_ns, context, len(context) if own else len(prompt))

    def _close(self, session: int, one: _Open, end_ns: int) -> None:
        del self._open[session]
        self._active_ns += self._lasted(one, end_ns)
        self._launch()

    def _lasted(self, one: _Open, end_ns: int) -> int:
        """How long a session was there, within the counted window where there is one."""
        window = self._window()
        if window is None:
            return max(0, end_ns - one.began_ns)
        return max(0, min(end_ns, window.end_ns) - max(one.began_ns, window.start_ns))

    def _keep(self, session: int, context: Context) -> None:
        self._idle[session] = context
        self._idle_tokens += 0 if context.ids is None else len(context.ids)
        while self._idle_tokens > KEPT_TOKENS or len(self._idle) > KEPT_SESSIONS:
            self._of_idle(next(iter(self._idle)))

    def _of_idle(self, session: int) -> Context | None:
        found = self._idle.pop(session, None)
        if found is not None and found.ids is not None:
            self._idle_tokens -= len(found.ids)
        return found

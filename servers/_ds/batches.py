"""Static batches behind MII's gRPC service: a pipeline in the shape that the service calls, over any engine of ours.

The service puts each prompt of one wire call, then asks for responses, all on one thread: what a thread has put when it
first asks is one batch. Batches run one at a time, first in first out, as an engine without iteration-level scheduling
must.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from loadgen.servers._ds.text import Text

log = logging.getLogger("loadgen.ds")
OnTokens = Callable[[list[int]], None]
# Runs one batch: prompts, tokens to make of each, where every step's tokens go (None: nobody waits for them).
RunBatch = Callable[[Sequence[Sequence[int]], int, OnTokens | None], list[list[int]]]
HARMLESS = {
    "top_p",
    "top_k",
    "temperature",
    "min_new_tokens",
}  # they change nothing of a greedy answer of exact length


class Batch:
    """One wire call under way. ``events`` carries (sequence, tokens) while streaming, and an Exception or None last."""

    def __init__(self, new_tokens: int, stream: bool, alive: Callable[[], bool]) -> None:
        self.prompts: list[list[int]] = []
        self.uids: list[int] = []
        self.new_tokens, self.stream, self.alive = new_tokens, stream, alive
        self.events: queue.SimpleQueue[list[int] | Exception | None] = queue.SimpleQueue()
        self.submitted = False
        self.answers: list[list[int]] = []
        self.given = 0


class StaticBatches:
    """``put_request``, ``get_response``, ``flush_uid``, ``start`` and ``shutdown`` of MII's asynchronous pipeline."""

    def __init__(
        self,
        run: RunBatch,
        text: Text,
        *,
        max_context: int,
        max_batch: int | None,
        equal: bool,
        fatal: Callable[[BaseException], None],
        recoverable: tuple[type[Exception], ...] = (),
    ) -> None:
        self._run, self._text = run, text
        self._max_context, self._max_batch, self._equal = max_context, max_batch, equal
        self._fatal, self._recoverable = fatal, recoverable
        self._uids = itertools.count(1)
        self._here = threading.local()
        self._jobs: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    # What MII's service calls.

    def start(self) -> None:
        """Start the thread that runs one batch after another."""
        self._thread.start()

    def shutdown(self) -> None:
        """Drop what waits and end after the batch that runs."""
        self._jobs.put(None)
        self._thread.join(5.0)

    def put_request(self, prompt: str, kwargs: Mapping[str, Any]) -> int:
        """Add a prompt to this thread's batch. Raises ValueError for what cannot be done."""
        new_tokens, stream = self._settings(kwargs)
        ids = self._text.encode(prompt)
        if not ids:
            raise ValueError("a prompt has no tokens; at least 1 is needed")
        if len(ids) + new_tokens > self._max_context:
            raise ValueError(
                f"{len(ids)} prompt tokens and {new_tokens} new ones exceed the context of {self._max_context}"
            )
        batch = self._open(new_tokens, stream)
        if self._max_batch is not None and len(batch.prompts) == self._max_batch:
            raise ValueError(f"a batch of more than max_batch = {self._max_batch} sequences")
        if self._equal and batch.prompts and len(batch.prompts[0]) != len(ids):
            raise ValueError(
                f"prompts of {len(batch.prompts[0])} and {len(ids)} tokens: this engine takes one length"
            )
        uid = next(self._uids)
        batch.prompts.append(ids)
        batch.uids.append(uid)
        return uid

    def get_response(self) -> tuple[int, Any]:
        """The next response of this thread's batch: a stream's next token, else a whole sequence."""
        batch: Batch = self._here.batch
        if not batch.submitted:
            batch.submitted = True
            self._jobs.put(batch)
        return self._streamed(batch) if batch.stream else self._whole(batch)

    def flush_uid(self, uid: int) -> None:
        """Forget a sequence; with its last one the batch is over."""
        batch: Batch = self._here.batch
        batch.uids[batch.uids.index(uid)] = 0
        if not any(batch.uids):
            del self._here.batch

    # Ours.

    def serve_call(self, alive: Callable[[], bool]) -> None:
        """Begin a wire call on this thread; ``alive`` tells whether its client still waits."""
        self._here.alive = alive
        if hasattr(self._here, "batch"):
            del self._here.batch  # of a call that was refused half-way

    @property
    def waiting(self) -> int:
        """Batches that are queued, the running one not counted."""
        return self._jobs.qsize()

    def _settings(self, kwargs: Mapping[str, Any]) -> tuple[int, bool]:
        fields = dict(kwargs)
        new_tokens, stream = fields.pop("max_new_tokens", None), fields.pop("stream", False)
        limit = fields.pop("max_length", self._max_context)
        if not isinstance(new_tokens, int) or isinstance(new_tokens, bool) or new_tokens < 1:
            raise ValueError(f"max_new_tokens = {new_tokens!r} (accepted: a whole number from 1)")
        if fields.pop("do_sample", True) or not fields.pop("ignore_eos", False):
            raise ValueError(
                "this engine answers greedily with exactly max_new_tokens tokens: send do_sample = false and "
                "ignore_eos = true"
            )
        if (
            fields.pop("return_full_text", False)
            or (odd := set(fields) - HARMLESS)
            or limit < self._max_context
        ):
            raise ValueError(
                f"unsupported settings: {', '.join(sorted(odd)) if odd else 'max_length, return_full_text'}"
            )
        return new_tokens, bool(stream)

    def _open(self, new_tokens: int, stream: bool) -> Batch:
        batch: Batch | None = getattr(self._here, "batch", None)
        if batch is None:
            batch = self._here.batch = Batch(new_tokens, stream, getattr(self._here, "alive", lambda: True))
        return batch

    def _streamed(self, batch: Batch) -> tuple[int, Any]:
        event = batch.events.get()
        if isinstance(event, Exception):
            raise event
        if event is None:
            return batch.uids[0], self._response(batch, 0, "", done=True)
        batch.given += 1
        # MII's stream parts words by the space that begins each but the first.
        text = self._text.decode(event)
        return batch.uids[0], self._response(batch, 0, text if batch.given == 1 else f" {text}", done=False)

    def _whole(self, batch: Batch) -> tuple[int, Any]:
        if not batch.answers:
            event = batch.events.get()
            if isinstance(event, Exception):
                raise event
        place = batch.given
        batch.given += 1
        return batch.uids[place], self._response(
            batch, place, self._text.decode(batch.answers[place]), done=True
        )

    def _response(self, batch: Batch, place: int, text: str, *, done: bool) -> Any:
        from mii.batching.data_classes import Response
        from mii.constants import GenerationFinishReason

        return Response(
            generated_text=text,
            prompt_length=len(batch.prompts[place]),
            generated_length=batch.new_tokens if done else batch.given,
            finish_reason=GenerationFinishReason.LENGTH if done else GenerationFinishReason.NONE,
        )

    def _work(self) -> None:
        while (batch := self._jobs.get()) is not None:
            if not batch.alive():
                batch.events.put(RuntimeError("the client went away before its batch began"))
                continue
            on_tokens = batch.events.put if batch.stream else None
            try:
                batch.answers = self._run(batch.prompts, batch.new_tokens, on_tokens)
            except self._recoverable as error:
                log.warning("a batch failed, serving goes on: %s", error)
                batch.events.put(RuntimeError(f"{type(error).__name__}: {error}"))
            except BaseException as error:
                batch.events.put(RuntimeError(f"the engine failed: {type(error).__name__}: {error}"))
                self._fatal(error)
                raise
            else:
                batch.events.put(None)

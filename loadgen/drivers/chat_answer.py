"""What a chat's answer says: any channel's token counts as one, and where the answer itself began is kept beside it.

A slow path of its own, so that completions with token ids stay as cheap as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orjson import JSONDecodeError, loads

from loadgen.drivers.answer import BEHIND_DONE, NOT_THE_SHAPE, Answer, tells_an_error
from loadgen.drivers.messages import as_chat
from loadgen.drivers.server_words import words_of
from loadgen.errors import BadReply, DriverError, Refused

ANSWERS = ("content", "refusal")
REASONING = ("reasoning_content", "reasoning", "thinking")


class ChatAnswer(Answer):
    """Reads chat completions, streamed and whole, of OpenAI's shape or of Anthropic's Messages.

    The first token is the first of any channel: content, reasoning, a refusal, a tool call's name or arguments. A role,
    an empty text or null is none. ``first_answer_ns`` is the first that is not reasoning. Tokens are counted by ids
    where the choices hold them (vLLM), else by usage.
    """

    __slots__ = ()

    def take(self, events: list[bytes], at_ns: int | None) -> None:
        """Count the output of the events of one read; of a whole body when ``at_ns`` is None. Never raises."""
        if self.failed is not None:
            return
        tokens, lost, behind_done = 0, False, False
        self._read += 1
        try:
            for data in events:
                event = self._event(data)
                if event.get("error"):
                    raise Refused(words_of(data))
                if event.get("usage"):
                    self._note_usage(event["usage"])
                    if "timings" in event:
                        self._note_usage({"timings": event["timings"]})
                choices = event.get("choices") or []
                for choice in choices:
                    index = choice.get("index")
                    if index.__class__ is not int or index < 0:
                        index = self._place(index, choice, choices, at_ns)
                    part = choice.get("delta") or choice.get("message") or {}
                    answers = holds_answer(part)
                    ids = choice.get("token_ids")
                    if ids is not None:
                        new = self._count(index, ids)
                    else:
                        new = int(answers or any(part.get(channel) for channel in REASONING))
                        self._text_only = self._text_only or bool(new)
                    if answers and self._first_answer_ns is None:
                        self._first_answer_ns = at_ns
                    if new:
                        tokens += new
                        behind_done = self._done  # of the last, behind which there is none
                        lost = lost or self._latest_read[index] == self._read
                        self._latest_read[index] = self._read
                    if choice.get("finish_reason") or not new:
                        self._note_end(index, choice, event, data)
        except DriverError as error:
            self.failed = error
        except NOT_THE_SHAPE as error:
            self.failed = BadReply(
                f"not a chat completion ({type(error).__name__}: {error}): {words_of(data)}"
            )
        if behind_done and self.failed is None:
            self.failed = BadReply(BEHIND_DONE)
        self._note_read(tokens, lost, at_ns)

    def _event(self, data: bytes) -> Mapping[str, Any]:
        try:
            event = loads(data)
        except JSONDecodeError:
            event = self._odd(data)
        if not isinstance(event, dict):
            event = self._odd(data)
        if not event.get("choices") and tells_an_error(event):
            raise Refused(words_of(data))
        if event.get("type") == "message_stop":
            self._done = True
        return as_chat(event) if "type" in event else event


def holds_answer(part: Mapping[str, Any]) -> bool:
    """Whether a delta or message holds a token of the answer itself."""
    for channel in ANSWERS:
        found = part.get(channel)
        if found and (isinstance(found, str) or any(piece.get("text") for piece in found)):
            return True
    calls = [call.get("function") or {} for call in part.get("tool_calls") or ()]
    calls.append(part.get("function_call") or {})
    return any(call.get("name") or call.get("arguments") for call in calls)

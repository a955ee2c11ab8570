"""How the two routes word one answer: OpenAI's completion objects, and its chat completion objects. Pure data."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One route's objects. ``chat`` is all that tells them apart; a chat holds one sequence."""

    path: str
    chat: bool

    def head(self, model: str, stream: bool) -> dict[str, Any]:
        """What every object of one answer begins with."""
        kind = "chat.completion" if self.chat else "text_completion"
        return {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": f"{kind}.chunk" if self.chat and stream else kind,
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, index: int, text: str, finish: str | None) -> dict[str, Any]:
        """A finished sequence in an answer that is not streamed."""
        words: dict[str, Any] = {"text": text}
        if self.chat:
            words = {"message": {"role": "assistant", "content": text, "refusal": None}}
        return {"index": index, **words, "logprobs": None, "finish_reason": finish}

    def opening(self) -> dict[str, Any] | None:
        """The choice that comes before a stream's first token, where the route has one: it names the role."""
        return self._choice({"role": "assistant", "content": ""}) if self.chat else None

    def piece(self, index: int, text: str, finish: str | None = None) -> dict[str, Any]:
        """A step of one sequence in a stream; with ``finish`` its end, and what text was held back."""
        if not self.chat:
            return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}
        return self._choice({"content": text} if text or finish is None else {}, finish)

    def _choice(self, delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}


COMPLETION = Form(path="/v1/completions", chat=False)
CHAT = Form(path="/v1/chat/completions", chat=True)

"""Text ↔ token ids: a checkpoint's own tokenizer and chat template, or UTF-8 bytes for presets, which have none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol

PLAIN = "plain: a line ROLE: WORDS for each message, then assistant:"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")


class Text(Protocol):
    """Encoding of whole prompts, and decoding of single sequences as they grow. ``template`` says whose the chat
    template is."""

    name: str
    template: str

    def encode(self, text: str) -> list[int]:
        """Token ids of a whole prompt."""

    def converse(self, messages: list[dict[str, str]]) -> list[int]:
        """Token ids of a conversation up to where the assistant speaks. Raises ValueError for one that is refused."""

    def sequence(self) -> Growing:
        """A decoder for one sequence, which keeps the state between its tokens."""


class Growing(Protocol):
    """The text of one sequence under way: ``push`` returns what a new token adds, ``flush`` what was held back."""

    def push(self, token: int) -> str:
        """The text that a new token adds; empty while a character is incomplete."""

    def flush(self) -> str:
        """What was held back, at the end of the sequence."""


class ByteText:
    """Bytes as token ids. Ids that are no printable ASCII show as ``<id>``, so that every token has text."""

    name = "utf-8 bytes as token ids (no tokenizer); other ids show as <id>"
    template = PLAIN

    def encode(self, text: str) -> list[int]:
        """The UTF-8 bytes, one id each."""
        return list(text.encode())

    def converse(self, messages: list[dict[str, str]]) -> list[int]:
        """The bytes of the plain template."""
        return self.encode(plainly(messages))

    def sequence(self) -> Growing:
        """Itself: no token depends on another."""
        return self

    def push(self, token: int) -> str:
        """The character of a printable ASCII byte, ``<id>`` of any other id."""
        return chr(token) if 32 <= token < 127 else f"<{token}>"

    def flush(self) -> str:
        """Empty: nothing is ever held back."""
        return ""


class TokenizerText:
    """The tokenizer of a checkpoint folder."""

    def __init__(self, folder: str) -> None:
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self.name = f"{type(self.tokenizer).__name__} of the checkpoint"
        self.template = "of the checkpoint" if self.tokenizer.chat_template else PLAIN

    def encode(self, text: str) -> list[int]:
        """Token ids, with what the tokenizer adds (BOS)."""
        return list(self.tokenizer(text)["input_ids"])

    def converse(self, messages: list[dict[str, str]]) -> list[int]:
        """By the folder's own template, which transformers renders in a sandbox; else by the plain one."""
        if not self.tokenizer.chat_template:
            return self.encode(plainly(messages))
        from jinja2 import TemplateError

        try:
            found = self.tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=True
            )
        except TemplateError as error:
            raise ValueError(str(error)) from error
        return list(found["input_ids"])

    def sequence(self) -> Growing:
        """A decoder that holds back what may still change."""
        return _GrowingText(self.tokenizer)


class _GrowingText:
    """Decodes the tail from the last clean cut: a token may be half a character, or change the space before it."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.start = 0  # the tail that gives a new token its context
        self.shown = 0  # tokens whose text has been returned

    def push(self, token: int) -> str:
        self.ids.append(token)
        before, after = self._tail(self.shown), self._tail(len(self.ids))
        if after.endswith("\ufffd") or len(after) <= len(before):
            return ""
        self.start, self.shown = self.shown, len(self.ids)
        return after[len(before) :]

    def flush(self) -> str:
        before, after = self._tail(self.shown), self._tail(len(self.ids))
        self.start = self.shown = len(self.ids)
        return after[len(before) :]

    def _tail(self, end: int) -> str:
        return str(self.tokenizer.decode(self.ids[self.start : end], skip_special_tokens=False))


def plainly(messages: list[dict[str, str]]) -> str:
    """The chat template of models that have none."""
    return "".join(f"{message['role']}: {message['content']}\n" for message in messages) + "assistant:"


def text_of(checkpoint: str | None) -> Text:
    """The tokenizer of a checkpoint folder if it has one, else bytes."""
    if checkpoint and any(os.path.exists(os.path.join(checkpoint, name)) for name in TOKENIZER_FILES):
        return TokenizerText(checkpoint)
    return ByteText()


def whole(text: Text, tokens: Sequence[int]) -> str:
    """The text of a finished sequence."""
    growing = text.sequence()
    return "".join([growing.push(token) for token in tokens]) + growing.flush()

"""Prompts of exact length over a protocol that carries text only.

A preset has no tokenizer, so its text is its token ids in decimal: one word is one token, none is added, and the same
ids go in as with every other framework. A checkpoint keeps its own tokenizer.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Protocol

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")


class Text(Protocol):
    """``encode`` a whole prompt, ``decode`` the ids of an answer or of a part of one."""

    name: str

    def encode(self, text: str) -> list[int]:
        """Token ids of a whole prompt, special ones included."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids; of a part of an answer, too."""


class Decimal:
    """One decimal number is one token."""

    name = "token ids in decimal (presets have no tokenizer)"

    def __init__(self, vocab: int) -> None:
        self.vocab = vocab

    def encode(self, text: str) -> list[int]:
        """Raises ValueError for a word that is no token id."""
        try:
            ids = list(map(int, text.split()))
        except ValueError as error:
            raise ValueError(
                f"this model has no tokenizer; its text is token ids in decimal: {error}"
            ) from None
        if ids and not (min(ids) >= 0 and max(ids) < self.vocab):
            raise ValueError(f"token ids from {min(ids)} to {max(ids)} (accepted: 0 to {self.vocab - 1})")
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The ids in decimal, a blank between two."""
        return " ".join(str(int(i)) for i in ids)


class Checkpoint:
    """The tokenizer of a checkpoint folder."""

    def __init__(self, folder: str) -> None:
        from transformers import AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        self.name = f"{type(self.tokenizer).__name__} of the checkpoint"

    def encode(self, text: str) -> list[int]:
        """Token ids, with what the tokenizer adds (BOS)."""
        return list(self.tokenizer(text)["input_ids"])

    def decode(self, ids: Iterable[int]) -> str:
        """The tokenizer's text; a part of an answer may end within a character."""
        return str(self.tokenizer.decode([int(i) for i in ids]))


def has_tokenizer(checkpoint: str | None) -> bool:
    """Whether a checkpoint folder brings its own tokenizer."""
    return checkpoint is not None and any(
        os.path.exists(os.path.join(checkpoint, name)) for name in TOKENIZER_FILES
    )


def text_of(checkpoint: str | None, vocab: int) -> Text:
    """The text of a model: its own tokenizer if it has one."""
    if has_tokenizer(checkpoint):
        assert checkpoint is not None
        return Checkpoint(checkpoint)
    return Decimal(vocab)

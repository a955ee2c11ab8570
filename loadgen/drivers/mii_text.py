"""Token ids → text of exactly as many tokens, for a protocol that carries text only; and ids back out of an answer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol

from loadgen.errors import BadInput, MissingDependency

TRIALS = 64  # random texts that a checkpoint's words must survive before they are used
WORDS_NEEDED = 256


class Text(Protocol):
    """``prompt`` makes a prompt's text; ``ids`` are those of an answer's text, None where text loses them."""

    def prompt(self, ids: Sequence[int]) -> str:
        """The text that the server will read as ``len(ids)`` tokens."""

    def ids(self, text: str) -> list[int] | None:
        """The token ids of an answer's text, or ``None`` where the text does not tell them."""


class Decimal:
    """The text of a model without a tokenizer: its token ids in decimal."""

    def prompt(self, ids: Sequence[int]) -> str:
        """The ids in decimal, a blank between two."""
        return " ".join(map(str, ids))

    def ids(self, text: str) -> list[int] | None:
        """The ids; ``None`` for a word that is no whole number."""
        try:
            return list(map(int, text.split()))
        except ValueError:
            return None


class Words:
    """The text of a checkpoint: words that its tokenizer takes for one token each, wherever they stand.

    Which word stands for which id is arbitrary, so prompts differ where their ids differ, but the server does not get
    the ids of the request: only their number is exact. What the tokenizer adds by itself (BOS) is part of the number.
    """

    def __init__(self, folder: str) -> None:
        path = os.path.join(folder, "tokenizer.json")
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise MissingDependency(
                "prompts of exact length for a checkpoint need its tokenizer, and tokenizers is not installed",
                "pip install tokenizers",
            ) from None
        if not os.path.exists(path):
            raise BadInput(
                f"tokenizer {folder}: no tokenizer.json (accepted: a checkpoint with a fast tokenizer)"
            )
        tokenizer: Any = Tokenizer.from_file(path)
        self.added = len(tokenizer.encode("").ids)
        self._words = _single_words(tokenizer, self.added)
        if len(self._words) < WORDS_NEEDED:
            raise BadInput(
                f"tokenizer {path}: {len(self._words)} words are one token each; {WORDS_NEEDED} are needed for prompts"
            )
        self._check(tokenizer, path)

    def prompt(self, ids: Sequence[int]) -> str:
        """One word for each id, less what the tokenizer adds itself. Raises BadInput when nothing is left."""
        count = len(ids) - self.added
        if count < 1:
            raise BadInput(
                f"input_tokens = {len(ids)}: this tokenizer adds {self.added} (accepted: {self.added + 1} on)"
            )
        words = self._words
        return " ".join([words[i % len(words)] for i in ids[:count]])

    def ids(self, text: str) -> list[int] | None:
        """Always ``None``: several ids may stand for one text."""
        return None

    def _check(self, tokenizer: Any, path: str) -> None:
        """A few texts of every length in use, or the words do not part where they should."""
        for trial in range(TRIALS):
            ids = [(trial * 7919 + place * 104729) % 1000003 for place in range(self.added + 1 + trial * 8)]
            got = len(tokenizer.encode(self.prompt(ids)).ids)
            if got != len(ids):
                raise BadInput(f"tokenizer {path}: a prompt of {len(ids)} tokens came out as {got}")


def _single_words(tokenizer: Any, added: int) -> list[str]:
    """Words of lower-case letters that are one token at the beginning of a text and after another word alike."""
    found = set()
    for id_ in range(tokenizer.get_vocab_size()):
        word = tokenizer.decode([id_]).strip()
        if word.isascii() and word.isalpha() and word.islower() and len(word) > 1:
            found.add(word)
    words = sorted(found)
    alone = tokenizer.encode_batch(words)
    pairs = tokenizer.encode_batch([f"{word} {word}" for word in words])
    return [
        word
        for word, one, two in zip(words, alone, pairs, strict=True)
        if len(one.ids) == added + 1 and len(two.ids) == added + 2
    ]

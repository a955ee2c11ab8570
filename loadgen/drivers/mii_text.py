"""Token ids → text of exactly as many tokens, for MII, which carries text alone; and ids back out of an answer."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from loadgen.drivers.words import Words
from loadgen.request_records import Ids


class Text(Protocol):
    """``prompt`` makes a prompt's text; ``ids`` are those of an answer's text, None where text loses them."""

    def prompt(self, ids: Ids) -> str:
        """The text that the server will read as ``len(ids)`` tokens."""

    def ids(self, text: str) -> list[int] | None:
        """The token ids of an answer's text, or ``None`` where the text does not tell them."""


class Decimal:
    """The text of a model without a tokenizer: its token ids in decimal."""

    def prompt(self, ids: Ids) -> str:
        """The ids in decimal, a blank between two."""
        return " ".join(map(str, np.asarray(ids).tolist()))

    def ids(self, text: str) -> list[int] | None:
        """The ids; ``None`` for a word that is no whole number."""
        try:
            return list(map(int, text.split()))
        except ValueError:
            return None


class OneTokenWords:
    """The text of a model with a tokenizer; what that adds by itself (BOS) is part of a prompt's length."""

    def __init__(self, words: Words) -> None:
        self._words = words

    def prompt(self, ids: Ids) -> str:
        """One word for each id, less what the tokenizer adds itself. Raises BadInput when nothing is left."""
        return self._words.prompt(ids)

    def ids(self, text: str) -> list[int] | None:
        """Always ``None``: several ids may stand for one text."""
        return None

"""Token ids → text of exactly as many tokens, for servers that take text or chat alone.

Tokenizers split text at blanks before all else, so a common word with a blank before it is one token of its own: the
words below are in the vocabularies of GPT-2, GPT-4 and GPT-4o, Mistral v1, v3 and v7 (SentencePiece of 32,000, as
llama's) and Tekken, alone and in every pair. Nothing is taken on trust: ``measure`` asks the server how many tokens it
counts, and what the chat template, BOS and the first word add (``overhead``).

Which word stands for which id is arbitrary: the server does not get the ids of a request, only their number is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from loadgen.errors import BadInput, Refused
from loadgen.request_records import Ids
from loadgen.traces.tokenizer import open_tokenizer, tokenizer_file

_COMMON = """
    apple arm army art baby ball bank bar base bed bird board boat body book box boy bread bridge brother building
    business car card case cat chair child church city class coat color company computer corner country court cover cow
    cup dance day desk dinner dog door dress ear earth egg eye face family farm father field fire fish floor flower food
    foot forest friend fruit game garden glass gold grass ground group hair hall hand hat head heart hill history home
    horse hospital hotel house idea island job key king kitchen lake land language law leg letter library life light
    line list machine man map market meat milk money moon morning mother mountain mouth music name night nose number
    office oil page paper park party person picture place plant point queen question rain river road rock room rose
    school sea seat sheep ship shoe shop sister sky snow song sound spring star state station stone store story street
    sugar summer sun table teacher team tea test town train tree uncle valley village voice wall war watch water wave
    week wife wind window winter woman wood word work world year
"""
COMMON = tuple(_COMMON.split())
LETTERS = tuple(
    "abcdefghijklmnopqrstuvwxyz"
)  # without blanks between them: for tokenizers of bytes or characters
OPENING = "List"  # the first word of a text may be read otherwise than the same word after a blank
# For servers whose output length cannot be forced: what is asked for should not end early.
LONG_OPENING = "Go on with this list of words, one after another, for as long as you can:"
SIZES = (16, 80, 272)  # words of the texts that are counted; the longest holds all of COMMON
SLOPE = 2  # tokens a word, from which on no part of the words is worth trying
FEWEST = 24  # words from which prompts are made
MOST = 2048  # of a tokenizer's words: more would make no other load
TRIALS = 64  # random texts that a tokenizer's words must survive before they are used
WORDS_NEEDED = 256  # of a tokenizer
Ask = Callable[
    [str], int | None
]  # sends a text; the prompt tokens that the server counted, None where it counts none


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """Texts of exact length: ``opening``, then one of ``words`` for each id, with ``glue`` between them. Whatever is
    added to the words (opening, template, BOS) is ``overhead`` tokens. Where they leave room for it, ``long_opening``
    stands in place of ``opening``, with ``long_overhead``."""

    words: tuple[str, ...]
    overhead: int
    opening: str = ""
    glue: str = " "
    long_opening: str = ""
    long_overhead: int = 0

    def prompt(self, ids: Ids) -> str:
        """The text that the server reads as ``len(ids)`` tokens. Raises BadInput for a length that leaves no word."""
        opening, overhead = self.opening, self.overhead
        if self.long_opening and len(ids) > self.long_overhead:
            opening, overhead = self.long_opening, self.long_overhead
        count = len(ids) - overhead
        if count < 1:
            raise BadInput(
                f"input_tokens = {len(ids)}: {self.overhead} of them are what tokenizer and template add "
                f"(accepted: {self.overhead + 1} on)"
            )
        places = (np.asarray(ids[:count]) % len(self.words)).tolist()
        return self.text(opening, [self.words[place] for place in places])

    def text(self, opening: str, words: Sequence[str]) -> str:
        """A text of these words."""
        return self.glue.join([opening, *words] if opening else words)

    def option(self) -> dict[str, Any]:
        """As a driver option, which worker processes get as JSON."""
        return asdict(self)

    @classmethod
    def of_option(cls, found: Any) -> Words:
        """``option`` read back. Raises BadInput for anything else."""
        fields = dict(found) if isinstance(found, Mapping) else {}
        words, counts = fields.get("words"), (fields.get("overhead"), fields.get("long_overhead", 0))
        texts = [fields.get(name, "") for name in ("opening", "glue", "long_opening")]
        listed = isinstance(words, list | tuple) and words and all(isinstance(word, str) for word in words)
        counted = all(type(count) is int and count >= 0 for count in counts)
        if not listed or not counted or not all(isinstance(text, str) for text in texts):
            raise BadInput(
                "driver option words: not what Words.option makes (accepted: words, overhead, opening, glue)"
            )
        return cls(words=tuple(fields.pop("words")), **fields)


def measure(ask: Ask, own: Words | None = None, *, long_opening: str = "") -> Words | None:
    """Words that the server counts as one token each, and what is added to them: texts of ``SIZES`` words are sent, and
    their counts must grow as the words do. ``own`` are those of the model's tokenizer; else COMMON is halved until a
    part of it holds, and letters come last. Texts that the server refuses as too long are left out. ``long_opening`` is
    counted, too.

    None where the server counts no prompt tokens. Raises BadInput when nothing holds, and what ``ask`` raises.
    """
    seen = ""
    hopeless = False
    for candidate in _candidates() if own is None else [replace(own, opening=OPENING)]:
        if hopeless and candidate.words is not LETTERS:
            continue
        counted = _counted(ask, candidate)
        if counted is None:
            return None
        added = {count - size for size, count in counted.items()}
        if len(added) == 1 and len(counted) > 1 and (overhead := added.pop()) >= 0:
            proven = candidate.words if own is not None else candidate.words[: max(counted)]
            found = replace(candidate, words=proven, overhead=overhead)
            return found if not long_opening else _with_long_opening(ask, found, long_opening)
        seen = seen or ", ".join(f"{size} words as {count}" for size, count in counted.items())
        two = list(counted.values())[:2]
        hopeless = hopeless or two[-1] - two[0] > SLOPE * (SIZES[1] - SIZES[0])
    if own is not None:
        raise BadInput(
            f"--tokenizer: its words are not one token each for this server, which counts {seen} tokens "
            "(accepted: the folder of the model that the server has loaded)"
        )
    raise BadInput(
        f"text prompts: no words are one token each for this server, which counts {seen} tokens "
        "(accepted: --tokenizer with the folder of its model)"
    )


def _with_long_opening(ask: Ask, words: Words, long_opening: str) -> Words:
    few = words.words[: SIZES[0]]
    try:
        count = ask(words.text(long_opening, few))
    except Refused:
        return words  # too long for the context: the short one will do
    if count is None or count < len(few):
        return words
    return replace(words, long_opening=long_opening, long_overhead=count - len(few))


def _candidates() -> Iterator[Words]:
    parts = [COMMON]
    while len(parts[0]) >= FEWEST:
        for part in parts:
            yield Words(words=part, overhead=0, opening=OPENING)
        parts = [half for part in parts for half in (part[: len(part) // 2], part[len(part) // 2 :])]
    yield Words(words=LETTERS, overhead=0, glue="")


def _counted(ask: Ask, candidate: Words) -> dict[int, int] | None:
    """Prompt tokens by number of words, up to where they part from a slope of 1 or the server finds it too long."""
    counted: dict[int, int] = {}
    words = candidate.words
    for size in SIZES:
        try:
            count = ask(candidate.text(candidate.opening, [words[i % len(words)] for i in range(size)]))
        except Refused:
            if len(counted) < 2:
                raise
            break
        if count is None:
            return None
        counted[size] = count
        if count - size != counted[SIZES[0]] - SIZES[0]:
            break
    return counted


def from_tokenizer(folder: str, opening: str = "") -> Words:
    """The words that the fast tokenizer of a checkpoint folder takes for one token each behind a blank, and what it
    adds to every text by itself (BOS); without ``opening`` those that are one token at the beginning of a text, too.

    Raises BadInput where there are none, MissingDependency without the library ``tokenizers``.
    """
    path, tokenizer = tokenizer_file(folder), open_tokenizer(folder)
    added = len(tokenizer.encode(opening).ids)
    words = _single_words(tokenizer, added, f"{opening} " if opening else "")
    if len(words) < WORDS_NEEDED:
        raise BadInput(
            f"tokenizer {path}: {len(words)} words are one token each; {WORDS_NEEDED} are needed for prompts"
        )
    found = Words(words=tuple(words[:: -(-len(words) // MOST)]), overhead=added, opening=opening)
    _check(found, tokenizer, path)
    return found


def _single_words(tokenizer: Any, added: int, opening: str) -> list[str]:
    """Words of lower-case letters that are one token behind ``opening`` and after another word alike."""
    found = set()
    for id_ in range(tokenizer.get_vocab_size()):
        word = tokenizer.decode([id_]).strip()
        if word.isascii() and word.isalpha() and word.islower() and len(word) > 1:
            found.add(word)
    words = sorted(found)
    alone = tokenizer.encode_batch([f"{opening}{word}" for word in words])
    pairs = tokenizer.encode_batch([f"{opening}{word} {word}" for word in words])
    return [
        word
        for word, one, two in zip(words, alone, pairs, strict=True)
        if len(one.ids) == added + 1 and len(two.ids) == added + 2
    ]


def _check(words: Words, tokenizer: Any, path: str) -> None:
    """A few texts of every length in use, or the words do not part where they should."""
    for trial in range(TRIALS):
        length = words.overhead + 1 + trial * 8
        ids = [(trial * 7919 + place * 104729) % 1000003 for place in range(length)]
        got = len(tokenizer.encode(words.prompt(ids)).ids)
        if got != length:
            raise BadInput(f"tokenizer {path}: a prompt of {length} tokens came out as {got}")

"""Text of exact length: what is measured at a server, and what a tokenizer's own file tells."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from tokenizer_files import SYLLABLES, trained_tokenizer

from loadgen.drivers.words import COMMON, LETTERS, LONG_OPENING, SIZES, Words, from_tokenizer, measure
from loadgen.errors import BadInput, Refused
from loadgen.load.prompts import FIRST_ID, PromptSource

TEMPLATE = 11


def split(text: str) -> int:
    """A tokenizer of whole words behind a chat template."""
    return TEMPLATE + len(text.split())


@pytest.mark.parametrize("ids", [range(30), [7] * 30, range(1000, 1300)])
def test_a_prompt_has_the_tokens_meant_once_its_server_was_asked(ids: Any) -> None:
    words = measure(split)
    assert words is not None
    assert (words.words, words.overhead) == (COMMON, TEMPLATE + 1)  # the opening is part of it
    assert split(words.prompt(ids)) == len(ids)
    with pytest.raises(BadInput, match=r"input_tokens = 12: 12 of them .*accepted: 13 on"):
        words.prompt(range(12))


@pytest.mark.parametrize(("length", "long"), [(13, False), (27, False), (28, True), (300, True)])
def test_a_long_opening_is_there_where_it_leaves_room_for_a_word(length: int, long: bool) -> None:
    words = measure(split, long_opening=LONG_OPENING)
    assert words is not None
    assert words.long_overhead == TEMPLATE + len(LONG_OPENING.split()) == 27
    text = words.prompt(range(length))
    assert (split(text), text.startswith(LONG_OPENING)) == (length, long)


def test_a_long_opening_that_the_context_does_not_take_is_left_out() -> None:
    def ask(text: str) -> int:
        if text.startswith(LONG_OPENING):
            raise Refused("maximum context length")
        return split(text)

    words = measure(ask, long_opening=LONG_OPENING)
    assert words is not None
    assert words.long_opening == ""


def test_words_that_are_no_single_token_here_are_left_out() -> None:
    odd = {"apple", "bread", "kitchen"}  # of the first half alone

    def ask(text: str) -> int:
        return split(text) + sum(word in odd for word in text.split())

    words = measure(ask)
    assert words is not None
    assert len(words.words) == len(COMMON) // 2
    assert not odd & set(words.words)


def test_a_tokenizer_of_bytes_gets_letters_at_once() -> None:
    sent = []

    def ask(text: str) -> int:
        sent.append(text)
        return 5 + len(text.encode())

    words = measure(ask)
    assert words is not None
    assert len(sent) == 2 + len(SIZES)
    assert (words.words, words.overhead, words.glue) == (LETTERS, 5, "")
    assert len(words.prompt(range(40))) == 35


def test_words_beyond_the_longest_text_that_the_context_takes_are_not_used() -> None:
    def ask(text: str) -> int:
        if split(text) > 128:
            raise Refused("maximum context length is 128 tokens")
        return split(text)

    words = measure(ask)
    assert words is not None
    assert words.words == COMMON[: SIZES[1]]


def test_a_server_that_counts_no_prompts_gives_nothing() -> None:
    assert measure(lambda text: None) is None


def test_a_refusal_of_every_text_is_passed_on() -> None:
    def ask(text: str) -> int:
        raise Refused("no such model")

    with pytest.raises(Refused, match="no such model"):
        measure(ask)


def test_a_server_that_no_words_fit_is_told_with_its_counts() -> None:
    with pytest.raises(BadInput, match=r"counts 16 words as 34, 80 words as 162 tokens .*--tokenizer"):
        measure(lambda text: 2 * len(text.split()) if " " in text else 2 * len(text))


def test_a_count_cut_at_the_context_is_no_measure() -> None:
    with pytest.raises(BadInput, match="80 words as 64"):
        measure(lambda text: min(64, 2 + len(text.split())))


@pytest.mark.parametrize("bos", [True, False])
def test_a_checkpoints_prompts_have_exactly_the_tokens_meant(tmp_path: Path, bos: bool) -> None:
    from tokenizers import Tokenizer

    trained_tokenizer(tmp_path, SYLLABLES, bos=bos)
    words = from_tokenizer(str(tmp_path))
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    prompts = [words.prompt(range(start, start + length)) for start, length in ((3, 2), (900, 20), (5, 700))]
    assert [len(tokenizer.encode(prompt).ids) for prompt in prompts] == [2, 20, 700]
    assert words.prompt([1, 2, 3]) != words.prompt([2, 2, 3])

    def ask(text: str) -> int:
        return 3 + len(tokenizer.encode(f"<user>{text}").ids)

    asked = measure(ask, words)
    assert asked is not None
    assert ask(asked.prompt(range(50))) == 50
    with pytest.raises(BadInput, match=r"--tokenizer: its words .* counts 16 words as 66, 80 words"):
        measure(lambda text: len(text), words)


def test_words_that_are_whole_behind_a_blank_alone_need_an_opening(tmp_path: Path) -> None:
    """As in many a tokenizer, where ``house`` and `` house`` are two entries, or one of them is in pieces."""
    trained_tokenizer(tmp_path, [f" {word}" for word in SYLLABLES], bos=True, prefix=False)
    with pytest.raises(BadInput, match="256 are needed"):
        from_tokenizer(str(tmp_path))
    words = from_tokenizer(str(tmp_path), "List")
    assert set(SYLLABLES) <= set(words.words)
    assert words.overhead > 1


def test_a_tokenizer_without_whole_words_is_refused(tmp_path: Path) -> None:
    trained_tokenizer(tmp_path, ["abc", "abd"], bos=False)
    with pytest.raises(BadInput, match="256 are needed"):
        from_tokenizer(str(tmp_path))
    with pytest.raises(BadInput, match=r"no tokenizer\.json"):
        from_tokenizer(str(tmp_path / "empty"))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(BadInput, match="a file of the tokenizers library"):
        from_tokenizer(str(tmp_path))


def test_words_go_to_worker_processes_as_json() -> None:
    words = Words(words=("a", "b"), overhead=4, opening="List", long_opening="Go on", long_overhead=6)
    assert Words.of_option(orjson.loads(orjson.dumps(words.option()))) == words


@pytest.mark.parametrize(
    "found",
    [None, {}, {"words": [], "overhead": 1}, {"words": ["a"]}, {"words": [1], "overhead": 1},
     {"words": ["a"], "overhead": -1}, {"words": ["a"], "overhead": 1, "glue": 3},
     {"words": ["a"], "overhead": 1, "long_overhead": "2"}],
)  # fmt: skip
def test_an_option_that_is_none_of_ours_is_refused(found: Any) -> None:
    with pytest.raises(BadInput, match="driver option words"):
        Words.of_option(found)


@pytest.mark.parametrize("words", [COMMON, COMMON[:24], LETTERS])
def test_prompts_begin_unlike_each_other_whatever_the_words(words: tuple[str, ...]) -> None:
    made = Words(words=words, overhead=0)
    source = PromptSource(7, FIRST_ID + len(words), 12)
    begins = [made.prompt(source.prompts(seq)[0]).split()[:5] for seq in range(40_000)]
    assert len(set(map(tuple, begins))) == len(begins)
    assert all(one[0] != two[0] for one, two in pairwise(begins))

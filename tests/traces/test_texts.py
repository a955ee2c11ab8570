"""Files of prompts: three forms, each recognised, and one error with file and line for what is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loadgen.errors import BadInput
from loadgen.traces import texts
from loadgen.traces.texts import TextCounts, TextRow, read_texts

CHAT = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
TALK = {
    "id": "a",
    "conversations": [{"from": "human", "value": "one, two"}, {"from": "gpt", "value": "three"}],
}


def read(path: Path, content: str) -> tuple[list[TextRow], TextCounts]:
    path.write_text(content, encoding="utf-8")
    counts = TextCounts()
    return list(read_texts(str(path), counts)), counts


def test_json_lines(tmp_path: Path) -> None:
    lines = [{"prompt": "a b"}, {"prompt": "é", "output_tokens": 7}, {"messages": CHAT, "output_length": 3}]
    found, counts = read(tmp_path / "x.jsonl", "\ufeff" + "\n\n".join(map(json.dumps, lines)))
    assert found == [TextRow("a b"), TextRow("é", 7), TextRow(tuple(CHAT), 3)]
    assert (counts.rows, counts.unanswered) == (3, 0)


def test_csv(tmp_path: Path) -> None:
    found, _ = read(tmp_path / "x.csv", 'id,prompt,output_tokens\r\n1,"a, b\nc",5\r\n2,d,\r\n')
    assert found == [TextRow("a, b\nc", 5), TextRow("d")]


@pytest.mark.parametrize("piece", [7, 1 << 20])
def test_sharegpt_as_a_list_and_as_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(texts, "PIECE", piece)  # elements that lie in several pieces are put together
    rows: list[Any] = [
        TALK,
        {"conversations": [{"from": "gpt", "value": "first"}, {"from": "human", "value": "second"}]},
        {"conversations": [{"from": "human", "value": "alone"}]},
        {"conversations": [{"from": "user", "value": "q"}, {"from": "assistant", "value": "a"}, {}]},
    ]
    wanted = [TextRow("one, two", None, "three"), TextRow("q", None, "a")]
    for content in (json.dumps(rows), json.dumps(rows, indent=1), "\n".join(map(json.dumps, rows))):
        found, counts = read(tmp_path / "x.json", content)
        assert found == wanted
        assert (counts.rows, counts.unanswered) == (4, 2)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "holds no prompt"),
        ("[]", "holds no prompt"),
        ('{"prompt": "a"}\n{"prompt": 3}', "line 2: prompt = 3: no text"),
        ('{"prompt": "a"}\n{"text": "b"}', "line 2: prompt = None: no text"),
        ('{"prompt": ""}', "line 1: prompt = ''"),
        ('{"prompt": "a", "output_tokens": 0}', "line 1: output_tokens = 0"),
        ('{"prompt": "a"}\n{"prompt": ', "line 2: not JSON"),
        ('{"messages": []}', "line 1: messages = "),
        ('{"messages": [{"role": "user", "content": [1]}]}', "line 1: message "),
        ('[{"prompt": "a"},\n 3]', "line 2: not an object"),
        ('[{"prompt": "a"},\n\n {"prompt": "b"', "line 3: not JSON"),
        ('[{"prompt": "a"},\n', "line 2: the list has no end"),
        ('[{"conversations": 3}]', "line 1: conversations = 3"),
        (
            '[{"conversations": [{"from": "human", "value": 1}, {"value": "a"}]}]',
            "line 1: a turn's value is no text",
        ),
        ("text,length\na,3", "line 1: no column prompt"),
        ("prompt,output_tokens\na,3\nb,many", "line 3: output_tokens = 'many'"),
        ('prompt\na\n""\n', "line 3: prompt is empty"),
        ("prompt,output_tokens\na,²", "line 2: output_tokens = '²'"),
        ("prompt,output_tokens\na," + "9" * 5000, "line 2: output_tokens = '999"),
        ('prompt\n"a\nb\n', "cannot be read: unexpected end of data"),  # its quote has no end
        ('{"prompt": "a"}\n{"prompt": "\\ud800"}', "line 2: half of a surrogate pair"),
        ('{"messages": [{"role": "\\udfff", "content": "a"}]}', "line 1: half of a surrogate pair"),
    ],
)
def test_a_file_that_cannot_be(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "x"
    with pytest.raises(BadInput) as caught:
        read(path, content)
    assert str(caught.value).startswith(f"{path}: {words}")


def test_what_is_no_text_and_what_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b'{"prompt": "\xff\xfe"}')
    with pytest.raises(BadInput, match="cannot be read"):
        list(read_texts(str(path), TextCounts()))
    with pytest.raises(BadInput, match="cannot be read: No such file"):
        list(read_texts(str(tmp_path / "none"), TextCounts()))

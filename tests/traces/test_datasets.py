"""A file of prompts through a tokenizer: lengths as that counts them, what is too long left out, content in the id."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizer_files import SYLLABLES, trained_tokenizer

from loadgen.errors import BadInput
from loadgen.traces.datasets import measure_texts
from loadgen.workload_records import Dataset

WORDS = SYLLABLES[:40]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = tmp_path_factory.mktemp("tokenizer")
    trained_tokenizer(made, WORDS, bos=True)
    return str(made)


def written(path: Path, *rows: object) -> str:
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def test_lengths_are_the_tokenizers(folder: str, tmp_path: Path) -> None:
    talk = {
        "conversations": [
            {"from": "human", "value": " ".join(WORDS[:9])},
            {"from": "gpt", "value": " ".join(WORDS)},
        ]
    }
    chat = {"messages": [{"role": "user", "content": " ".join(WORDS[:3])}]}
    path = written(tmp_path / "x", {"prompt": " ".join(WORDS[:5]), "output_tokens": 4}, talk, chat)
    found = measure_texts(Dataset(path=path, tokenizer=folder))
    assert [(text.input_tokens, text.output_tokens) for text in found.rows] == [(6, 4), (10, 40), (4, None)]
    assert [len(text.ids) for text in found.rows] == [6, 10, 0]
    assert (found.input_tokens, found.output_tokens, found.untold) == (10, 40, 1)
    assert found.facts()["prompts"] == 3
    few = measure_texts(Dataset(path=path, tokenizer=folder, max_context=20))
    assert ([text.input_tokens for text in few.rows], few.too_long) == ([6, 4], 1)
    assert len(measure_texts(Dataset(path=path, tokenizer=folder), 2).rows) == 2
    with pytest.raises(BadInput, match="3 are over the context"):
        measure_texts(Dataset(path=path, tokenizer=folder, max_context=3))


def test_the_content_of_file_and_tokenizer_is_the_data_set(folder: str, tmp_path: Path) -> None:
    row = {"prompt": WORDS[0]}
    digests = {
        measure_texts(Dataset(path=written(tmp_path / name, *rows), tokenizer=folder)).digest
        for name, rows in (("a", [row]), ("b", [row]), ("c", [row, row]))
    }
    assert len(digests) == 2
    with pytest.raises(BadInput, match=r"tokenizer\.json: cannot be read"):
        measure_texts(Dataset(path=str(tmp_path / "a"), tokenizer=str(tmp_path)))

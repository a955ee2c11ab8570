"""A file of prompts as it is sent: through the target's tokenizer, what is too long left out, in the file's order."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

from loadgen.errors import BadInput
from loadgen.input_files import unreadable
from loadgen.traces.texts import Content, TextCounts, TextRow, read_texts
from loadgen.traces.tokenizer import open_tokenizer, tokenizer_file
from loadgen.workload_records import Dataset

BATCH = 256  # texts that the tokenizer takes at once


class Text(NamedTuple):
    """One prompt: what is sent, its ids (none of messages, whose template only the server knows), its length in tokens
    (of messages: of their texts), and the output length that the file tells."""

    content: Content
    ids: array[int]
    input_tokens: int
    output_tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """The prompts of a file that are sent; ``too_long`` others, over the context, are left out, as are ``unanswered``
    conversations. ``output_tokens`` is the longest that the file tells, ``untold`` how many rows tell none. ``digest``
    (16 hex digits) is of file and tokenizer."""

    rows: Sequence[Text]
    read: int
    too_long: int
    unanswered: int
    input_tokens: int
    output_tokens: int
    untold: int
    digest: str

    def facts(self) -> dict[str, Any]:
        """What of it stands in a result."""
        names = ("read", "too_long", "unanswered", "input_tokens", "output_tokens", "digest")
        return {"prompts": len(self.rows), **{name: getattr(self, name) for name in names}}


def measure_texts(dataset: Dataset, most: int | None = None) -> Texts:
    """The first ``most`` prompts of a data set (``None``: all), tokenized. Raises BadInput, with file and line, for
    what would end the trial later, and where nothing is left."""
    paths = (dataset.path, tokenizer_file(dataset.tokenizer))
    try:
        versions = tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in map(os.stat, paths))
    except OSError as error:
        raise BadInput(f"{error.filename}: {unreadable(error.filename, error)}") from None
    return _measured(dataset, most, versions)


@lru_cache(maxsize=4)
def _measured(dataset: Dataset, most: int | None, _versions: object) -> Texts:
    counts, left_out = TextCounts(), 0
    rows: list[Text] = []
    for text in _tokenized(read_texts(dataset.path, counts), open_tokenizer(dataset.tokenizer)):
        length = text.input_tokens + (text.output_tokens or 1)
        if dataset.max_context is not None and length > dataset.max_context:
            left_out += 1
            continue
        rows.append(text)
        if len(rows) == most:
            break
    if not rows:
        raise BadInput(f"{dataset.path}: holds no prompt that can be sent ({left_out} are over the context)")
    return Texts(
        rows=rows,
        read=counts.rows,
        too_long=left_out,
        unanswered=counts.unanswered,
        input_tokens=max(text.input_tokens for text in rows),
        output_tokens=max((text.output_tokens or 0) for text in rows),
        untold=sum(text.output_tokens is None for text in rows),
        digest=_digest(dataset),
    )


def _tokenized(rows: Iterator[TextRow], tokenizer: Any) -> Iterator[Text]:
    while some := list(islice(rows, BATCH)):
        asked = tokenizer.encode_batch([_words(row.content) for row in some])
        given = iter(
            tokenizer.encode_batch(
                [row.reply for row in some if row.reply is not None], add_special_tokens=False
            )
        )
        for row, found in zip(some, asked, strict=True):
            told = row.output_tokens if row.reply is None else max(1, len(next(given).ids))
            ids = array("i", found.ids if isinstance(row.content, str) else ())
            yield Text(row.content, ids, len(found.ids), told)


def _words(content: Content) -> str:
    return content if isinstance(content, str) else "\n".join(each["content"] for each in content)


def _digest(dataset: Dataset) -> str:
    digest = hashlib.sha256()
    for path in (dataset.path, tokenizer_file(dataset.tokenizer)):
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]

"""Files of prompts: a row at a time, each by the form of its first line.

| form | file | prompt | output length |
|---|---|---|---|
| ``jsonl`` | JSON lines | ``prompt``, or ``messages`` (role and content) | ``output_tokens``, or none |
| ``csv`` | CSV with a header | column ``prompt`` | column ``output_tokens``, or none |
| ``sharegpt`` | a JSON list, or lines, of ``conversations`` | a human's first ``value`` | that of the reply |

Nothing is downloaded: a file is read where it lies.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from loadgen.errors import BadInput
from loadgen.input_files import unreadable

OUTPUT = ("output_tokens", "output_length", "output_tokens_count")  # as different tools call it
_WHOLE = re.compile(r"[0-9]{1,10}")
_TORN = re.compile("[\ud800-\udfff]")
PIECE = 1 << 20  # characters of a JSON list that are read at once
ACCEPTED = "JSON lines with prompt or messages, CSV with a column prompt, ShareGPT's conversations"
Content = str | tuple[Mapping[str, str], ...]


class TextRow(NamedTuple):
    """One prompt: a text, or the messages of a chat. Its output length is told by a number, by the ``reply`` that there
    was, or not at all."""

    content: Content
    output_tokens: int | None = None
    reply: str | None = None


@dataclass(slots=True)
class TextCounts:
    """What became of a file's rows: ``unanswered`` ones of ShareGPT have no turn of a human with a reply."""

    rows: int = 0
    unanswered: int = 0


def read_texts(path: str, counts: TextCounts) -> Iterator[TextRow]:
    """The prompts of a file, in its order. Raises BadInput, with file and line, for what is none."""
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            first = _first_mark(file)
            file.seek(0)
            rows = _json(file, path, listed=first == "[") if first in "{[" else _csv(file, path)
            for where, row in rows:
                counts.rows += 1
                found = row if isinstance(row, TextRow) else _row(row, where)
                if found is None:
                    counts.unanswered += 1
                    continue
                if any(map(_TORN.search, _texts_of(found))):
                    raise BadInput(f"{where}: half of a surrogate pair (accepted: what UTF-8 can hold)")
                yield found
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path}: {unreadable(path, error)}") from None
    if not counts.rows:
        raise BadInput(f"{path}: holds no prompt (accepted: {ACCEPTED})")


def _texts_of(row: TextRow) -> Iterator[str]:
    if isinstance(row.content, str):
        yield row.content
    else:
        for message in row.content:
            yield from message.values()
    if row.reply is not None:
        yield row.reply


def _first_mark(file: IO[str]) -> str:
    while piece := file.read(PIECE):
        if text := piece.lstrip("\ufeff \t\r\n"):
            return text[0]
    return ""


def _json(file: IO[str], path: str, *, listed: bool) -> Iterator[tuple[str, Any]]:
    if listed:
        yield from _elements(file, path)
        return
    for number, line in enumerate(file, 1):
        if line.strip():
            yield f"{path}: line {number}", _loaded(line, f"{path}: line {number}")


def _loaded(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: not JSON: {error}") from None


def _elements(file: IO[str], path: str) -> Iterator[tuple[str, Any]]:
    """The elements of a JSON list one by one: the whole of one is a few hundred MB in ShareGPT."""
    decoder, text, line = json.JSONDecoder(), "", 1
    began = ended = False
    while not ended:
        piece = file.read(PIECE)
        text += piece
        at = 0
        while True:
            start = at
            while at < len(text) and text[at] in " \t\r\n," + ("" if began else "["):
                began = began or text[at] == "["
                at += 1
            line += text.count("\n", start, at)
            if at == len(text):
                break
            if text[at] == "]":
                ended = True
                break
            try:
                found, end = decoder.raw_decode(text, at)
            except (ValueError, RecursionError) as error:
                if piece and not isinstance(error, RecursionError):
                    break  # its end may be in the next piece
                raise BadInput(f"{path}: line {line}: not JSON: {error}") from None
            yield f"{path}: line {line}", found
            line += text.count("\n", at, end)
            at = end
        text = text[at:]
        if not piece and not ended:
            raise BadInput(f"{path}: line {line}: the list has no end")


def _csv(file: IO[str], path: str) -> Iterator[tuple[str, TextRow]]:
    csv.field_size_limit(1 << 30)
    reader = csv.DictReader(
        file, strict=True
    )  # else a quote without its end takes the rest of the file for one prompt
    columns = reader.fieldnames or ()
    if "prompt" not in columns:
        raise BadInput(f"{path}: line 1: no column prompt (accepted: {ACCEPTED})")
    length = next((name for name in OUTPUT if name in columns), None)
    for row in reader:
        where = f"{path}: line {reader.line_num}"
        text = row["prompt"]
        if not text:
            raise BadInput(f"{where}: prompt is empty")
        told = (row[length] or "").strip() if length is not None else ""
        if told and not _WHOLE.fullmatch(told):
            raise BadInput(f"{where}: {length} = {told[:40]!r} (accepted: a whole number of 1 or more)")
        yield where, TextRow(text, _length(int(told), str(length), where) if told else None)


def _row(row: Any, where: str) -> TextRow | None:
    """A row of JSON; ``None`` for a conversation without a reply."""
    if not isinstance(row, dict):
        raise BadInput(f"{where}: not an object (accepted: {ACCEPTED})")
    if "conversations" in row:
        return _conversation(row["conversations"], where)
    name = next((name for name in OUTPUT if row.get(name) is not None), None)
    tokens = None if name is None else _length(row[name], name, where)
    if "messages" in row:
        return TextRow(_messages(row["messages"], where), tokens)
    text = row.get("prompt")
    if not isinstance(text, str) or not text:
        raise BadInput(f"{where}: prompt = {_shown(text)}: no text (accepted: {ACCEPTED})")
    return TextRow(text, tokens)


def _messages(found: Any, where: str) -> tuple[Mapping[str, str], ...]:
    if not isinstance(found, list) or not found:
        raise BadInput(f"{where}: messages = {_shown(found)} (accepted: a list of messages)")
    for each in found:
        if not isinstance(each, dict) or not all(
            isinstance(each.get(key), str) for key in ("role", "content")
        ):
            raise BadInput(f"{where}: message {_shown(each)} (accepted: role and content, both texts)")
    return tuple({"role": each["role"], "content": each["content"]} for each in found)


def _conversation(found: Any, where: str) -> TextRow | None:
    if not isinstance(found, list) or not all(isinstance(turn, dict) for turn in found):
        raise BadInput(
            f"{where}: conversations = {_shown(found)} (accepted: a list of turns with from and value)"
        )
    if len(found) < 2 or found[0].get("from") not in ("human", "user"):
        return None
    asked, given = found[0].get("value"), found[1].get("value")
    if not isinstance(asked, str) or not isinstance(given, str):
        raise BadInput(f"{where}: a turn's value is no text")
    return TextRow(asked, None, given) if asked and given else None


def _length(value: Any, name: str, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
        raise BadInput(f"{where}: {name} = {_shown(value)} (accepted: a whole number of 1 or more)")
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"

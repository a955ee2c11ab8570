"""Files of records beside a sweep's trials, one JSON object a line: written so that no crash leaves half of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from loadgen.errors import NotResults, StoreError
from loadgen.input_files import MARK, read_input
from loadgen.results.record_json import from_json
from loadgen.results.store import MOST_SWEEP
from loadgen.results.writing import append_line, cut_torn_line

T = TypeVar("T")


def append(path: Path, record: Any) -> None:
    """Write one record and wait until it is on disk. Raises StoreError."""
    try:
        cut_torn_line(path)
        with path.open("ab") as file:
            append_line(file, record)
    except OSError as error:
        raise StoreError(f"StoreError: {path}: cannot be written: {error.strerror}") from None


def read(path: Path, kind: type[T]) -> list[T]:
    """All records of a file, none where there is no file; a torn last line is left out. Raises StoreError."""
    whole = []
    if path.exists():
        try:
            whole = read_input(path, MOST_SWEEP).removeprefix(MARK).split(b"\n")[:-1]
        except OSError as error:
            raise StoreError(f"{path}: cannot be read: {error.strerror}") from None
    found = []
    for number, line in enumerate(whole, 1):
        if not line.strip():
            continue
        try:
            found.append(from_json(kind, line))
        except ValueError as error:
            raise NotResults(f"{path}: line {number} is not a {kind.__name__}: {error}") from None
    return found

"""Scrapes as the sampler wrote them, and as Parquet: a row per reading, on the samples' clock."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import orjson

from loadgen.errors import StoreError
from loadgen.telemetry.prometheus_text import Reading

UP = "up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrape:
    """One scrape of one source: when it began, how long it took, and what it gave; ``error`` when it failed."""

    source: str
    at_ns: int
    took_ns: int
    error: str | None = None
    readings: tuple[Reading, ...] = ()
    refused: tuple[str, ...] = ()
    blind: tuple[str, ...] = ()


class ScrapeLog:
    """The sampler's file, read from where it was left."""

    def __init__(self, path: Path, urls: Sequence[str]) -> None:
        self._path, self._urls, self._offset = path, tuple(urls), 0

    def read(self) -> list[Scrape]:
        """The scrapes since the last call; a line that is still being written waits for the next."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                whole, _, _torn = file.read().rpartition(b"\n")
        except FileNotFoundError:  # someone cleared the folder of temporary files
            return []
        if not whole:
            return []
        self._offset += len(whole) + 1
        return [self._scrape(orjson.loads(line)) for line in whole.split(b"\n")]

    def _scrape(self, line: list[Any]) -> Scrape:
        number, at_ns, took_ns, error, readings, refused, blind = line
        return Scrape(
            source=self._urls[number],
            at_ns=at_ns,
            took_ns=took_ns,
            error=error,
            readings=tuple((metric, subject, value) for metric, subject, value in readings),
            refused=tuple(refused),
            blind=tuple(blind),
        )


class Stored(Protocol):
    """Stored rows of one trial: ``results.rows.Rows``."""

    path: Path

    def table(self, columns: Sequence[str] | None = None, where: Any = None) -> Any:
        """The rows as a ``pyarrow.Table``, those alone for which an expression holds. Raises StoreError."""


def write_parquet(path: Path, scrapes: Iterable[Scrape]) -> None:
    """A row per reading, and one ``up`` row (1 or 0, with the error) per scrape; whole or not at all.

    ``at_ns`` is when the scrape began, on the clock of the samples; the source read its figures at some point of
    the ``took_ns`` after it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.dictionary(pa.int32(), pa.string())
    schema = pa.schema(
        {
            "at_ns": pa.int64(),
            "took_ns": pa.int64(),
            "source": text,
            "metric": text,
            "subject": text,
            "value": pa.float64(),
            "error": text,
        }
    )
    rows = list(_rows(scrapes))
    columns: list[Sequence[Any]] = list(zip(*rows, strict=True)) if rows else [()] * len(schema)
    table = pa.table(
        [pa.array(column, type=field.type) for column, field in zip(columns, schema, strict=True)],
        schema=schema,
    )
    beside = path.with_name(path.name + ".part")
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table, beside, compression="zstd", write_page_checksum=True)
    with beside.open("rb+") as file:
        os.fsync(file.fileno())  # else a power cut may leave the name and nothing in it
    beside.replace(path)


def _rows(scrapes: Iterable[Scrape]) -> Iterator[tuple[Any, ...]]:
    for scrape in scrapes:
        head = (scrape.at_ns, scrape.took_ns, scrape.source)
        yield (*head, UP, "", float(scrape.error is None), scrape.error)
        for metric, subject, value in scrape.readings:
            yield (*head, metric, subject, value, None)


def read_scrapes(stored: Stored, metrics: Sequence[str] | None = None) -> list[Scrape]:
    """The scrapes that ``write_parquet`` wrote, of all metrics or some. Raises StoreError when there are none."""
    import pyarrow.compute as pc

    chosen = None if metrics is None else pc.field("metric").isin([UP, *metrics])
    rows = stored.table(where=chosen).to_pylist()
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for row in rows:
        if row["metric"] == UP:
            found[row["source"], row["at_ns"]] = {**row, "readings": []}
        else:
            scrape = found.get((row["source"], row["at_ns"]))
            if scrape is None:
                raise StoreError(f"{stored.path}: a reading of no scrape, so none of loadgen's files")
            scrape["readings"].append((row["metric"], row["subject"], row["value"]))
    return [
        Scrape(
            source=row["source"],
            at_ns=row["at_ns"],
            took_ns=row["took_ns"],
            error=row["error"],
            readings=tuple(row["readings"]),
        )
        for row in found.values()
    ]

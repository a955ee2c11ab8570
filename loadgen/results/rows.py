"""The stored rows of one trial, wherever they lie: the one place that opens a trial's Parquet.

A sweep writes a file a trial, ``samples/ID.parquet``, so that a crash costs at most one; a kept copy holds those of all
its trials in one ``samples.parquet``, whose column ``trial`` tells them apart. The same goes for ``telemetry``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from loadgen.errors import StoreError
from loadgen.input_files import open_input

Kind = Literal["samples", "telemetry"]
CHECKED: dict[str, Any] = {
    "page_checksum_verification": True
}  # earlier versions wrote none: nothing is held against
BATCH = 8192
OWNER = (
    b"loadgen.trial"  # in the metadata of a trial's own samples: whose they are (earlier versions wrote none)
)
TRIAL = "trial"  # the column of a shared file that says whose row it is


class Rows:
    """Rows of one trial. Every method raises StoreError for a file that is cut short, is no Parquet, or holds values
    that are none of their type (text that is no UTF-8), before a row of it is seen.

    ``shared`` is the table of a file that holds several trials' rows; else the file is the trial's own.
    """

    def __init__(self, path: Path, shared: Any = None) -> None:
        self.path = path
        self._shared = shared

    def table(self, columns: Sequence[str] | None = None, where: Any = None) -> Any:
        """All rows as a ``pyarrow.Table``: of some columns, and those alone for which an expression holds."""
        import pyarrow.parquet as pq

        with readable(self.path):
            if (
                self._shared is None and where is None
            ):  # without the machinery of data sets: a fifth of the time
                with pq.ParquetFile(self.path, **CHECKED) as file:
                    return _sound(file.read(columns))
            if self._shared is None:
                return _sound(pq.read_table(self.path, columns=columns, filters=where, **CHECKED))
            found = self._shared if where is None else self._shared.filter(where)
            return found if columns is None else found.select(columns)

    def has(self, column: str) -> bool:
        """Whether the rows have a column: an earlier version wrote fewer."""
        import pyarrow.parquet as pq

        if self._shared is not None:
            return column in self._shared.column_names
        with readable(self.path):
            return column in pq.read_schema(self.path).names

    def whole(self, columns: Sequence[str] = (), trial: str | None = None) -> bool:
        """Whether there is a row at all, and these columns, of this trial and no other. All of it is read once: what a
        disk has turned within it would be read as other numbers. Raises StoreError for other columns, and for what is
        not as it was written."""
        import pyarrow.parquet as pq

        if self._shared is not None:
            return bool(self._shared.num_rows)
        with readable(self.path):
            found = pq.read_metadata(self.path)
            if lacking := set(columns) - set(found.schema.to_arrow_schema().names):
                raise StoreError(
                    f"{self.path}: none of loadgen's files: it lacks {', '.join(sorted(lacking))}"
                )
            owner = (found.metadata or {}).get(OWNER, b"").decode("utf-8", "replace")
            if owner and trial is not None and owner != trial:
                raise StoreError(f"{self.path}: holds the samples of trial {owner}, not of {trial}")
            if (rows := sum(batch.num_rows for batch in self.batches(BATCH))) != found.num_rows:
                raise StoreError(f"{self.path}: holds {rows} rows, and says {found.num_rows}")
            return bool(rows)

    def batches(self, size: int, columns: Sequence[str] | None = None) -> Iterator[Any]:
        """``pyarrow.RecordBatch`` after batch of up to ``size`` rows; memory stays flat over a trial's own file."""
        import pyarrow.parquet as pq

        if self._shared is not None:
            yield from self.table(columns).combine_chunks().to_batches(max_chunksize=size)
            return
        with readable(self.path), pq.ParquetFile(self.path, **CHECKED) as file:
            yield from map(_sound, file.iter_batches(batch_size=size, columns=columns))


def _sound(rows: Any) -> Any:
    """A table or batch as it is. Raises ``pyarrow.ArrowInvalid`` for values that are none of their type."""
    rows.validate(full=True)
    return rows


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Raises StoreError for what Parquet finds wrong with a file."""
    import pyarrow as pa

    try:
        open_input(path).close()  # a pipe would be waited for
        yield
    except FileNotFoundError:
        raise StoreError(f"{path}: no such file") from None
    except (pa.ArrowException, OSError, KeyError, UnicodeDecodeError) as error:  # of a column's name
        words = str(error).partition("\n")[0]
        raise StoreError(f"{path}: not readable, cut short or none of loadgen's files ({words})") from None


def shared_rows(path: Path, columns: Sequence[str]) -> dict[str, Rows]:
    """By trial: the rows of a file that holds several trials', read once. Raises StoreError, also for a file without
    these columns."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with readable(path):
        table = _sound(pq.read_table(path, **CHECKED))
        if lacking := {TRIAL, *columns} - set(table.column_names):
            raise StoreError(f"{path}: none of loadgen's files: it lacks {', '.join(sorted(lacking))}")
        found = {}
        for trial in pc.unique(table[TRIAL]).to_pylist():
            own = table.filter(pc.equal(table[TRIAL], trial)).drop_columns([TRIAL])
            found[trial] = Rows(path, own)
    return found


class SharedWriter:
    """Writes several trials' tables into one Parquet file, in the order they come; none is written without any."""

    def __init__(self, path: Path, **how: Any) -> None:
        self._path, self._how = path, how
        self._tables: list[Any] = []

    def add(self, trial: str, table: Any) -> None:
        """Take in rows of a trial: a ``pyarrow.Table`` without the column ``trial``."""
        import pyarrow as pa

        names = pa.array([trial] * table.num_rows, type=pa.string())
        self._tables.append(table.append_column(TRIAL, names))

    def close(self) -> None:
        """Write the file: whole, on disk, and only then under its name."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._tables:
            return
        beside = self._path.with_name(self._path.name + ".part")
        whole = pa.concat_tables(self._tables).unify_dictionaries()
        pq.write_table(
            whole, beside, compression="zstd", compression_level=9, write_page_checksum=True, **self._how
        )
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.replace(self._path)

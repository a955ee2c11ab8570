"""The samples of one trial on disk: Parquet, a row per request, token times lossless, spilled as they come."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from operator import attrgetter
from pathlib import Path
from typing import Any

from loadgen.errors import StoreError
from loadgen.request_records import Reply, Sample
from loadgen.results.rows import OWNER, Rows

PACK_ROWS = 128  # rows turned into Arrow at once: half a millisecond, so that no due request waits for it
PACK_ARRIVALS = 4096
ROW_GROUP = 8192  # rows kept in memory, packed, before they are written
ROW_GROUP_ARRIVALS = 1 << 20


class SampleWriter:
    """Spills samples to Parquet as they come; the file appears under its name only when whole.

    ``add`` is called from the event loop that sends requests on time: it packs a few rows now and then, and a
    thread of its own encodes and writes them, outside the interpreter's lock.

    The file says whose samples they are, where ``trial`` is given: under another trial's name they would pass for its.

    Where the file cannot be written, the samples go to ``rescue()`` from there on, and ``on_failure`` is told: the
    trial goes on, since its figures do not hang on its samples. ``close`` raises nothing of that kind.
    """

    def __init__(
        self,
        path: Path,
        rescue: Callable[[], Path] | None = None,
        on_failure: Callable[[str], None] = lambda _words: None,
        trial: str = "",
    ) -> None:
        self.path = path
        self._trial = trial
        self._rescue, self._on_failure = rescue, on_failure
        self._dead = False
        self._beside = path.with_name(path.name + ".part")
        self._writer: Any = None
        self._rows: list[Sample] = []
        self._packed: list[Any] = []
        self._unwritten: list[Any] = []
        self._arrivals = self._packed_rows = self._packed_arrivals = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="samples")
        self._writing: Future[None] = self._thread.submit(lambda: None)
        _load()

    def add(self, sample: Sample) -> None:
        """Take in a sample; rows are packed and handed over in parts, so that memory stays flat."""
        self._rows.append(sample)
        self._arrivals += len(sample.reply.token_ns)
        if len(self._rows) >= PACK_ROWS or self._arrivals >= PACK_ARRIVALS:
            self._pack()
            if self._packed_rows >= ROW_GROUP or self._packed_arrivals >= ROW_GROUP_ARRIVALS:
                self._hand_over()

    def _pack(self) -> None:
        import pyarrow as pa

        schema, replies = arrow_schema(), [sample.reply for sample in self._rows]
        columns = []
        for field in schema:
            rows: list[Any] = self._rows if field.name in _SAMPLE_FIELDS else replies
            columns.append(pa.array(list(map(attrgetter(field.name), rows)), type=field.type))
        self._packed.append(pa.record_batch(columns, schema=schema))
        self._packed_rows += len(self._rows)
        self._packed_arrivals += self._arrivals
        self._rows.clear()
        self._arrivals = 0

    def _hand_over(self) -> None:
        self._writing.result()
        batches = self._packed
        self._writing = self._thread.submit(lambda: self._try(lambda: self._write(batches)))
        self._packed = []
        self._packed_rows = self._packed_arrivals = 0

    def _write(self, batches: list[Any]) -> None:
        import pyarrow as pa

        self._unwritten = batches
        if self._dead:
            return
        if self._writer is None:
            self.path.parent.mkdir(exist_ok=True)  # not its parents: a deleted results folder stays deleted
            self._writer = _parquet_writer(self._beside, self._trial)
        self._writer.write_table(pa.Table.from_batches(batches, schema=arrow_schema()).combine_chunks())

    def _try(self, step: Callable[[], None], *, naming: bool = False) -> None:
        """Take a step on the file; where it fails, take it on another one. What fails there, too, is given up."""
        import pyarrow as pa

        try:
            step()
        except (OSError, pa.ArrowException) as error:
            self._give_up_file()
            if self._rescue is None:
                raise StoreError(f"{self.path}: cannot be written: {_words(error)}") from None
            told = f"{self.path}: cannot be written: {_words(error)}"
            try:
                self.path = self._rescue()
                self._beside = self.path.with_name(self.path.name + ".part")
                self._write(self._unwritten)
                if naming:
                    step()
                told += f"; its last samples are in {self.path}"
            except (OSError, pa.ArrowException) as again:
                self._give_up_file()
                self._dead = True
                told += f"; nor can they be elsewhere: {_words(again)}"
            self._rescue = None
            self._on_failure(told)

    def _give_up_file(self) -> None:
        writer, self._writer = self._writer, None
        with contextlib.suppress(Exception):  # it writes its footer, where nothing can be written
            if writer is not None:
                writer.close()
        with contextlib.suppress(OSError):
            self._beside.unlink(missing_ok=True)

    def close(self) -> None:
        """Write the rest, wait until it is on disk, and give the file its name."""
        self._pack()
        self._hand_over()
        self._finish()
        if not self._dead:
            self._try(self._name, naming=True)

    def _name(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        with self._beside.open("rb+") as file:
            os.fsync(file.fileno())
        self._beside.replace(self.path)

    def abandon(self) -> None:
        """Drop what was written: the trial did not end."""
        self._finish()
        self._give_up_file()

    def _finish(self) -> None:
        self._thread.shutdown()
        self._writing.result()


def _words(error: Exception) -> str:
    """Why a file could not be written, in one line."""
    return str(getattr(error, "strerror", None) or error).partition("\n")[0]


def _load() -> None:
    """Import what ``add`` will need before there is a load. Where pandas is installed, the first array imports it, too:
    within ``add`` that would be half a second in which nothing is sent."""
    import pyarrow as pa

    importlib.import_module("pyarrow.parquet")
    pa.array([0])


_SAMPLE_FIELDS = tuple(name for name in Sample.__dataclass_fields__ if name != "reply")
_REPLY_FIELDS = tuple(Reply.__dataclass_fields__)


@functools.cache
def arrow_schema() -> Any:
    """The columns of a trial's samples as a ``pyarrow.Schema``: those of Sample, then those of its reply."""
    import pyarrow as pa

    types = {
        "phase": pa.string(),
        "counted_by": pa.string(),
        "finish": pa.string(),
        "error": pa.string(),
        "token_ns": pa.list_(pa.int64()),
        "tokens_per_arrival": pa.list_(pa.int32()),
        "output_tokens": pa.list_(pa.int32()),
        "first_tokens": pa.list_(pa.int32()),
    }
    names = (*_SAMPLE_FIELDS, *_REPLY_FIELDS)
    return pa.schema([(name, types.get(name, pa.int64())) for name in names])


PACKING: dict[str, Any] = {
    "use_dictionary": ["phase", "counted_by", "finish", "error"],
    "column_encoding": dict.fromkeys(
        ["token_ns.list.element", "sent_ns", "end_ns", "due_ns"], "DELTA_BINARY_PACKED"
    ),
}


def _parquet_writer(path: Path, trial: str) -> Any:
    import pyarrow.parquet as pq

    schema = arrow_schema().with_metadata({OWNER: trial.encode()}) if trial else arrow_schema()
    return pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True, **PACKING)


def thinned(
    source: Rows, *, arrivals: int, first_tokens: int, text: Callable[[str], str] = str
) -> Iterator[Any]:
    """A trial's samples, table after table: every request, but the bulk of its first ones only; null where it is left
    out.

    Token times are kept of the first requests that have no more than ``arrivals`` together, first tokens of the first
    ``first_tokens`` requests. ``text`` rewrites errors. Raises StoreError for a broken file.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    schema = arrow_schema()
    rows = seen = 0
    for batch in source.batches(ROW_GROUP):
        table = pa.Table.from_batches([batch])
        lengths = pc.list_value_length(table["token_ns"]).to_numpy()
        # A reply that was not streamed has no times, so nothing of it is left out.
        timed = (seen + np.cumsum(lengths) <= arrivals) | (lengths == 0)
        first = rows + np.arange(table.num_rows) < first_tokens
        nulls = pa.nulls(table.num_rows)  # of a column that an earlier version did not write
        columns = {
            field.name: table[field.name] if field.name in table.column_names else nulls.cast(field.type)
            for field in schema
        }
        for name, kept in (("token_ns", timed), ("tokens_per_arrival", timed), ("first_tokens", first)):
            nothing = pa.scalar(None, schema.field(name).type)
            columns[name] = pc.if_else(pa.array(kept), columns[name], nothing)
        errors = [None if error is None else text(error) for error in table["error"].to_pylist()]
        columns["error"] = pa.array(errors, type=pa.string())
        yield pa.table(columns, schema=schema)
        rows, seen = rows + table.num_rows, seen + int(lengths.sum())


def read_samples(stored: Rows | str | Path) -> Iterator[Sample]:
    """The samples of one trial, in the order they were stored; a path is that of the trial's own file.

    Raises StoreError when there are none, or when they were thinned: half of the times would pass for all of them.
    """
    source = stored if isinstance(stored, Rows) else Rows(Path(stored))
    for batch in source.batches(ROW_GROUP):
        for row in batch.to_pylist():
            own = {name: row.get(name) for name in _SAMPLE_FIELDS}
            reply = {name: row.get(name) for name in _REPLY_FIELDS}
            for name in ("token_ns", "tokens_per_arrival", "first_tokens"):
                if reply[name] is None:
                    raise StoreError(
                        f"{source.path}: {name} of request {reply['seq']} was left out when these results were kept"
                    )
                reply[name] = tuple(reply[name])
            if reply["output_tokens"] is not None:
                reply["output_tokens"] = tuple(reply["output_tokens"])
            yield Sample(**own, reply=Reply(**reply))

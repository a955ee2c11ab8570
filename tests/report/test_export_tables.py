"""The tidy tables: requests give the trials' figures, others read them, and the page shows each column."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loadgen.analysis.analyse import analyse
from loadgen.metrics.summary import summarise
from loadgen.report import export
from loadgen.report.export_columns import CAPACITY_COLUMNS, REQUEST_COLUMNS, TRIAL_COLUMNS, VERSION
from loadgen.report.export_tables import request_table
from loadgen.request_records import Reply, Sample
from loadgen.results.rows import Rows
from loadgen.results.samples import thinned
from loadgen.results.store import Store

DAYS_NS = 400 * 86_400 * 10**9  # a host that has been up for so long: more digits than a float has
PAGE = (Path(__file__).parents[2] / "docs" / "exports.md").read_text()


def sample(seq: int, **reply: Any) -> Sample:
    sent_ns = DAYS_NS + seq * 10_000_001
    stamps = tuple(sent_ns + at for at in (3_000_000 + seq, 4_000_000, 9_000_003 + seq * seq))
    given = {
        "token_ns": stamps,
        "tokens_per_arrival": (2, 2, 4),
        "output_tokens": (4, 4),
        "end_ns": stamps[-1] + 5,
    }
    return Sample(
        phase="warmup" if seq == 0 else "measured",
        batch_size=2,
        input_tokens=20,
        output_tokens_asked=4,
        due_ns=sent_ns - 1_000_000 if seq % 2 else None,
        reply=Reply(seq=seq, sent_ns=sent_ns, **(given | reply)),
    )


SAMPLES = (
    *(sample(seq) for seq in range(12)),
    sample(12, token_ns=(), tokens_per_arrival=()),  # not streamed
    sample(13, error='BadReply: "quoted",\nand in two lines', output_tokens=None),
    sample(14, output_tokens=None),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, build: Any) -> Path:
    path = tmp_path_factory.mktemp("results") / "mine"
    closed = build.trial(batch=2, kind="closed", concurrency=4)
    open_loop = build.trial(batch=2, kind="poisson", rate=3.0)
    with Store.create(path, {"name": "mine"}) as store:
        for trial in (closed, open_loop):
            writer = store.sample_writer(trial.id)
            for each in SAMPLES:
                writer.add(each)
            writer.close()
            store.append(build.result(trial))
    return path


@pytest.fixture(scope="module")
def files(folder: Path) -> dict[str, list[Path]]:
    return {kind: export.write([folder], kind) for kind in ("csv", "parquet")}


def test_what_was_sent_at_once_is_not_what_was_in_flight(files: dict[str, list[Path]]) -> None:
    closed, open_loop = pq.read_table(files["parquet"][0]).to_pylist()
    assert (closed["load"], closed["batch"], closed["concurrency"], closed["sequences"]) == (
        "closed",
        2,
        4,
        8,
    )
    assert (open_loop["batch"], open_loop["concurrency"], open_loop["sequences"]) == (2, None, None)
    assert (closed["rate_per_s"], open_loop["rate_per_s"]) == (None, 3.0)
    assert closed["schema_version"] == VERSION


def test_the_requests_give_the_trials_figures_to_the_nanosecond(folder: Path) -> None:
    table = request_table(analyse([folder])).to_pandas()
    measured = table[(table.phase == "measured") & (table.trial == table.trial[0])]
    summary = summarise(SAMPLES)
    for name, dist in (("e2e_s", summary.e2e_s), ("ttft_s", summary.ttft_s), ("tpot_s", summary.tpot_s)):
        values = measured[name].dropna()
        assert dist is not None
        told = (len(values), values.max(), values.min(), values.quantile(0.5, interpolation="lower"))
        assert told == pytest.approx((dist.n, dist.max, dist.min, dist.p50), rel=1e-12), name
    first, not_streamed, failed, uncounted = (table[table.request == seq].iloc[0] for seq in (0, 12, 13, 14))
    assert (first.sent_s, first.phase) == (0, "warmup")
    assert not_streamed.e2e_s == pytest.approx(0.009000003 + 144e-9 + 5e-9, abs=1e-12)
    assert not_streamed[["ttft_s", "tpot_s"]].isna().all()
    assert failed[["e2e_s", "ttft_s", "tpot_s"]].isna().all()
    assert pandas.isna(uncounted.output_tokens)
    assert pandas.isna(uncounted.tpot_s)
    assert not pandas.isna(uncounted.ttft_s)


def read(reader: str, path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """A table's columns and rows, absence as ``None``."""
    if reader == "pandas":
        frame = pandas.read_csv(path) if path.suffix == ".csv" else pandas.read_parquet(path)
        rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
        return list(frame.columns), [{str(key): value for key, value in row.items()} for row in rows]
    if reader == "polars":
        table = polars.read_csv(path) if path.suffix == ".csv" else polars.read_parquet(path)
        return table.columns, table.to_dicts()
    found = duckdb.sql(f"select * from '{path}'")
    return found.columns, [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


@pytest.mark.parametrize("reader", ["pandas", "polars", "duckdb"])
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_others_read_the_tables(files: dict[str, list[Path]], reader: str, kind: str) -> None:
    trials, requests = (read(reader, path) for path in files[kind])
    assert trials[0] == [column.name for column in TRIAL_COLUMNS]
    assert requests[0] == [column.name for column in REQUEST_COLUMNS]
    expected = pq.read_table(files["parquet"][1]).to_pylist()
    assert len(requests[1]) == len(expected) == 2 * len(SAMPLES)
    for name in ("trial", "request", "e2e_s", "ttft_s", "due_s", "error"):
        assert [row[name] for row in requests[1]] == pytest.approx([row[name] for row in expected]), name
    assert [row["concurrency"] for row in trials[1]] == [4, None]


def test_a_kept_copy_has_no_latency_where_its_token_times_were_left_out(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "kept")
    for path in (tmp_path / "kept" / "samples").iterdir():
        pq.write_table(pa.concat_tables(thinned(Rows(path), arrivals=6, first_tokens=0)), path)
    table = request_table(analyse([tmp_path / "kept"])).to_pandas()
    own = table[table.trial == table.trial[0]]
    assert own.e2e_s.notna().tolist() == [True, True, *[False] * 10, True, False, False]
    assert own.end_s.notna().all()


def test_the_page_shows_every_column_and_the_version() -> None:
    assert f"version {VERSION}" in PAGE
    for title, columns in (
        ("trials", TRIAL_COLUMNS),
        ("requests", REQUEST_COLUMNS),
        ("capacities", CAPACITY_COLUMNS),
    ):
        section = PAGE.partition(f"## The table of {title}")[2].partition("\n## ")[0]
        shown = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*) \|$", section, flags=re.M)
        assert shown == [(column.name, column.kind, column.meaning) for column in columns]


def test_searches_for_capacity_are_a_table_of_their_own(tmp_path: Path) -> None:
    kept = Path(__file__).parents[2] / "docs/results/h200-capacity"
    found = analyse([kept / "vllm-tp1-start1", kept / "hf-continuous-tp1"])
    paths = export.write_parquet(found, tmp_path / "trials.parquet") + export.write_csv(
        found, tmp_path / "mine.csv"
    )
    assert [path.name for path in paths] == [
        "trials.parquet", "requests.parquet", "capacities.parquet", "mine.csv", "mine-requests.csv",
        "mine-capacities.csv",
    ]  # fmt: skip
    table = pq.read_table(paths[2])
    assert table.column_names == [column.name for column in CAPACITY_COLUMNS]
    vllm, none = table.to_pylist()
    assert (vllm["source"], vllm["server"], vllm["tp"], vllm["start"]) == (
        "vllm-tp1-start1", "vllm/vllm 0.25.1", 1, 1,
    )  # fmt: skip
    assert vllm["capacity_low"] < vllm["capacity"] < vllm["capacity_high"]
    assert (vllm["binding"], vllm["variable"], vllm["arrivals"], vllm["burstiness"]) == (
        "tpot",
        "rate",
        "gamma",
        1.0,
    )
    assert (none["ended"], none["why"], none["capacity"]) == ("none", "one request alone misses tpot", None)
    assert pandas.read_csv(paths[5])["capacity"].notna().tolist() == [True, False]

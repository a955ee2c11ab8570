"""Results survive: torn lines, crashes, resumes, a second writer; samples come back exactly."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from loadgen.errors import BadInput, NotResults, StoreError
from loadgen.load_records import LoadSpec
from loadgen.records import (
    SCHEMA_VERSION,
    Caveat,
    ClientQuality,
    Environment,
    Failure,
    ModelSpec,
    ServerSpec,
    Trial,
    TrialResult,
)
from loadgen.request_records import Reply, Sample
from loadgen.results import capacity_log
from loadgen.results.record_json import from_json, to_json
from loadgen.results.rows import Rows, shared_rows
from loadgen.results.store import SampleWriter, Store, open_results, read_samples

MODEL = ModelSpec(
    name="tiny",
    layers=2,
    hidden=64,
    intermediate=128,
    heads=4,
    kv_heads=2,
    head_dim=16,
    vocab=512,
    max_context=256,
)


def result(trial_id: str, *, failure: Failure | None = None) -> TrialResult:
    return TrialResult(
        trial=Trial(
            id=trial_id,
            load=LoadSpec(kind="static", input_tokens=8, output_tokens=4, batch_size=2),
            server=ServerSpec(framework="hf", model=MODEL, gpus=(0, 1), tp=2, options={"engine": "generate"}),
        ),
        environment="e1",
        engine={"name": "hf/generate", "versions": {"torch": "2.13"}},
        started="2026-01-01T00:00:00+00:00",
        wall_s=1.5,
        client=ClientQuality(driver="openai-raw", stamps="kernel", cpu_share=0.1),
        caveats=(Caveat(kind="few", message="3 samples", remedy="raise requests"),),
        failure=failure,
    )


def sample(seq: int, *, error: str | None = None) -> Sample:
    reply = Reply(
        seq=seq,
        sent_ns=10**18 + seq,
        end_ns=10**18 + seq + 500,
        token_ns=() if error else (10**18 + seq + 100, 10**18 + seq + 300),
        tokens_per_arrival=() if error else (1, 2),
        output_tokens=None if error else (3,),
        counted_by=None if error else "ids",
        first_tokens=() if error else (7, 8),
        error=error,
    )
    return Sample(
        phase="measured", batch_size=1, input_tokens=8, output_tokens_asked=3, due_ns=None, reply=reply
    )


def test_a_result_comes_back_equal() -> None:
    for original in (
        result("a"),
        result("b", failure=Failure(error="ServerDied", message="x", phase="load")),
    ):
        assert from_json(TrialResult, to_json(original)) == original


def test_results_are_kept_over_a_reopening_and_the_newest_counts(tmp_path: Path) -> None:
    with Store.create(tmp_path, {"name": "s"}) as store:
        store.append(result("a", failure=Failure(error="ServerDied", message="x", phase="load")))
        store.append(result("b"))
    with Store.create(tmp_path, {"name": "s"}) as store:
        store.append(result("a"))
        assert [(r.trial.id, r.failure) for r in store.results()] == [("b", None), ("a", None)]
    assert len(open_results(tmp_path).results()) == 2


def test_a_torn_last_line_is_cut_and_the_rest_kept(tmp_path: Path) -> None:
    with Store.create(tmp_path, {}) as store:
        store.append(result("a"))
    with (tmp_path / "trials.jsonl").open("ab") as file:
        file.write(to_json(result("b"))[:40])
    assert [r.trial.id for r in open_results(tmp_path).results()] == ["a"]
    with Store.create(tmp_path, {}) as store:
        assert store.repaired
        store.append(result("c"))
    assert [r.trial.id for r in open_results(tmp_path).results()] == ["a", "c"]


def test_a_broken_middle_line_is_an_error_with_its_number(tmp_path: Path) -> None:
    with Store.create(tmp_path, {}) as store:
        store.append(result("a"))
    path = tmp_path / "trials.jsonl"
    path.write_bytes(b'{"trial": 3}\n' + path.read_bytes())
    with pytest.raises(StoreError, match="line 1"):
        open_results(tmp_path).results()


def test_a_byte_order_mark_and_blank_lines_are_passed_over(tmp_path: Path) -> None:
    with Store.create(tmp_path, {"name": "s"}) as store:
        store.append(result("a"))
    for name in ("sweep.json", "trials.jsonl"):
        path = tmp_path / name
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\n")
    shutil.copy(tmp_path / "trials.jsonl", tmp_path / "search.jsonl")
    assert [each.trial.id for each in open_results(tmp_path).results()] == ["a"]
    assert [each.trial.id for each in capacity_log.trials(tmp_path)] == ["a"]
    (tmp_path / "capacity.jsonl").write_bytes(b"\n[]\n")
    with pytest.raises(NotResults, match="line 2 is not a Capacity"):
        capacity_log.outcomes(tmp_path)


def test_two_writers_are_refused(tmp_path: Path) -> None:
    with Store.create(tmp_path, {}), pytest.raises(BadInput, match=f"process {os.getpid()} is writing to it"):
        Store.create(tmp_path, {})


def test_environments_survive_a_resume(tmp_path: Path) -> None:
    environment = Environment(
        id="e1", host="h", os="Linux", cpu="c", cpus=2, memory_bytes=1, gpus=({"name": "H200"},), driver=None,
        cuda=None, packages={"numpy": "1.26"}, commit=None, argv=("loadgen",), started="now",
    )  # fmt: skip
    with Store.create(tmp_path, {}) as store:
        store.add_environment(environment)
    with Store.create(tmp_path, {"name": "again"}):
        pass
    reopened = open_results(tmp_path)
    assert reopened.environments() == {"e1": environment}
    assert reopened.sweep["name"] == "again"


def test_not_a_results_folder(tmp_path: Path) -> None:
    assert issubclass(NotResults, BadInput), "whoever names the wrong folder gave bad input: exit code 2"
    with pytest.raises(NotResults, match=r"no sweep\.json"):
        open_results(tmp_path)
    (tmp_path / "sweep.json").write_text('{"schema_version": 99}')
    with pytest.raises(NotResults, match="version 99"):
        open_results(tmp_path)


def test_samples_come_back_exactly_over_several_row_groups(tmp_path: Path) -> None:
    written = [sample(n, error="TimedOut: first byte" if n % 1000 == 7 else None) for n in range(20_000)]
    writer = SampleWriter(tmp_path / "samples" / "t.parquet")
    for one in written:
        writer.add(one)
    assert not writer.path.exists()
    writer.close()
    assert list(read_samples(writer.path)) == written


def test_a_line_of_another_version_and_one_that_is_none_are_told_in_one_line(tmp_path: Path) -> None:
    with Store.create(tmp_path / "r", {"name": "r"}) as store:
        store.append(replace(result("a"), schema_version=SCHEMA_VERSION + 1))
    path = tmp_path / "r/trials.jsonl"
    with pytest.raises(
        StoreError, match=f"line 1 is of schema version {SCHEMA_VERSION + 1}; this loadgen reads"
    ):
        open_results(tmp_path / "r").results()
    path.write_bytes(b"\xff\xfe{}\n")
    with pytest.raises(NotResults, match=r"^[^\n]*line 1 is not a trial result: Invalid JSON[^\n]*$"):
        open_results(tmp_path / "r").results()
    path.write_bytes(b'{"trial": {"id": 5}}\n')
    with pytest.raises(StoreError, match=r"^[^\n]*: trial.id: Input should be a valid string[^\n]*$"):
        open_results(tmp_path / "r").results()


def test_samples_under_another_trials_name_are_nobodys(tmp_path: Path) -> None:
    with Store.create(tmp_path / "r", {"name": "r"}) as store:
        for name in ("a", "b"):
            writer = store.sample_writer(name)
            writer.add(sample(1))
            writer.close()
            assert store.has_samples(name)
    (tmp_path / "r/samples/a.parquet").replace(tmp_path / "r/samples/b.parquet")
    results = open_results(tmp_path / "r")
    assert not results.has_samples("b")
    (told,) = results.broken
    assert told.endswith("b.parquet: holds the samples of trial a, not of b")


LATE_IMPORTS = """
import pathlib, sys
from loadgen.request_records import (Reply, Sample)
from loadgen.results.samples import PACK_ROWS, SampleWriter
writer = SampleWriter(pathlib.Path(sys.argv[1]) / "t.parquet")
known = set(sys.modules)
stamps = tuple(range(64))
reply = Reply(seq=0, sent_ns=0, end_ns=9, token_ns=stamps, tokens_per_arrival=stamps, output_tokens=(64,), error=None)
sample = Sample(phase="measured", batch_size=1, input_tokens=1, output_tokens_asked=64, due_ns=None, reply=reply)
for _ in range(PACK_ROWS):
    writer.add(sample)
print(*sorted(set(sys.modules) - known))
writer.close()
"""


def test_nothing_is_imported_while_requests_are_sent(tmp_path: Path) -> None:
    """The first rows packed would import pandas, where it is: half a second in which no request goes out."""
    argv = [sys.executable, "-c", LATE_IMPORTS, str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
    assert len(list(read_samples(tmp_path / "t.parquet"))) == 128


def test_an_abandoned_or_empty_file(tmp_path: Path) -> None:
    writer = SampleWriter(tmp_path / "t.parquet")
    writer.abandon()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StoreError, match="no such file"):
        next(read_samples(writer.path))
    empty = SampleWriter(tmp_path / "empty.parquet")
    empty.close()
    assert list(read_samples(empty.path)) == []


def test_a_result_is_on_disk_before_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it a crash of the machine, which no test can have, takes trials that the live view called finished."""
    synced: list[bytes] = []

    def fsync(fd: int) -> None:
        synced.append(Path(f"/proc/self/fd/{fd}").resolve().read_bytes())

    with Store.create(tmp_path / "r", {"name": "r"}) as store:
        monkeypatch.setattr("loadgen.results.store.os.fsync", fsync)
        store.append(result("a"))
        assert [line.count(b"\n") for line in synced] == [1]
        store.append(result("b"))
        assert [line.count(b"\n") for line in synced] == [1, 2]


@pytest.mark.parametrize("key", ["environments", "plan", "kept"])
def test_a_sweep_json_of_other_types_is_one_clear_error(tmp_path: Path, key: str) -> None:
    (tmp_path / "sweep.json").write_text(f'{{"schema_version": 1, "{key}": 5}}')
    with pytest.raises(NotResults, match=f"{key} is no"):
        open_results(tmp_path)


def test_a_plan_and_an_environment_that_are_none_are_told(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text('{"schema_version": 1, "plan": [5], "environments": {"a": {}}}')
    with pytest.raises(StoreError, match="trial 1 of the plan is none"):
        open_results(tmp_path).plan()
    with pytest.raises(StoreError, match="environment a is none"):
        open_results(tmp_path).environments()


def test_a_parquet_of_other_columns_is_no_samples(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text('{"schema_version": 1}')
    (tmp_path / "samples").mkdir()
    pq.write_table(pa.table({"phase": ["measured"]}), tmp_path / "samples" / "x.parquet")
    results = open_results(tmp_path)
    assert not results.has_samples("x")
    assert "lacks end_ns" in results.broken[0]


def test_text_in_a_parquet_that_is_no_utf_8_is_a_broken_file(tmp_path: Path) -> None:
    """A byte that a disk turned: the file's own table of contents is whole, and so is every page of it."""
    column = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\4\0\0\0"), pa.py_buffer(b"\xd7eas"))
    table = pa.table({"trial": ["x"], "phase": column, "sent_ns": [1], "end_ns": [2], "token_ns": [[2]]})
    pq.write_table(table.drop_columns(["trial"]), tmp_path / "own.parquet")
    pq.write_table(table, tmp_path / "shared.parquet")
    for read in (
        lambda: list(read_samples(tmp_path / "own.parquet")),
        lambda: Rows(tmp_path / "own.parquet").table(["phase"]),
        lambda: Rows(tmp_path / "own.parquet").table(where=pc.field("sent_ns") > 0),
        lambda: shared_rows(tmp_path / "shared.parquet", ["phase"]),
    ):
        with pytest.raises(StoreError, match="not readable"):
            read()


def test_samples_of_which_a_bit_was_turned_are_none(tmp_path: Path) -> None:
    """What is read then is right in form, and another number: nothing but a checksum tells."""
    with Store.create(tmp_path, {"name": "s"}) as store:
        writer = store.sample_writer("a")
        for seq in range(50):
            writer.add(sample(seq))
        writer.close()
    path = tmp_path / "samples" / "a.parquet"
    assert open_results(tmp_path).has_samples("a")
    group, data = pq.read_metadata(path).row_group(0), path.read_bytes()
    for column in map(group.column, range(group.num_columns)):
        place = (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size - 1
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        results = open_results(tmp_path)
        assert not results.has_samples("a"), column.path_in_schema
        assert "not readable" in results.broken[0]


def test_a_sweep_json_that_is_deleted_meanwhile_is_written_anew(tmp_path: Path) -> None:
    with Store.create(tmp_path, {"name": "s"}) as store:
        (tmp_path / "sweep.json").unlink()
        store.append(result("a"))
    assert open_results(tmp_path).sweep["name"] == "s"
    with Store.create(tmp_path, {"name": "s"}) as store:
        (tmp_path / "sweep.json").unlink()
        (tmp_path / "sweep.json").mkdir()
        with pytest.raises(StoreError, match=r"sweep.json: cannot be written"):
            store.append(result("b"))

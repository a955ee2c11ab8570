"""What of a trace is taken, how fast, and what is counted; the public extracts."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest

from loadgen.errors import BadInput
from loadgen.traces.files import PLAIN, TraceExtent, measure_trace, open_rows
from loadgen.traces.rows import TraceRow
from loadgen.workload_records import Replay

EXTRACTS = Path(__file__).parents[1] / "data" / "traces"
CODE = EXTRACTS / "AzureLLMInferenceTrace_code.first2000.csv"
CONVERSATION = EXTRACTS / "mooncake_conversation_trace.first2000.jsonl"
SYNTHETIC = EXTRACTS / "mooncake_synthetic_trace.first1000.jsonl"


def write(path: Path, rows: list[tuple[float, int, int]], **more: object) -> str:
    lines = [
        json.dumps({"timestamp": at, "input_length": asked, "output_length": given, "hash_ids": [], **more})
        for at, asked, given in rows
    ]
    path.write_text("\n".join(lines))
    return str(path)


def rows_of(path: str | Path, replay: Replay = PLAIN, seed: int = 0) -> list[TraceRow]:
    with open_rows(str(path), replay, seed) as rows:
        return list(rows)


@pytest.mark.parametrize(
    ("name", "rows", "span_s", "hits"),
    [
        ("AzureLLMInferenceTrace_code.first2000.csv", 2000, 853.079347, None),
        ("AzureLLMInferenceTrace_conv.first2000.csv", 2000, 424.259457, None),
        ("mooncake_conversation_trace.first2000.jsonl", 2000, 669.0, 0.289),
        ("mooncake_synthetic_trace.first1000.jsonl", 1000, 272.653, 0.168),
    ],
)
def test_the_public_extracts_load(name: str, rows: int, span_s: float, hits: float | None) -> None:
    found = measure_trace(str(EXTRACTS / name))
    assert (found.requests, found.unsorted, found.taken.empty) == (rows, 0, 0)
    assert found.span_s == pytest.approx(span_s, abs=1e-9)
    assert (None if found.hit_share is None else round(found.hit_share, 3)) == hits


def test_offsets_of_real_rows_are_exact() -> None:
    code, synthetic = rows_of(CODE), rows_of(SYNTHETIC)
    assert code[0] == TraceRow(0, 4808, 10)
    assert code[1][:3] == (52_000_000, 3180, 8)  # 18:17:04.0319600 - 18:17:03.9799600
    assert all(row.offset_ns % 1000 == 0 for row in code)
    lines = [json.loads(line) for line in SYNTHETIC.read_text().splitlines()]
    assert [row.offset_ns for row in synthetic] == [line["timestamp"] * 1_000_000 for line in lines]


def test_a_coarse_clock_is_told_and_may_be_spread() -> None:
    found = measure_trace(str(CONVERSATION))
    assert found.grid_s == pytest.approx(3.0, abs=0.01)
    assert measure_trace(str(SYNTHETIC)).grid_s is None
    plain, spread = rows_of(CONVERSATION), rows_of(CONVERSATION, Replay(spread_s=3.0), seed=4)
    at = [row.offset_ns for row in spread]
    assert at == sorted(at)
    assert len(set(at)) == len(at)
    assert sorted(row[1:] for row in spread) == sorted(row[1:] for row in plain)
    assert 0 <= min(at) <= max(at) < (669 + 3) * 10**9
    assert rows_of(CONVERSATION, Replay(spread_s=3.0), seed=4) == spread
    assert rows_of(CONVERSATION, Replay(spread_s=3.0), seed=5) != spread


def test_rows_without_work_are_left_out_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "t", [(5, 3, 1), (6, 0, 4), (7, 3, 0), (9, 4, 2)])
    found = measure_trace(path)
    assert (found.requests, found.taken.rows, found.taken.empty) == (2, 4, 2)
    assert [row.offset_ns for row in rows_of(path)] == [0, 4_000_000]
    assert found.facts()["empty"] == 2


def test_rows_out_of_order_are_sorted_and_counted(tmp_path: Path) -> None:
    stamps = list(range(50))
    random.Random(3).shuffle(stamps)
    path = write(tmp_path / "t", [(stamp // 5, 1 + stamp, 1) for stamp in stamps])
    found = measure_trace(path)
    assert found.unsorted == sum(a // 5 > b // 5 for a, b in itertools.pairwise(stamps))
    rows = rows_of(path)
    assert [row.offset_ns for row in rows] == [stamp // 5 * 1_000_000 for stamp in range(50)]
    same = [row.input_tokens - 1 for row in rows[:5]]
    assert same == [stamp for stamp in stamps if stamp < 5], "equal instants keep the file's order"


@pytest.mark.parametrize(
    ("replay", "offsets_ms"),
    [
        (Replay(), [0, 1000, 2000, 5000, 10000]),
        (Replay(speed=4.0), [0, 250, 500, 1250, 2500]),
        (Replay(rate=8.0), [0, 50, 100, 250, 500]),  # four gaps in 10 s are 0.4 per second
        (Replay(from_s=1.0, to_s=10.0), [0, 1000, 4000]),
        (Replay(from_s=2.0, rate=1.0), [0, 750, 2000]),
    ],
)
def test_times(tmp_path: Path, replay: Replay, offsets_ms: list[int]) -> None:
    path = write(tmp_path / "t", [(at, 2, 2) for at in (100, 1100, 2100, 5100, 10100)])
    assert [row.offset_ns for row in rows_of(path, replay)] == [at * 1_000_000 for at in offsets_ms]


def test_a_rate_needs_requests_at_more_than_one_instant(tmp_path: Path) -> None:
    path = write(tmp_path / "t", [(1, 2, 2), (1, 2, 2)])
    with pytest.raises(BadInput, match="rate = 2: its requests all come at once"):
        measure_trace(path, Replay(rate=2.0))


@pytest.mark.parametrize("replay", [Replay(speed=1e-9), Replay(rate=1e-10)])
def test_a_pace_whose_times_no_clock_holds_is_refused_before_the_load(tmp_path: Path, replay: Replay) -> None:
    path = write(tmp_path / "t", [(0, 2, 2), (10_000, 2, 2)])
    with pytest.raises(
        BadInput, match=r"its last request would come after 1e\+10 s \(accepted: up to 4e\+09 s\)"
    ):
        measure_trace(path, replay)


def test_a_sample_keeps_whole_sessions(tmp_path: Path) -> None:
    lines = [
        json.dumps({"chat_id": chat * 10 + turn, "parent_chat_id": chat * 10 + turn - 1 if turn else -1,
                    "timestamp": chat + turn / 4, "input_length": 1 + chat, "output_length": 1})
        for chat in range(1, 401) for turn in range(4)
    ]  # fmt: skip
    path = tmp_path / "t"
    path.write_text("\n".join(lines))
    found = measure_trace(str(path), Replay(sample=0.25))
    assert found.taken.not_sampled == 1600 - found.requests
    assert 60 < found.requests / 4 < 140
    kept = [row.input_tokens for row in rows_of(path, Replay(sample=0.25))]
    assert {kept.count(chat) for chat in set(kept)} == {4}


def test_what_is_too_long_fails_is_left_out_or_cut(tmp_path: Path) -> None:
    row = {"timestamp": 0, "input_length": 1500, "output_length": 100, "hash_ids": [1, 2, 3]}
    small = {"timestamp": 1, "input_length": 10, "output_length": 5, "hash_ids": [1]}
    huge = {"timestamp": 2, "input_length": 5, "output_length": 5000, "hash_ids": [4]}
    path = tmp_path / "t"
    path.write_text("\n".join(map(json.dumps, (row, small, huge))))
    with pytest.raises(BadInput, match=r"1500 input \+ 100 output tokens is over the context of 1000"):
        measure_trace(str(path), Replay(max_context=1000))
    left = measure_trace(str(path), Replay(max_context=1000, too_long="skip"))
    assert (left.requests, left.taken.too_long, left.longest) == (1, 2, 15)
    cut = rows_of(path, Replay(max_context=1000, too_long="cut"))
    assert [each[1:3] + each[4:5] for each in cut] == [(900, 100, (1, 2)), (10, 5, (1,)), (1, 999, (4,))]
    assert measure_trace(str(path), Replay(max_context=1000, too_long="cut")).taken.cut == 2


def test_a_trace_of_which_nothing_is_left_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "t", [(1, 0, 0)])
    with pytest.raises(BadInput, match="holds no request that is taken"):
        measure_trace(path)


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "t", [(1, 2, 2)])
    first: TraceExtent = measure_trace(path)
    write(tmp_path / "t", [(1, 2, 2), (2, 33, 2)])
    assert (first.requests, measure_trace(path).requests) == (1, 2)

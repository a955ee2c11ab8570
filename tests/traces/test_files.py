"""A trace file: one reading for plan and load, and one error, before anything starts."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from loadgen.errors import BadInput
from loadgen.load.arrivals import schedule
from loadgen.load_records import LoadSpec
from loadgen.traces.files import measure_trace, open_rows

ROW = '{"offset_s": %s, "input_tokens": 5, "output_tokens": 6}'


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2: not JSON"),
        ("[" * 100_000, "line 2: not JSON"),
        ("[]", "line 2: not an object"),
        (ROW % -1, "offset_s = -1"),
        (ROW % 0.5, "before the line above"),
        (ROW % "1e10", "offset_s = 10000000000.0"),
        ('{"offset_s": 1}', "input_tokens = None"),
        ('{"offset_s": 1, "input_tokens": 5, "output_tokens": 0}', "output_tokens = 0"),
        ('{"offset_s": 1, "input_tokens": true, "output_tokens": 1}', "input_tokens = True"),
        ('{"offset_s": NaN, "input_tokens": 1, "output_tokens": 1}', "offset_s = nan"),
    ],
)
def test_a_bad_row_is_one_error_for_plan_and_load(line: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(f"{ROW % 1}\n{line}\n")
    with pytest.raises(BadInput, match=words) as planned:
        measure_trace(str(path))
    load = LoadSpec(kind="trace", trace=str(path), requests=2, input_tokens=5, output_tokens=6)
    with pytest.raises(BadInput, match=words) as sent, open_rows(str(path)) as rows:
        list(schedule(load, rows))
    assert str(planned.value) == str(sent.value)
    assert str(sent.value).startswith(f"{path}: line 2: ")


def test_the_extent_of_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    content = b'{"offset_s": 0, "input_tokens": 9, "output_tokens": 1}\r\n\r\n' + (ROW % 0).encode()
    path.write_bytes(content)
    found = measure_trace(str(path))
    assert (found.input_tokens, found.output_tokens, found.requests) == (9, 6, 2)
    assert found.digest == hashlib.sha256(content).hexdigest()[:16]


def test_an_empty_and_a_missing_trace(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("\n\n")
    with pytest.raises(BadInput, match=r"t\.jsonl: holds no request"):
        measure_trace(str(path))
    path.unlink()
    with pytest.raises(BadInput, match=r"t\.jsonl: cannot be read: No such file"):
        measure_trace(str(path))
    with pytest.raises(
        BadInput, match=f"No such file or directory; a relative path counts from .*{Path.cwd()}"
    ):
        measure_trace("no-such/t.jsonl")
    with pytest.raises(BadInput, match="cannot be read: is a folder, not a file"):
        measure_trace(str(tmp_path))


def test_a_byte_order_mark_is_passed_over_and_latin_1_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + (ROW % 0).encode())
    assert measure_trace(str(path)).requests == 1
    path.write_bytes((ROW % 0).encode()[:-1] + b', "note": "gr\xfc\xdfe"}')
    with pytest.raises(BadInput, match=r"t\.jsonl: line 1: not JSON"):
        measure_trace(str(path))


def test_the_file_is_read_a_row_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(ROW % number for number in range(5000)))
    with open_rows(str(path)) as rows:
        assert next(rows)[:3] == (0, 5, 6)
        assert next(rows)[:3] == (1_000_000_000, 5, 6)

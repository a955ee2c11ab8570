"""Readers of public formats: each quirk by hand."""

from __future__ import annotations

import pytest

from loadgen.errors import BadInput
from loadgen.traces.formats import FORMATS, Reader, reader_of
from loadgen.traces.rows import TraceRow

AZURE = b"TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
BURSTGPT = b"Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
BURSTGPT_3 = b"Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
MOONCAKE = b'{"timestamp": 27482, "input_length": 600, "output_length": 52, "hash_ids": [46, 47]}\n'
BAILIAN = (
    b'{"chat_id": 7, "parent_chat_id": -1, "timestamp": 61.114, "input_length": 20, "output_length": 3, '
    b'"type": "text", "turn": 1, "hash_ids": [18446744073709551615, 2]}\n'
)


def reader(first: bytes, **more: object) -> Reader:
    return reader_of(first, "t", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("first", "name"),
    [
        (AZURE, "azure"), (b"\xef\xbb\xbf" + AZURE, "azure"), (BURSTGPT, "burstgpt"), (BURSTGPT_3, "burstgpt"),
        (MOONCAKE, "mooncake"), (BAILIAN, "bailian"), (b'{"offset_s": 0}', "loadgen"), (b"a,b\n", "loadgen"),
    ],
)  # fmt: skip
def test_a_format_is_recognised_by_its_first_line(first: bytes, name: str) -> None:
    assert reader(first).format == name


def test_an_unknown_format_is_one_error() -> None:
    with pytest.raises(
        BadInput, match=r"t: format = 'csv' \(accepted: loadgen, azure, burstgpt, mooncake, bailian\)"
    ):
        reader(AZURE, wanted="csv")


@pytest.mark.parametrize(
    ("stamp", "ns"),
    [
        (b"1970-01-01 00:00:01", 1_000_000_000),
        (b"2023-11-16 18:17:03.9799600", 1_700_158_623_979_960_000),
        (b"2024-05-10 00:00:00.009930+00:00", 1_715_299_200_009_930_000),
        (b"2024-05-10T00:00:00.5Z", 1_715_299_200_500_000_000),
    ],
)
def test_azures_instants_are_exact(stamp: bytes, ns: int) -> None:
    assert reader(AZURE).parse(stamp + b",4808,10\r\n", "w") == TraceRow(ns, 4808, 10)


def test_burstgpts_rows_with_and_without_sessions() -> None:
    assert reader(BURSTGPT).parse(b"45.5,ChatGPT,472,0,472,Conversation log\n", "w") == TraceRow(
        45_500_000_000, 472, 0
    )
    third = reader(BURSTGPT_3)
    one, two, other = (
        third.parse(b"5,%s,1.2,GPT-4,18,9,27,Conversation log\n" % name, "w")
        for name in (b"s-1", b"s-1", b"s-2")
    )
    assert one[:3] == (5_000_000_000, 18, 9)
    assert one.session == two.session != other.session


def test_hashed_blocks_in_milliseconds_and_in_seconds() -> None:
    assert reader(MOONCAKE).parse(MOONCAKE, "w") == TraceRow(27_482_000_000, 600, 52, None, (46, 47))
    row = reader(BAILIAN).parse(BAILIAN, "w")
    assert row == TraceRow(61_114_000_000, 20, 3, 7, (2**64 - 1, 2))
    assert reader(BAILIAN).block_tokens == 16


def test_a_conversation_is_one_session_from_its_first_chat_on() -> None:
    bailian = reader(BAILIAN)
    line = b'{"chat_id": %d, "parent_chat_id": %d, "timestamp": 1, "input_length": 1, "output_length": 1}'
    sessions = [
        bailian.parse(line % pair, "w").session for pair in ((1, -1), (5, 1), (9, 5), (6, 1), (2, -1), (7, 3))
    ]
    assert sessions == [1, 1, 1, 1, 2, 3]


@pytest.mark.parametrize(
    ("first", "line", "words"),
    [
        (AZURE, b"2023-11-16,1,1", r"TIMESTAMP = '2023-11-16' \(accepted: such as"),
        (AZURE, b"2023-02-30 00:00:00,1,1", "no such day"),
        (AZURE, b"2023-02-20 24:00:00,1,1", "no such time of day"),
        (AZURE, b"2023-02-20 23:60:00,1,1", "no such time of day"),
        (AZURE, b"2023-11-16 18:17:03,x,1", "ContextTokens = 'x'"),
        (AZURE, b"2023-11-16 18:17:03,-1,1", "ContextTokens = '-1'"),
        (AZURE, b"2023-11-16 18:17:03,1", "2 columns"),
        (BURSTGPT, b"soon,m,1,1", "Timestamp = nan"),
        (BURSTGPT, b"1e30,m,1,1", r"Timestamp = 1e\+30"),
        (MOONCAKE, b"{", "not JSON"),
        (MOONCAKE, b"[]", "not an object"),
        (MOONCAKE, MOONCAKE.replace(b"27482", b"-1"), "timestamp = -1"),
        (MOONCAKE, MOONCAKE.replace(b"600", b"-1"), "input_length = -1"),
        (
            MOONCAKE,
            MOONCAKE.replace(b"600", b"1100"),
            r"2 hash_ids for input_length = 1100: .* not of 512 tokens",
        ),
        (MOONCAKE, MOONCAKE.replace(b"46", b'"46"'), "hash_ids is no list of whole numbers"),
        (MOONCAKE, MOONCAKE.replace(b"46", b"1" + b"0" * 20), "hash_ids is no list of whole numbers"),
    ],
)
def test_a_bad_row_says_what_and_where(first: bytes, line: bytes, words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        reader(first).parse(line, "w")
    assert str(caught.value).startswith("w: ")


def test_a_header_without_a_column_says_which() -> None:
    with pytest.raises(BadInput, match="t: line 1: no column 'generatedtokens'"):
        reader(b"TIMESTAMP,ContextTokens\n")
    with pytest.raises(BadInput, match="no column 'timestamp'"):
        reader(MOONCAKE, wanted="azure")


def test_every_format_is_listed() -> None:
    assert {reader(line).format for line in (AZURE, BURSTGPT, MOONCAKE, BAILIAN, b'{"offset_s": 0}')} == set(
        FORMATS
    )

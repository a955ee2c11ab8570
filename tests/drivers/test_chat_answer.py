from __future__ import annotations

import json
from typing import Any

import pytest
from wire_rows import DONE, ROWS, Row, chunk, event

from loadgen.drivers.chat_answer import ChatAnswer
from loadgen.request_records import Reply, Request


def asked(stream: bool = True) -> Request:
    return Request(seq=5, phase="measured", prompts=((1, 2),), output_tokens=3, stream=stream)


def streamed(reads: list[bytes], kind: str = "text/event-stream") -> Reply:
    answer = ChatAnswer(asked(), 200, "OK", kind)
    for place, block in enumerate(reads):
        answer.feed(block, place + 1)
    return answer.reply(sent_ns=0, end_ns=99, reads=len(reads), lag_ns=None, error=None)


def whole(found: object) -> Reply:
    answer = ChatAnswer(asked(stream=False), 200, "OK", "application/json")
    answer.feed(json.dumps(found).encode(), 1)
    return answer.reply(sent_ns=0, end_ns=99, reads=1, lag_ns=None, error=None)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("kind", ["text/event-stream", "text/plain"])
def test_every_servers_stream_is_understood(row: Row, kind: str) -> None:
    reply = streamed(row.reads, kind)
    assert reply.error == row.error
    assert reply.token_ns == row.arrivals
    assert reply.first_answer_ns == row.answer
    assert (reply.usage_prompt_tokens, reply.usage_output_tokens) == (row.prompt, row.output)
    assert reply.output_tokens == (None if row.output is None else (row.output,))
    assert reply.finish == row.finish


def test_ids_count_before_usage() -> None:
    reply = streamed(ROWS["vLLM with ids"].reads)
    assert (reply.counted_by, reply.first_tokens) == ("ids", (5, 6, 7))


@pytest.mark.parametrize("cut", range(1, 12))
def test_where_reads_are_cut_changes_no_count(cut: int) -> None:
    stream = b"".join(ROWS["vLLM"].reads)
    size = len(stream) // cut
    reply = streamed([stream[at : at + size] for at in range(0, len(stream), size)])
    assert (reply.error, reply.output_tokens, reply.finish) == (None, (3,), "length")


@pytest.mark.parametrize(
    ("message", "finish"),
    [
        ({"role": "assistant", "content": "a b c"}, "length"),
        ({"role": "assistant", "content": None, "reasoning_content": "a b c"}, "length"),
        ({"role": "assistant", "content": [{"type": "text", "text": "a"}]}, "stop"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}, "tool_calls"),
        ({"role": "assistant", "refusal": "no"}, "stop"),
    ],
)
def test_a_whole_chat_is_counted_by_usage(message: dict[str, Any], finish: str) -> None:
    used = {"prompt_tokens": 9, "completion_tokens": 3}
    reply = whole({"choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": used})
    assert (reply.error, reply.output_tokens, reply.token_ns, reply.finish) == (None, (3,), (), finish)


def test_a_whole_message_of_anthropics() -> None:
    content = [{"type": "thinking", "thinking": "a"}, {"type": "text", "text": "b"}]
    used = {"input_tokens": 9, "output_tokens": 3}
    reply = whole({"type": "message", "content": content, "stop_reason": "max_tokens", "usage": used})
    assert (reply.error, reply.output_tokens, reply.usage_prompt_tokens) == (None, (3,), 9)


@pytest.mark.parametrize(
    ("found", "error"),
    [
        ({"error": {"message": "no such model"}}, "Refused: no such model"),
        ({"type": "error", "error": {"type": "invalid", "message": "no"}}, "Refused: no"),
        ({"object": "error", "message": "no"}, "Refused: no"),
        ({"choices": [{"message": 7}]}, "BadReply: not a chat completion"),
        ({"choices": [{"index": 0, "delta": {"content": 7}}]}, "BadReply: not a chat completion"),
        ({"choices": []}, "BadReply: no choices"),
        ([], "BadReply: no choices"),
    ],
)
def test_what_is_no_answer(found: object, error: str) -> None:
    assert (whole(found).error or "").startswith(error)


def test_a_stream_that_stops_is_no_answer() -> None:
    assert (streamed([chunk(content="a")]).error or "").startswith(
        "BadReply: the stream ended without [DONE]"
    )
    assert streamed([chunk("abort", content="a"), DONE]).error is not None
    assert streamed([chunk(content="a"), event(b"{broken"), DONE]).error == "BadReply: not JSON: {broken"
    behind = streamed([chunk("stop", content="a"), DONE, chunk(content="b")])
    assert behind.error == "BadReply: tokens came behind [DONE]"

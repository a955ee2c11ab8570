from __future__ import annotations

import json
from typing import Any

import pytest

from loadgen.drivers.answer import Answer, cached_tokens
from loadgen.drivers.chat_answer import ChatAnswer
from loadgen.drivers.messages import as_chat
from loadgen.request_records import FIRST_TOKENS, Reply, Request


def asked(sequences: int = 1, tokens: int = 3, stream: bool = True) -> Request:
    return Request(
        seq=5, phase="measured", prompts=((1, 2),) * sequences, output_tokens=tokens, stream=stream
    )


def event(found: object) -> bytes:
    return b"data: " + (found if isinstance(found, bytes) else json.dumps(found).encode()) + b"\n\n"


def choice(
    index: int = 0, ids: list[int] | None = None, text: str = "x", finish: str | None = None
) -> dict[str, Any]:
    found: dict[str, Any] = {"index": index, "text": text, "finish_reason": finish}
    return found if ids is None else found | {"token_ids": ids}


def choices(*several: dict[str, Any]) -> bytes:
    return event({"choices": list(several)})


def usage(output: int, prompt: int = 2) -> bytes:
    return event({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": output}})


DONE = event(b"[DONE]")


def streamed(request: Request, *blocks: bytes, error: str | None = None) -> Reply:
    """The Reply of a stream whose blocks arrived at 100, 200, …"""
    answer = Answer(request, 200, "OK", "text/event-stream")
    for place, block in enumerate(blocks):
        answer.feed(block, 100 * (place + 1))
    return answer.reply(sent_ns=1, end_ns=9999, reads=len(blocks), lag_ns=None, error=error)


def plain(request: Request, body: bytes, status: int = 200, reason: str = "OK") -> Reply:
    answer = Answer(request, status, reason, "application/json")
    answer.feed(body[:7], 100)
    answer.feed(body[7:], 200)
    return answer.reply(sent_ns=1, end_ns=9999, reads=2, lag_ns=None, error=None)


def test_tokens_are_counted_by_ids_and_not_by_chunks() -> None:
    reply = streamed(
        asked(tokens=6),
        choices(choice(ids=[11])),
        choices(choice(ids=[12, 13, 14])),
        choices(choice(ids=[15, 16], finish="length")) + usage(6) + DONE,
    )
    assert reply.error is None
    assert reply.output_tokens == (6,)
    assert reply.counted_by == "ids"
    assert reply.token_ns == (100, 200, 300)
    assert reply.tokens_per_arrival == (1, 3, 2)
    assert reply.first_tokens == (11, 12, 13, 14, 15, 16)
    assert (reply.usage_prompt_tokens, reply.usage_output_tokens) == (2, 6)
    assert reply.finish == "length"
    assert reply.seq == 5


def test_a_role_only_or_empty_chunk_is_no_token() -> None:
    reply = streamed(
        asked(tokens=1),
        choices({"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}),
        choices(choice(ids=[], text="")),
        choices(choice(ids=[4], text="")),  # half a character: an id, and no text yet
        choices(choice(ids=[], text="", finish="length")) + DONE,
    )
    assert reply.error is None
    assert reply.token_ns == (300,)
    assert reply.output_tokens == (1,)


def test_without_ids_usage_counts_and_the_difference_stays_visible() -> None:
    reply = streamed(
        asked(tokens=5),
        choices(choice(text="")),
        choices(choice(text="two tokens")),
        choices(choice(text="three more tokens", finish="length")) + usage(5) + DONE,
    )
    assert reply.output_tokens == (5,)
    assert reply.counted_by == "usage"
    assert reply.token_ns == (200, 300)
    assert reply.tokens_per_arrival == (1, 1)
    assert reply.first_tokens == ()


def test_without_ids_and_usage_nothing_is_counted() -> None:
    reply = streamed(asked(), choices(choice()), choices(choice(finish="stop")) + DONE)
    assert reply.error is None
    assert reply.output_tokens is None
    assert reply.counted_by is None
    assert reply.usage_output_tokens is None


def test_ids_in_some_events_only_do_not_count() -> None:
    reply = streamed(asked(), choices(choice(ids=[1])), choices(choice(finish="length")) + usage(3) + DONE)
    assert reply.output_tokens == (3,)
    assert reply.counted_by == "usage"


def test_one_event_per_step_of_a_batch() -> None:
    steps = [choices(*(choice(i, [10 * i + step]) for i in range(3))) for step in range(2)]
    last = choices(*(choice(i, [10 * i + 2], finish="length") for i in range(3)))
    reply = streamed(asked(sequences=3), *steps, last + usage(9, 6) + DONE)
    assert reply.output_tokens == (3, 3, 3)
    assert reply.tokens_per_arrival == (3, 3, 3)
    assert reply.first_tokens == (0, 1, 2)
    assert reply.coalesced == 0


def test_one_event_per_sequence_of_a_batch_is_one_arrival_where_it_was_one_read() -> None:
    step = [choices(choice(0, [1])) + choices(choice(1, [2])) for _ in range(3)]
    reply = streamed(asked(sequences=2), *step, event({"choices": [choice(0, [], "", "length")]}) + DONE)
    assert reply.output_tokens == (3, 3)
    assert reply.tokens_per_arrival == (2, 2, 2)
    assert reply.coalesced == 0


def test_sequences_of_a_batch_may_end_early_and_out_of_order() -> None:
    reply = streamed(
        asked(sequences=3),
        choices(choice(2, [1], finish="stop"), choice(0, [1])),
        choices(choice(0, [1, 1], finish="length")) + DONE,
    )
    assert reply.output_tokens == (3, 0, 1)
    assert reply.finish == "length,stop"


def test_a_batch_has_begun_with_the_first_token_of_its_last_sequence() -> None:
    """vLLM begins one sequence, and the rest a step later or in several."""
    blocks = (
        choices(choice(1, [1])),
        choices(choice(1, [1])) + choices(choice(0, [1])),
        choices(choice(2, [1])),
        choices(*(choice(i, [1], finish="length") for i in range(3))) + DONE,
    )
    assert streamed(asked(sequences=3), *blocks).begun_ns == 300
    assert streamed(asked(sequences=4), *blocks).begun_ns is None, "the fourth never did"
    assert streamed(asked(), choices(choice(0, [1], finish="length")) + DONE).begun_ns is None


def test_two_steps_in_one_read_are_counted_as_coalesced() -> None:
    step = choices(choice(ids=[1]))
    reply = streamed(asked(), step + step, choices(choice(ids=[1], finish="length")) + usage(3) + DONE)
    assert reply.coalesced == 1
    assert reply.token_ns == (100, 200)
    assert reply.tokens_per_arrival == (2, 1)


@pytest.mark.parametrize(("total", "counts", "by"), [(6, (3, 3), "usage"), (5, None, None)])
def test_usage_tells_the_count_of_each_sequence_only_when_it_is_the_greatest_possible(
    total: int, counts: tuple[int, ...] | None, by: str | None
) -> None:
    reply = streamed(
        asked(sequences=2),
        choices(choice(0, finish="length"), choice(1, finish="length")) + usage(total) + DONE,
    )
    assert (reply.output_tokens, reply.counted_by) == (counts, by)
    assert reply.usage_output_tokens == total


def test_only_the_first_ids_of_the_first_sequence_are_kept() -> None:
    steps = [choices(choice(0, [n, n]), choice(1, [500])) for n in range(FIRST_TOKENS)]
    reply = streamed(asked(2, 2 * FIRST_TOKENS), *steps, DONE)
    assert reply.first_tokens == tuple(n // 2 for n in range(FIRST_TOKENS))


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (event({"error": {"message": "out of pages", "code": 500}}), "Refused: out of pages"),
        (event({"error": "out of pages"}), "Refused: out of pages"),
        (event({"object": "error", "message": "out of pages"}), "Refused: out of pages"),
        (b'event: error\ndata: {"message": "out of pages"}\n\n', "Refused: out of pages"),
        (b"event: error\ndata: out of pages\n\n", "Refused: out of pages"),
        (event(b"{broken"), "BadReply: not JSON: {broken"),
        (
            event({"choices": [choice(ids=[9])], "error": {"message": "upstream lost"}}),
            "Refused: upstream lost",
        ),
        (event([1]), "BadReply: no choices: [1]"),
        (event({"choices": 4}), "BadReply: not a completion"),
        (event({"choices": ["x"]}), "BadReply: not a completion"),
        (choices(choice(index=1, ids=[3])), "BadReply: not a completion"),
        (choices(choice(index=-1, ids=[3])), "BadReply: not a completion"),
        (choices(choice(index=-1)), "BadReply: not a completion"),
        (choices(choice(ids="abc")), "BadReply: not a completion"),  # type: ignore[arg-type]
        (choices(choice(index="0", ids=[3])), "BadReply: not a completion"),  # type: ignore[arg-type]
    ],
)
def test_a_fault_in_mid_stream_keeps_what_came_before(bad: bytes, error: str) -> None:
    reply = streamed(
        asked(), choices(choice(ids=[1])), choices(choice(ids=[2])) + bad, choices(choice(ids=[3])) + DONE
    )
    assert reply.error is not None
    assert reply.error.startswith(error)
    assert reply.token_ns == (100, 200)
    assert reply.output_tokens == (2,)


def test_a_stream_that_just_stops_is_no_answer() -> None:
    reply = streamed(asked(), choices(choice(ids=[1])))
    assert reply.error == "BadReply: the stream ended without [DONE] and without a finish reason"
    assert streamed(asked(), choices(choice(ids=[1], finish="length"))).error is None
    assert streamed(asked(2), choices(choice(0, [1], finish="length"))).error is not None
    assert streamed(asked()).error is not None


def test_a_last_event_without_blank_line_arrives_with_the_last_read() -> None:
    reply = streamed(
        asked(),
        choices(choice(ids=[1])),
        b'data: {"choices": [{"index": 0, "token_ids": [2], "finish',
        b'_reason": "length"}]}',
    )
    assert reply.error is None
    assert reply.token_ns == (100, 300)


def test_the_transport_error_stands_unless_the_server_said_more() -> None:
    broken = "BadReply: the connection was closed before the end of the answer"
    assert streamed(asked(), choices(choice(ids=[1])), error=broken).error == broken
    told = streamed(asked(), event({"error": {"message": "stopping"}}), error=broken)
    assert told.error == "Refused: stopping"


def test_plain_json() -> None:
    body = {"choices": [choice(1, [4, 5], finish="stop"), choice(0, [1, 2, 3], finish="length")]}
    body["usage"] = {"prompt_tokens": 4, "completion_tokens": 5}  # type: ignore[assignment]
    reply = plain(asked(2, stream=False), json.dumps(body).encode())
    assert reply.error is None
    assert reply.output_tokens == (3, 2)
    assert reply.first_tokens == (1, 2, 3)
    assert reply.token_ns == ()
    assert reply.tokens_per_arrival == ()
    assert reply.usage_output_tokens == 5


def test_plain_json_without_ids() -> None:
    body = json.dumps({"choices": [choice(finish="length")], "usage": {"completion_tokens": 3}}).encode()
    reply = plain(asked(stream=False), body)
    assert (reply.output_tokens, reply.counted_by, reply.usage_prompt_tokens) == ((3,), "usage", None)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "BadReply: not JSON: (nothing)"),
        (b"<html>hello</html>", "BadReply: not JSON: <html>hello</html>"),
        (b'{"error": {"message": "no"}}', "Refused: no"),
        (b'{"choices": null}', "BadReply: no choices"),
        (b'{"hello": 1}', 'BadReply: no choices: {"hello": 1}'),
        (b'{"choices": [{"index": 0, "text": "x"}], "error": "upstream lost"}', "Refused: upstream lost"),
    ],
)
def test_plain_json_that_is_no_answer(body: bytes, error: str) -> None:
    reply = plain(asked(stream=False), body)
    assert reply.error is not None
    assert reply.error.startswith(error)
    assert reply.output_tokens is None


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": {"message": "too long", "type": "x"}}', "too long"),
        (b'{"error": "too long"}', "too long"),
        (b'{"message": "too long"}', "too long"),
        (b'{"detail": "too long"}', "too long"),
        (b'{"detail": [{"msg": "too long"}]}', '{"detail": [{"msg": "too long"}]}'),
        (b"too\n long", "too long"),
        (b"", "(nothing)"),
        (b"x" * 1000, "x" * 300 + "…"),
        (b'{"error": "a \\u001b[31mred\\n word"}', "a \N{REPLACEMENT CHARACTER}[31mred word"),
        (b'{"error": {"message": "half \\ud83d"}}', "half \N{REPLACEMENT CHARACTER}"),
    ],
)
def test_a_refusal_carries_its_status_and_words(body: bytes, words: str) -> None:
    assert plain(asked(), body, 400, "Bad Request").error == f"Refused: 400 Bad Request: {words}"


@pytest.mark.parametrize("ids", [[3_000_000_000], ["x"], [True], [2**63], [-1], [1.5], [None]])
def test_what_is_no_token_id_is_no_answer(ids: list[Any]) -> None:
    reply = plain(asked(tokens=1, stream=False), json.dumps({"choices": [{"token_ids": ids}]}).encode())
    assert (reply.error or "").startswith("BadReply")
    assert reply.first_tokens == ()


@pytest.mark.parametrize("count", [True, 2**63, -1, "3"])
def test_what_is_no_count_is_not_counted(count: Any) -> None:
    body = json.dumps(
        {"choices": [{"text": "a"}], "usage": {"prompt_tokens": count, "completion_tokens": count}}
    )
    reply = plain(asked(tokens=1, stream=False), body.encode())
    assert (reply.usage_prompt_tokens, reply.usage_output_tokens, reply.output_tokens) == (None, None, None)


@pytest.mark.parametrize(
    "odd",
    [
        event({"hello": 1}),
        event({"choices": None}),
        event({"choices": [], "usage": None}),
        event({"choices": [], "error": None}),
        event({"choices": [], "usage": {"cost": 0.1, "completion_tokens": None}}),
        event({"choices": [], "usage": "none"}),
        event({"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 0}}),
        event(None),
        b'event: ping\ndata: {"type": "ping"}\n\n',
        b'event: keepalive\ndata: {"message": "still here"}\n\n',
        b"event: ping\ndata: still here\n\n",
        b": OPENROUTER PROCESSING\n\n",
        b"retry: 3000\nid: 7\n\n",
        event(b'{"choices": [{"index": 0, "text": "", "logprobs": {"token_logprobs": [-Infinity]}}]}'),
    ],
)
def test_what_holds_no_token_is_passed_over_wherever_it_comes(odd: bytes) -> None:
    reply = streamed(
        asked(),
        odd + choices(choice(ids=[1])) + odd,
        choices(choice(ids=[2, 3], finish="length")) + usage(3) + odd + DONE,
    )
    assert reply.error is None
    assert reply.token_ns == (100, 200)
    assert (reply.output_tokens, reply.usage_output_tokens, reply.usage_prompt_tokens) == ((3,), 3, 2)


def test_usage_may_ride_on_an_event_without_choices() -> None:
    counts = {"prompt_tokens": 2, "completion_tokens": 3}
    for last in (event({"usage": counts}), event({"choices": None, "usage": counts})):
        reply = streamed(asked(), choices(choice(finish="length")), last + DONE)
        assert (reply.error, reply.output_tokens, reply.counted_by) == (None, (3,), "usage")


def test_a_text_that_nobody_reads_may_be_invalid() -> None:
    texts = (b'"half \\ud83d"', b'"\xff\xfe\x01"', b'"x", "logprobs": {"token_logprobs": [NaN, -Infinity]}')
    blocks = [
        event(b'{"choices": [{"index": 0, "text": %s, "finish_reason": null}]}' % text) for text in texts
    ]
    reply = streamed(asked(), *blocks, usage(3) + DONE)
    assert (reply.error, reply.token_ns, reply.output_tokens) == (None, (100, 200, 300), (3,))


def test_a_prompt_without_an_answer_is_a_fault_whatever_usage_says() -> None:
    first = choices(choice(finish="length"))
    assert streamed(asked(2), first, usage(6) + DONE).error == "BadReply: no choices for 1 of 2 prompts"
    both = streamed(asked(2), choices(choice(), choice(1, finish="length")), usage(6) + DONE)
    assert (both.error, both.output_tokens) == (None, (3, 3))
    assert streamed(asked(), usage(3) + DONE).error == "BadReply: no choices"
    body = json.dumps({"choices": [], "usage": {"completion_tokens": 3}}).encode()
    assert str(plain(asked(stream=False), body).error).startswith("BadReply: no choices: ")


@pytest.mark.parametrize("kind", [Answer, ChatAnswer])
def test_tokens_behind_the_end_of_the_stream_are_another_answers(kind: type[Answer]) -> None:
    piece = choices(choice(ids=[1, 2, 3], finish="length") | {"delta": {"content": "x"}})
    for more, error in ((usage(3), None), (piece, "BadReply: tokens came behind [DONE]")):
        answer = kind(asked(), 200, "OK", "text/event-stream")
        for at_ns, block in enumerate([piece, DONE, more]):
            answer.feed(block, at_ns)
        assert answer.reply(sent_ns=1, end_ns=9, reads=3, lag_ns=None, error=None).error == error
    assert streamed(asked(), piece + DONE + piece).error == "BadReply: tokens came behind [DONE]"
    assert streamed(asked(), piece + DONE + usage(3)).error is None


@pytest.mark.parametrize("kind", [Answer, ChatAnswer])
@pytest.mark.parametrize(
    "told",
    [
        {"code": 500, "message": "engine died"},
        {"detail": "engine died"},
        {"detail": [{"msg": "engine died"}]},
        {"status": 503, "reason": "engine died"},
        {"errors": ["engine died"]},
        {"choices": [choice(ids=[2, 3], finish="stop")], "error": "engine died"},
        {"choices": [choice(ids=[2, 3], finish="stop")], "errors": ["engine died"]},
        {"choices": [choice(ids=[2, 3], finish="stop")], "code": 500, "message": "engine died"},
        {"choices": [choice(ids=[2, 3], finish="stop") | {"error": {"message": "engine died"}}]},
        {"choices": [choice(ids=[]) | {"error": {"message": "engine died"}}]},
        {"choices": [], "object": "error", "message": "engine died"},
    ],
)
def test_an_error_in_mid_stream_is_one_in_whatever_shape(kind: type[Answer], told: dict[str, Any]) -> None:
    answer = kind(asked(), 200, "OK", "text/event-stream")
    piece = choices(choice(ids=[1]) | {"delta": {"content": "x"}})
    for at_ns, block in enumerate([piece, event(told), DONE]):
        answer.feed(block, at_ns)
    error = answer.reply(sent_ns=1, end_ns=9, reads=3, lag_ns=None, error=None).error
    assert error is not None
    assert error.startswith("Refused: ")
    assert "engine died" in error


@pytest.mark.parametrize("mark", [b"[DONE] ", b" [DONE]", b"[DONE]\t", b'"[DONE]"'])
def test_the_end_mark_may_have_blanks_around_it(mark: bytes) -> None:
    piece = choices(choice(ids=[1, 2, 3]))
    reply = streamed(asked(), piece, event(mark))
    assert (reply.error, reply.output_tokens) == (None, (3,))
    assert streamed(asked(), piece + event(mark) + piece).error == "BadReply: tokens came behind [DONE]"


@pytest.mark.parametrize("reason", ["", " ", "null", "None", False, {}])
def test_a_finish_reason_that_says_nothing_is_none(reason: Any) -> None:
    error = "BadReply: the stream ended without [DONE] and without a finish reason"
    ended = choices(choice(ids=[2, 3], finish="length"))
    for kind in (Answer, ChatAnswer):
        for more, told in ((b"", error), (ended + choices(choice(ids=[], finish=reason)), None)):
            answer = kind(asked(), 200, "OK", "text/event-stream")
            answer.feed(choices(choice(ids=[1], finish=reason) | {"delta": {"content": "x"}}) + more, 100)
            assert answer.reply(sent_ns=1, end_ns=9, reads=1, lag_ns=None, error=None).error == told


def test_counts_may_be_whole_numbers_with_a_point() -> None:
    told = event({"choices": [], "usage": {"prompt_tokens": 2.0, "completion_tokens": 3.0}})
    reply = streamed(asked(), choices(choice(finish="length")) + told + DONE)
    assert (reply.output_tokens, reply.usage_prompt_tokens) == ((3,), 2)


def test_a_single_sequence_needs_no_index_and_a_whole_batch_has_its_order() -> None:
    lone = {"text": "x", "token_ids": [1, 2, 3], "finish_reason": "length"}
    for one in (lone, lone | {"index": None}):
        assert streamed(asked(), choices(one) + DONE).output_tokens == (3,)
    both = [lone, lone | {"token_ids": [4, 5]}]
    assert plain(asked(2, stream=False), json.dumps({"choices": both}).encode()).output_tokens == (3, 2)
    reply = streamed(asked(2), choices(*both) + DONE)
    assert (reply.error or "").startswith(
        "BadReply: not a completion (IndexError: index None of 2 sequences)"
    )


@pytest.mark.parametrize("kind", ["text/plain", "application/octet-stream", ""])
def test_a_stream_under_another_content_type_is_read_as_one(kind: str) -> None:
    answer = Answer(asked(), 200, "OK", kind)
    whole = choices(choice(ids=[1])) + choices(choice(ids=[2, 3], finish="length")) + DONE
    for place, block in enumerate((whole[:3], whole[3:70], whole[70:])):
        answer.feed(block, 100 * (place + 1))
    reply = answer.reply(sent_ns=1, end_ns=9, reads=3, lag_ns=None, error=None)
    assert (reply.error, reply.output_tokens) == (None, (3,))
    assert reply.token_ns[-1] == 300


def test_one_object_under_the_type_of_a_stream_is_read_as_one() -> None:
    whole = {"choices": [choice(ids=[1, 2, 3], finish="length")]}
    assert streamed(asked(), json.dumps(whole).encode()).output_tokens == (3,)
    assert streamed(asked(), b'{"error": "no such model"}').error == "Refused: no such model"


def test_an_end_mark_alone_is_no_answer() -> None:
    assert streamed(asked(), DONE).error == "BadReply: no choices"


def test_an_answer_that_the_server_gave_up_is_no_short_one() -> None:
    for reason in ("abort", "ERROR"):
        reply = streamed(asked(), choices(choice(ids=[1])), choices(choice(ids=[], finish=reason)) + DONE)
        assert reply.error == f"Refused: the server gave the answer up: finish_reason {reason}"


@pytest.mark.parametrize(
    ("told", "cached"),
    [
        ({"usage": {"prompt_tokens_details": {"cached_tokens": 3}}}, 3),
        ({"usage": {"prompt_tokens_details": {"cached_tokens": 0}}}, 0),
        ({"usage": {"prompt_tokens": 9}, "timings": {"cache_n": 5, "prompt_n": 4}}, 5),
        ({"usage": {"prompt_cache_hit_tokens": 2}}, 2),
        ({"usage": {"prompt_tokens_details": None}, "timings": "fast"}, None),
        ({"usage": {"prompt_tokens_details": {"cached_tokens": -1}}}, None),
        ({"usage": {"prompt_tokens_details": {"cached_tokens": True}}}, None),
    ],
)
def test_tokens_from_a_prefix_cache_in_every_servers_words(told: dict[str, Any], cached: int | None) -> None:
    events = (choices(choice(ids=[1], finish="length")), event({"choices": [], **told}) + DONE)
    assert streamed(asked(tokens=1), *events).cached_tokens == cached
    chat = ChatAnswer(asked(tokens=1), 200, "OK", "text/event-stream")
    for place, block in enumerate(events):
        chat.feed(block, place)
    assert chat.reply(sent_ns=0, end_ns=9, reads=2, lag_ns=None, error=None).cached_tokens == cached


def test_anthropics_cache_is_told_as_the_others() -> None:
    used = {"input_tokens": 4, "cache_read_input_tokens": 6, "output_tokens": 1}
    whole = as_chat({"type": "message", "content": [], "usage": used})
    assert cached_tokens(whole["usage"]) == 6
    assert whole["usage"]["prompt_tokens"] == 10

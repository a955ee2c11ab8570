from __future__ import annotations

import pytest

from loadgen.launch.null_log import Sent
from loadgen.load_records import LoadSpec
from loadgen.request_records import Reply
from loadgen.selfcheck.timing_errors import compare, rate_share, server_share

MS = 1_000_000


def sent(
    *writes_ms: float, sequences: int = 1, tokens: tuple[int, ...] | None = None, received_ms: float = 0
) -> Sent:
    return Sent(
        request_id="measured-1",
        sequences=sequences,
        received_ns=round(received_ms * MS),
        writes_ns=tuple(round(at * MS) for at in writes_ms),
        tokens=tokens or (sequences,) * len(writes_ms),
    )


def reply(
    *token_ms: float,
    tokens: tuple[int, ...] | None = None,
    end_ms: float = 0,
    seq: int = 1,
    sent_ms: float = 0,
) -> Reply:
    return Reply(
        seq=seq,
        sent_ns=round(sent_ms * MS),
        end_ns=round(end_ms * MS),
        token_ns=tuple(round(at * MS) for at in token_ms),
        tokens_per_arrival=tokens or (1,) * len(token_ms),
    )


def test_a_perfect_client_has_no_error() -> None:
    errors = compare([reply(10, 20, 30)], {"measured-1": sent(10, 20, 30)}, 10 * MS, 10 * MS)
    assert errors.ttft_s is not None
    assert errors.itl_s is not None
    assert errors.e2e_s is not None
    assert errors.late_s is not None
    assert errors.ttft_s.max == errors.itl_s.max == errors.e2e_s.max == errors.late_s.max == 0
    assert errors.itl_s.n == 2
    assert errors.late_s.n == 3


def test_every_error_is_found_where_it_is() -> None:
    errors = compare([reply(11, 24, 30.5)], {"measured-1": sent(10, 20, 30)}, 9 * MS, 10 * MS)
    assert errors.ttft_s is not None
    assert errors.itl_s is not None
    assert errors.e2e_s is not None
    assert errors.late_s is not None
    assert errors.ttft_s.mean == pytest.approx(0.001)
    assert errors.itl_s.max == pytest.approx(0.0035)
    assert errors.itl_s.min == pytest.approx(0.003)
    assert errors.e2e_s.mean == pytest.approx(0.0005)
    assert errors.late_s.mean == pytest.approx(0.001)


def test_tokens_that_were_read_together_cost_their_gap() -> None:
    errors = compare([reply(10, 30, tokens=(1, 2))], {"measured-1": sent(10, 20, 30)}, 0, 0)
    assert errors.itl_s is not None
    assert errors.itl_s.n == 2
    assert errors.itl_s.max == pytest.approx(0.010)
    assert errors.late_s is None


def test_the_sequences_of_a_batch_leave_together() -> None:
    answer = sent(10, 20, sequences=3)
    errors = compare([reply(10, 20, tokens=(3, 3))], {"measured-1": answer}, 10 * MS, 10 * MS)
    assert errors.itl_s is not None
    assert errors.late_s is not None
    assert errors.itl_s.n == 1
    assert errors.itl_s.max == 0
    assert errors.late_s.max == 0


def test_an_answer_that_does_not_stream_has_an_end_only() -> None:
    errors = compare([reply(end_ms=33)], {"measured-1": sent(30, tokens=(5,))}, 0, 0)
    assert errors.ttft_s is None
    assert errors.itl_s is None
    assert errors.e2e_s is not None
    assert errors.e2e_s.mean == pytest.approx(0.003)


def test_what_is_not_in_the_log_is_not_compared() -> None:
    errors = compare([reply(10, seq=2)], {"measured-1": sent(10)}, 0, 0)
    assert errors.ttft_s is None


def test_a_closed_loop_is_kept_up_while_its_places_are_occupied() -> None:
    load = LoadSpec(kind="closed", input_tokens=1, output_tokens=1, concurrency=2)
    answers = [
        sent(10, received_ms=0),
        sent(10, received_ms=0),
        sent(20, received_ms=10),
        sent(20, received_ms=10),
    ]
    assert rate_share(load, [reply()], [], answers) == pytest.approx(1.0)
    late = [*answers[:2], sent(25, received_ms=15), sent(25, received_ms=15)]
    assert rate_share(load, [reply()], [], late) == pytest.approx(0.8)
    assert rate_share(load, [], [], []) is None


def test_an_open_loop_is_kept_up_while_sends_follow_their_plan() -> None:
    load = LoadSpec(kind="constant", input_tokens=1, output_tokens=1, rate=100.0)
    replies = [reply(sent_ms=at) for at in (0, 10, 25)]
    assert rate_share(load, replies, [0, 10 * MS, 20 * MS], []) == pytest.approx(0.8)
    assert rate_share(load, replies[:1], [0], []) is None


def test_a_server_that_falls_behind_is_told() -> None:
    assert server_share([sent(10, 20)], 10 * MS, 10 * MS) == pytest.approx(1.0)
    assert server_share([sent(10, 40)], 10 * MS, 10 * MS) == pytest.approx(0.5)
    assert server_share([sent(10, 40)], 0, 0) is None

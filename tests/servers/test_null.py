from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from loadgen.drivers.openai import make_driver
from loadgen.errors import BadInput
from loadgen.launch import null_log
from loadgen.launch.process import free_ports, serving
from loadgen.load_records import Timeouts
from loadgen.records import ServerSpec
from loadgen.request_records import Reply, Request
from loadgen.servers._null import wire
from loadgen.servers.null import ENGINE, FRAMEWORK
from loadgen.theory import models


def spec(**options: Any) -> ServerSpec:
    return ServerSpec(framework="null", model=models.resolve("tiny"), options=options)


@contextmanager
def null(folder: Path, **options: Any) -> Iterator[str]:
    """The URL of a running null server."""
    command = FRAMEWORK.command(spec(**options), str(folder / "run"), free_ports(1))
    with serving(command, folder / "run", folder / "log", ready_timeout_s=30):
        yield command.base_url


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with null(tmp_path_factory.mktemp("null")) as found:
        yield found


def send(url: str, requests: list[Request]) -> list[Reply]:
    async def main() -> list[Reply]:
        driver = make_driver(url, "tiny", Timeouts(), FRAMEWORK.driver_options(spec()))
        await driver.open(len(requests))
        futures: list[asyncio.Future[Any]] = []
        for request in requests:
            futures.append(asyncio.get_running_loop().create_future())
            driver.start(driver.prepare(request), futures[-1].set_result)
        replies = [driver.decode(await future) for future in futures]
        await driver.close()
        return replies

    return asyncio.run(asyncio.wait_for(main(), 60))


def request(seq: int = 0, tokens: int = 5, sequences: int = 1, stream: bool = True) -> Request:
    prompts = tuple((seq + 1, 2, 3) for _ in range(sequences))
    return Request(seq=seq, phase="measured", prompts=prompts, output_tokens=tokens, stream=stream)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("sequences", [1, 3])
def test_it_sends_what_was_asked_for(url: str, stream: bool, sequences: int) -> None:
    (reply,) = send(url, [request(sequences=sequences, stream=stream)])
    assert reply.error is None
    assert reply.output_tokens == (5,) * sequences
    assert reply.counted_by == "ids"
    assert reply.usage_prompt_tokens == 3 * sequences
    assert reply.usage_output_tokens == 5 * sequences
    assert reply.finish == "length"
    assert sum(reply.tokens_per_arrival) == (5 * sequences if stream else 0)


def test_it_says_that_it_is_no_engine(url: str, queue_url: str) -> None:
    info = httpx.get(f"{url}/info").json()
    assert info["code"] == httpx.get(f"{queue_url}/info").json()["code"]
    assert len(info["code"]) == 12
    assert info["engine"] == ENGINE == "null (no model)"
    assert httpx.get(f"{url}/v1/models").json()["data"][0]["id"] == "tiny"
    assert httpx.get(f"{url}/health").is_success


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "not JSON"),
        (b"[]", "not an object"),
        (b'{"prompt": {}}', "prompt: accepted are"),
        (b'{"prompt": []}', "prompt: accepted are"),
        (b'{"prompt": [1, "a"]}', "prompt: accepted are"),
        (b'{"prompt": "a", "max_tokens": 0}', "max_tokens = 0"),
        (b'{"prompt":[1],"max_tokens":"x"}', "max_tokens = 'x'"),
        (b'{"prompt":[1],"max_tokens":1', "not JSON"),
    ],
)
def test_what_it_cannot_read_is_refused(url: str, body: bytes, message: str) -> None:
    answer = httpx.post(f"{url}/v1/completions", content=body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


def test_there_is_nothing_else_here(url: str) -> None:
    assert httpx.get(f"{url}/v1/completions").status_code == 404
    assert httpx.post(f"{url}/v1/chat/completions", json={}).status_code == 404


@pytest.fixture(scope="module")
def queue_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with null(tmp_path_factory.mktemp("queue"), slots=2, step_ms=4, sequence_us=500, prompt_us=1000) as found:
        yield found


@pytest.mark.parametrize("stream", [True, False])
def test_a_queue_answers_what_was_asked_for(queue_url: str, stream: bool) -> None:
    replies = send(queue_url, [request(seq, stream=stream) for seq in range(5)])
    assert [reply.error for reply in replies] == [None] * 5
    assert [reply.output_tokens for reply in replies] == [(5,)] * 5
    assert [sum(reply.tokens_per_arrival) for reply in replies] == [5 * stream] * 5


def test_a_batch_over_the_slots_is_refused(queue_url: str) -> None:
    (reply,) = send(queue_url, [request(sequences=3)])
    assert "3 sequences, 2 slots" in str(reply.error)
    assert httpx.get(f"{queue_url}/info").json()["slots"] == 2


def test_a_client_that_leaves_a_queue_keeps_only_its_place(queue_url: str) -> None:
    body = {"prompt": [1], "max_tokens": 20, "stream": True}
    with httpx.stream("POST", f"{queue_url}/v1/completions", json=body):
        pass
    (reply,) = send(queue_url, [request()])
    assert reply.error is None


def test_a_client_that_goes_away_is_forgotten(url: str) -> None:
    with httpx.stream(
        "POST", f"{url}/v1/completions", json={"prompt": "a b", "max_tokens": 100000, "stream": True}
    ):
        pass
    (reply,) = send(url, [request()])
    assert reply.error is None


@pytest.mark.parametrize(
    ("prompt", "sequences", "tokens"),
    [
        ("two words", 1, 2),
        (["one", "two words"], 2, 3),
        ([1, 2, 3], 1, 3),
        ([7], 1, 1),
        ([[1, 2], [3, 4, 5]], 2, 5),
        ([[1]], 1, 1),
        (["[1, 2]", '"max_tokens": 9'], 2, 4),
    ],
)
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize("last", [True, False])
def test_prompts_are_counted(
    prompt: Any, sequences: int, tokens: int, separators: tuple[str, str], last: bool
) -> None:
    fields = {"max_tokens": 4, "stream": True}
    body = fields | {"prompt": prompt} if last else {"prompt": prompt} | fields
    found = wire.read_body(json.dumps(body, separators=separators).encode())
    assert (found.sequences, found.prompt_tokens, found.tokens, found.stream) == (sequences, tokens, 4, True)


def replay(
    folder: Path, requests: list[Request], **options: Any
) -> tuple[list[Reply], dict[str, null_log.Sent]]:
    with null(folder, log="sent.bin", **options) as url:
        replies = send(url, requests)
    log = {sent.request_id: sent for sent in null_log.read((folder / "run" / "sent.bin").read_bytes())}
    return replies, log


def test_the_schedule_is_absolute_and_the_log_tells_what_was_sent(tmp_path: Path) -> None:
    replies, log = replay(tmp_path, [request(0), request(1, 7), request(2, 4, 2)], ttft_ms=4.0, itl_ms=1.5)
    assert sorted(log) == ["measured-0", "measured-1", "measured-2"]
    for reply in replies:
        sent = log[f"measured-{reply.seq}"]
        assert reply.error is None
        assert sum(sent.tokens) == sum(reply.output_tokens or ())
        assert reply.sent_ns <= sent.received_ns
        assert len(sent.writes_ns) == len(set(sent.writes_ns))
        for step, at in enumerate(sent.writes_ns):
            assert at >= sent.received_ns + 4_000_000 + step * 1_500_000  # never early
        assert all(came >= went for came, went in zip(reply.token_ns, sent.writes_ns, strict=False))
    assert log["measured-2"].sequences == 2
    assert log["measured-2"].tokens == (2, 2, 2, 2)


def test_as_fast_as_possible_one_write_for_each_token_or_one_for_all(tmp_path: Path) -> None:
    _, single = replay(tmp_path / "a", [request(0, 20)])
    assert single["measured-0"].tokens == (1,) * 20
    _, together = replay(tmp_path / "b", [request(0, 20)], coalesce=True)
    assert together["measured-0"].tokens == (20,)


def test_without_streaming_the_answer_comes_when_its_last_token_would(tmp_path: Path) -> None:
    (reply,), log = replay(tmp_path, [request(0, 5, stream=False)], ttft_ms=3.0, itl_ms=1.0)
    (sent,) = log.values()
    assert sent.tokens == (5,)
    assert sent.writes_ns[0] >= sent.received_ns + 7_000_000
    assert reply.end_ns >= sent.writes_ns[0]


def test_streams_without_a_pace_take_turns(tmp_path: Path) -> None:
    _, log = replay(tmp_path, [request(0, 4000), request(1, 4000)], ttft_ms=20.0)
    first, second = log["measured-0"].writes_ns, log["measured-1"].writes_ns
    writes = sorted([(at, 0) for at in first] + [(at, 1) for at in second])
    both = [who for at, who in writes if max(first[0], second[0]) <= at <= min(first[-1], second[-1])]
    assert len(both) > 10
    assert all(a != b for a, b in pairwise(both))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ttf_ms": 1}, "unknown option 'ttf_ms'"),
        ({"ttft_ms": -1}, "ttft_ms = -1"),
        ({"itl_ms": "fast"}, "itl_ms = 'fast'"),
        ({"itl_ms": float("inf")}, "itl_ms = inf"),
        ({"itl_ms": True}, "itl_ms = True"),
        ({"coalesce": 1}, "coalesce = 1"),
        ({"log": 3}, "log = 3"),
        ({"log": "../sent.bin"}, "log = '../sent.bin'"),
        ({"log": "/etc/passwd"}, "log = '/etc/passwd'"),
        ({"log": ".."}, "log = '..'"),
        ({"slots": 1.5}, "slots = 1.5"),
        ({"slots": True}, "slots = True"),
        ({"slots": 1, "step_ms": 0}, "step_ms = 0"),
        ({"slots": 1, "prompt_us": -1}, "prompt_us = -1"),
        ({"slots": 1, "ttft_ms": 5}, "ttft_ms has no effect with slots"),
        ({"slots": 1, "coalesce": True}, "coalesce has no effect with slots"),
        ({"step_ms": 5}, "step_ms has no effect without slots"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        FRAMEWORK.check(spec(**options))


def test_there_is_no_model_to_split() -> None:
    for fields in ({"tp": 2}, {"pp": 2}, {"gpus": (0,)}):
        with pytest.raises(BadInput, match="no model"):
            FRAMEWORK.check(ServerSpec(framework="null", model=models.resolve("tiny"), **fields))  # type: ignore[arg-type]
    FRAMEWORK.check(spec(ttft_ms=0, itl_ms=2.5, coalesce=True, log="sent.bin"))


def test_a_log_that_is_damaged_is_refused() -> None:
    from array import array

    good = null_log.MAGIC + null_log.record(b"measured-1", 1, 5, array("q", [10, 1, 20, 1]))
    (sent,) = null_log.read(good)
    assert sent == null_log.Sent(
        request_id="measured-1", sequences=1, received_ns=5, writes_ns=(10, 20), tokens=(1, 1)
    )
    for bad in (b"", good[:-1], good[: len(null_log.MAGIC) + 3], good + b"x"):
        with pytest.raises(ValueError, match="log"):
            list(null_log.read(bad))

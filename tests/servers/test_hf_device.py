"""The device's queue and the HTTP side with engines that fail on purpose; no model."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

from loadgen.servers._hf.call import Cancelled, Run
from loadgen.servers._hf.http_app import build_app
from loadgen.servers._hf.metrics import Metrics
from loadgen.servers._hf.queue import Device, Done, Job
from loadgen.servers._hf.requests import Call, Limits, parse
from loadgen.servers._hf.text import ByteText


class Failing:
    """Counts up; fails at step ``fail_at`` of calls whose first prompt token says how."""

    name = "fake"
    in_flight_batching = False
    fail_at = 2

    def run(self, run: Run) -> None:
        how = run.call.prompts[0][0]
        for step in range(run.call.max_tokens):
            if step == self.fail_at and how == 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
            if step == self.fail_at and how == 2:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            if not run.step([step] * len(run.call.prompts), step + 1):
                return

    def close(self) -> None:
        """Holds nothing."""


@contextmanager
def client_of(engine: Any, given_up: list[int]) -> Iterator[TestClient]:
    metrics = Metrics(engine.name, lambda: device.waiting, lambda: device.running_sequences, dict)

    def observe(job: Job, done: Done) -> None:
        metrics.finished(done.kind or "ok", len(job.call.prompts), 1, 1)

    device = Device(engine, frozenset(), observe=observe, give_up=given_up.append)
    text = ByteText()
    limits = Limits(
        model="fake", vocab=100, max_context=64, max_batch=4, encode=text.encode, converse=text.converse
    )
    worker = threading.Thread(target=device.work)
    worker.start()
    try:
        with TestClient(build_app(device, limits, text, metrics, dict)) as client:
            yield client
    finally:
        device.stop()
        worker.join()


def test_a_chat_without_a_limit_may_take_all_that_the_context_has_left() -> None:
    text = ByteText()
    limits = Limits(
        model="fake", vocab=256, max_context=64, max_batch=4, encode=text.encode, converse=text.converse
    )
    body = json.dumps({"messages": [{"role": "user", "content": "hello"}]}).encode()
    assert parse(body, limits, lambda: 1, chat=True).max_tokens == 64 - len("user: hello\nassistant:")
    assert parse(b'{"prompt": "hello"}', limits, lambda: 1).max_tokens == 16


@pytest.mark.parametrize("stream", [False, True])
def test_out_of_memory_is_named_and_the_next_call_is_served(stream: bool) -> None:
    given_up: list[int] = []
    with client_of(Failing(), given_up) as client:
        reply = client.post("/v1/completions", json={"prompt": [1], "max_tokens": 5, "stream": stream})
        if stream:
            events = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
            assert len(events) == 3
            error = events[-1]["error"]
            assert "[DONE]" not in reply.text
        else:
            assert reply.status_code == 500
            error = reply.json()["error"]
        assert error["type"] == "out_of_memory"
        assert error["message"] == "out of device memory: CUDA out of memory. Tried to allocate 2.00 GiB."
        reply = client.post("/v1/completions", json={"prompt": [3], "max_tokens": 5})
        assert reply.status_code == 200
        assert reply.json()["usage"]["completion_tokens"] == 5
        assert 'hf_requests_total{outcome="out_of_memory"} 1.0' in client.get("/metrics").text
    assert given_up == []


def test_out_of_memory_before_the_first_token_of_a_stream_is_a_plain_error() -> None:
    engine = Failing()
    engine.fail_at = 0
    with client_of(engine, []) as client:
        reply = client.post("/v1/completions", json={"prompt": [1], "max_tokens": 5, "stream": True})
        assert reply.status_code == 500
        assert reply.json()["error"]["type"] == "out_of_memory"


def test_any_other_fault_is_told_and_ends_the_process(caplog: pytest.LogCaptureFixture) -> None:
    given_up: list[int] = []
    with client_of(Failing(), given_up) as client:
        reply = client.post("/v1/completions", json={"prompt": [2], "max_tokens": 5})
        assert reply.status_code == 500
        assert reply.json()["error"]["type"] == "server_error"
        assert "illegal memory access" in reply.json()["error"]["message"]
    assert given_up == [1]
    assert "this process is unusable and ends" in caplog.text


def test_stopping_drops_what_waits_and_cancels_what_runs() -> None:
    class Endless:
        name = "endless"
        in_flight_batching = False
        started = threading.Event()

        def run(self, run: Run) -> None:
            while True:
                self.started.set()
                run.step([0], 1)

        def close(self) -> None:
            """Holds nothing."""

    async def scenario() -> list[Any]:
        device = Device(Endless(), frozenset())
        worker = threading.Thread(target=device.work)
        worker.start()
        jobs = [Job(Call(prompts=((0,),), max_tokens=10**9)) for _ in range(3)]
        for job in jobs:
            device.submit(job)
        await asyncio.to_thread(Endless.started.wait)
        assert device.waiting == 2
        device.stop()
        ends = [await job.events.get() for job in jobs]
        worker.join()
        return ends

    assert [end.kind for end in asyncio.run(scenario())] == ["cancelled"] * 3


class Word:
    """A stop word in one process."""

    def __init__(self) -> None:
        self.value: tuple[int, int] | None = None

    def set(self, call: int, step: int) -> None:
        self.value = (call, step)

    def get(self, call: int) -> int | None:
        return self.value[1] if self.value and self.value[0] == call else None


def test_ranks_agree_on_the_step_after_which_a_cancelled_call_ends() -> None:
    word, call = Word(), Call(prompts=((0,),), max_tokens=100)
    gone = False
    leader = Run(call, frozenset(), number=7, word=word, cancelled=lambda: gone)
    follower = Run(call, frozenset(), number=7, word=word)
    for step in range(1, 6):
        assert leader.step([0], launched=step + 1)
    for step in range(1, 5):
        assert follower.step([0], launched=step + 1)
    gone = True
    assert leader.step([0], launched=7)  # names step 8, which no rank can have finished yet
    assert word.value == (7, 8)
    assert leader.step([0], launched=8)
    with pytest.raises(Cancelled):
        leader.step([0], launched=9)
    for _ in range(5, 8):
        assert follower.step([0], launched=0)
    with pytest.raises(Cancelled):
        follower.step([0], launched=0)
    assert follower.steps == leader.steps == 8
    assert word.get(8) is None  # another call's word is not this one's

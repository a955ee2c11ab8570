"""DeepSpeed for real, on CPU: AutoTP with one and two ranks behind MII's gRPC service, spoken to by the driver."""

from __future__ import annotations

import asyncio
import glob
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch
from click.testing import CliRunner

from loadgen import cli
from loadgen.drivers.grpc_discover import discover
from loadgen.drivers.mii_grpc import make_driver
from loadgen.engine_facts import own_weights
from loadgen.errors import ServerDied
from loadgen.launch.process import Server, free_ports, serving
from loadgen.load_records import Timeouts
from loadgen.records import ServerSpec
from loadgen.request_records import Reply, Request
from loadgen.servers._torch import model as hf_model
from loadgen.servers.ds import FRAMEWORK
from loadgen.theory.models import PRESETS

SPEC = ServerSpec(
    framework="ds",
    model=PRESETS["tiny"],
    dtype="float32",
    max_batch=8,
    options={"seed": 5},
    ready_timeout_s=240,
)
RAGGED = ((5, 6, 7, 8, 9, 10, 11), (900, 31), (17,) * 12)
EVEN = tuple(tuple(range(row, row + 20)) for row in (3, 40, 800, 333))


@dataclass
class RunningServers:
    """A server and what a test needs to know of it."""

    spec: ServerSpec
    server: Server

    def ranks(self) -> list[psutil.Process]:
        assert self.server.pid is not None
        family = psutil.Process(self.server.pid).children(recursive=True)
        return [process for process in family if "--rank" in process.cmdline()]

    def info(self) -> dict[str, Any]:
        assert self.server.command.info_url is not None
        return httpx.get(self.server.command.info_url, trust_env=False).json()

    def alive(self) -> bool:
        return self.server.alive()


def serve_ds(spec: ServerSpec, folder: Path) -> Iterator[RunningServers]:
    FRAMEWORK.check(spec)
    command = FRAMEWORK.command(spec, str(folder / "run"), free_ports(FRAMEWORK.ports))
    with serving(command, folder / "run", folder / "log", ready_timeout_s=spec.ready_timeout_s) as server:
        yield RunningServers(spec, server)


@pytest.fixture(scope="module", params=[1, 2], ids=["tp1", "tp2"])
def standing(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServers]:
    yield from serve_ds(replace(SPEC, tp=request.param), tmp_path_factory.mktemp("ds"))


@pytest.fixture(scope="module")
def model() -> Any:
    seed = int(SPEC.options["seed"])
    return hf_model.build(replace(SPEC, framework="hf"), torch.device("cpu"), 0, seed=seed, attention="sdpa")


def expected(model: Any, prompts: tuple[tuple[int, ...], ...], new: int) -> list[tuple[int, ...]]:
    """Each prompt alone and unpadded through transformers' greedy generate."""
    found = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False)
        found.append(tuple(out[0, len(prompt) :].tolist()))
    return found


class Client:
    def __init__(self, running: RunningServers, timeouts: Timeouts) -> None:
        options = FRAMEWORK.driver_options(running.spec)
        self.driver = make_driver(running.server.command.base_url, running.spec.model.name, timeouts, options)

    def send(
        self, prompts: tuple[tuple[int, ...], ...], new: int, *, stream: bool = False
    ) -> asyncio.Future[Any]:
        request = Request(seq=1, phase="measured", prompts=prompts, output_tokens=new, stream=stream)
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.driver.start(self.driver.prepare(request), done.set_result)
        return done

    async def ask(self, prompts: tuple[tuple[int, ...], ...], new: int, *, stream: bool = False) -> Reply:
        return self.driver.decode(await self.send(prompts, new, stream=stream))


def talk(
    running: RunningServers,
    conversation: Callable[[Client], Awaitable[Any]],
    timeouts: Timeouts | None = None,
) -> Any:
    async def run() -> Any:
        client = Client(running, timeouts or Timeouts(first_byte_s=60, between_bytes_s=60, total_s=90))
        await client.driver.open(2)
        try:
            return await conversation(client)
        finally:
            await client.driver.close()

    return asyncio.run(run())


def test_greedy_tokens_equal_transformers_sequence_by_sequence(standing: RunningServers, model: Any) -> None:
    for prompts in (RAGGED, EVEN):
        wanted = expected(model, prompts, 16)
        whole: Reply = talk(standing, lambda c, p=prompts: c.ask(p, 16))
        assert whole.error is None
        assert whole.first_tokens == wanted[0]
        for prompt, tokens in zip(prompts, wanted, strict=True):
            streamed: Reply = talk(standing, lambda c, p=prompt: c.ask((p,), 16, stream=True))
            assert streamed.first_tokens == tokens


def test_a_batch_comes_whole_with_the_count_of_every_sequence(standing: RunningServers) -> None:
    reply: Reply = talk(standing, lambda c: c.ask(RAGGED, 9, stream=True))
    assert reply.error is None
    assert reply.output_tokens == (9, 9, 9)
    assert reply.counted_by == "ids"
    assert reply.usage_prompt_tokens == sum(map(len, RAGGED))
    assert reply.usage_output_tokens == 27
    assert reply.token_ns == ()
    assert reply.finish == "length"
    assert reply.sent_ns < reply.end_ns


def test_a_stream_has_a_time_for_every_token(standing: RunningServers) -> None:
    reply: Reply = talk(standing, lambda c: c.ask(EVEN[:1], 30, stream=True))
    assert reply.error is None
    assert reply.output_tokens == (30,)
    assert reply.tokens_per_arrival == (1,) * 30
    assert list(reply.token_ns) == sorted(reply.token_ns)
    assert reply.sent_ns < reply.token_ns[0] < reply.token_ns[-1] <= reply.end_ns
    assert reply.usage_prompt_tokens == 20


def test_one_token_is_one_token(standing: RunningServers) -> None:
    for stream in (False, True):
        reply: Reply = talk(standing, lambda c, s=stream: c.ask(EVEN[:1], 1, stream=s))
        assert (reply.error, reply.output_tokens) == (None, (1,))


def test_requests_at_once_each_get_their_own_answer(standing: RunningServers, model: Any) -> None:
    async def together(client: Client) -> list[Reply]:
        return await asyncio.gather(
            *(client.ask((p,), 12, stream=i % 2 == 0) for i, p in enumerate(EVEN * 3))
        )

    replies: list[Reply] = talk(standing, together)
    assert [reply.error for reply in replies] == [None] * 12
    assert [reply.first_tokens for reply in replies] == expected(model, EVEN, 12) * 3


def test_what_cannot_be_done_is_refused_and_costs_only_that_request(standing: RunningServers) -> None:
    async def errors_as_grpc_status(client: Client) -> list[Reply]:
        too_long = await client.ask(EVEN[:1], 4090)
        too_many = await client.ask(EVEN[:1] * 9, 2)
        strange = await client.ask(((5, 6), (7, 4000)), 2)
        return [too_long, too_many, strange, await client.ask(EVEN, 4)]

    too_long, too_many, strange, fine = talk(standing, errors_as_grpc_status)
    assert (
        too_long.error
        == "Refused: INVALID_ARGUMENT: 20 prompt tokens and 4090 new ones exceed the context of 4096"
    )
    assert too_many.error == "Refused: INVALID_ARGUMENT: a batch of more than max_batch = 8 sequences"
    assert "token ids from 7 to 4000 (accepted: 0 to 1023)" in strange.error
    assert too_long.output_tokens is None
    assert fine.error is None


def test_a_client_that_leaves_a_stream_disturbs_nobody(standing: RunningServers, model: Any) -> None:
    async def leave(client: Client) -> Reply:
        raw = await client.send(EVEN[:1], 700, stream=True)
        return client.driver.decode(raw)

    gone: Reply = talk(standing, leave, Timeouts(first_byte_s=60, between_bytes_s=60, total_s=0.2))
    assert gone.error == "TimedOut: not done within 0.2 s (total_s)"
    assert gone.output_tokens is None or gone.output_tokens[0] < 700
    after: Reply = talk(standing, lambda c: c.ask(EVEN, 6))
    assert (after.error, after.first_tokens) == (None, expected(model, EVEN[:1], 6)[0])


def test_it_says_what_it_is(standing: RunningServers) -> None:
    info = standing.info()
    assert info["engine"] == "ds-inference-autotp"
    assert "mii-fastgen cannot: it needs CUDA GPUs" in info["engine_reason"]
    assert (info["tp"], info["dtype"], info["weights"]["maker"]) == (standing.spec.tp, "float32", "loadgen")
    assert info["weights"] == own_weights(standing.spec).page()
    assert {"random-weights", "float32-rotary", "loopback"} <= set(info["patches"])
    assert "cuda-graph" not in info["patches"]
    assert info["versions"]["deepspeed"]
    assert info["versions"]["deepspeed-mii"]
    assert len(info["code"]) == 12
    assert info["in_flight_batching"] is False


def test_every_rank_tells_the_cache_of_the_last_batch(standing: RunningServers) -> None:
    """Of 4 sequences of 20 + 6 tokens: keys and values of 4 layers, 2 heads of 32 shared out, float32."""
    talk(standing, lambda c: c.ask(EVEN, 6))
    info, tp = standing.info(), standing.spec.tp
    each = 4 * 26 * 2 * 4 * (2 // tp) * 32 * 4
    assert info["memory"] == {"cuda": None, "cpu": {str(r): {"kv_needed_bytes": each} for r in range(tp)}}
    assert "reset_peaks_url" not in info  # every batch counts anew


def test_every_rank_holds_its_share_and_listens_to_this_machine_only(standing: RunningServers) -> None:
    ranks = standing.ranks()
    assert len(ranks) == standing.spec.tp
    assert standing.server.pid is not None
    family = [*psutil.Process(standing.server.pid).children(recursive=True)]
    listening = [
        connection.laddr.ip
        for process in family
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert set(listening) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    whole = 4_002_304  # the tiny model's parameters in float32
    if standing.spec.tp == 1:
        assert standing.info()["weight_bytes"] == whole
    else:
        assert whole / 2 < standing.info()["weight_bytes"] < whole


def test_a_killed_rank_ends_the_server_with_its_name(tmp_path: Path) -> None:
    for running in serve_ds(replace(SPEC, tp=2), tmp_path):
        ranks = running.ranks()
        follower = next(
            process for process in ranks if process.cmdline()[process.cmdline().index("--rank") + 1] == "1"
        )
        follower.send_signal(signal.SIGKILL)

        ended = wait_until(lambda: not running.alive())  # noqa: B023 - called within the turn
        assert ended
        death = running.server.death()
        assert isinstance(death, ServerDied)
        assert "rank 1 ended with status -9; the server cannot go on and ends" in death.tail
        assert wait_until(lambda: not any(process.is_running() for process in ranks))  # noqa: B023


def test_a_stop_leaves_no_process_and_no_shared_memory(tmp_path: Path) -> None:
    server = serve_ds(replace(SPEC, tp=2), tmp_path)
    running = next(server)
    ranks = running.ranks()
    (pattern,) = running.server.command.cleanup
    assert glob.glob(pattern)
    server.close()
    assert not any(process.is_running() for process in ranks)
    assert not glob.glob(pattern)
    assert "killed" not in (tmp_path / "log").read_text()


def test_a_taken_port_fails_the_start_in_words(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        spec = replace(SPEC, port=taken.getsockname()[1])
        command = FRAMEWORK.command(spec, str(tmp_path / "run"), free_ports(FRAMEWORK.ports))
        server = Server(command, tmp_path / "run", tmp_path / "log")
        with pytest.raises(ServerDied) as caught:
            server.start(240)
    assert f"cannot listen on 127.0.0.1:{spec.port}: Address already in use" in str(caught.value)
    assert not server.alive()


def test_a_python_without_the_libraries_fails_the_preparation_with_the_remedy(tmp_path: Path) -> None:
    bare = tmp_path / "venv/bin/python"
    bare.parent.mkdir(parents=True)
    (tmp_path / "venv/pyvenv.cfg").write_text(f"home = {os.path.dirname(os.path.realpath(sys.executable))}\n")
    bare.symlink_to(os.path.realpath(sys.executable))
    command = FRAMEWORK.command(
        replace(SPEC, python=str(bare)), str(tmp_path / "run"), free_ports(FRAMEWORK.ports)
    )
    with pytest.raises(ServerDied) as caught:
        Server(command, tmp_path / "run", tmp_path / "log").start(60)
    assert "the server's Python has no torch, transformers, deepspeed, mii" in str(caught.value)
    assert "remedy: DS_BUILD_OPS=0 pip install deepspeed deepspeed-mii" in str(caught.value)


def wait_until(true: Callable[[], bool], within_s: float = 20.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.02)
    return False


def test_it_is_known_by_its_url_alone(standing: RunningServers) -> None:
    found = discover(standing.server.command.base_url)
    assert (found.protocol, found.options, found.words) == ("mii-grpc", {"text": "ids"}, None)


def test_a_profiles_target_loads_it_by_its_url(standing: RunningServers, tmp_path: Path) -> None:
    profile = tmp_path / "mii.toml"
    load = "mode = 'closed'\ninput_tokens = 9\noutput_tokens = 6\nrequests = 3"
    profile.write_text(
        f"[target]\nurl = '{standing.server.command.base_url}'\nprotocol = 'mii-grpc'\n[load]\n{load}\n"
    )
    done = CliRunner().invoke(cli.sweep, [str(profile), "--out", str(tmp_path / "out"), "--no-live"])
    assert done.exit_code == 0, done.output
    (result,) = map(json.loads, (tmp_path / "out" / "trials.jsonl").read_text().splitlines())
    assert (result["summary"]["output_tokens"], result["engine"]["server"]) == (18, "deepspeed-mii")

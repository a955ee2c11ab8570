"""The shards of text-generation-inference without their router, by a stand-in that keeps the protocol's rules.

Nothing of the real one runs here; the stand-in, ``standin_tgi_shard.py``, ends itself where a rule is broken.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from real_engine import Running, running

from loadgen.api.sweeps import make
from loadgen.drivers.find import driver_factory
from loadgen.drivers.tgi_messages import message
from loadgen.errors import BadInput, LoadgenError, MissingDependency
from loadgen.launch import frameworks
from loadgen.launch.running import start_server
from loadgen.load_records import Timeouts
from loadgen.records import ServerSpec
from loadgen.servers._llama import folders
from loadgen.servers._llama.files import tokenizer_files
from loadgen.servers.tgi import FRAMEWORK, SHARD
from loadgen.theory.models import PRESETS

ROOT = Path(__file__).resolve().parents[2]
SPEC = ServerSpec(
    framework="tgi",
    model=replace(PRESETS["tiny"], max_context=64),
    dtype="bfloat16",
    gpus=(0, 1),
    tp=2,
    max_batch=4,
    options={"transport": "shard"},
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A PATH with the stand-in on it, and a folder with the tokenizer that is written; it needs no weights."""
    folder = tmp_path_factory.mktemp("tgi")
    program = folder / "bin" / "text-generation-server"
    program.parent.mkdir()
    source = (ROOT / "tests/aids/standin_tgi_shard.py").read_text()
    program.write_text(f"#!{sys.executable}\n{source}")
    program.chmod(0o755)
    for name, text in tokenizer_files(SPEC.model.vocab, 64).items():
        (folder / name).write_text(text)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(folders, "model_of", lambda _spec, _python: folders.Model(path=str(folder)))
        patched.setenv("PATH", str(program.parent), prepend=os.pathsep)
        yield folder


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[Running]:
    with running(SPEC, place) as up:
        yield up


def test_a_static_batch_is_a_prefill_and_decodes_on_every_shard(server: Running) -> None:
    reply = server.ask([[5, 6, 7], [9] * 4, [40, 41]], 5)
    assert reply.error is None
    assert (reply.output_tokens, reply.counted_by) == ((5, 5, 5), "ids")
    assert reply.first_tokens == (8, 9, 10, 11, 12)
    assert (reply.tokens_per_arrival, reply.reads) == ((3,) * 5, 5)
    assert reply.begun_ns == reply.token_ns[0]
    assert reply.end_ns == reply.token_ns[-1]
    assert reply.finish == "length"
    single = server.ask([[5, 6, 7]], 1, stream=False)
    assert (single.error, single.output_tokens, single.token_ns) == (None, (1,), ())


def test_a_trial_is_labelled(server: Running) -> None:
    result = server.trial(batch_size=4, output_tokens=6)
    assert result.failure is None
    assert result.summary is not None
    assert (result.summary.requests_failed, result.summary.output_tokens) == (0, 3 * 4 * 6)
    assert result.summary.ttft_s is not None
    assert result.client is not None
    assert result.client.driver == "tgi-shard"
    assert (result.engine["transport"], result.engine["engine"]) == ("shard", "tgi shard")
    assert (result.engine["attention"], result.engine["prefix_caching"]) == ("flashinfer", False)
    assert result.engine["kv_tokens"] == 4 * 64
    assert result.engine["by_contract_only"] is True


def test_what_its_cache_does_not_hold_is_refused_before_it_is_sent(server: Running) -> None:
    reply = server.ask([[5] * 50] * 5, 10)
    assert reply.error == "Refused: 300 tokens at full length, and the shard's cache holds 256"


def test_a_batch_at_a_time(server: Running) -> None:
    async def main() -> list[Any]:
        make_driver = driver_factory(server.endpoint.protocol)
        driver: Any = make_driver(server.endpoint.base_url, "m", Timeouts(), server.endpoint.driver_options)
        await driver.open(1)
        ends: list[asyncio.Future[Any]] = [asyncio.get_running_loop().create_future() for _ in range(2)]
        request = request_of([[5, 6]], 40)
        for end in ends:
            driver.start(driver.prepare(request), end.set_result)
        replies = [driver.decode(await end) for end in ends]
        driver.start(driver.prepare(request), lambda _raw: None)
        await asyncio.sleep(0.02)
        await driver.close()  # in the middle of a batch, which is cleared
        return replies

    first, second = asyncio.run(main())
    assert first.error is None
    assert "one batch at a time" in second.error
    assert server.ask([[5, 6]], 3).error is None


def request_of(prompts: Sequence[Sequence[int]], tokens: int) -> Any:
    from loadgen.request_records import Request

    return Request(seq=1, phase="measured", prompts=tuple(map(tuple, prompts)), output_tokens=tokens)


def test_a_prompt_without_chunks_ends_the_shards_and_the_server_with_them(place: Path) -> None:
    """The rule that the driver keeps: shown by breaking it. A sequence that ends early is filtered before."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("STANDIN_END_EARLY", "2")
        with running(replace(SPEC, tp=1, gpus=(0,)), place / "two") as up:
            early = up.ask([[5, 6], [7, 8]], 5)
            assert (early.error, early.output_tokens) == (None, (2, 5))
            assert early.finish == "eos_token,length"
            before = up.endpoint.family()
            driver: Any = driver_factory("tgi-shard")(up.endpoint.base_url, "m", Timeouts(), {})
            broken = message("PrefillRequest").FromString(driver.prepare(request_of([[5]], 2)).wire)
            broken.batch.requests[0].ClearField("input_chunks")

            async def send() -> Any:
                await driver.open(1)
                prepared = driver.prepare(request_of([[5]], 2))
                prepared.wire = broken.SerializeToString()
                end: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
                driver.start(prepared, end.set_result)
                reply = driver.decode(await end)
                await driver.close()
                return reply

            assert asyncio.run(send()).error
            fault = up.endpoint.judge(before)
            assert fault is not None
            assert "no input_chunks" in str(fault)


def test_a_warm_up_that_fails_ends_the_start(place: Path, tmp_path: Path) -> None:
    spec = replace(SPEC, tp=1, gpus=(0,), model=replace(SPEC.model, vocab=256), options={**SPEC.options})
    program = place / "bin" / "text-generation-server"
    source = program.read_text()
    program.write_text(source.replace("!= asked.max_prefill_tokens", "== asked.max_prefill_tokens"))
    try:
        with pytest.raises(LoadgenError, match="a warm-up that is not of its greatest size"):
            start_server(spec, tmp_path / "log", tmp_path / "run", lambda _state: None)
    finally:
        program.write_text(source)


def test_its_command() -> None:
    spec = replace(SPEC, python="/py", options={"transport": "shard", "attention": "paged"})
    found = frameworks.of(spec).command(spec, "/run", (30001, 30002))
    settings = json.loads(found.argv[-1])
    assert found.argv[3:5] == ("loadgen.servers._tgi.main", "--spec")
    assert settings | {"model": ""} == {
        "model": "",
        "dtype": "bfloat16",
        "uds": "/run/shard",
        "ranks": 2,
        "host": "127.0.0.1",
        "port": 30001,
        "master_port": 30002,
        "max_input_tokens": 63,
        "max_total_tokens": 64,
        "max_prefill_tokens": 128,
    }
    assert (found.env["ATTENTION"], found.env["PREFIX_CACHING"]) == ("paged", "0")
    assert (found.base_url, found.ready_url) == ("unix:/run/shard-0", "http://127.0.0.1:30001/health")
    deep = SHARD.command(spec, "/" + "x" * 100, (30001, 30002))
    assert deep.base_url == "unix:/tmp/loadgen-tgi-30001/shard-0"
    assert deep.cleanup == ("/tmp/loadgen-tgi-30001",)


@pytest.mark.parametrize("mode", ["closed", "poisson"])
def test_loads_that_arrive_are_refused(place: Path, tmp_path: Path, mode: str) -> None:
    more = {"closed": "concurrency = 4", "poisson": "rate = 2"}[mode]
    profile = tmp_path / "shard.toml"
    profile.write_text(
        '[server]\nframework = "tgi"\nmodel = "tiny"\noptions.transport = "shard"\n'
        f'[[sweep]]\nmode = "{mode}"\n{more}\ninput_tokens = 8\noutput_tokens = 8\nrequests = 4\n'
    )
    with pytest.raises(BadInput, match=f"mode = '{mode}' over tgi-shard") as caught:
        make(str(profile), (), dry_run=True)
    assert "(accepted: static)" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"transport": "other"}, "transport = 'other'"),
        ({"transport": "shard", "attention": "x"}, "attention = 'x'"),
        ({"transport": "shard", "waiting_served_ratio": 1}, "waiting_served_ratio with transport shard"),
        ({"attention": "paged"}, "attention with transport http"),
    ],
)
def test_what_cannot_run_is_refused(options: dict[str, Any], words: str) -> None:
    spec = replace(SPEC, options=options)
    with pytest.raises(BadInput, match=words):
        frameworks.of(spec).check(spec)


def test_what_this_machine_lacks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingDependency, match="no text-generation-server"):
        frameworks.of(SPEC).check(SPEC)
    assert [need.ok for need in FRAMEWORK.needs()] == [True, False, False]

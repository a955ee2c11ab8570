"""The driver against a real tritonserver that replays responses of the real FasterTransformer, and faults."""

import asyncio
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loadgen.drivers.grpc_discover import discover
from loadgen.drivers.triton_grpc import make_driver
from loadgen.errors import BadInput, ConnectFailed, Refused
from loadgen.launch.process import free_ports, serving
from loadgen.load_records import Timeouts
from loadgen.records import ServerSpec
from loadgen.request_records import Reply, Request
from loadgen.servers._triton.repository import Repository
from loadgen.servers.triton import FRAMEWORK
from loadgen.theory import models

GOLDEN = Path(__file__).parents[1] / "data" / "ft-golden"
REPLAY = (Path(__file__).parent / "triton_replay_model.py").read_text()
# name → recording, decoupled, whose meaning of sequence_length
MODELS = {
    "stream-a-5": ("real-A-tp1.json", True, "a"),
    "stream-a-1": ("real-A-tp1-step1.json", True, "a"),
    "stream-b-5": ("real-A-tp1.json", True, "b"),
    "whole-a": ("real-A-tp1.json", False, "a"),
    "whole-a-tp2": ("real-A-tp2.json", False, "a"),
    "whole-b": ("real-A-tp1.json", False, "b"),
}
QUICK = Timeouts(connect_s=10, first_byte_s=20, between_bytes_s=20, total_s=30)
P0, P1, P2 = (
    (358, 209, 498, 192, 489, 121, 403, 76, 11, 231, 234, 449),
    (414, 115, 161, 211, 10, 207, 402, 116, 440, 490, 83, 30),
    (47, 208, 206, 68, 434, 33, 471),
)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    run_dir = tmp_path_factory.mktemp("replay")
    spec = ServerSpec(framework="triton", model=models.resolve("tiny"), dtype="float32")
    command = FRAMEWORK.command(spec, str(run_dir), free_ports(3))
    files: dict[str, str] = {}
    for name, (recording, decoupled, variant) in MODELS.items():
        parameters = {"file": str(GOLDEN / recording), "variant": variant}
        config = Repository(backend="python", decoupled=decoupled, parameters=parameters).config()
        files[f"repository/{name}/config.pbtxt"] = config.replace('"fastertransformer"', f'"{name}"', 1)
        files[f"repository/{name}/1/model.py"] = REPLAY
    command = dataclasses.replace(command, files=files)
    with serving(command, run_dir, run_dir / "log", ready_timeout_s=120):
        yield command.base_url


def ask(
    url: str,
    model: str,
    *prompts: tuple[int, ...],
    tokens: int = 24,
    stream: bool = True,
    timeouts: Timeouts = QUICK,
    **options: Any,
) -> Reply:
    """One request through the driver."""

    async def go() -> Reply:
        driver = make_driver(url, model, timeouts, {"variant": MODELS[model][2], **options})
        request = Request(seq=3, phase="measured", prompts=prompts, output_tokens=tokens, stream=stream)
        try:
            await driver.open(2)
            ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            driver.start(driver.prepare(request), ended.set_result)
            return driver.decode(await asyncio.wait_for(ended, 60))
        finally:
            await driver.close()

    return asyncio.run(go())


def recorded(file: str, prompts: tuple[tuple[int, ...], ...], *, stream: bool = False) -> Any:
    wanted = [list(prompt) for prompt in prompts]
    return next(
        entry
        for entry in json.loads((GOLDEN / file).read_text())
        if entry["prompts"] == wanted and bool(entry.get("stream")) == stream
    )


@pytest.mark.parametrize(
    ("model", "prompts", "expected"),
    [
        ("stream-a-5", (P0,), (3, 5, 5, 5, 5, 1)),
        ("stream-a-5", (P0, P1, P2), (9, 15, 15, 15, 15, 3)),
        ("stream-b-5", (P0, P1, P2), (9, 15, 15, 15, 15, 3)),
        ("stream-a-1", (P0,), (1,) * 24),
        ("stream-a-1", (P0, P1, P2), (3,) * 24),
    ],
)
def test_streams_are_counted_by_what_each_response_adds(
    url: str, model: str, prompts: tuple[tuple[int, ...], ...], expected: tuple[int, ...]
) -> None:
    reply = ask(url, model, *prompts)
    assert reply.error is None
    assert reply.tokens_per_arrival == expected
    assert reply.output_tokens == (24,) * len(prompts)
    # The recording's rows end in the model's own end id, which a model could sample: only the lengths tell.
    assert (reply.counted_by, reply.usage_output_tokens) == ("usage", 24 * len(prompts))
    entry = recorded(MODELS[model][0], prompts, stream=True)
    ids = entry["responses"][-1]["output_ids"][0][0]
    assert list(reply.first_tokens) == ids[len(P0) : len(P0) + 16]
    assert reply.sent_ns < reply.token_ns[0] <= reply.token_ns[-1] == reply.end_ns
    assert list(reply.token_ns) == sorted(reply.token_ns)
    assert reply.reads == len(expected)


@pytest.mark.parametrize("model", ["whole-a", "whole-a-tp2", "whole-b"])
@pytest.mark.parametrize(
    ("prompts", "tokens"),
    [((P0,), 24), ((P2,), 24), (((89,),), 24), ((P0, P1), 24), ((P0, P1, P2), 24), ((P0,), 1)],
)
def test_whole_answers_have_exact_counts_and_no_token_times(
    url: str, model: str, prompts: tuple[tuple[int, ...], ...], tokens: int
) -> None:
    reply = ask(url, model, *prompts, tokens=tokens)
    assert reply.error is None
    assert reply.output_tokens == (tokens,) * len(prompts)
    assert (reply.token_ns, reply.tokens_per_arrival) == ((), ())
    assert reply.end_ns > reply.sent_ns
    assert reply.counted_by == "usage"


@pytest.mark.parametrize("model", ["whole-a", "whole-b"])
def test_an_end_id_that_cannot_be_sampled_lets_the_ids_be_counted(url: str, model: str) -> None:
    reply = ask(url, model, P0, P1, P2, vocab=31999)
    assert reply.error is None
    assert reply.output_tokens == (24, 24, 24)
    assert reply.counted_by == "ids"


def test_the_wrong_variant_is_an_error_and_never_a_count(url: str) -> None:
    reply = ask(url, "whole-a", P0, P1, P2, vocab=31999, variant="b")
    assert reply.error is not None
    assert reply.error.startswith("BadReply: sequence_length = 36 of sequence 0 does not fit its 36 ids")
    assert "is it variant a?" in reply.error
    assert reply.output_tokens is None
    other = ask(url, "whole-b", P0, P1, P2, vocab=31999, variant="a")
    assert other.error is not None
    assert "is it variant b?" in other.error


def test_the_extra_token_of_a_row_merged_with_a_longer_one_is_left_out(url: str) -> None:
    # Recorded: [8, 24] asked in one batch; the first row came with 9 tokens, then end ids (2, the model's own).
    reply = ask(url, "whole-a", P0, tokens=8, vocab=2, merged=True)
    assert reply.error is None
    assert reply.output_tokens == (8,)
    assert reply.usage_output_tokens == 9
    assert reply.first_tokens[:9] == (130, 94, 435, 394, 162, 39, 45, 323, 240)[: len(reply.first_tokens)]


def test_a_stream_that_nobody_asked_to_stream_has_no_token_times(url: str) -> None:
    reply = ask(url, "stream-a-1", P0, stream=False)
    assert (reply.error, reply.output_tokens, reply.token_ns) == (None, (24,), ())


@pytest.mark.parametrize(
    ("number", "words", "arrivals"),
    [
        (0, "Refused: FasterTransformer execute failure: [FT][ERROR] before the first token", 0),
        (1, "Refused: FasterTransformer execute failure: [FT][ERROR] in mid-stream", 1),
        (5, "BadReply: the answer holds no output_ids", 0),
        (6, "BadReply: sequences shrank from [2] to [1] tokens", 1),
        (7, "BadReply: output_ids [1, 1, 0] came with 0 ids", 0),
    ],
)
def test_faults_in_streams_are_not_lost(url: str, number: int, words: str, arrivals: int) -> None:
    reply = ask(url, "stream-a-1", (511, number, 9))
    assert reply.error is not None
    assert reply.error.startswith(words)
    assert reply.output_tokens is None
    assert len(reply.token_ns) == arrivals


def test_a_short_answer_is_counted_as_short(url: str) -> None:
    reply = ask(url, "stream-a-1", (511, 2, 9))
    assert (reply.error, reply.output_tokens, reply.tokens_per_arrival) == (None, (3,), (1, 2))


@pytest.mark.parametrize(
    ("number", "limits", "words"),
    [
        (4, {"first_byte_s": 0.3}, "TimedOut: no message within 0.3 s (first_byte_s)"),
        (3, {"between_bytes_s": 0.3}, "TimedOut: no message for 0.3 s (between_bytes_s)"),
        (3, {"total_s": 0.5}, "TimedOut: not done within 0.5 s (total_s)"),
    ],
)
def test_each_time_out_says_which(url: str, number: int, limits: dict[str, float], words: str) -> None:
    reply = ask(url, "stream-a-1", (511, number, 9), timeouts=dataclasses.replace(QUICK, **limits))
    assert reply.error == words
    # The call was cancelled, not left behind: the server still answers.
    assert ask(url, "stream-a-1", P0).error is None


def test_many_at_once_each_get_their_own(url: str) -> None:
    async def go() -> list[Reply]:
        driver = make_driver(url, "stream-a-5", QUICK, {"variant": "a"})
        await driver.open(64)
        loop = asyncio.get_running_loop()
        ended: list[asyncio.Future[Any]] = []
        for seq in range(64):
            prompts = (P0,) if seq % 2 else (P0, P1, P2)
            future: asyncio.Future[Any] = loop.create_future()
            ended.append(future)
            request = Request(seq=seq, phase="measured", prompts=prompts, output_tokens=24)
            driver.start(driver.prepare(request), future.set_result)
        replies = [driver.decode(raw) for raw in await asyncio.wait_for(asyncio.gather(*ended), 60)]
        await driver.close()
        return replies

    replies = asyncio.run(go())
    assert [reply.error for reply in replies] == [None] * 64
    assert [reply.seq for reply in replies] == list(range(64))
    assert [len(reply.output_tokens or ()) for reply in replies] == [1 if seq % 2 else 3 for seq in range(64)]


def opening(url: str, model: str, **options: Any) -> None:
    async def go() -> None:
        driver = make_driver(url, model, dataclasses.replace(QUICK, connect_s=1), options)
        try:
            await driver.open(1)
        finally:
            await driver.close()

    asyncio.run(go())


def test_open_says_why_it_cannot(url: str) -> None:
    with pytest.raises(Refused, match=r"unknown model|not found"):
        opening(url, "absent")
    (port,) = free_ports(1)
    with pytest.raises(ConnectFailed, match="no connection to 127"):
        opening(f"grpc://127.0.0.1:{port}", "any")


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("http://127.0.0.1:8000", {}, "accepted: grpc://HOST:PORT"),
        ("grpc://127.0.0.1", {}, "accepted: grpc://HOST:PORT"),
        ("grpc://127.0.0.1:99999", {}, "accepted: grpc://HOST:PORT"),
        ("grpc://h:1", {"variant": "c"}, r"accepted: a, b"),
        ("grpc://h:1", {"vocab": 0}, "whole number from 1"),
        ("grpc://h:1", {"merged": True}, "needs vocab"),
        ("grpc://h:1", {"colour": 1}, "unknown"),
    ],
)
def test_bad_options_are_one_clear_error(url: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        make_driver(url, "m", QUICK, options)


def test_a_model_is_found_by_its_tensors_and_named_where_several_have_them(url: str) -> None:
    with pytest.raises(BadInput, match=r"6 with FasterTransformer's tensors .*--model"):
        discover(url)
    found = discover(url, model="stream-a-5", vocab=500)
    assert (found.protocol, found.model) == ("triton-grpc", "stream-a-5")
    assert found.options == {"model": "stream-a-5", "variant": "a", "vocab": 500, "merged": False}
    with pytest.raises(BadInput, match=r"Triton refuses to say what it serves: .*nobody"):
        discover(url, model="nobody")

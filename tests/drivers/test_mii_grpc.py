"""The MII driver on real sockets, against a gRPC server that answers as told; its messages against MII's own."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2

from loadgen.drivers import mii_messages as messages
from loadgen.drivers.mii_grpc import OPTIONS, make_driver
from loadgen.drivers.mii_text import OneTokenWords
from loadgen.drivers.words import Words
from loadgen.errors import BadInput, ConnectFailed
from loadgen.launch.process import free_ports
from loadgen.load_records import Timeouts
from loadgen.request_records import Reply, Request

QUICK = Timeouts(connect_s=10, first_byte_s=20, between_bytes_s=20, total_s=30)
PROMPT = (5, 6, 7)
Behaviour = Callable[[Any, Any], Any]


def sequence(count: int, text: str | None = None, finish: str = "length", prompt: int = 3) -> dict[str, Any]:
    words = " ".join(map(str, range(100, 100 + count))) if text is None else text
    return {
        "response": words, "finish_reason": finish, "prompt_tokens": prompt, "generated_tokens": count,
        "time_taken": -1, "model_time_taken": -1,
    }  # fmt: skip


def reply(*sequences: dict[str, Any]) -> bytes:
    return bytes(messages.MultiGenerationReply(response=sequences).SerializeToString())


def stream_of(count: int, last: int | None = None) -> Iterator[bytes]:
    """As MII streams: a message per token, and an empty one with the finish reason."""
    for done in range(1, count + 1):
        yield reply(sequence(done, text=f" {99 + done}", finish="none"))
    yield reply(sequence(count if last is None else last, text=""))


class Scripted:
    """A server with MII's two methods; ``behave`` says what they do, ``requests`` holds what came."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.behave: Behaviour = lambda request, context: reply()
        self.release = threading.Event()
        self.server = grpc.server(futures.ThreadPoolExecutor(8))
        handlers = {
            "GeneratorReply": grpc.unary_unary_rpc_method_handler(self._answer),
            "GeneratorReplyStream": grpc.unary_stream_rpc_method_handler(self._answer),
        }
        self.server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("modelresponse.ModelResponse", handlers),)
        )
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def _answer(self, wire: bytes, context: Any) -> Any:
        request = messages.MultiStringRequest.FromString(wire)
        self.requests.append(request)
        return self.behave(request, context)


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    made = Scripted()
    yield made
    made.release.set()
    made.server.stop(0).wait()


def ask(
    scripted: Scripted,
    *prompts: tuple[int, ...],
    tokens: int = 4,
    stream: bool = True,
    timeouts: Timeouts = QUICK,
) -> Reply:
    async def go() -> Reply:
        driver = make_driver(f"grpc://127.0.0.1:{scripted.port}", "tiny", timeouts, {})
        request = Request(
            seq=3, phase="measured", prompts=prompts or (PROMPT,), output_tokens=tokens, stream=stream
        )
        await driver.open(2)
        try:
            ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            driver.start(driver.prepare(request), ended.set_result)
            return driver.decode(await asyncio.wait_for(ended, 60))
        finally:
            await driver.close()

    return asyncio.run(go())


def test_a_stream_is_counted_by_generated_tokens_and_checked_by_its_ids(scripted: Scripted) -> None:
    scripted.behave = lambda request, context: stream_of(4)
    got = ask(scripted)
    assert got.error is None
    assert (got.output_tokens, got.counted_by, got.finish) == ((4,), "ids", "length")
    assert got.first_tokens == (100, 101, 102, 103)
    assert got.tokens_per_arrival == (1, 1, 1, 1)
    assert len(got.token_ns) == 4
    assert got.reads == 5
    assert (got.usage_prompt_tokens, got.usage_output_tokens) == (3, 4)


def test_exact_greedy_output_is_what_is_asked_for(scripted: Scripted) -> None:
    scripted.behave = lambda request, context: stream_of(4)
    ask(scripted)
    scripted.behave = lambda request, context: reply(sequence(4), sequence(4))
    ask(scripted, PROMPT, (8, 9, 10))
    one, two = scripted.requests
    fields = [
        {name: getattr(v, v.WhichOneof("oneof_values")) for name, v in r.query_kwargs.items()}
        for r in (one, two)
    ]
    wanted = {"max_new_tokens": 4, "ignore_eos": True, "do_sample": False}
    assert fields == [{**wanted, "stream": True}, wanted]
    assert list(two.request) == ["5 6 7", "8 9 10"]


def test_a_batch_comes_whole_even_when_streaming_was_asked_for(scripted: Scripted) -> None:
    scripted.behave = lambda request, context: reply(sequence(4), sequence(4, prompt=2))
    got = ask(scripted, PROMPT, (8, 9), stream=True)
    assert (got.error, got.output_tokens, got.token_ns, got.reads) == (None, (4, 4), (), 1)


def test_several_tokens_in_one_message_are_one_arrival_of_several_tokens(scripted: Scripted) -> None:
    steps = [sequence(1, "100", "none"), sequence(4, " 101 102 103", "none"), sequence(4, "")]
    scripted.behave = lambda request, context: iter([reply(step) for step in steps])
    got = ask(scripted)
    assert (got.error, got.tokens_per_arrival, got.output_tokens) == (None, (1, 3), (4,))


def test_a_short_output_is_counted_as_short(scripted: Scripted) -> None:
    scripted.behave = lambda request, context: reply(sequence(4), sequence(2))
    got = ask(scripted, PROMPT, PROMPT)
    assert (got.error, got.output_tokens) == (None, (4, 2))


def test_text_of_a_real_tokenizer_is_counted_by_the_servers_figures(scripted: Scripted) -> None:
    scripted.behave = lambda request, context: reply(sequence(4, "four tokens of text"))
    got = ask(scripted, stream=False)
    assert (got.error, got.output_tokens, got.counted_by, got.first_tokens) == (None, (4,), "usage", ())


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ([sequence(4, prompt=4)], "WrongLength: prompt 0: 3 tokens were meant, and the server counted 4"),
        ([sequence(4, text="100 101 102")], "BadReply: generated_tokens adds up to 4, the texts to 3 tokens"),
        ([], "BadReply: 0 of 1 sequences have a finish reason"),
        ([sequence(4), sequence(4)], "BadReply: the answer holds more sequences than the 1 that were sent"),
    ],
)
def test_an_answer_that_is_not_the_one_asked_for_is_an_error(
    scripted: Scripted, answer: list[dict[str, Any]], error: str
) -> None:
    scripted.behave = lambda request, context: reply(*answer)
    assert ask(scripted, stream=False).error == error


@pytest.mark.parametrize(
    ("steps", "error"),
    [
        ([sequence(1, "100", "none")], "BadReply: 0 of 1 sequences have a finish reason"),
        ([sequence(1, "100", "")], "BadReply: 0 of 1 sequences have a finish reason"),
        ([sequence(2, "100 101", "none"), sequence(1, "")], "BadReply: generated_tokens fell from 2 to 1"),
        (
            [sequence(1, "100"), sequence(2, "101")],
            "BadReply: a message came after the one with a finish reason",
        ),
        (
            [sequence(4, "100", "none"), sequence(4, "")],
            "BadReply: generated_tokens adds up to 4, the texts to 1 tokens",
        ),
    ],
)
def test_a_stream_that_contradicts_itself_is_an_error(
    scripted: Scripted, steps: list[dict[str, Any]], error: str
) -> None:
    scripted.behave = lambda request, context: iter([reply(step) for step in steps])
    assert ask(scripted).error == error


def test_what_is_no_message_of_mii_is_a_bad_reply(scripted: Scripted) -> None:
    scripted.behave = lambda request, context: b"\xff\xff\xff"
    error = ask(scripted, stream=False).error
    assert error is not None
    assert error.startswith("BadReply: not a MultiGenerationReply of MII (3 bytes)")


def test_the_servers_own_refusal_keeps_its_words(scripted: Scripted) -> None:
    def refuse(request: Any, context: Any) -> bytes:
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no room in the cache")
        raise AssertionError

    scripted.behave = refuse
    assert ask(scripted, stream=False).error == "Refused: RESOURCE_EXHAUSTED: no room in the cache"


def test_the_reply_so_far_survives_a_server_that_ends(scripted: Scripted) -> None:
    def end(request: Any, context: Any) -> Iterator[bytes]:
        yield from itertools.islice(stream_of(4), 2)
        scripted.server.stop(0)
        scripted.release.wait(20)

    scripted.behave = end
    got = ask(scripted)
    assert got.error is not None
    assert got.error.startswith(
        ("BadReply: the connection was lost", "Refused: CANCELLED", "Refused: UNAVAILABLE")
    )
    assert got.output_tokens == (2,)


@pytest.mark.parametrize(
    ("timeouts", "tokens", "error"),
    [
        (Timeouts(first_byte_s=0.1), 0, "TimedOut: no message within 0.1 s (first_byte_s)"),
        (Timeouts(between_bytes_s=0.1), 2, "TimedOut: no message for 0.1 s (between_bytes_s)"),
        (Timeouts(total_s=0.1), 2, "TimedOut: not done within 0.1 s (total_s)"),
    ],
)
def test_every_limit_is_told_by_its_name(
    scripted: Scripted, timeouts: Timeouts, tokens: int, error: str
) -> None:
    def stall(request: Any, context: Any) -> Iterator[bytes]:
        yield from itertools.islice(stream_of(4), tokens)
        scripted.release.wait(20)

    scripted.behave = stall
    assert ask(scripted, timeouts=timeouts).error == error


def test_nobody_listening_fails_the_opening() -> None:
    driver = make_driver(f"grpc://127.0.0.1:{free_ports(1)[0]}", "tiny", Timeouts(connect_s=0.2), {})
    with pytest.raises(ConnectFailed, match=r"within 0\.2 s"):
        asyncio.run(driver.open(1))


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("http://127.0.0.1:1", {}, "accepted: grpc://HOST:PORT"),
        ("grpc://127.0.0.1", {}, "accepted: grpc://HOST:PORT"),
        ("grpc://127.0.0.1:99999", {}, "accepted: grpc://HOST:PORT"),
        ("grpc://h:1", {"wording": 1}, f"accepted: {', '.join(OPTIONS)}"),
        ("grpc://h:1", {"text": "tokens"}, "accepted: text = ids alone"),
        ("grpc://h:1", {"text": "tokenizer"}, "with tokenizer = FOLDER"),
        ("grpc://h:1", {"text": "words"}, "text = words with words"),
        ("grpc://h:1", {"text": "ids", "words": {}}, "text = words with words"),
        ("grpc://h:1", {"text": "words", "words": {}}, "not what Words.option makes"),
    ],
)
def test_bad_input_is_told(url: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput) as caught:
        make_driver(url, "tiny", QUICK, options)
    assert words in str(caught.value)


def miis_messages() -> Any:
    """MII's generated module, loaded by its file: importing the package would import torch."""
    spec = importlib.util.find_spec("mii")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "grpc_related/proto/modelresponse_pb2.py"
    loader = importlib.util.spec_from_file_location("modelresponse_pb2", path)
    assert loader is not None
    assert loader.loader is not None
    module = importlib.util.module_from_spec(loader)
    loader.loader.exec_module(module)
    return module


def test_our_messages_are_miis_on_the_wire() -> None:
    theirs = miis_messages()
    settings = {"text": "a", "count": 7, "share": 0.5, "yes": True, "no": False}
    ours = messages.MultiStringRequest(request=["x y", ""], query_kwargs=messages.settings(settings))
    read = theirs.MultiStringRequest.FromString(ours.SerializeToString())
    assert list(read.request) == ["x y", ""]
    assert {k: getattr(v, v.WhichOneof("oneof_values")) for k, v in read.query_kwargs.items()} == settings
    answer = theirs.MultiGenerationReply(response=[sequence(4), sequence(2, "ü", "stop", 2**40)])
    back = messages.MultiGenerationReply.FromString(answer.SerializeToString())
    assert [(r.response, r.finish_reason, r.prompt_tokens, r.generated_tokens) for r in back.response] == [
        ("100 101 102 103", "length", 3, 4),
        ("ü", "stop", 2**40, 2),
    ]
    service = theirs.DESCRIPTOR.services_by_name["ModelResponse"]
    assert f"/{service.full_name}/" == messages.SERVICE


def test_the_proto_file_says_what_the_code_builds(tmp_path: Path) -> None:
    from grpc_tools import protoc

    folder = Path(messages.__file__).parent
    out = tmp_path / "mii.pb"
    assert protoc.main(["protoc", f"-I{folder}", f"--descriptor_set_out={out}", "mii.proto"]) == 0
    (compiled,) = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    assert [m.name for m in compiled.service[0].method] == ["GeneratorReply", "GeneratorReplyStream"]
    compiled.ClearField("service")
    compiled.name = messages.file().name
    assert compiled == messages.file()


def test_a_text_of_words_tells_no_ids() -> None:
    text = OneTokenWords(Words(words=("a", "b"), overhead=1))
    assert text.prompt([1, 2, 3]) == "b a"
    assert text.ids("whatever") is None

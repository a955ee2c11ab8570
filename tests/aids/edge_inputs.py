"""Fuzzing of the edges: whatever comes from outside ends in a value or a LoadgenError, never in another exception.

``python tests/aids/edge_inputs.py N`` tries N inputs in all (``make fuzz``: 200,000); the suite tries a few of each.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loadgen import urls
from loadgen.drivers.answer import Answer
from loadgen.drivers.http1 import Chunked, take_head
from loadgen.drivers.sse import EventStream
from loadgen.errors import BadInput, LoadgenError
from loadgen.load.sound import sound
from loadgen.profile.read import build_profile, load_profile
from loadgen.records import Request
from loadgen.results.samples import read_samples
from loadgen.results.store import Results
from loadgen.telemetry.prometheus_text import read_page
from loadgen.theory.checkpoint import from_folder
from loadgen.traces.formats import FORMATS, reader_of

FOLDER = Path(tempfile.mkdtemp(prefix="loadgen-fuzz-")) if __name__ == "__main__" else None
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(2**31 - 2, 2**64 + 2), st.floats(), st.text(max_size=8),
    st.sampled_from(["", "\ud800", "nan", "1e999", "-1", "<!--", "\0"]),
)  # fmt: skip
JSON = st.recursive(
    ODD, lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=6), one, max_size=3)
)


def spliced(*pieces: bytes) -> st.SearchStrategy[bytes]:
    """Pieces of the real thing between pieces of nothing, in any order."""
    part = st.one_of(st.sampled_from(pieces), st.binary(max_size=6))
    return st.lists(part, max_size=12).map(b"".join)


def blocks(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


HEADS = spliced(
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"Content-Length: ", b"5", b"1" * 5000, b"\r\n", b"\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Content-Type: text/event-stream\r\n", b"Connection: close\r\n", b"HTTP/1.0 ",
)  # fmt: skip
CHUNKS = spliced(
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    b"0\r\n",
    b"a;x=y\r\n",
    b"fffffffffffffff\r\n",
    b"\r\n",
    b"5\r\n",
    b"hello",
)
EVENTS = spliced(
    b"data: ",
    b"data: {}\n\n",
    b"\n\n",
    b"\r\n",
    b"\r",
    b"event: error\n",
    b": ping\n\n",
    b"data: [DONE]\n\n",
    b"\xef\xbb\xbf",
)
KEYS = ("choices", "usage", "error", "object", "message", "detail")
CHOICES = (
    st.fixed_dictionaries({}, optional={key: JSON for key in ("index", "text", "token_ids", "finish_reason")})
    | JSON
)
REPLIES = st.fixed_dictionaries(
    {},
    optional={
        "choices": st.lists(CHOICES, max_size=3) | JSON,
        "usage": st.fixed_dictionaries({}, optional={"prompt_tokens": JSON, "completion_tokens": JSON})
        | JSON,
        "error": JSON,
        "object": ODD,
    },
)
PAGES = spliced(
    b"vllm:num_requests_running", b"DCGM_FI_DEV_FB_USED", b'{UUID="a",gpu="0"}', b"{", b"}", b" 1\n", b" nan\n", b" 1e999\n",
    b"vllm:cache_config_info", b'{num_gpu_blocks="9' + b"9" * 5000 + b'",block_size="x"}', b"# HELP\n", b"\xff", b"\n",
)  # fmt: skip
TOML = spliced(
    b"[server]\n", b"[load]\n", b"[[sweep]]\n", b"[sweep]\n", b'framework = "null"\n', b'model = "tiny"\n', b"input_tokens = ",
    b"output_tokens = ", b"1", b"99999999999999999999", b"nan", b"-1", b"[", b"]", b"[1, 2]", b"\n", b'name = "', b'"\n', b"requests = ",
    b"[target]\n", b'url = "http://', b"[telemetry]\n", b"batch_size = ", b"concurrency = ", b"gpus = []\n", b"= ",
)  # fmt: skip
TABLES = {
    "server": {"framework": "null", "model": "tiny", "gpus": []},
    "load": {"input_tokens": 4, "output_tokens": 2},
}
SETS = st.tuples(
    st.sampled_from(["requests", "concurrency", "tp", "server.options.itl_ms", "load", "sweep", "load.timeouts.total_s", "batch", "gpus", "telemetry.period_s", "name", "model", "x.y"])
    | st.text(max_size=6),
    st.sampled_from(["1", "0", "-1", "1e20", "nan", "inf", "[1,2]", "1,2", "[[", "{a=1}", "true", "''", "9" * 400]) | st.text(max_size=6),
).map("=".join)  # fmt: skip
URLS = st.text(max_size=12) | st.lists(
    st.sampled_from(["http://", "https://", "grpc://", "user:pass@", "[::1]", "[::bad", "a" * 70, "ü", ":80", ":99999", ":x", "/v1", "?q", " ", "\n", "host"]),
    max_size=5,
).map("".join)  # fmt: skip
CONFIG = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4,
    "vocab_size": 99, "max_position_embeddings": 64,
}  # fmt: skip
CONFIGS = st.fixed_dictionaries(
    {}, optional={key: JSON for key in (*CONFIG, "rope_theta", "rms_norm_eps", "rope_parameters", "tie_word_embeddings", "head_dim", "num_key_value_heads", "quantization_config")}
).map(lambda odd: CONFIG | odd)  # fmt: skip
TENSORS = st.dictionaries(
    st.text(max_size=4),
    st.fixed_dictionaries({}, optional={"data_offsets": JSON, "dtype": ODD}) | JSON,
    max_size=3,
)
HEADERS = st.one_of(
    st.binary(max_size=40),
    TENSORS.map(json.dumps).map(str.encode).map(lambda h: len(h).to_bytes(8, "little") + h),
)
LINES = spliced(
    b'{"trial": ', b'{"id": "x"}', b"}", b"{", b'"failure": null', b",", b"\n", b"[]", b"null", b"1"
)
STORED = spliced(b'{"schema_version": 1', b', "environments": ', b"{}", b"[]", b"}", b"{", b"1", b"null")
PARQUET = spliced(b"PAR1", b"\x15\x04", b"\0\0\0\0", b"PAR1PAR1")
TRACES = spliced(
    b'{"offset_s": ',
    b"0",
    b"1e999",
    b', "input_tokens": ',
    b"4",
    b', "output_tokens": ',
    b"}",
    b"\n",
    b"-1",
    b"null",
)


def head(data: bytes) -> None:
    take_head(data)


def chunks(data: bytes) -> None:
    for size in (1, 3, 1000):
        chunked = Chunked()
        for block in blocks(data, size):
            chunked.feed(block, [])


def events(data: bytes) -> None:
    stream = EventStream()
    for block in blocks(data, 3):
        stream.feed(block)
    stream.finish()


def reply(found: Any) -> None:
    body = json.dumps(found).encode()
    for kind, data in (("application/json", body), ("text/event-stream", b"data: " + body + b"\n\n")):
        request = Request(
            seq=1, phase="measured", prompts=((1, 2),), output_tokens=3, stream=kind != "application/json"
        )
        answer = Answer(request, 200, "OK", kind)
        answer.feed(data, 5)
        got = sound(answer.reply(sent_ns=1, end_ns=9, reads=1, lag_ns=None, error=None))
        assert all(type(token) is int and 0 <= token < 2**31 for token in got.first_tokens)


def page(data: bytes) -> None:
    read_page(data.decode("utf-8", "replace"))


def place() -> Path:
    return FOLDER if FOLDER is not None else Path(tempfile.gettempdir())


@contextlib.contextmanager
def folder() -> Any:
    with tempfile.TemporaryDirectory(dir=place()) as made:
        yield Path(made)


def toml(data: bytes) -> None:
    with folder() as into:
        (into / "p.toml").write_bytes(data)
        load_profile(str(into / "p.toml"), (), 0, ("null",))


def sets(text: str) -> None:
    build_profile(TABLES, sets=(text,), gpu_count=0, frameworks=("null",))


def url(text: str) -> None:
    urls.check(text, "--url")


def config(found: Any) -> None:
    with folder() as into:
        (into / "config.json").write_text(json.dumps(found))
        (into / "a.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
        from_folder(str(into))


def header(data: bytes) -> None:
    with folder() as into:
        (into / "config.json").write_text(json.dumps(CONFIG))
        (into / "a.safetensors").write_bytes(data)
        from_folder(str(into))


def lines(data: bytes) -> None:
    with folder() as into:
        (into / "sweep.json").write_text('{"schema_version": 1}')
        (into / "trials.jsonl").write_bytes(data)
        Results(into).results()


def stored(data: bytes) -> None:
    with folder() as into:
        (into / "sweep.json").write_bytes(data)
        Results(into).environments()


def parquet(data: bytes) -> None:
    with folder() as into:
        (into / "x.parquet").write_bytes(data)
        list(read_samples(into / "x.parquet"))


def trace(data: bytes) -> None:
    first, *rest = data.split(b"\n")
    for format_ in (None, *FORMATS):
        with contextlib.suppress(BadInput):
            reader = reader_of(first, "t", format_)
            for line in rest:
                reader.parse(line, "t")


EDGES: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], None]]] = {
    "HTTP head": (HEADS, head),
    "chunks": (CHUNKS, chunks),
    "SSE": (EVENTS, events),
    "JSON reply": (REPLIES, reply),
    "metrics page": (PAGES, page),
    "TOML": (TOML, toml),
    "--set": (SETS, sets),
    "URL": (URLS, url),
    "config.json": (CONFIGS, config),
    "safetensors head": (HEADERS, header),
    "stored lines": (LINES, lines),
    "sweep.json": (STORED, stored),
    "parquet": (PARQUET, parquet),
    "trace": (TRACES, trace),
}


def fuzz(edge: str, inputs: int) -> None:
    """Try that many inputs on an edge. Raises what is no LoadgenError."""
    strategy, target = EDGES[edge]

    @settings(max_examples=inputs, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def attempt(found: Any) -> None:
        with contextlib.suppress(LoadgenError):
            target(found)

    attempt()


def main(inputs: int) -> int:
    """Fuzz every edge, print what each gave; 1 when one raised anything but a LoadgenError."""
    wrong = 0
    for edge in EDGES:
        try:
            fuzz(edge, inputs // len(EDGES))
            print(f"{edge:18} right", flush=True)
        except Exception as error:  # noqa: BLE001 this is what is looked for
            wrong += 1
            print(f"{edge:18} {type(error).__name__}: {str(error)[:200]}", flush=True)
    print(f"{wrong} of {len(EDGES)} edges wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))

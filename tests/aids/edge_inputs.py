"""Fuzzing of the edges: whatever comes from outside ends in a value or a LoadgenError, never in another exception.

``python tests/aids/edge_inputs.py N`` tries N inputs in all (``make fuzz``: 200,000); the suite tries a few of each.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import edge_grpc
import edge_pages
import edge_replies
from edge_replies import JSON, ODD, Edges, some, spliced
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loadgen import urls
from loadgen.errors import BadInput, LoadgenError
from loadgen.plan.plan import endpoint_trial
from loadgen.profile.read import build_profile, load_profile
from loadgen.records import LoadSpec, TrialResult
from loadgen.report.markdown import gather
from loadgen.results.samples import read_samples
from loadgen.results.store import Results, to_json
from loadgen.selfcheck import probe
from loadgen.theory.checkpoint import from_folder
from loadgen.traces.formats import FORMATS, reader_of

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
# One or two odd values among good ones: the first that is refused hides the others.
CONFIGS = st.dictionaries(
    st.sampled_from([*CONFIG, "rope_theta", "rms_norm_eps", "rope_parameters", "tie_word_embeddings", "head_dim", "num_key_value_heads", "quantization_config"]),
    JSON, max_size=2,
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
STORED = st.one_of(
    spliced(b'{"schema_version": 1', b', "environments": ', b"{}", b"[]", b"}", b"{", b"1", b"null"),
    some("environments", "plan", "kept", "profile", "name", "sets", environments=st.dictionaries(st.text(max_size=3), JSON, max_size=1))
    .map(lambda found: json.dumps({"schema_version": 1, **found}).encode()),
)  # fmt: skip
RESULT = json.loads(
    to_json(
        TrialResult(
            trial=endpoint_trial(LoadSpec(kind="static", input_tokens=4, output_tokens=2, requests=1), "http://h", "m", 9),
            environment="e", engine={}, started="2026-01-01T00:00:00.000+00:00", wall_s=1.0,
        )
    )
)  # fmt: skip
TRIALS = st.tuples(st.sampled_from([(key,) for key in RESULT] + [("trial", key) for key in RESULT["trial"]] + [("trial", "load", key) for key in RESULT["trial"]["load"]]), JSON)  # fmt: skip
CEILINGS = st.tuples(
    st.lists(JSON | some("device", "source", "bandwidth", "matrix", "ladder", "all_reduce", "launch_s", "shared", "facts", source=st.just("measured"), ladder=st.lists(st.tuples(ODD, ODD), max_size=1), all_reduce=st.lists(some("ranks", "how", "alpha_s", "beta_bytes_per_s", "points"), max_size=1)), max_size=1) | JSON,
    st.binary(max_size=3),
)  # fmt: skip
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


@contextlib.contextmanager
def folder() -> Any:
    """A folder for files that are read; in memory where there is one, since thousands are made."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as made:
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


def trial(found: tuple[tuple[str, ...], Any]) -> None:
    """A line whose JSON is whole, and one value in it is odd: reading it, and what is made of it at once."""
    (*path, last), value = found
    line = deepcopy(RESULT)
    inner = line
    for key in path:
        inner = inner[key]
    inner[last] = value
    with folder() as into:
        (into / "sweep.json").write_text('{"schema_version": 1}')
        (into / "trials.jsonl").write_text(json.dumps(line) + "\n")
        gather(into)


def stored(data: bytes) -> None:
    with folder() as into:
        (into / "sweep.json").write_bytes(data)
        gather(into)


def ceilings(found: tuple[Any, bytes]) -> None:
    with folder() as into:
        (into / "ceilings.json").write_bytes(json.dumps(found[0]).encode() + found[1])
        for each in probe.load(into):
            each.bandwidth_for(1.0)
            each.all_reduce_s(2, 10)


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


EDGES: Edges = {
    **edge_replies.EDGES,
    **edge_grpc.EDGES,
    **edge_pages.EDGES,
    "TOML": (TOML, toml),
    "--set": (SETS, sets),
    "URL": (URLS, url),
    "config.json": (CONFIGS, config),
    "safetensors head": (HEADERS, header),
    "stored lines": (LINES, lines),
    "stored trial": (TRIALS, trial),
    "sweep.json": (STORED, stored),
    "ceilings.json": (CEILINGS, ceilings),
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

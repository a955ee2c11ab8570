"""Odd profiles and options: TOML, ``--set``, URLs, every table that a profile has, traces and lists of lengths."""

from __future__ import annotations

import contextlib
from copy import deepcopy
from typing import Any

from edge_replies import ODD, Edges, some, spliced
from hypothesis import strategies as st
from scratch import scratch

from loadgen import urls
from loadgen.analysis.findings import declared
from loadgen.api.loads import Load, load_spec
from loadgen.errors import BadInput
from loadgen.plan.plan import make_plan
from loadgen.profile.read import build_profile, load_profile
from loadgen.traces.files import open_rows
from loadgen.traces.formats import FORMATS
from loadgen.workload_records import Replay

TOML = spliced(
    b"[server]\n", b"[load]\n", b"[[sweep]]\n", b"[sweep]\n", b'framework = "null"\n', b'model = "tiny"\n', b"input_tokens = ",
    b"output_tokens = ", b"1", b"99999999999999999999", b"nan", b"-1", b"[", b"]", b"[1, 2]", b"\n", b'name = "', b'"\n', b"requests = ",
    b"[target]\n", b'url = "http://', b"[telemetry]\n", b"batch_size = ", b"concurrency = ", b"gpus = []\n", b"= ", b"repeat = ",
    b"999999999999", b"0x" + b"f" * 5000, b"9" * 5000, b"1e-320", b"a." * 2000 + b"a = 1\n", b"starts = ", b"[capacity]\n", b"\0", b'"\\u0000"',
)  # fmt: skip
TABLES: dict[str, Any] = {
    "server": {"framework": "null", "model": "tiny", "gpus": []},
    "load": {"input_tokens": 4, "output_tokens": 2},
}
SETS = st.tuples(
    st.sampled_from(["requests", "concurrency", "tp", "server.options.itl_ms", "load", "sweep", "load.timeouts.total_s", "batch", "gpus", "telemetry.period_s", "name", "model", "x.y", "repeat", "starts", "workers", "rate", "slo.ttft", "load.prefixes", "a" + ".a" * 2000])
    | st.text(max_size=6),
    st.sampled_from(["1", "0", "-1", "1e20", "nan", "inf", "[1,2]", "1,2", "[[", "{a=1}", "true", "''", "9" * 400, "0x" + "f" * 5000, "9" * 5000, "999999999999", '"\\u0000"', "\udcff"]) | st.text(max_size=6),
).map("=".join)  # fmt: skip
URLS = st.text(max_size=12) | st.lists(
    st.sampled_from(["http://", "https://", "grpc://", "http+unix://", "user:pass@", "[::1]", "[::bad", "a" * 70, "ü", ":80", ":99999", ":x", "/v1", "?q", "?key=s", " ", "\n", "\0", "%2F", "%00", "host", "\udcff", "ⅷ"]),
    max_size=5,
).map("".join)  # fmt: skip
NUMBERS = st.sampled_from([0, 1, -1, 2, 10**6, 10**12, 2**31 - 1, 2**63 - 1, 2**63, 10**400, 0.5, 1.0, 1e-9, 1e-320, 1e18, 1e308, float("inf"), float("nan"), True, "1", "²", "9" * 5000, "500ms", "500ms@99%", "5%", "1h", "", [], {}])  # fmt: skip
VALUE = NUMBERS | ODD


def tables(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(names), VALUE | st.lists(VALUE, max_size=2), max_size=3)


KINDS = st.sampled_from(["uniform", "lognormal", "gamma", "empirical", "x", [], 1])
LENGTHS = st.one_of(
    VALUE,
    st.sampled_from(["lognormal:median=1e308,sigma=9,max=10", "uniform:min=5,max=²", "empirical:file=/dev/zero", "gamma:mean=1,cv=1e-300,max=4", "x:", ":", "uniform:max=5", "uniform:max=5,max=6"]),
    st.tuples(KINDS, tables("median", "sigma", "mean", "cv", "min", "max", "file", "column")).map(lambda found: {"kind": found[0], **found[1]}),
    st.fixed_dictionaries({"kind": st.sampled_from(["lognormal", "gamma"]), "max": st.sampled_from([4, 9])}, optional=dict.fromkeys(("median", "sigma", "mean", "cv", "min"), NUMBERS)),
)  # fmt: skip
REPLAY = tables("format", "speed", "rate", "sample", "from", "to", "spread", "max_context", "too_long", "block_tokens")  # fmt: skip
PREFIXES = st.fixed_dictionaries({}, optional={"groups": NUMBERS, "tokens": NUMBERS, "share": NUMBERS})
MODES = st.sampled_from(["static", "closed", "constant", "poisson", "gamma", "ramp", "trace", "x"])
LOAD = st.tuples(
    MODES,
    st.fixed_dictionaries({}, optional={"input_tokens": LENGTHS, "output_tokens": LENGTHS, "replay": REPLAY | ODD, "prefixes": PREFIXES | ODD}),
    tables("batch_size", "concurrency", "rate", "rate_end", "max_rate", "burstiness", "requests", "duration", "lead_in", "warmup", "repeat", "workers", "seed", "stream", "timeouts"),
).map(lambda found: {"load": {"mode": found[0], "input_tokens": 4, "output_tokens": 2, **found[1], **found[2]}})  # fmt: skip
SLOS = st.fixed_dictionaries(
    {"slo": st.fixed_dictionaries({}, optional=dict.fromkeys(("ttft", "tpot", "e2e", "itl_max", "share"), VALUE | st.text("0123456789.@%ms", max_size=8)))},
    optional={"capacity": tables("variable", "window", "lead_in", "within", "confirm", "saturating")},
)  # fmt: skip
AXES = ("framework", "model", "dtype", "tp", "pp", "batch_size", "concurrency", "rate", "input_tokens", "output_tokens", "stream", "options")  # fmt: skip
SWEEPS = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from([*AXES, "mode", "requests", "duration", "repeat", "starts", "combine", "exclude"]), VALUE | st.lists(VALUE, max_size=3), max_size=3),
    ).map(lambda found: found[0]),
    max_size=2,
).map(lambda found: {"sweep": found})  # fmt: skip
OTHERS = some(
    "name", "description", "order", "starts", "target", "telemetry", "frameworks", "bisection", "finding",
    target=some("url", "model", "vocab", "protocol", "endpoint", "prompt", "exact", "extra_body", "headers", "options", url=URLS),
    telemetry=tables("enabled", "exporter", "exporter_port", "sources", "prometheus", "selector", "period_s"),
    frameworks=st.dictionaries(st.sampled_from(["null", "hf", "x"]), tables("dtype", "gpus", "max_batch", "python", "ready_timeout_s", "options"), max_size=2),
    bisection=tables("most", "within"),
    finding=st.lists(some("id", "claim", "metric", "over", "under", "expect", id=st.just("a"), claim=st.just("b"), metric=st.just("e2e_s"), expect=st.sampled_from([">= 1.5", "> nan", "<= 1e999", "<", ">= 1e"])), max_size=2),
    server=some("framework", "model", "gpus", "tp", "pp", "dtype", "max_batch", "python", "options", "extend_context", "ready_timeout_s", framework=st.just("null"), model=st.just("tiny"), gpus=st.just([])),
)  # fmt: skip
TRACES = st.lists(
    spliced(
        b'{"offset_s": ', b"0", b"1e999", b', "input_tokens": ', b"4", b', "output_tokens": ', b"}", b"-1", b"null",
        b'{"timestamp": ', b', "input_length": ', b', "output_length": ', b', "hash_ids": [1]', b'"chat_id": 1', b"9" * 5000, b"TIMESTAMP,ContextTokens,GeneratedTokens",
        b"2023-11-16 18:17:03.9799600,", b"2023-13-41 99:99:99,", b"4,2", b"Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type", b"5,x,4,2", b"nan,x,4,2", b"1e300",
    )
    | st.sampled_from([b'{"offset_s": 0, "input_tokens": 4, "output_tokens": 2}', b'{"offset_s": 5e8, "input_tokens": 2000000000, "output_tokens": 2}', b'{"timestamp": 5, "input_length": 4, "output_length": 2, "hash_ids": [1]}', b"Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"]),
    max_size=5,
).map(b"\n".join)  # fmt: skip
REPLAYS = st.builds(
    Replay,
    format=st.sampled_from([None, None, *FORMATS]),
    speed=st.sampled_from([1.0, 1e-9, 1e12, 0.3]),
    rate=st.sampled_from([None, 1e-9, 5.0, 1e12]),
    sample=st.sampled_from([1.0, 1e-9, 0.5]),
    from_s=st.sampled_from([0.0, 1.0]),
    to_s=st.sampled_from([None, 2e9]),
    spread_s=st.sampled_from([0.0, 3.0, 2e9]),
    max_context=st.sampled_from([None, 1, 5]),
    too_long=st.sampled_from(["fail", "skip", "cut"]),
    block_tokens=st.sampled_from([None, 1, 2**31 - 1]),
)
COLUMNS = st.tuples(
    spliced(b"5\n", b"tokens\n", b'{"tokens": 4}\n', b"\n", b"\xff", b'"', b",", b"9" * 5000, b"\0", b"\xc2\xb2", b"-1"),
    st.sampled_from(["l.csv", "l.jsonl", "l.txt"]),
    st.sampled_from([{}, {"column": "tokens"}, {"column": 5}, {"max": 3}]),
)  # fmt: skip
SHAPE: dict[str, Any] = {
    "mode": "closed", "concurrency": 1, "batch_size": 1, "rate": None, "rate_end": None, "burstiness": 1.0, "trace": None,
    "max_rate": None, "input_tokens": 4, "output_tokens": 2, "requests": 1, "warmup": None, "stream": True, "seed": 0,
    "workers": 1, "timeout": 5.0,
}  # fmt: skip
FLOATS = st.sampled_from([0.0, -1.0, 5.0, 1e-320, 1e308, float("inf"), float("nan")])
WHOLE = st.sampled_from([0, -1, 1, 10**6, 10**12, 2**63, 10**400])
WORDS = st.sampled_from(["500ms", "1h", "9" * 5000, "²", "speed=1e-320", "rate=nan", "groups=1,tokens=4", "groups=²,tokens=1", "=", "sample=0.5,from=1,to=0", ""]) | st.text(max_size=6)  # fmt: skip
RUNS = st.fixed_dictionaries(
    {"mode": MODES},
    optional={
        **dict.fromkeys(("rate", "rate_end", "burstiness", "max_rate", "timeout"), FLOATS),
        **dict.fromkeys(("concurrency", "batch_size", "requests", "warmup", "workers"), WHOLE),
        **dict.fromkeys(
            ("duration", "lead_in", "replay", "prefixes", "input_tokens", "output_tokens"), WORDS
        ),
    },
)


def toml(data: bytes) -> None:
    path = scratch() / "p.toml"
    path.write_bytes(data)
    make_plan(load_profile(str(path), (), 0, ("null",)))


def sets(text: str) -> None:
    build_profile(TABLES, sets=(text,), gpu_count=0, frameworks=("null",))


def url(text: str) -> None:
    with contextlib.suppress(BadInput):
        urls.check(text, "--url")
        text.encode("ascii")  # what is taken can be sent
    urls.shown(text).encode()  # what is shown can be printed


def profile(found: dict[str, Any]) -> None:
    """Tables laid over good ones; planned where they are taken."""
    whole = deepcopy(TABLES)
    for name, table in found.items():
        if isinstance(table, dict) and isinstance(whole.get(name), dict):
            whole[name] |= table
        else:
            whole[name] = table
    if "target" in found:
        del whole["server"]
    made = build_profile(whole, gpu_count=0, frameworks=("null",))
    declared.parse(made.findings)
    make_plan(made)


def trace(found: tuple[bytes, Replay]) -> None:
    path = scratch() / "trace"
    path.write_bytes(found[0])
    with open_rows(str(path), found[1]) as rows:
        for row in rows:
            assert -(2**63) <= row.offset_ns < 2**63


def column(found: tuple[bytes, str, dict[str, Any]]) -> None:
    path = scratch() / found[1]
    path.write_bytes(found[0])
    profile(
        {"load": {"mode": "closed", "input_tokens": {"kind": "empirical", "file": str(path), **found[2]}}}
    )


def options(found: dict[str, Any]) -> None:
    load_spec(Load(**{**SHAPE, **found}))


EDGES: Edges = {
    "TOML": (TOML, toml),
    "overrides": (SETS, sets),
    "URL": (URLS, url),
    "[load]": (LOAD, profile),
    "[slo], [capacity]": (SLOS, profile),
    "[sweep]": (SWEEPS, profile),
    "other tables": (OTHERS, profile),
    "options of run": (RUNS, options),
    "trace": (st.tuples(TRACES, REPLAYS), trace),
    "list of lengths": (COLUMNS, column),
}

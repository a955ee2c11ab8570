"""Odd files: checkpoints, results folders as something else wrote them or a disk broke them, ceilings, Parquet."""

from __future__ import annotations

import glob
import json
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from edge_replies import JSON, ODD, Edges, some, spliced
from hypothesis import strategies as st
from scratch import scratch

from loadgen.analysis.analyse import analyse, read_ceilings
from loadgen.analysis.compare import compare
from loadgen.records import ModelSpec
from loadgen.report.markdown import gather
from loadgen.request_records import Reply, Sample
from loadgen.results import capacity_log, max_batch_log
from loadgen.results.samples import SampleWriter, read_samples
from loadgen.results.store import Results
from loadgen.selfcheck import probe
from loadgen.theory.checkpoint import from_folder, shapes

ROOT = Path(__file__).resolve().parents[2]
EXTREME = st.sampled_from([5e-324, 1e308, -1.0, 1e18, 2**31, 2**53, 10**12, -(2**63), 0.0, -0.0])
VALUE = JSON | EXTREME
CONFIG = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4,
    "vocab_size": 99, "max_position_embeddings": 64,
}  # fmt: skip
# One or two odd values among good ones: the first that is refused hides the others.
CONFIGS = st.dictionaries(
    st.sampled_from([*CONFIG, "rope_theta", "rms_norm_eps", "rope_parameters", "tie_word_embeddings", "head_dim", "num_key_value_heads", "quantization_config"]),
    VALUE, max_size=2,
).map(lambda odd: CONFIG | odd)  # fmt: skip
SPEC = ModelSpec(
    name="m", layers=1, hidden=64, intermediate=96, heads=4, kv_heads=4, head_dim=16, vocab=99, max_context=64
)
WHOLE = {
    name: {"dtype": "F32", "shape": list(shape), "data_offsets": [0, 4]}
    for name, shape in shapes(SPEC).items()
}
TENSORS = st.dictionaries(
    st.sampled_from([*WHOLE, "__metadata__"]) | st.text(max_size=4),
    st.fixed_dictionaries({}, optional={"data_offsets": VALUE | st.lists(VALUE, max_size=3), "dtype": ODD, "shape": VALUE}) | JSON,
    max_size=2,
).map(lambda odd: WHOLE | odd)  # fmt: skip
HEADERS = st.one_of(
    st.binary(max_size=40),
    TENSORS.map(json.dumps).map(str.encode).map(lambda h: len(h).to_bytes(8, "little") + h + b"\0" * 4),
    st.sampled_from([2**63, 2**40, 10**8, 4, 1]).map(lambda size: size.to_bytes(8, "little") + b"{}  "),
)
INDEXES = st.one_of(
    st.none(), JSON, some(weight_map=JSON | st.dictionaries(st.text(max_size=2), st.sampled_from(["a.safetensors", "../a", "b.safetensors", "\0", "\ud800"]) | ODD, max_size=2))
)  # fmt: skip
LINES = spliced(
    b'{"trial": ',
    b'{"id": "x"}',
    b"}",
    b"{",
    b'"failure": null',
    b",",
    b"\n",
    b"[]",
    b"null",
    b"1",
    b"[" * 2000,
)
STORED = st.one_of(
    spliced(b'{"schema_version": 1', b', "environments": ', b"{}", b"[]", b"}", b"{", b"1", b"null"),
    some("environments", "plan", "kept", "profile", "name", "sets", "description", "order", "trials", "argv", environments=st.dictionaries(st.text(max_size=3), JSON, max_size=1))
    .map(lambda found: json.dumps({"schema_version": 1, **found}).encode()),
)  # fmt: skip


@cache
def kept() -> tuple[dict[str, Any], dict[str, Any]]:
    """The fullest line that a sweep of this project's wrote, and the ``sweep.json`` beside it."""
    lines = [
        (line, Path(name).parent)
        for name in glob.glob(f"{ROOT}/docs/results/*/*/trials.jsonl")
        for line in Path(name).read_text().splitlines()
    ]
    line, folder = max(lines, key=lambda found: len(found[0]))
    return json.loads(line), json.loads((folder / "sweep.json").read_bytes())


WINDOW = {"start_ns": 5, "end_ns": 9}
ATTAINED = {
    "slo": {"objectives": [{"name": "ttft", "limit_s": 0.5, "share": None}, {"name": "e2e", "limit_s": 9.0, "share": 0.99}], "share": 0.95},
    "due": 20, "good": 19, "kept": {"ttft": 19, "e2e": 20}, "window_s": 3.0, "unknown": 0,
    "goals": [{"kept": 19, "independent": 20.0, "low": 0.8, "high": 0.99}, {"kept": 20, "independent": 20.0, "low": 0.9, "high": 1.0}],
}  # fmt: skip


@cache
def whole_line() -> dict[str, Any]:
    """A result in which every part is there."""
    line = kept()[0]
    line["trial"]["slo"] = ATTAINED["slo"]
    return {**line, "window": WINDOW, "attained": ATTAINED, "workload": {"format": "x", "hit_share": 0.5}}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place within a value of JSON, and the value itself."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, each in inner for place in places(each, (*path, key)))]


def odd_at(whole: dict[str, Any]) -> st.SearchStrategy[list[tuple[tuple[Any, ...], Any]]]:
    return st.lists(st.tuples(st.sampled_from(places(whole)[1:]), VALUE), min_size=1, max_size=2)


def with_odd(whole: dict[str, Any], changes: list[tuple[tuple[Any, ...], Any]]) -> dict[str, Any]:
    """A copy with other values at some places."""
    made = deepcopy(whole)
    for (*path, last), value in changes:
        inner: Any = made
        try:
            for key in path:
                inner = inner[key]
            inner[last] = value
        except (LookupError, TypeError):
            continue  # an earlier change has taken the place away
    return made


CEILINGS = st.tuples(
    st.lists(JSON | some("device", "source", "bandwidth", "matrix", "ladder", "all_reduce", "launch_s", "shared", "facts", source=st.just("measured"), ladder=st.lists(st.tuples(VALUE, VALUE), max_size=1), all_reduce=st.lists(some("ranks", "how", "alpha_s", "beta_bytes_per_s", "points", ranks=VALUE), max_size=1)), max_size=1) | JSON,
    st.binary(max_size=3),
)  # fmt: skip


@cache
def parquet_bytes() -> bytes:
    """The samples of one trial, as a sweep writes them."""
    path = scratch("made") / "whole.parquet"
    writer = SampleWriter(path)
    for seq in range(20):
        reply = Reply(
            seq=seq, sent_ns=seq * 10, end_ns=seq * 10 + 9, token_ns=(seq * 10 + 3, seq * 10 + 9),
            tokens_per_arrival=(1, 2), output_tokens=(3,), counted_by="ids", first_tokens=(5, 6, 7),
        )  # fmt: skip
        writer.add(
            Sample(
                phase="measured",
                batch_size=1,
                input_tokens=4,
                output_tokens_asked=3,
                due_ns=None,
                reply=reply,
            )
        )
    writer.close()
    return path.read_bytes()


def damaged(changes: tuple[list[tuple[int, bytes]], int]) -> bytes:
    """Those samples with some bytes overwritten, and maybe cut short."""
    patches, end = changes
    data = bytearray(parquet_bytes())
    for at, patch in patches:
        at %= len(data)
        data[at : at + len(patch)] = patch
    return bytes(data[: len(data) - end] if end < 200 else data)


PARQUET = spliced(b"PAR1", b"\x15\x04", b"\0\0\0\0", b"PAR1PAR1") | st.tuples(
    st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=4) | st.just(b"\xff" * 8)), max_size=3),
    st.integers(0, 400),
).map(damaged)  # fmt: skip


def config(found: Any) -> None:
    folder = scratch("config")
    (folder / "config.json").write_text(json.dumps(found))
    header = json.dumps(WHOLE).encode()
    (folder / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    spec = from_folder(str(folder))
    assert spec.layers < 2**31 > spec.head_dim > 0


def header(found: tuple[bytes, Any]) -> None:
    data, index = found
    folder = scratch("header")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "a.safetensors").write_bytes(data)
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    if index is not None:
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    from_folder(str(folder))


def lines(data: bytes) -> None:
    folder = scratch("lines")
    (folder / "sweep.json").write_text('{"schema_version": 1}')
    for name in ("trials.jsonl", "probes.jsonl", "max_batch.jsonl", "capacity.jsonl", "search.jsonl"):
        (folder / name).write_bytes(data)
    Results(folder).results()
    max_batch_log.probes(folder)
    max_batch_log.outcomes(folder)
    capacity_log.trials(folder)
    capacity_log.outcomes(folder)


@cache
def other() -> Path:
    """A good folder to compare with: another start of the same server."""
    folder = scratch("other")
    line = whole_line() | {"start": "other", "trial": whole_line()["trial"] | {"id": "0" * 16}}
    (folder / "sweep.json").write_text(json.dumps(kept()[1]))
    (folder / "trials.jsonl").write_text(json.dumps(line) + "\n")
    return folder


def read_all(folder: Path) -> None:
    """Everything that ``report`` and ``compare`` make of a folder but pages."""
    gather(folder)
    analyse([folder])
    compare(other(), folder, ("e2e_p50<=+3%",), strict=False, every_cell=False, with_failures=True)


def trial(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    """A line whose JSON is whole, and one or two values in it are odd: all that is made of it."""
    folder = scratch("trial")
    (folder / "sweep.json").write_text(json.dumps(kept()[1]))
    (folder / "trials.jsonl").write_text(json.dumps(with_odd(whole_line(), changes)) + "\n")
    read_all(folder)


def stored(data: bytes) -> None:
    folder = scratch("stored")
    (folder / "sweep.json").write_bytes(data)
    gather(folder)


def sweep(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
    folder = scratch("sweep")
    (folder / "sweep.json").write_text(json.dumps(with_odd(kept()[1], changes)))
    (folder / "trials.jsonl").write_text(json.dumps(whole_line()) + "\n")
    read_all(folder)


def ceilings(found: tuple[Any, bytes]) -> None:
    folder = scratch("ceilings")
    (folder / "ceilings.json").write_bytes(json.dumps(found[0]).encode() + found[1])
    read_ceilings(folder)
    for each in probe.load(folder):
        each.bandwidth_for(1.0)
        each.all_reduce_s(2, 10)


def parquet(data: bytes) -> None:
    path = scratch("parquet") / "x.parquet"
    path.write_bytes(data)
    list(read_samples(path))


EDGES: Edges = {
    "config.json": (CONFIGS, config),
    "safetensors": (st.tuples(HEADERS, INDEXES), header),
    "stored lines": (LINES, lines),
    "stored trial": (st.deferred(lambda: odd_at(whole_line())), trial),
    "sweep.json": (STORED, stored),
    "sweep.json, whole": (st.deferred(lambda: odd_at(kept()[1])), sweep),
    "ceilings.json": (CEILINGS, ceilings),
    "Parquet": (PARQUET, parquet),
}

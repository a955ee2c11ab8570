"""Profiles: what they accept, and one clear message for each thing they do not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.labels import load_label
from loadgen.plan.plan import make_plan
from loadgen.profile.read import load_profile, shipped
from profiles import BASE, cells, problem, profile, swept

# What is read


def test_one_cell_with_defaults() -> None:
    (cell,) = cells()
    assert cell.server is not None
    assert (cell.server.framework, cell.server.model.name, cell.server.tp) == ("hf", "llama-13b", 1)
    assert (cell.server.dtype, cell.server.dummy_weights, cell.server.gpus) == ("bfloat16", True, (0,))
    assert (cell.load.kind, cell.load.batch_size, cell.load.requests, cell.load.warmup) == ("static", 1, 5, 1)
    assert (cell.load.input_tokens, cell.load.output_tokens, cell.load.stream) == (20, 100, True)


def test_everything_can_be_given() -> None:
    text = """
    name = "all"
    description = "every key"
    [server]
    framework = "hf"
    model = "llama-3-8b"
    extend_context = 16384
    dtype = "fp16"
    tp = 2
    pp = 2
    gpus = [4, 5, 6, 7]
    max_batch = 16
    dummy_weights = true
    python = "/opt/python"
    ready_timeout_s = 30
    [server.options]
    engine = "generate"
    depth = 3
    [frameworks.hf]
    python = "/opt/hf/python"
    dtype = "float32"
    max_batch = 32
    ready_timeout_s = 60
    options = { engine = "compiled" }
    [load]
    mode = "closed"
    concurrency = 8
    max_rate = 10
    input_tokens = 9000
    output_tokens = 9
    requests = 7
    warmup = 0
    repeat = 2
    stream = false
    seed = 11
    workers = 2
    [load.timeouts]
    total_s = 60
    """
    first, second = cells(text, gpus=8)
    server, load = first.server, first.load
    assert server is not None
    assert (first.repeat, second.repeat) == (0, 1)
    assert (server.model.max_context, server.dtype, server.gpus) == (16384, "float32", (4, 5, 6, 7))
    assert (server.max_batch, server.python, server.ready_timeout_s) == (32, "/opt/hf/python", 60.0)
    assert server.options == {"engine": "compiled", "depth": 3}
    assert (load.kind, load.concurrency, load.max_rate, load.requests, load.warmup) == (
        "closed",
        8,
        10.0,
        7,
        0,
    )
    assert (load.stream, load.seed, load.workers) == (False, 11, 2)
    assert (load.timeouts.total_s, load.timeouts.connect_s) == (60.0, 10.0)


def test_profile_keeps_its_text_and_sets() -> None:
    found = profile(BASE, "tp=2")
    assert (found.name, found.text, found.sets, found.file) == ("mine", BASE, ("tp=2",), "p.toml")


def test_name_comes_from_the_file_when_left_out(tmp_path: Path) -> None:
    path = tmp_path / "my sweep (2).toml"
    path.write_text(BASE.replace('name = "mine"', ""))
    assert load_profile(str(path)).name == "my-sweep--2-"


@pytest.mark.parametrize(
    ("mode", "keys", "requests", "warmup"),
    [
        ("static", "batch_size = 8", 5, 1),
        ("closed", "concurrency = 8", 32, 8),
        ("closed", "concurrency = 1", 16, 1),
        ("constant", "rate = 10", 300, 1),
        ("poisson", "rate = 0.1", 20, 1),
        ("gamma", "rate = 2\nburstiness = 0.5", 60, 1),
        ("ramp", "rate = 1\nrate_end = 5", 30, 1),
    ],
)
def test_modes_and_their_counts(mode: str, keys: str, requests: int, warmup: int) -> None:
    (cell,) = cells(BASE + f'mode = "{mode}"\n{keys}\n')
    assert (cell.load.kind, cell.load.requests, cell.load.warmup) == (mode, requests, warmup)


def test_a_target_takes_what_run_takes() -> None:
    text = """
    [target]
    url = "http://127.0.0.1:8000/v1?api-version=1"
    endpoint = "chat"
    tokenizer = "./model"
    exact = true
    [target.extra_body]
    top_k = 1
    [target.headers]
    api-key = "${KEY}"
    [target.options]
    extras = ["ignore_eos"]
    [load]
    input_tokens = 4
    output_tokens = 4
    """
    (cell,) = cells(text)
    assert cell.target is not None
    assert cell.target.exact
    assert cell.target.driver == {
        "endpoint": "chat",
        "tokenizer": "./model",
        "extra_body": {"top_k": 1},
        "headers": {"api-key": "${KEY}"},
        "extras": ["ignore_eos"],
    }


def test_target_instead_of_a_server() -> None:
    text = """
    [target]
    url = "http://127.0.0.1:8000/"
    model = "llama"
    vocab = 32000
    [load]
    input_tokens = 20
    output_tokens = 10
    """
    (cell,) = cells(text)
    assert cell.server is None
    assert cell.target is not None
    assert (cell.target.url, cell.target.model_name, cell.target.vocab) == (
        "http://127.0.0.1:8000",
        "llama",
        32000,
    )
    assert cells(text, "model=other")[0].target == cells(text, "target.model=other")[0].target != cell.target
    assert problem(text + '[server]\nframework = "hf"').startswith(
        "p.toml: server: cannot stand beside [target]"
    )
    assert "sweep.tp = [1, 2]: has no effect: [target] already runs" in problem(text, "sweep.tp=1,2")


def test_trace(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    lines = [
        {"offset_s": 0, "input_tokens": 5, "output_tokens": 9},
        {"offset_s": 0.5, "input_tokens": 7, "output_tokens": 2},
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    text = BASE.partition("[load]")[0] + f'[load]\nmode = "trace"\ntrace = "{path}"\n'
    (cell,) = cells(text)
    assert (cell.load.input_tokens, cell.load.output_tokens, cell.load.requests) == (7, 9, 2)
    assert cell.load.trace == str(path)
    assert len(cell.trace_digest) == 16
    assert "load.input_tokens = 20: has no effect in mode = 'trace'" in problem(text + "input_tokens = 20")
    paced = text + "[[sweep]]\nrate = [4.0, 8.0]\n"
    rates = make_plan(profile(paced)).trials
    assert [(each.load.due_rate, each.load.rate) for each in rates] == [(4.0, None), (8.0, None)]
    assert [load_label(each) for each in rates] == ["trace 4/s", "trace 8/s"]
    (alone,) = make_plan(profile(text + "replay = { rate = 4.0 }")).trials
    assert alone.id == rates[0].id
    for pace in ("rate = 2.0", "speed = 2.0"):
        said = problem(paced.replace("[[sweep]]", f"replay = {{ {pace} }}\n[[sweep]]"))
        assert (
            f"rate = 4.0: sets the pace of the trace, as {pace.removesuffix('.0')} of its replay does" in said
        )
    for content, message in [
        ("", "holds no request"),
        ("[1]", r"t\.jsonl': line 1: not an object"),
        (
            "\n".join(map(json.dumps, reversed(lines))),
            r"line 2: offset_s = 0\.0 is before the line above it \(accepted: in order\)$",
        ),
        ('{"offset_s": 0, "input_tokens": 1, "output_tokens": 3000}', "over the context of llama-13b, 2048"),
    ]:
        path.write_text(content)
        assert re.search(message, problem(text)), content
    path.unlink()
    assert "cannot be read: No such file" in problem(text)


# Sweeps


def test_product() -> None:
    found = cells(BASE + "[sweep]\ntp = [1, 2]\nbatch_size = [1, 8, 64]")
    assert swept(found, "tp", "batch_size") == [(1, 1), (1, 8), (1, 64), (2, 1), (2, 8), (2, 64)]


def test_zip_joins_in_order_and_stretches_single_values() -> None:
    found = cells(BASE + '[sweep]\ntp = [1, 2]\nbatch_size = [1, 8]\ndtype = "fp16"\ncombine = "zip"')
    assert swept(found, "tp", "batch_size", "dtype") == [(1, 1, "float16"), (2, 8, "float16")]


def test_zip_of_different_lengths_is_refused() -> None:
    text = problem(BASE + '[sweep]\ntp = [1, 2]\nbatch_size = [1, 8, 64]\ncombine = "zip"')
    assert "sweep.combine = 'zip': joins lists of different lengths: tp 2, batch_size 3" in text


@settings(max_examples=40, deadline=None)
@given(
    tp=st.lists(st.sampled_from([1, 2, 4, 8]), min_size=1, unique=True),
    batch=st.lists(st.integers(1, 512), min_size=1, max_size=5, unique=True),
    inputs=st.lists(st.integers(1, 1900), min_size=1, max_size=4, unique=True),
    repeat=st.integers(1, 4),
)
def test_a_product_has_every_combination_once(
    tp: list[int], batch: list[int], inputs: list[int], repeat: int
) -> None:
    text = BASE.replace("input_tokens = 20\n", "") + f"repeat = {repeat}\n"
    found = cells(text, f"tp={tp}", f"batch_size={batch}", f"sweep.input_tokens={inputs}")
    points = [
        (*point, cell.repeat)
        for point, cell in zip(swept(found, "tp", "batch_size", "input_tokens"), found, strict=True)
    ]
    wanted = {(t, b, i, r) for t in tp for b in batch for i in inputs for r in range(repeat)}
    assert set(points) == wanted
    assert len(points) == len(wanted)


def test_several_blocks_each_with_its_mode() -> None:
    text = (
        BASE + '[[sweep]]\nbatch_size = [1, 2]\n[[sweep]]\nmode = "closed"\nconcurrency = [4]\nrequests = 9'
    )
    found = cells(text)
    assert swept(found, "kind", "batch_size", "concurrency", "requests") == [
        ("static", 1, 1, 5),
        ("static", 2, 1, 5),
        ("closed", 1, 4, 9),
    ]


def test_exclude() -> None:
    rules = "exclude = [{ tp = 1, batch_size = [8, 64] }, { batch_size = 64 }]"
    found = cells(BASE + f"[sweep]\ntp = [1, 2]\nbatch_size = [1, 8, 64]\n{rules}")
    assert swept(found, "tp", "batch_size") == [(1, 1), (2, 1), (2, 8)]
    assert "sweep.exclude: leaves nothing to run" in problem(BASE + "[sweep]\nexclude = [{ tp = 1 }]")
    assert "sweep.exclude: is an empty rule" in problem(BASE + "[sweep]\nexclude = [{}]")
    assert "sweep.exclude.tpp: is not a key here" in problem(BASE + "[sweep]\nexclude = [{ tpp = 1 }]")


def test_options_can_be_swept_and_excluded() -> None:
    text = BASE + '[sweep]\nexclude = [{ options = { engine = "b" }, batch_size = 2 }]\nbatch_size = [1, 2]\n'
    text += '[sweep.options]\nengine = ["a", "b"]'
    found = cells(text)
    shown = [(cell.server.options["engine"], cell.load.batch_size) for cell in found if cell.server]
    assert shown == [("a", 1), ("b", 1), ("a", 2)]


def test_repeats_by_count_or_by_name() -> None:
    assert [c.repeat for c in cells(BASE + "repeat = 3")] == [0, 1, 2]
    assert [c.repeat for c in cells(BASE + "repeat = [2, 5]")] == [2, 5]
    assert [c.repeat for c in cells(BASE + "[sweep]\nrepeat = 2")] == [0, 1]


# What is shipped


@pytest.mark.parametrize("name", ["quick", "exp1", "exp2", "exp3", "chat", "code", "agent"])
def test_shipped_profiles_run_by_name_and_by_file(name: str) -> None:
    text = shipped()[name]
    found = load_profile(name, gpu_count=4, frameworks=["hf"])
    assert found.name == name
    assert found.text == text
    assert found.description
    path = Path(__file__).parents[2] / "profiles" / f"{name}.toml"
    assert load_profile(str(path), gpu_count=4).cells == found.cells


@pytest.mark.parametrize("name", ["exp1", "exp2", "exp3"])
def test_experiments_take_the_larger_model(name: str) -> None:
    found = load_profile(name, ["model=llama-65b"], gpu_count=4)
    assert {cell.server.model.name for cell in found.cells if cell.server} == {"llama-65b"}


def test_experiments_have_the_lists_of_the_seed_report() -> None:
    powers = [2**n for n in range(9)]
    exp1 = load_profile("exp1").cells
    assert sorted({c.load.batch_size for c in exp1}) == powers
    assert {c.load.input_tokens for c in exp1} >= {20, 2048}
    assert {c.load.output_tokens for c in exp1} == {20}
    assert len(exp1) == 3 * 9 * 7
    exp2 = load_profile("exp2").cells
    assert sorted({c.load.batch_size for c in exp2}) == powers
    assert {c.load.output_tokens for c in exp2} >= {20, 512}
    assert {c.load.input_tokens for c in exp2} == {20}
    exp3 = load_profile("exp3").cells
    assert {(c.load.input_tokens, c.load.output_tokens) for c in exp3} == {(20, 100)}
    splits = {(c.server.tp, c.server.pp) for c in exp3 if c.server}
    assert splits == {(1, 1), (2, 1), (4, 1), (1, 2), (1, 4)}


def test_quick_runs_on_the_cpu_in_both_modes() -> None:
    found = load_profile("quick", gpu_count=0).cells
    assert {c.load.kind for c in found} == {"static", "closed"}
    assert {c.server.gpus for c in found if c.server} == {()}
    assert len({c.server.tp for c in found if c.server}) == 1


def test_pydantic_is_imported_only_to_read_a_profile() -> None:
    code = (
        "import sys, loadgen.profile.profile, loadgen.plan.plan, loadgen.theory.predict; "
        "print(*{'pydantic', 'torch', 'numpy', 'httpx'} & set(sys.modules)); "
        "import loadgen.commands.run; print(*{'pydantic', 'torch'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == ""

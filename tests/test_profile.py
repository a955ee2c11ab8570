"""Profiles: what they accept, and one clear message for each thing they do not."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.errors import BadInput, ProfileError
from loadgen.profile import Cell, Profile, build_profile, load_profile, shipped

BASE = """
name = "mine"
[server]
framework = "hf"
model = "llama-13b"
[load]
input_tokens = 20
output_tokens = 100
"""


def profile(text: str = BASE, *sets: str, gpus: int | None = None, known: list[str] | None = None) -> Profile:
    return build_profile(
        tomllib.loads(text), file="p.toml", text=text, sets=sets, gpu_count=gpus, frameworks=known
    )


def cells(text: str = BASE, *sets: str, **more: Any) -> tuple[Cell, ...]:
    return profile(text, *sets, **more).cells


def problem(text: str = BASE, *sets: str, **more: Any) -> str:
    with pytest.raises(ProfileError) as caught:
        profile(text, *sets, **more)
    return str(caught.value)


def swept(found: tuple[Cell, ...], *names: str) -> list[tuple[Any, ...]]:
    return [
        tuple(getattr(cell.load, n) if hasattr(cell.load, n) else getattr(cell.server, n) for n in names)
        for cell in found
    ]


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
    for content, message in [
        ("", "holds no request"),
        ("{}", "line 1 is no JSON object with those keys"),
        ("[1]", "line 1 is no JSON object"),
        ('{"offset_s": -1, "input_tokens": 1, "output_tokens": 1}', "offset_s = -1 must be"),
        ('{"offset_s": 0, "input_tokens": 0, "output_tokens": 1}', r"token counts \[0, 1\]"),
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


# --set

SWEEP = BASE + "[sweep]\ntp = [1, 2, 4]\nbatch_size = [1, 8]\n"


@pytest.mark.parametrize(
    ("sets", "points"),
    [
        (["tp=2"], [(2, 1), (2, 8)]),
        (["tp=1,4"], [(1, 1), (1, 8), (4, 1), (4, 8)]),
        (["tp=[4]"], [(4, 1), (4, 8)]),
        (["tp=2", "batch_size=[3]"], [(2, 3)]),
        (["sweep.tp=8", "batch_size=5"], [(8, 5)]),
        (["sweep.tp=1,2", "sweep.batch_size=7,9", "sweep.combine=zip"], [(1, 7), (2, 9)]),
        (["tp=1", "tp=2", "batch_size=1"], [(2, 1)]),
    ],
)
def test_set_replaces_what_the_file_sweeps(sets: list[str], points: list[tuple[int, int]]) -> None:
    assert swept(cells(SWEEP, *sets), "tp", "batch_size") == points


def test_set_takes_names_paths_text_and_toml() -> None:
    (cell,) = cells(
        BASE,
        "model=llama-65b",
        "dtype=fp16",
        "stream=false",
        "load.timeouts.total_s=9",
        "connect_s=2.5",
        "options.engine=compiled",
        "options.note=a=b",
        'frameworks.hf.python="/opt/py"',
        "name=other",
        "gpus=3",
    )
    server = cell.server
    assert server is not None
    assert (server.model.name, server.dtype, cell.load.stream) == ("llama-65b", "float16", False)
    assert (cell.load.timeouts.total_s, cell.load.timeouts.connect_s) == (9.0, 2.5)
    assert server.options == {"engine": "compiled", "note": "a=b"}
    assert (server.python, server.gpus) == ("/opt/py", (3,))
    assert profile(BASE, "name=other").name == "other"


def test_set_lists_of_words_and_options() -> None:
    found = cells(BASE, "model=llama-7b, llama-13b", "options.engine=generate,compiled")
    shown = [(cell.server.model.name, cell.server.options["engine"]) for cell in found if cell.server]
    assert shown == [
        ("llama-7b", "generate"),
        ("llama-7b", "compiled"),
        ("llama-13b", "generate"),
        ("llama-13b", "compiled"),
    ]


def test_set_leaves_text_with_commas_alone() -> None:
    assert profile(BASE, "description=one, two").description == "one, two"


def test_set_reaches_every_block() -> None:
    text = BASE + "[[sweep]]\ntp = [1, 2]\n[[sweep]]\npp = [2, 4]"
    assert swept(cells(text, "pp=1", "batch_size=3,4"), "tp", "pp", "batch_size") == [
        (1, 1, 3), (1, 1, 4), (2, 1, 3), (2, 1, 4), (1, 1, 3), (1, 1, 4),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("tp", "p.toml: --set tp: is not KEY=VALUE (accepted: tp=4"),
        ("tp=", "p.toml: --set tp=: is not KEY=VALUE"),
        ("=4", "p.toml: --set =4: is not KEY=VALUE"),
        ("tpp=4", "p.toml: --set tpp=4: 'tpp' is not a key; did you mean 'tp'? (accepted: "),
        ("server.tpp=4", "p.toml (--set server.tpp=4): server.tpp: is not a key here; did you mean 'tp'?"),
        ("tp=0", "p.toml (--set tp=0): server.tp = 0: must be at least 1 (accepted: whole numbers from 1)"),
        ("tp=1,x", "p.toml (--set tp=1,x): sweep.tp = 'x': is not a whole number"),
        ("server.tp=2", "p.toml (--set server.tp=2): server.tp = 2: has no effect: the sweep gives it too"),
        ("batch_size=1\nx = 2", "batch_size = '1\\nx = 2': is not a whole number"),
        ("name.x=1", "'name' is not a table"),
        ("model=lama-13b", "did you mean 'llama-13b'?"),
    ],
)
def test_bad_sets_name_themselves(setting: str, message: str) -> None:
    assert message in problem(SWEEP, setting)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=20), st.text(max_size=20))
def test_no_set_escapes_as_anything_but_bad_input(key: str, value: str) -> None:
    for setting in (
        f"{key}={value}",
        f"tp={value}",
        f"options.x={value}",
        f"sweep.{key}={value}",
        f"load.{key}=1",
    ):
        with contextlib.suppress(BadInput):
            assert profile(SWEEP, setting).cells


# What is refused


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            "batch_size = 0",
            "p.toml: load.batch_size = 0: must be at least 1 (accepted: whole numbers from 1)",
        ),
        ("batch_size = -3", "load.batch_size = -3: must be at least 1"),
        ("batch_size = true", "load.batch_size = True: is not a whole number"),
        ("batch_size = 1.0", "load.batch_size = 1.0: is not a whole number"),
        ("batch_size = [1, 2]", "load.batch_size = [1, 2]: is not a whole number"),
        ("warmup = -1", "load.warmup = -1: must be at least 0 (accepted: whole numbers from 0)"),
        (
            'mode = "statik"',
            "load.mode = 'statik': is not one of the accepted; did you mean 'static'? (accepted: static,",
        ),
        ("mode = 3", "load.mode = 3: is not one of the accepted (accepted: static, closed"),
        ("stream = 1", "load.stream = 1: is not true or false (accepted: true, false)"),
        (
            "batchsize = 2",
            "load.batchsize: is not a key here; did you mean 'batch_size'? (accepted: mode, batch_size,",
        ),
        (
            "concurrency = 2",
            "load.concurrency = 2: has no effect in mode = 'static' (accepted: with mode closed)",
        ),
        ("burstiness = 2", "has no effect in mode = 'static' (accepted: with mode gamma)"),
        (
            'mode = "poisson"',
            "load.rate: is missing for mode = 'poisson' (accepted: a value, here or in [sweep])",
        ),
        ('mode = "ramp"\nrate = 1', "load.rate_end: is missing for mode = 'ramp'"),
        ('mode = "trace"', "load.trace: is missing for mode = 'trace'"),
        (
            'mode = "poisson"\nrate = 0',
            "load.rate = 0: must be above 0 and finite (accepted: numbers above 0)",
        ),
        ('mode = "poisson"\nrate = inf', "load.rate = inf: must be above 0 and finite"),
        ('mode = "poisson"\nrate = "5"', "load.rate = '5': is not a number (accepted: numbers above 0)"),
        ("repeat = 0", "load.repeat = 0: must be at least 1"),
        ("repeat = []", "load.repeat = []: is an empty list"),
        ("timeouts = 3", "load.timeouts = 3: is not a table"),
        ("[load.timeouts]\ntotal = 3", "load.timeouts.total: is not a key here; did you mean 'total_s'?"),
        ("[sweep]\ntp = []", "sweep.tp = []: is an empty list (accepted: at least one value)"),
        ("[sweep]\ntp = [1, 2, 1]", "sweep.tp = [1, 2, 1]: lists 1 twice (accepted: each value once)"),
        ("[sweep]\ntp = [1, 0]", "sweep.tp = 0: must be at least 1"),
        (
            '[sweep]\ndtype = ["fp16", "bfloat1"]',
            "sweep.dtype = 'bfloat1': is not one of the accepted; did you mean 'bfloat16'?",
        ),
        ("[sweep]\nconcurrency = [1]", "sweep.concurrency = [1]: has no effect in mode = 'static'"),
        ("[sweep]\nbatch = [1]", "sweep.batch: is not a key here; did you mean 'batch_size'?"),
        (
            '[sweep]\ncombine = "zipp"',
            "sweep.combine = 'zipp': is not one of the accepted; did you mean 'zip'?",
        ),
        ("[[sweep]]\ntp = [1]\n[[sweep]]\ntp = [0]", "sweep#2.tp = 0: must be at least 1"),
        ("[sweep]\ninput_tokens = [5]", "load.input_tokens = 20: has no effect: the sweep gives it too"),
        ("[sweep.options]\nx = [[1]]", "sweep.options.x = [1]: cannot be an option's value"),
        ("[target]\nmodel = 'x'", "target.url: is missing (accepted: http://HOST:PORT)"),
        ("[target]\nurl = 'localhost'", "target.url = 'localhost': is not a URL (accepted: http://HOST:PORT"),
        ("[frameworks.hf]\npyton = 'x'", "frameworks.hf.pyton: is not a key here; did you mean 'python'?"),
        (
            "[loads]\nx = 1",
            "p.toml: loads: is not a key here; did you mean 'load'? (accepted: name, description, server",
        ),
    ],
)
def test_each_mistake_has_its_message(extra: str, message: str) -> None:
    text = problem(BASE + extra)
    assert message in text
    assert len([line for line in text.splitlines() if message in line]) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('name = "mine"', 'name = "a/b"'), "name = 'a/b': cannot name a folder"),
        (('name = "mine"', "name = 3"), "name = 3: cannot name a folder"),
        (('name = "mine"', "description = 3"), "description = 3: is not text"),
        (('framework = "hf"', ""), "server.framework: is missing (accepted: hf, ds)"),
        (('framework = "hf"', 'framework = "hff"'), "framework = 'hff': is no known framework; did you mean 'hf'?"),
        (('framework = "hf"', "framework = ''"), "server.framework = '': is empty"),
        (('model = "llama-13b"', ""), "server.model: is missing (accepted: tiny, llama-7b"),
        (('model = "llama-13b"', 'model = "./nowhere"'), "server.model = './nowhere': model"),
        (('model = "llama-13b"', 'model = "tiny"\ndummy_weights = false'), "dummy_weights = False: tiny is a preset"),
        (('model = "llama-13b"', 'model = "tiny"\ngpus = [0, 0]'), "server.gpus = [0, 0]: lists 0 twice"),
        (('model = "llama-13b"', 'model = "tiny"\ngpus = [-1]'), "server.gpus = [-1]: must be at least 0"),
        (("[load]", 'options = 3\n[load]'), "server.options = 3: is not a table"),
        (("[load]", "options = { a = [1] }\n[load]"), "server.options.a = [1]: cannot be an option's value"),
        (("[load]", "max_batch = 4\n[load]\nbatch_size = 8"), "load.batch_size = 8: is over max_batch = 4"),
        (("input_tokens = 20", ""), "load.input_tokens: is missing for mode = 'static'"),
        (("input_tokens = 20", "input_tokens = 2000"), "input_tokens = 2000: 2000 input + 100 output"),
        (("output_tokens = 100", "output_tokens = 4000"), "output_tokens = 4000: 20 input + 4000 output"),
    ],
)  # fmt: skip
def test_each_mistake_in_the_base_has_its_message(change: tuple[str, str], message: str) -> None:
    text = problem(BASE.replace(*change), known=["hf", "ds"])
    assert message in text
    assert len(text.splitlines()) == 1


def test_splits_that_the_model_refuses() -> None:
    text = problem(BASE + "[sweep]\ntp = [1, 3]")
    assert text == (
        "p.toml: sweep.tp = 3: llama-13b has 40 heads, which tp = 3 does not divide "
        "(accepted: tp 1, 2, 4, 8; pp up to 40)"
    )
    assert "8 key/value heads, which tp = 16" in problem(BASE, "model=llama-2-70b", "tp=16")
    assert "server.pp = 41: llama-13b has 40 layers, fewer than pp = 41" in problem(BASE, "pp=41")


def test_more_gpus_than_there_are() -> None:
    assert len(cells(SWEEP, gpus=4)) == 6
    assert problem(SWEEP, gpus=2) == (
        "p.toml: sweep.tp = 4: tp × pp = 4 GPUs are needed, this machine has 2 (accepted: tp × pp up to 2)"
    )
    assert "server.pp = 4: tp × pp = 4 GPUs are needed, this machine has 2" in problem(BASE, "pp=4", gpus=2)
    assert "(accepted: server.gpus = [] to run on the CPU)" in problem(BASE, gpus=0)
    assert "server.gpus = [0, 5]: this machine has 2 GPUs" in problem(BASE, "gpus=0,5", gpus=2)
    assert "server.gpus lists 1" in problem(BASE, "gpus=1", "tp=2", gpus=2)


def test_no_gpus_means_the_cpu() -> None:
    for count in (0, 8, None):
        (cell,) = cells(BASE, "gpus=[]", "tp=2", gpus=count)
        assert cell.server is not None
        assert cell.server.gpus == ()


def test_every_problem_is_reported_at_once_and_none_twice() -> None:
    text = (
        BASE.replace("input_tokens = 20", "input_tokens = 0\nspeed = 3")
        + "[sweep]\ntp = [0]\nbatch_size = [1, 2]"
    )
    assert len(problem(text).splitlines()) == 3
    many = problem(BASE + "[sweep]\ntp = [3, 5]\nbatch_size = [1, 2, 4]")
    assert [line.split(": ")[1] for line in many.splitlines()] == ["sweep.tp = 3", "sweep.tp = 5"]


def test_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("name = \n")
    with pytest.raises(ProfileError, match=r"x\.toml: TOML: Invalid value \(at line 1"):
        load_profile(str(path))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ProfileError, match=r"cannot be read.*utf-8"):
        load_profile(str(path))
    with pytest.raises(
        ProfileError, match=r"exp11: profile: no such file.*did you mean 'exp1'\? \(accepted:"
    ):
        load_profile("exp11")


# What is shipped


@pytest.mark.parametrize("name", ["quick", "exp1", "exp2", "exp3"])
def test_shipped_profiles_run_by_name_and_by_file(name: str) -> None:
    text = shipped()[name]
    found = load_profile(name, gpu_count=4, frameworks=["hf"])
    assert found.name == name
    assert found.text == text
    assert found.description
    path = Path(__file__).parent.parent / "profiles" / f"{name}.toml"
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
        "import sys, loadgen.profile, loadgen.plan, loadgen.predict; "
        "print(*{'pydantic', 'torch', 'numpy', 'httpx'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == ""

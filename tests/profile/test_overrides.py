"""--set: what it replaces, and how it names itself when it is wrong."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.errors import BadInput
from profiles import BASE, cells, problem, profile, swept

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
        ("batch=0", "p.toml: --set batch=0: 'batch' is not a key; did you mean 'batch_size'? (accepted: "),
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

"""Each mistake in a profile has one message, which says how to mend it."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadgen.errors import ProfileError
from loadgen.profile.read import load_profile
from profiles import BASE, cells, problem


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            "batch_size = 0",
            "p.toml: load.batch_size = 0: must be at least 1 (accepted: whole numbers from 1 to 1000000)",
        ),
        ("batch_size = -3", "load.batch_size = -3: must be at least 1"),
        ("batch_size = true", "load.batch_size = True: is not a whole number"),
        ("batch_size = 1.0", "load.batch_size = 1.0: is not a whole number"),
        (
            "batch_size = [1, 2]",
            "load.batch_size = [1, 2]: is not a whole number; a list of them goes into [sweep]",
        ),
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
        ("[target]\nconcurrency = 4", "target.concurrency: is not a key here but of [load] and [sweep]"),
        ("[load.timeouts]\nurl = 'x'", "load.timeouts.url: is not a key here but of [target]"),
        (
            "[loads]\nx = 1",
            "p.toml: loads: is not a key here; did you mean 'load'? (accepted: name, description, order, starts",
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
        (
            ('model = "llama-13b"', 'model = ["tiny"]'),
            "server.model = ['tiny']: is not text; a list of them goes into [sweep] (accepted: text)",
        ),
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
    swept = BASE + "[sweep]\ntp = [1, 2, 4]\nbatch_size = [1, 8]"
    assert len(cells(swept, gpus=4)) == 6
    assert problem(swept, gpus=2) == (
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


def test_the_gpus_that_there_are_else_the_cpu() -> None:
    for count, gpus in ((0, ()), (1, (0,)), (8, (0,)), (None, (0,))):
        (cell,) = cells(BASE, "gpus=auto", gpus=count)
        assert cell.server is not None
        assert cell.server.gpus == gpus
    assert "tp × pp = 2 GPUs are needed, this machine has 1" in problem(BASE, "gpus=auto", "tp=2", gpus=1)


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

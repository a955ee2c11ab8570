"""Distributions, replays, prefixes and sessions in a profile's words and on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from load_options import COMMAND_LINE, LENGTHS, TARGET
from tokenizer_files import SYLLABLES, trained_tokenizer

from loadgen.api.loads import Load, as_it_fits, load_spec
from loadgen.errors import BadInput, ProfileError
from loadgen.labels import load_label
from loadgen.load_records import LoadSpec
from loadgen.plan.plan import make_plan
from loadgen.profile.read import build_profile
from loadgen.profile.workloads import (
    pairs,
    read_cancel,
    read_length,
    read_prefixes,
    read_replay,
    read_think,
    read_turns,
)
from loadgen.workload_records import Cancel, Dataset, Prefixes, Replay, Sessions, Spread

LOGNORMAL = Spread(kind="lognormal", least=1, most=4096, median=512.0, sigma=0.8)
CONVERSATION = str(
    Path(__file__).parents[1] / "data" / "traces" / "mooncake_conversation_trace.first2000.jsonl"
)


@pytest.mark.parametrize(
    ("given", "length"),
    [
        (7, 7),
        ("7", 7),
        ({"kind": "lognormal", "median": 512, "sigma": 0.8, "max": 4096}, LOGNORMAL),
        ("lognormal:median=512,sigma=0.8,max=4096", LOGNORMAL),
        (
            "gamma:mean=100,cv=0.5,min=10,max=900",
            Spread(kind="gamma", least=10, most=900, mean=100.0, cv=0.5),
        ),
        ("uniform:min=16,max=64", Spread(kind="uniform", least=16, most=64)),
    ],
)
def test_a_length_is_a_number_or_a_distribution(given: Any, length: Any) -> None:
    assert read_length(given, "x") == length


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (0, "x = 0 .accepted: a whole number of 1 or more"),
        (True, "x = True: no length"),
        ("normal:mean=3", "x: kind = 'normal' .accepted: uniform: min, max; lognormal"),
        ("lognormal:median=5,max=9", "x: lognormal needs sigma"),
        ("lognormal:median=0,sigma=1,max=9", "x.median = 0 .accepted: a number above 0"),
        ("uniform:min=9,max=3", "min = 9 is above max = 3"),
        ("uniform:min=9,max=3,mean=4", "x: mean is not a key here .accepted: min, max"),
        ("uniform:min", "x: 'min' is not KEY=VALUE"),
        ("empirical:file=none.csv,column=a", "none.csv: cannot be read"),
    ],
)
def test_a_length_that_cannot_be(given: Any, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        read_length(given, "x")


def test_lengths_of_a_file(tmp_path: Path) -> None:
    table, lines, plain = tmp_path / "a.csv", tmp_path / "a.jsonl", tmp_path / "a.txt"
    table.write_text("at,n\n1,5\n2,9\n3,5\n")
    lines.write_text("\n".join(json.dumps({"n": n}) for n in (5, 9, 5)))
    plain.write_text("5\n9\n\n5\n")
    wanted = Spread(kind="empirical", least=5, most=9, values=(5, 9), weights=(2.0, 1.0))
    assert read_length({"kind": "empirical", "file": str(table), "column": "n"}, "x") == wanted
    assert read_length({"kind": "empirical", "file": str(lines), "column": "n"}, "x") == wanted
    assert read_length(f"empirical:file={plain}", "x") == wanted
    with pytest.raises(BadInput, match=r"no column 'm' \(accepted: at, n\)"):
        read_length({"kind": "empirical", "file": str(table), "column": "m"}, "x")
    table.write_text("n\n5\n-1\n")
    with pytest.raises(BadInput, match="line 3: '-1' is no length"):
        read_length({"kind": "empirical", "file": str(table), "column": "n"}, "x")


def test_replays_and_prefixes() -> None:
    given = pairs(
        "format=azure,rate=5,sample=0.25,from=60s,to=2m,spread=3s,too_long=skip,max_context=4096", "r"
    )
    assert read_replay(given, "r") == Replay(
        format="azure",
        rate=5.0,
        sample=0.25,
        from_s=60.0,
        to_s=120.0,
        spread_s=3.0,
        too_long="skip",
        max_context=4096,
    )
    assert read_prefixes({"groups": 8, "tokens": "256"}, "p") == Prefixes(groups=8, tokens=256)
    for wrong, words in (
        ({"speed": 2, "rate": 2}, "speed and rate both set its pace"),
        ({"from": 5, "to": "5s"}, "is not after from"),
        ({"sample": 1.5}, "above 0 and up to 1"),
        ({"too_long": "drop"}, "accepted: fail, skip, cut"),
        ({"pace": 1}, "pace is not a key here"),
    ):
        with pytest.raises(BadInput, match=words):
            read_replay(wrong, "r")
    with pytest.raises(BadInput, match="p: tokens is missing"):
        read_prefixes({"groups": 8}, "p")


def load_of(**load: Any) -> LoadSpec:
    (cell,) = build_profile({"target": TARGET, "load": load}).cells
    return cell.load


def test_a_profile_takes_them() -> None:
    drawn = load_of(mode="closed", input_tokens={"kind": "lognormal", "median": 512, "sigma": 0.8, "max": 4096},
                    output_tokens=8, prefixes={"groups": 4, "tokens": 32, "share": 0.5})  # fmt: skip
    assert (drawn.input_tokens, drawn.input_spread, drawn.output_spread) == (4096, LOGNORMAL, None)
    assert drawn.prefixes == Prefixes(groups=4, tokens=32, share=0.5)
    replayed = load_of(
        mode="trace", trace=CONVERSATION, replay={"speed": 10, "too_long": "skip", "max_context": 4096}
    )
    assert replayed.replay == Replay(speed=10.0, too_long="skip", max_context=4096)
    assert replayed.requests < 2000
    assert replayed.input_tokens + 1 <= 4096


@pytest.mark.parametrize(
    ("load", "words"),
    [
        (
            {"mode": "static", "input_tokens": {"kind": "uniform", "min": 1, "max": 3}},
            "is a distribution: the rows of a static batch",
        ),
        ({"mode": "static", "prefixes": {"groups": 1, "tokens": 1}}, "has no effect in mode = 'static'"),
        ({"mode": "closed", "replay": {"speed": 2}}, "has no effect in mode = 'closed'"),
        ({"mode": "closed", "prefixes": {"groups": 0, "tokens": 1}}, "prefixes.groups = 0"),
        ({"mode": "closed", "prefixes": 3}, "is not a table"),
        ({"mode": "closed", "output_tokens": "gamma:mean=3"}, "length: gamma needs cv"),
    ],
)
def test_a_profile_that_cannot_be(load: dict[str, Any], words: str) -> None:
    with pytest.raises(ProfileError) as caught:
        build_profile({"target": TARGET, "load": {**LENGTHS, **load}})
    assert words in str(caught.value)


def test_an_endpoint_needs_its_context_where_a_trace_is_cut() -> None:
    with pytest.raises(ProfileError) as caught:
        load_of(mode="trace", trace=CONVERSATION, replay={"too_long": "cut"})
    assert "too_long = cut: replay.max_context is missing" in str(caught.value)
    spec = load_spec(
        Load(
            **{
                **COMMAND_LINE,
                "mode": "trace",
                "trace": CONVERSATION,
                "requests": 0,
                "replay": "too_long=cut",
            }
        )
    )
    fitted = as_it_fits(spec, 4096)
    assert fitted.replay == Replay(too_long="cut", max_context=4096)
    assert fitted.input_tokens < 4096
    with pytest.raises(BadInput, match="the server does not tell its context"):
        as_it_fits(spec, None)


def test_the_command_line_takes_them() -> None:
    given = {"input_tokens": "lognormal:median=512,sigma=0.8,max=4096", "prefixes": "groups=4,tokens=32"}
    spec = load_spec(Load(**{**COMMAND_LINE, **given}))
    assert (spec.input_tokens, spec.input_spread, spec.prefixes) == (
        4096,
        LOGNORMAL,
        Prefixes(groups=4, tokens=32),
    )
    for wrong, words in (
        ({"mode": "static", "input_tokens": "uniform:min=1,max=2"}, "--mode static: lengths are its own"),
        ({"replay": "speed=2"}, "--replay speed=2: has no effect in mode closed"),
        ({"mode": "static", "prefixes": "groups=4,tokens=32"}, "has no effect in mode static"),
        ({"output_tokens": 0}, "--output-tokens = 0"),
        ({"users": 3}, "--users 3: has no effect in mode closed"),
        ({"think": "2s"}, "--think 2s: has no effect in mode closed"),
        ({"mode": "sessions", "turns": "3"}, "--mode sessions needs --users"),
        ({"mode": "sessions", "users": 3}, "--mode sessions needs --turns"),
        ({"mode": "sessions", "users": 0, "turns": "3"}, "--users 0"),
        ({"mode": "sessions", "users": 2, "turns": "3", "think": "soon"}, "--think = soon"),
    ):
        with pytest.raises(BadInput, match=words):
            load_spec(Load(**{**COMMAND_LINE, **wrong}))


def test_what_varies_decides_the_trial_and_stands_in_its_name() -> None:
    sweep = {"input_tokens": [64, "uniform:min=16,max=64", "gamma:mean=40,cv=0.5,max=64"]}
    load = {"mode": "closed", "concurrency": 2, "output_tokens": 8}
    trials = make_plan(build_profile({"target": TARGET, "load": load, "sweep": sweep})).trials
    assert len({trial.id for trial in trials}) == 3
    assert {load_label(trial) for trial in trials} == {
        "2 in flight", "2 in flight, in uniform 16–64", "2 in flight, in gamma 40, cv 0.5, 1–64"
    }  # fmt: skip


def fixed(value: int) -> Spread:
    return Spread(kind="uniform", least=value, most=value)


def test_turns_and_thinking() -> None:
    assert read_turns(6, "t") == read_turns("6", "t") == fixed(6)
    assert read_turns("uniform:min=1,max=4", "t") == Spread(kind="uniform", least=1, most=4)
    assert read_think("2s", "t") == read_think(2, "t") == fixed(2000)
    assert read_think("500ms", "t") == fixed(500)
    assert read_think("lognormal:median=2s,sigma=1,max=1m", "t") == Spread(
        kind="lognormal", least=0, most=60_000, median=2000.0, sigma=1.0
    )
    assert read_think({"kind": "uniform", "min": "1s", "max": 3}, "t") == Spread(
        kind="uniform", least=1000, most=3000
    )
    for wrong, words in (
        ("later", "t = later"),
        ("normal:mean=2s", "t: kind = 'normal'"),
        ("gamma:mean=2s,max=9s", "t: gamma needs cv"),
        ({"kind": "empirical", "file": "x"}, "t: kind = 'empirical'"),
        (-1, "t = -1"),
    ):
        with pytest.raises(BadInput, match=words):
            read_think(wrong, "t")


def test_a_profile_and_the_command_line_have_sessions() -> None:
    load = {"mode": "sessions", "turns": 6, "think": "2s", "input_tokens": 32, "output_tokens": 8}
    profile = build_profile({"target": TARGET, "load": load, "sweep": {"users": [2, 16]}})
    few, many = (cell.load for cell in profile.cells)
    assert few.sessions == Sessions(users=2, turns=fixed(6), think_ms=fixed(2000))
    assert (few.requests, few.warmup, many.requests, many.sequences, many.in_flight) == (16, 2, 64, 16, None)
    trials = make_plan(profile).trials
    assert len({trial.load.seed for trial in trials}) == len({trial.id for trial in trials}) == 2
    assert (
        load_label(next(each for each in trials if each.load.requests == 16))
        == "2 users, 6 turns, think 2000 ms"
    )
    served = build_profile(
        {
            "server": {"framework": "null", "model": "tiny", "gpus": []},
            "load": {**load, "users": 1, "duration": "5s"},
        },
    )
    (cell,) = served.cells
    assert cell.load.sessions == Sessions(users=1, turns=fixed(6), think_ms=fixed(2000), max_context=4096)
    given = {"mode": "sessions", "users": 4, "turns": "6", "think": "2s", "requests": 24}
    spec = load_spec(Load(**{**COMMAND_LINE, **given}))
    assert (spec.sessions, spec.concurrency) == (Sessions(users=4, turns=fixed(6), think_ms=fixed(2000)), 1)
    fitted = as_it_fits(spec, 2048).sessions
    assert fitted is not None
    assert fitted.max_context == 2048
    for wrong, words in (
        ({"users": None}, "load.users: is missing for mode = 'sessions'"),
        ({"turns": None}, "load.turns: is missing"),
        ({"rate": 3}, "load.rate = 3.0: has no effect in mode = 'sessions'"),
        ({"mode": "closed"}, "load.think"),
    ):
        table = {key: value for key, value in {**load, "users": 2, **wrong}.items() if value is not None}
        with pytest.raises(ProfileError) as caught:
            build_profile({"target": TARGET, "load": table})
        assert words in str(caught.value)


def test_a_profile_has_a_data_set_of_its_targets_tokenizer(tmp_path: Path) -> None:
    trained_tokenizer(tmp_path, SYLLABLES, bos=False)
    texts = tmp_path / "texts.csv"
    texts.write_text(
        "prompt,output_tokens\n" + "".join(f"{' '.join(SYLLABLES[:n])},{n + 1}\n" for n in range(1, 9))
    )
    target = {**TARGET, "tokenizer": str(tmp_path)}
    load = {"mode": "closed", "dataset": str(texts), "concurrency": 2}
    profile = build_profile({"target": target, "load": load})
    (cell,) = profile.cells
    assert cell.load.dataset == Dataset(path=str(texts), tokenizer=str(tmp_path))
    assert (cell.load.input_tokens, cell.load.output_tokens, cell.load.requests) == (8, 9, 8)
    moved = tmp_path / "moved.csv"
    moved.write_bytes(texts.read_bytes())
    (trial,), (same,) = (
        make_plan(build_profile({"target": target, "load": {**load, "dataset": str(path)}})).trials
        for path in (texts, moved)
    )
    assert trial.id == same.id, "the content decides"
    for wrong, words in (
        ({"input_tokens": 3}, "input_tokens stands beside it"),
        ({"requests": 9}, "8 prompts (accepted: requests up to these)"),
        ({"dataset": str(tmp_path / "none")}, "cannot be read"),
        ({"mode": "static"}, "load.dataset"),
    ):
        with pytest.raises(ProfileError) as caught:
            build_profile({"target": target, "load": {**load, **wrong}})
        assert words in str(caught.value)
    with pytest.raises(ProfileError) as caught:
        build_profile({"target": TARGET, "load": load})
    assert "no tokenizer of the target" in str(caught.value)


def test_what_is_cancelled() -> None:
    assert read_cancel({"share": 0.1, "after_s": "500ms"}, "c") == Cancel(share=0.1, after_s=0.5)
    assert read_cancel(pairs("share=0.25,after_tokens=16", "c"), "c") == Cancel(share=0.25, after_tokens=16)
    load = {"mode": "closed", **LENGTHS, "cancel": {"share": 0.1, "after_s": 2}}
    assert load_of(**load).cancel == Cancel(share=0.1, after_s=2.0)
    spec = load_spec(Load(**{**COMMAND_LINE, "cancel": "share=0.1,after_s=2s"}))
    assert spec.cancel == Cancel(share=0.1, after_s=2.0)
    for wrong, words in (
        ({"share": 0.1}, "c: needs share, and one of after_s and after_tokens"),
        ({"share": 0.1, "after_s": 1, "after_tokens": 1}, "c: needs share, and one of"),
        ({"share": 1, "after_s": 1}, "c.share = 1: leaves none to measure"),
        ({"share": 0.1, "after": 1}, "c: after is not a key here"),
    ):
        with pytest.raises(BadInput, match=words):
            read_cancel(wrong, "c")
    for wrong_load, words in (
        ({"mode": "static"}, "load.cancel"),
        ({"stream": False, "cancel": {"share": 0.1, "after_tokens": 3}}, "without streaming"),
    ):
        with pytest.raises(ProfileError) as caught:
            load_of(**{**load, **wrong_load})
        assert words in str(caught.value)
    with pytest.raises(BadInput, match="has no effect in mode static"):
        load_spec(Load(**{**COMMAND_LINE, "mode": "static", "cancel": "share=0.1,after_s=2"}))

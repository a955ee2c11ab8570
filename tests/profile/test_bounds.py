"""What may bound a load, in a profile and on the command line."""

from __future__ import annotations

from typing import Any

import pytest
from load_options import COMMAND_LINE, LENGTHS, TARGET

from loadgen.api.loads import Load, load_spec
from loadgen.errors import BadInput, ProfileError
from loadgen.load_records import LoadSpec
from loadgen.plan.plan import make_plan
from loadgen.profile.read import build_profile
from loadgen.theory.duration import work_of
from loadgen.units import parse_span


def load_of(**load: Any) -> LoadSpec:
    profile = build_profile({"target": TARGET, "load": {**LENGTHS, **load}})
    (cell,) = profile.cells
    return cell.load


@pytest.mark.parametrize(
    ("load", "bounds"),
    [
        ({"mode": "poisson", "rate": 2.0, "duration": "2m"}, (0, 120.0, 30.0)),
        ({"mode": "closed", "concurrency": 3, "duration": 10}, (0, 10.0, 2.5)),
        ({"mode": "closed", "duration": "10s", "lead_in": 0, "requests": 0}, (0, 10.0, 0.0)),
        ({"mode": "static", "duration": "500ms"}, (0, 0.5, 0.0)),
        ({"mode": "ramp", "rate": 1.0, "rate_end": 2.0, "duration": "1h30m"}, (0, 5400.0, 0.0)),
        ({"mode": "static"}, (5, None, 0.0)),
    ],
)
def test_a_duration_stands_in_for_requests(load: dict[str, Any], bounds: tuple[Any, ...]) -> None:
    found = load_of(**load)
    assert (found.requests, found.duration_s, found.lead_in_s) == bounds


@pytest.mark.parametrize(
    ("load", "words"),
    [
        ({"requests": 0}, "load.requests = 0: bounds nothing without a duration"),
        ({"requests": 5, "duration": "1s"}, "load.requests = 5: cannot stand beside a duration"),
        ({"lead_in": "1s"}, "load.lead_in = 1.0: has no effect without a duration"),
        ({"duration": "1s", "lead_in": "1s"}, "has no effect in mode = 'static'"),
        ({"duration": "1 s"}, "load.duration = '1 s': is no span of time"),
        ({"duration": 0}, "must be above 0"),
        ({"duration": True}, "is no span of time"),
        (
            {"mode": "trace", "trace": "x.jsonl", "duration": "1s"},
            "load.duration = 1.0: has no effect in mode",
        ),
    ],
)
def test_what_bounds_nothing_or_twice_is_refused(load: dict[str, Any], words: str) -> None:
    lengths = {} if load.get("mode") == "trace" else LENGTHS
    with pytest.raises(ProfileError) as caught:
        build_profile({"target": TARGET, "load": {**lengths, **load}})
    assert words in str(caught.value)


def test_a_sweep_may_have_a_duration_of_its_own() -> None:
    blocks = [{"mode": "closed", "duration": "8s", "lead_in": "1s"}, {"mode": "static", "requests": 2}]
    cells = build_profile({"target": TARGET, "load": LENGTHS, "sweep": blocks}).cells
    assert [(cell.load.duration_s, cell.load.lead_in_s, cell.load.requests) for cell in cells] == [
        (8.0, 1.0, 0), (None, 0.0, 2)
    ]  # fmt: skip


def test_a_duration_is_how_long_a_trial_is_expected_to_take() -> None:
    load = {**LENGTHS, "mode": "closed", "concurrency": 64, "duration": "120s"}
    (trial,) = make_plan(build_profile({"target": TARGET, "load": load})).trials
    assert work_of(trial).schedule_s == 150.0


def test_the_command_line_takes_the_same() -> None:
    spec = load_spec(Load(**{**COMMAND_LINE, "requests": 0, "duration": "120s"}))
    assert (spec.requests, spec.duration_s, spec.lead_in_s) == (0, 120.0, 30.0)
    for given, words in (
        ({"requests": 0}, "--requests 0: bounds nothing without a duration"),
        ({"duration": "1s"}, "--requests 4: cannot stand beside a duration"),
        ({"lead_in": "1s"}, "--lead-in 1s: has no effect without a duration"),
        ({"requests": 0, "duration": "soon"}, "--duration soon: no span of time above 0"),
        ({"requests": 0, "duration": "0"}, "--duration 0: no span of time above 0"),
    ):
        with pytest.raises(BadInput) as caught:
            load_spec(Load(**{**COMMAND_LINE, **given}))
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("120", 120.0), ("1.5s", 1.5), ("1m30s", 90.0), ("250ms", 0.25), ("2h", 7200.0), ("", None), ("s", None),
     ("-1s", None), ("1d", None), ("1s2", None), ("1e3", None)],
)  # fmt: skip
def test_spans_of_time(text: str, seconds: float | None) -> None:
    assert parse_span(text) == seconds


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"load": {"repeat": 10**9}}, "load.repeat = 1000000000: must be at most 10000"),
        (
            {"slo": {"ttft": "1s"}, "capacity": {"near": 1e300}},
            "capacity.near = 1e+300: must be at most 1000000",
        ),
        ({"starts": 10**9}, "starts = 1000000000: must be at most 10000"),
        ({"load": {"workers": 10**6}}, "load.workers = 1000000: must be at most 1024"),
        (
            {"load": {"mode": "closed", "concurrency": 10**9}},
            "concurrency = 1000000000: must be at most 1000000",
        ),
        ({"load": {"batch_size": 10**6}}, "1000000 rows of 80 tokens are 80000000 in one call"),
        (
            {"load": {"repeat": 1000}, "sweep": {"batch_size": list(range(1, 201))}},
            "lists and repeats come to more trials than any sweep can run (accepted: up to 100000)",
        ),
        ({"load": {"seed": 2**63}}, "load.seed: is out of range (accepted: whole numbers of 64 bits)"),
        ({"target": {**TARGET, "model": "a\0b"}}, "holds what is no text"),
        (
            {"target": {**TARGET, "extra_body": {"a": float("nan")}}},
            "target.extra_body.a = nan: is not finite",
        ),
        ({"load": {"prefixes": {"groups": 10**400, "tokens": 1}}}, "prefixes.groups: is out of range"),
    ],
)
def test_a_number_does_not_become_memory(tables: dict[str, Any], words: str) -> None:
    load = {"input_tokens": 80, "output_tokens": 2} | tables.get("load", {})
    with pytest.raises(ProfileError) as caught:
        build_profile({"target": TARGET, **tables, "load": load})
    assert words in str(caught.value)


def test_tables_in_tables_are_refused_before_anything_walks_through_them() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"a": deep}
    for tables in ({"load": LENGTHS, "x": deep}, {"load": LENGTHS, "target": {**TARGET, "extra_body": deep}}):
        with pytest.raises(ProfileError, match="is nested too deeply"):
            build_profile(tables)
    with pytest.raises(ProfileError, match="is nested too deeply"):
        build_profile({"load": LENGTHS, "target": TARGET}, sets=("target.extra_body" + ".a" * 5000 + "=1",))

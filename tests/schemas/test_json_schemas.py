"""The schemas are those of the code: kept ones are made anew, kept results and shipped profiles pass, and what they
refuse loadgen refuses."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator

from loadgen.commands.schema import text
from loadgen.errors import ProfileError
from loadgen.profile.read import build_profile, shipped
from loadgen.profile.schema import Tables
from loadgen.results.record_json import to_json
from loadgen.schemas.json_schemas import profile_schema, trials_schema

ROOT = Path(__file__).resolve().parents[2]
TRIALS = Draft202012Validator(trials_schema())
PROFILE = Draft202012Validator(profile_schema())
PROFILES = sorted(ROOT.glob("profiles/**/*.toml"))
STORED = sorted(ROOT.glob("docs/results/**/trials.jsonl"))


@pytest.mark.parametrize(
    ("what", "kept"),
    [
        ("page", "docs/format.md"),
        ("trials", "docs/schema/trials.json"),
        ("profile", "docs/schema/profile.json"),
    ],
)
def test_what_is_kept_is_made_by_the_command(what: str, kept: str) -> None:
    assert (ROOT / kept).read_text() == text(what), "stale: make schema"


def test_they_are_schemas() -> None:
    Draft202012Validator.check_schema(trials_schema())
    Draft202012Validator.check_schema(profile_schema())


def test_kept_results_are_valid() -> None:
    assert len(STORED) > 30
    wrong = []
    for path in STORED:
        lines = path.read_bytes().splitlines()
        ends = [orjson.loads(line) for line in (*lines[:1], *lines[-1:])]  # none where all is in a search
        wrong += [f"{path}: {error.message}" for line in ends for error in TRIALS.iter_errors(line)]
    assert wrong == []


def test_a_line_that_is_none_is_refused(build: Any) -> None:
    line = orjson.loads(to_json(build.result(build.trial())))
    assert TRIALS.is_valid(line)
    for path, value in (
        (("wall_s",), "long"), (("schema_version",), 2), (("trial", "load", "kind"), "burst"),
        (("summary", "requests_ok"), None), (("caveats",), {}), (("trial", "id"), None),
    ):  # fmt: skip
        wrong = copy.deepcopy(line)
        place = wrong
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        assert not TRIALS.is_valid(wrong), path
    del line["trial"]
    assert not TRIALS.is_valid(line)


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_shipped_profiles_are_valid(path: Path) -> None:
    assert [error.message for error in PROFILE.iter_errors(tomllib.loads(path.read_text()))] == []


def test_shipped_profiles_name_the_schema() -> None:
    for name, told in shipped().items():
        first = told.splitlines()[0]
        assert first.startswith("#:schema "), name
        assert (ROOT / "profiles" / first.removeprefix("#:schema ")).is_file(), name


BASE: dict[str, Any] = {
    "target": {"url": "http://127.0.0.1:8000", "model": "m"},
    "load": {"mode": "closed", "input_tokens": 8, "output_tokens": 4, "requests": 4},
}
TAKEN: list[dict[str, Any]] = [
    {},
    {"sweep": {"concurrency": [1, 8]}},
    {"sweep": [{"concurrency": 4}, {"mode": "static", "batch_size": [1, 2]}]},
    {"load": {"duration": "90s", "requests": 0}},
    {"load": {"duration": 90, "requests": 0}},
    {"load": {"input_tokens": "uniform:min=1,max=9"}},
    {"load": {"input_tokens": {"kind": "lognormal", "median": 64, "sigma": 0.5, "max": 128}}},
    {"load": {"prefixes": {"groups": 4, "tokens": 16}}},
    {"load": {"repeat": 3}},
    {"load": {"repeat": [0, 2]}},
    {"slo": {"ttft": "500ms", "tpot": "50ms@99%", "share": 0.9}},
    {"telemetry": {"sources": "http://127.0.0.1:9400/metrics", "period_s": 1}},
    {"order": "grouped"},
]
REFUSED: list[dict[str, Any]] = [
    {"lod": {}},
    {"name": "a b"},
    {"order": "shuffled"},
    {"starts": 0},
    {"sweep": {"concurrency": []}},
    {"sweep": {"batch": [1]}},
    {"sweep": {"combine": "cross"}},
    {"sweep": 3},
    {"load": {"mode": "burst"}},
    {"load": {"concurrency": 0}},
    {"load": {"concurrency": "8"}},
    {"load": {"concurrency": [1, 2]}},
    {"load": {"stream": "yes"}},
    {"load": {"burstiness": 0}},
    {"load": {"duration": "soon"}},
    {"load": {"input_tokens": "zipf:max=9"}},
    {"load": {"input_tokens": 0}},
    {"load": {"prefixes": {"group": 4}}},
    {"load": {"timeouts": {"total_s": -1}}},
    {"load": {"repeat": []}},
    {"target": {"url": "127.0.0.1"}},
    {"target": {"exact": 1}},
    {"telemetry": {"period_s": 0}},
    {"bisection": {"within": 2}},
    {"capacity": {"variable": "users"}},
    {"slo": {"ttft": True}},
]


def merged(change: dict[str, Any]) -> dict[str, Any]:
    found = copy.deepcopy(BASE)
    for key, value in change.items():
        found[key] = {**found.get(key, {}), **value} if isinstance(value, dict) else value
    return found


@pytest.mark.parametrize("change", TAKEN, ids=str)
def test_what_loadgen_takes_it_takes(change: dict[str, Any]) -> None:
    build_profile(merged(change))
    assert [error.message for error in PROFILE.iter_errors(merged(change))] == []


@pytest.mark.parametrize("change", REFUSED, ids=str)
def test_what_it_refuses_loadgen_refuses(change: dict[str, Any]) -> None:
    assert not PROFILE.is_valid(merged(change))
    with pytest.raises(ProfileError):
        build_profile(merged(change))


def test_every_key_of_every_table_is_in_it() -> None:
    schema = profile_schema()
    assert set(schema["properties"]) == set(Tables.model_fields)
    told = {name: set(table["properties"]) for name, table in schema["$defs"].items()}
    assert {"concurrency", "rate", "mode", "exclude"} <= told["SweepTable"]
    assert all(table["additionalProperties"] is False for table in schema["$defs"].values())

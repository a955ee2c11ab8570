"""A program's load and the command line's are one: the same names, the same defaults, the same refusals."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from loadgen.api.loads import Load, load_spec
from loadgen.cli import main
from loadgen.errors import BadInput


def test_its_fields_are_the_options_of_run() -> None:
    options = {option.name: option for option in main.commands["run"].params}
    given = main.commands["run"].make_context("run", ["--url", "http://h"]).params
    asked = Load(requests=64)
    for field in dataclasses.fields(Load):
        assert field.name in options, field.name
        assert str(given[field.name]) == str(getattr(asked, field.name)), field.name
    from_line = {name: given[name] for name in (field.name for field in dataclasses.fields(Load))}
    assert load_spec(Load(**from_line)) == load_spec(Load())


def test_every_option_of_run_that_is_no_place_is_a_field() -> None:
    elsewhere = {
        "url", "protocol", "model", "endpoint", "prompt", "tokenizer", "vocab", "exact", "extra_body", "headers",
        "options", "slo", "out", "export", "live", "strict", "ray", "ray_without_token", "share",
        "start_at",
    }  # fmt: skip
    names = {option.name for option in main.commands["run"].params}
    assert names - elsewhere == {field.name for field in dataclasses.fields(Load)}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"mode": "burst"}, "--mode burst: not a mode .*closed"),
        ({"concurrency": "8"}, "--concurrency 8: not a count"),
        ({"concurrency": None}, "--concurrency None: not a count"),
        ({"warmup": True}, "--warmup True: not a count"),
        ({"rate": "5", "mode": "poisson"}, "--rate 5: must be above 0 and finite"),
        ({"seed": 1.5}, "--seed 1.5: not a whole number"),
        ({"stream": "yes"}, "--stream yes: neither True nor False"),
        ({"duration": 30}, "--duration 30: not text"),
        ({"input_tokens": [1]}, "--input-tokens = \\[1\\]: no length"),
        ({"replay": 3, "mode": "trace", "trace": "t"}, "--replay 3: not a table"),
        (
            {"mode": "trace", "trace": "t", "rate": 4.0, "replay": "speed=2"},
            "--rate 4.0: sets the pace of the trace, as speed = 2 of its replay does .accepted: one of the two",
        ),
        ({"rate": 5.0}, "--rate 5.0: has no effect in mode closed .accepted: --mode constant or poisson"),
        (
            {"mode": "poisson", "rate": 1.0, "concurrency": 8},
            "--concurrency 8: .*mode poisson .*--mode closed",
        ),
        ({"batch_size": 4}, "--batch-size 4: has no effect in mode closed .accepted: --mode static"),
        ({"trace": "t.jsonl"}, "--trace t.jsonl: has no effect in mode closed .accepted: --mode trace"),
        ({"users": 3}, "--users 3: has no effect in mode closed .accepted: --mode sessions"),
    ],
)
def test_what_cannot_be_is_named(given: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        load_spec(Load(**given))


def test_tables_may_be_tables() -> None:
    text = load_spec(Load(prefixes="groups=4,tokens=32", input_tokens="uniform:min=40,max=50"))
    table = load_spec(
        Load(prefixes={"groups": 4, "tokens": 32}, input_tokens={"kind": "uniform", "min": 40, "max": 50})
    )
    assert text == table

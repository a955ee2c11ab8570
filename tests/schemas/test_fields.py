"""Every stored field is described; what is said of one is said of one that exists."""

from __future__ import annotations

import dataclasses
import typing

import pytest

from loadgen.records import Environment, TrialResult
from loadgen.request_records import Reply, Sample
from loadgen.schemas.fields import fields_of, records_of, unit_of
from loadgen.schemas.words import MEANING, NULL
from loadgen.search_records import Capacity, MaxBatch

RECORDS = {
    record.__name__: record
    for root in (TrialResult, Environment, Sample, Reply, MaxBatch, Capacity)
    for record in records_of(root)
}


@pytest.mark.parametrize("name", RECORDS)
def test_every_field_is_described_by_its_docstring_or_a_word(name: str) -> None:
    told = list(fields_of(RECORDS[name]))  # KeyError: name it in the record's docstring, in double backticks
    assert [field.name for field in told] == [field.name for field in dataclasses.fields(RECORDS[name])]
    assert all(field.meaning and field.kind for field in told)


def test_words_are_of_fields_that_exist() -> None:
    fields = {name: {field.name for field in dataclasses.fields(record)} for name, record in RECORDS.items()}
    assert [
        f"{name}.{key}" for name, words in MEANING.items() for key in words if key not in fields[name]
    ] == []
    for path in NULL:
        name, _, key = path.partition(".")
        assert type(None) in typing.get_args(typing.get_type_hints(RECORDS[name])[key]), path


def test_units_are_those_of_the_names() -> None:
    units = {field.name: field.unit for record in RECORDS.values() for field in fields_of(record)}
    assert {name: units[name] for name in ("wall_s", "sent_ns", "rss_bytes", "power_w", "requests_per_s", "seed")} == {
        "wall_s": "s", "sent_ns": "ns", "rss_bytes": "bytes", "power_w": "W", "requests_per_s": "1/s", "seed": "",
    }  # fmt: skip
    assert unit_of("errors", int) == ""

"""What an engine's page decides, and what the names of earlier versions' engines did."""

from __future__ import annotations

import dataclasses

import pytest

from loadgen.engine_facts import is_eager, replays_graphs, takes_kv_ahead
from loadgen.records import LoadSpec, ServerSpec
from loadgen.theory.models import PRESETS

GPU = ServerSpec(framework="hf", model=PRESETS["tiny"], gpus=(0,))


def with_options(framework: str = "hf", **options: str | bool) -> ServerSpec:
    return dataclasses.replace(GPU, framework=framework, options=options)


def test_the_page_has_the_last_word() -> None:
    assert takes_kv_ahead({"engine": "mii-fastgen", "kv_ahead": False}) is False
    assert takes_kv_ahead({"engine": "new", "kv_ahead": True}) is True
    assert replays_graphs({"graphs": False}, with_options(engine="compiled")) is False
    assert replays_graphs({"graphs": True}, with_options("new")) is True
    assert is_eager({"eager": True}, with_options("new")) is True
    assert is_eager({"eager": False}, with_options(engine="generate")) is False


@pytest.mark.parametrize(
    ("engine", "ahead"),
    [
        ("mii-fastgen", True),
        ("hf/continuous", True),
        ("vLLM 0.25", True),
        ("hf/generate", False),
        (None, False),
    ],
)
def test_an_older_page_is_known_by_its_engines_name(engine: str | None, ahead: bool) -> None:
    assert takes_kv_ahead({"engine": engine}) is ahead


def test_older_results_are_read_as_they_were() -> None:
    assert replays_graphs({}, with_options(engine="compiled"))
    assert replays_graphs({}, with_options("ds", cuda_graph=True))
    assert not replays_graphs({}, with_options("ds", cuda_graph="true"))
    assert not replays_graphs({"graphs": True}, dataclasses.replace(with_options(engine="compiled"), gpus=()))
    assert is_eager({}, with_options()) is True
    assert is_eager({}, with_options(engine="compiled")) is None
    assert is_eager({}, with_options("ds")) is False
    assert is_eager({}, None) is False


@pytest.mark.parametrize(
    ("load", "open_loop", "in_flight", "sequences"),
    [
        (LoadSpec(kind="static", input_tokens=1, output_tokens=1, batch_size=8, concurrency=3), False, 1, 8),
        (LoadSpec(kind="closed", input_tokens=1, output_tokens=1, batch_size=2, concurrency=3), False, 3, 6),
        (LoadSpec(kind="poisson", input_tokens=1, output_tokens=1, rate=2.0), True, None, None),
        (LoadSpec(kind="trace", input_tokens=1, output_tokens=1), True, None, None),
    ],
)
def test_a_load_tells_how_much_of_it_is_in_flight(
    load: LoadSpec, open_loop: bool, in_flight: int | None, sequences: int | None
) -> None:
    assert (load.open_loop, load.in_flight, load.sequences) == (open_loop, in_flight, sequences)

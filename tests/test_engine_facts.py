"""What an engine's page decides, and what the names of earlier versions' engines did."""

from __future__ import annotations

import dataclasses

import pytest

from loadgen.engine_facts import (
    Weights,
    is_eager,
    own_weights,
    replays_graphs,
    takes_kv_ahead,
    versions_of,
    weights_of,
)
from loadgen.load_records import LoadSpec
from loadgen.records import ServerSpec
from loadgen.theory.models import PRESETS

GPU = ServerSpec(framework="hf", model=PRESETS["tiny"], gpus=(0,))


def with_options(framework: str = "hf", **options: str | bool) -> ServerSpec:
    return dataclasses.replace(GPU, framework=framework, options=options)


def test_the_code_that_an_engine_is() -> None:
    page = {"version": "0.25", "server": "triton 2.7", "cuda": None, "code": "0a1b", "pid": 7}
    page |= {"versions": {"torch": "2.13"}, "library": {"libft.so": "beef"}}
    told = {"version": "0.25", "server": "triton 2.7", "code": "0a1b", "torch": "2.13"}
    assert versions_of(page) == {**told, "libft.so, SHA-256": "beef"}
    assert versions_of({"versions": "2.13", "library": None}) == {}


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


OURS = Weights(maker="loadgen", distribution="normal, std 0.02", seed=0)
BACKENDS = Weights(maker="FasterTransformer", distribution="its own")


@pytest.mark.parametrize(
    ("told", "spec", "expected"),
    [
        ("random", with_options(), OURS),
        ("random", with_options("ds", seed=3), dataclasses.replace(OURS, seed=3)),
        (None, with_options("triton"), OURS),
        ("random (made by the backend itself: its warnings of missing files are meant)", with_options("ft"), BACKENDS),
        (
            "random (written by loadgen, seed 0)",
            with_options("ft"),
            Weights(maker="loadgen", distribution="uniform, std 0.02"),
        ),
        ("checkpoint (given, sizes checked)", with_options("ft"), Weights(maker="checkpoint")),
        (None, with_options("ft"), None),
        (None, with_options("new"), None),
        ("random", None, None),
    ],
)  # fmt: skip
def test_older_results_tell_by_name_whose_weights_they_ran(
    told: str | None, spec: ServerSpec | None, expected: Weights | None
) -> None:
    assert weights_of({"weights": told}, spec) == expected


def test_a_page_says_whose_weights_it_runs() -> None:
    for weights in (OURS, BACKENDS, Weights(maker="checkpoint", fingerprint="1a2b")):
        assert weights_of({"weights": weights.page()}, None) == weights
        assert weights.like(weights)
    assert weights_of({"weights": {"maker": 7}}, GPU) is None
    model = dataclasses.replace(GPU.model, checkpoint="/some/folder", fingerprint="1a2b")
    loaded = dataclasses.replace(GPU, model=model, dummy_weights=False)
    assert own_weights(loaded) == Weights(maker="checkpoint", fingerprint="1a2b")
    assert own_weights(dataclasses.replace(loaded, dummy_weights=True)) == OURS


def test_weights_are_alike_by_maker_and_distribution_or_by_checkpoint() -> None:
    assert OURS.like(dataclasses.replace(OURS, seed=9))  # other numbers, which switch as many bits
    assert not OURS.like(BACKENDS)
    assert not OURS.like(dataclasses.replace(OURS, distribution="uniform, std 0.02"))
    unknown = Weights(maker="checkpoint")
    assert not unknown.like(unknown), "two checkpoints that nobody knows may be two"


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

"""What a server's counters say of batches: the figures are those that real servers gave."""

from dataclasses import replace
from typing import Any

import pytest

from loadgen.load_records import LoadSpec
from loadgen.metrics.engine_caveats import of_engine
from loadgen.metrics.summary import summarise
from loadgen.records import ClientQuality

CALLS = 11


def doubts(batch: int, output: int, kind: str = "static", calls: int = CALLS, **seen: Any) -> dict[str, str]:
    load = LoadSpec(kind=kind, input_tokens=20, output_tokens=output, batch_size=batch, requests=10)  # type: ignore[arg-type]
    counted = {"output_tokens": calls * batch * output, **seen}
    return {caveat.kind: caveat.message for caveat in of_engine(load, calls, {"server_side": counted})}


def test_a_batch_of_8_that_ran_4_at_a_time_ran_in_waves() -> None:
    found = doubts(8, 10, steps=225)
    assert list(found) == ["batch-waves"]
    assert "a call of 8 × 10 tokens took 20.5 steps of the engine, one batch takes 10" in found["batch-waves"]


@pytest.mark.parametrize(
    ("batch", "output", "steps"), [(8, 20, 21), (64, 20, 21), (8, 100, 100.8), (64, 8, 11)]
)
def test_a_batch_whose_sequences_joined_later_began_in_pieces(batch: int, output: int, steps: float) -> None:
    assert list(doubts(batch, output, steps=round(steps * CALLS))) == ["batch-steps"]


@pytest.mark.parametrize(
    ("batch", "output", "steps", "kinds"),
    [
        (8, 20, 20, []),
        (8, 20, 20.3, []),
        (1, 20, 40, []),
        (8, 1, 2, ["batch-steps"]),  # two waves, or a prefill in two: with one token nobody can tell
        (8, 2, 3, ["batch-steps"]),
        (8, 2, 4, ["batch-waves"]),
    ],
)
def test_steps_are_held_to_the_tokens_of_a_sequence(
    batch: int, output: int, steps: float, kinds: list[str]
) -> None:
    assert list(doubts(batch, output, steps=round(steps * CALLS))) == kinds


def test_steps_say_nothing_where_others_used_the_server_or_none_were_counted() -> None:
    assert doubts(8, 10, steps=225, output_tokens=CALLS * 80 + 3) == {}
    assert doubts(8, 10, steps=None) == {}
    assert doubts(8, 10, kind="closed", steps=225) == {}
    assert doubts(8, 10, calls=0, steps=0) == {}
    assert list(of_engine(LoadSpec(kind="static", input_tokens=1, output_tokens=1), 3, {})) == []


def test_prompts_that_were_in_the_cache_are_told_whatever_the_load() -> None:
    found = doubts(1, 10, kind="closed", prompt_tokens=1600, cached_prompt_tokens=384)
    assert "384 prompt tokens from its prefix cache (24.0 %" in found["prefix-cache"]
    assert doubts(1, 10, prompt_tokens=1600, cached_prompt_tokens=16) == {}


def test_preemptions_are_told() -> None:
    assert "put 2 sequences back" in doubts(1, 10, kind="closed", preemptions=2)["preemptions"]
    assert doubts(1, 10, preemptions=0) == {}


def test_single_calls_to_a_server_that_runs_one_at_a_time_are_no_batch(build: Any) -> None:
    load = LoadSpec(kind="static", input_tokens=20, output_tokens=10, batch_size=3)
    split = ClientQuality(driver="openai-raw", stamps="kernel", arrival_skew_s=build.dist(1e-5))
    whole = ClientQuality(driver="openai-raw", stamps="kernel")

    def kinds(client: ClientQuality, **engine: Any) -> list[str]:
        return [caveat.kind for caveat in of_engine(load, CALLS, engine, client)]

    assert kinds(split, in_flight_batching=False) == ["batch-waves"]
    assert kinds(whole, in_flight_batching=False) == []
    assert kinds(split, in_flight_batching=True) == kinds(split) == []
    assert kinds(split, in_flight_batching=False, dynamic_batching=True) == []


def test_what_replies_say_of_a_cache_counts_where_the_server_has_no_counter() -> None:
    load = LoadSpec(kind="closed", input_tokens=20, output_tokens=4)
    summary = replace(summarise([]), cached_tokens=300, cached_of_tokens=1000)
    (told,) = of_engine(load, CALLS, {}, summary=summary)
    assert "300 prompt tokens from its prefix cache (30.0 %" in told.message
    counted = {"server_side": {"cached_prompt_tokens": 0, "prompt_tokens": 1000}}
    assert list(of_engine(load, CALLS, counted, summary=summary)) == []


@pytest.mark.parametrize(
    ("load", "kinds"),
    [
        ({"kind": "static", "batch_size": 8}, []),
        ({"kind": "static", "batch_size": 9}, ["sequence-limit"]),
        ({"kind": "closed", "concurrency": 9, "input_tokens": 4}, ["sequence-limit"]),
        ({"kind": "closed", "concurrency": 8, "output_tokens": 31}, ["kv-limit"]),
        ({"kind": "poisson", "rate": 99.0}, []),
    ],
)
def test_what_an_engine_has_no_room_for_is_told(load: dict[str, Any], kinds: list[str]) -> None:
    asked: dict[str, Any] = {"input_tokens": 20, "output_tokens": 20, **load}
    if asked["kind"] == "static" and kinds:
        asked["input_tokens"] = 4
    found = of_engine(LoadSpec(**asked), CALLS, {"max_sequences": 8, "kv_tokens": 400, "graphs_up_to": 20})
    assert [caveat.kind for caveat in found] == kinds


def test_a_batch_beyond_an_engines_graphs_is_told() -> None:
    load = LoadSpec(kind="static", input_tokens=4, output_tokens=4, batch_size=600)
    (told,) = of_engine(load, CALLS, {"max_sequences": 1024, "graphs_up_to": 512})
    assert told.kind == "beyond-graphs"
    assert "600 sequences" in told.message
    assert list(of_engine(load, CALLS, {"graphs_up_to": 1024})) == []


def test_a_number_that_no_counter_holds_is_none() -> None:
    assert doubts(1, 10, kind="closed", prompt_tokens=10**400, cached_prompt_tokens=10**399, steps=-1) == {}
    assert doubts(1, 10, kind="closed", preemptions=10**30) == {}

"""A stored record is read as what was written, or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from edge_files import kept, with_odd

from loadgen.records import ClientNode, TrialResult
from loadgen.results.record_json import LATENCIES, from_json, impossible, to_json

LOAD, SUMMARY, SERVER = ("trial", "load"), ("summary",), ("trial", "server")


def read(*changes: tuple[tuple[Any, ...], Any]) -> TrialResult:
    return from_json(TrialResult, json.dumps(with_odd(kept()[0], list(changes))).encode())


def test_a_line_of_an_earlier_version_comes_back() -> None:
    result = read()
    assert json.loads(to_json(result)).items() >= {"environment": kept()[0]["environment"]}.items()
    assert from_json(TrialResult, to_json(result)) == result


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ((*SUMMARY, "duration_s"), "nan"),
        ((*SUMMARY, "duration_s"), "5"),
        ((*SUMMARY, "duration_s"), float("nan")),
        ((*SUMMARY, "duration_s"), float("inf")),
        ((*SUMMARY, "duration_s"), -1.0),
        ((*SUMMARY, "requests_ok"), 5.0),
        ((*SUMMARY, "requests_ok"), True),
        ((*SUMMARY, "requests_ok"), -5),
        ((*SUMMARY, "requests_ok"), 2**64),
        ((*SUMMARY, "e2e_s", "n"), 0),
        ((*SUMMARY, "errors"), {"errors": -1}),
        ((*SERVER, "pp"), 2**40),
        ((*SERVER, "tp"), 0),
        ((*SERVER, "model", "layers"), 2**31),
        ((*LOAD, "batch_size"), "8"),
        ((*LOAD, "output_tokens"), 0),
        ((*LOAD, "input_tokens"), 0),
        (("wall_s",), 1e30),
        (("engine", "load_s"), float("inf")),
        (("telemetry", "power_w"), "nan"),
        (("telemetry", "ledger", "gpu"), -418),
        (("telemetry", "sources", 0, "scrapes"), -1),
    ],
)
def test_other_types_and_ranges_are_refused(place: tuple[Any, ...], value: object) -> None:
    with pytest.raises(ValueError, match=str(place[-1])):
        read((place, value))


@pytest.mark.parametrize(
    ("record", "place", "value"),
    [
        ("summary", (*SUMMARY, "e2e_s", "min"), -0.0),
        ("summary", (*SUMMARY, "ttft_s", "min"), -1e-9),
        ("summary", (*SUMMARY, "duration_s"), 5e-324),
        ("e2e_s", (*SUMMARY, "e2e_s", "p50"), 5e-324),
        ("e2e_s", (*SUMMARY, "e2e_s", "p50"), 1e9),
        ("e2e_s", (*SUMMARY, "e2e_s", "mean"), 1e9),
        ("e2e_s", (*SUMMARY, "e2e_s", "stdev"), -1.0),
        ("e2e_s", (*SUMMARY, "e2e_s", "intervals"), {"p50": [1e9, None]}),
        ("e2e_s", (*SUMMARY, "e2e_s", "independent"), 1e9),
    ],
)
def test_figures_that_no_trial_can_have_are_refused(
    record: str, place: tuple[Any, ...], value: object
) -> None:
    with pytest.raises(ValueError, match=f"{record} holds values"):
        read((place, value))


def test_figures_of_nothing_and_of_noise_are_read() -> None:
    """All requests of one trial took as long; those of another failed."""
    equal = {**dict.fromkeys(("min", "p50", "max"), 0.3), **dict.fromkeys(("p90", "p95", "p99"), None)}
    e2e = {"n": 3, "mean": 0.30000000000000004, "stdev": 5e-17, **equal}
    nothing = dict.fromkeys((*LATENCIES, "duration_s", "output_tokens_per_s"), None)
    summary = {
        **kept()[0]["summary"],
        **nothing,
        "requests_ok": 0,
        "output_tokens": 0,
        "errors": {"Refused": 9},
    }
    for result in (read(((*SUMMARY, "e2e_s"), e2e)), read((SUMMARY, summary))):
        assert impossible(result) is None


def test_what_others_told_is_read_whatever_they_told() -> None:
    """An engine's own facts and counters decide nothing of a record; refused here, they would cost the folder."""
    engine = {"vocab": 10**30, "seed": -5, "list": [1e300]}
    result = read((("engine",), engine), (("telemetry", "power_w"), -3.0))
    assert result.engine == engine
    assert result.telemetry is not None
    assert result.telemetry.power_w == -3.0


def test_results_that_are_kept_are_within_the_ranges() -> None:
    folder = Path(__file__).parents[2] / "docs/results/h200-ft"
    lines = [line for path in folder.glob("*/trials.jsonl") for line in path.read_bytes().splitlines()]
    assert len([from_json(TrialResult, line) for line in lines]) == len(lines) > 10


def test_a_nodes_clock_may_run_slow_and_its_start_be_early() -> None:
    node = ClientNode(address="10.0.0.2", workers=2, bound_s=2e-5, drift_ppm=-12.5, began_s=-1e-6)
    assert from_json(ClientNode, to_json(node)) == node
    with pytest.raises(ValueError, match="workers = 0 is out of range"):
        from_json(ClientNode, to_json(replace(node, workers=0)))

"""What a plan can tell: the method's own reference values, and lines that say where the noise is from."""

from __future__ import annotations

from typing import Any

import pytest

from loadgen.plan.detectable import (
    EAGER,
    QUIET,
    Noise,
    assumed,
    best_repeats,
    detectable,
    of_plan,
    told,
)
from loadgen.plan.plan import Plan, make_plan
from loadgen.profile.read import build_profile

COMPILED = Noise(start=0.0054, cell=0.0, trial=0.0035, source="reference")


def plan(options: dict[str, Any], starts: int, repeat: int = 1) -> Plan:
    server = {"framework": "hf", "model": "llama-7b", "options": options}
    load = {"input_tokens": 8, "output_tokens": 8, "repeat": repeat}
    sweep = {"batch_size": [1, 2, 4, 8], "tp": [1, 2]}
    given = {"server": server, "load": load, "sweep": sweep, "starts": starts}
    return make_plan(build_profile(given, file="p.toml", gpu_count=8, sets=()))


def test_the_reference_values_of_the_method() -> None:
    found = [detectable(COMPILED, starts, 16, 2) for starts in (2, 3, 5)]
    assert found == pytest.approx([0.02958, 0.01663, 0.01104], abs=5e-6)
    eager = Noise(start=0.1, cell=0.0, trial=0.1, source="reference")
    assert detectable(eager, 3, 16, 2) == pytest.approx(0.3610, abs=5e-5)
    assert best_repeats(COMPILED, 16, 60, 3) == pytest.approx(0.1812, abs=5e-5)
    noisy = Noise(start=0.01, cell=0.01, trial=0.03, source="reference")
    assert best_repeats(noisy, 5, 120, 1) == pytest.approx(6.0, abs=5e-4)


def test_more_starts_and_repeats_never_tell_less_and_one_start_tells_nothing() -> None:
    by_starts = [detectable(QUIET, starts, 16, 1) or 0.0 for starts in range(2, 9)]
    assert by_starts == sorted(by_starts, reverse=True)
    assert (detectable(EAGER, 3, 1, 4) or 0) < (detectable(EAGER, 3, 1, 1) or 0)
    assert detectable(QUIET, 1, 16, 5) is None
    assert detectable(QUIET, 1, 16, 1, df=4) is not None  # with a spread that other servers lend


def test_a_sentence_names_its_noise_and_whether_it_is_assumed() -> None:
    said = told(COMPILED, 3, 2, 16)
    assert "from 1.7 % can be told between two servers over 16 cells, 1.8 % in one" in said
    assert "3 starts a side of 2 repeats each" in said
    assert "noise of reference: start 0.54 %" in said
    assert "noise assumed, as of engines that replay CUDA graphs" in told(QUIET, 3, 1, 16)
    assert "nothing can be told between two servers; starts = 3 could tell" in told(QUIET, 1, 1, 16)


def test_a_plan_says_what_it_can_tell_by_kind_of_engine() -> None:
    (line,) = of_plan(plan({"engine": "compiled"}, 3))
    assert line.startswith(
        "hf/compiled llama-7b tp1, hf/compiled llama-7b tp2: 3 starts a side of one repeat each"
    )
    assert "over 4 cells" in line
    assert told(assumed(plan({}, 1).trials[0].server), 1, 1, 4) in of_plan(plan({}, 1))[0]  # type: ignore[arg-type]
    assert "launch every kernel" in of_plan(plan({}, 3))[0]


def test_repeats_that_do_not_pay_are_said_to_be() -> None:
    found = plan({"engine": "compiled"}, 3, repeat=5)
    assert "of 5 repeats each" in of_plan(found)[0]
    quick, slow = ({trial.id: seconds for trial in found.trials} for seconds in (3.0, 0.001))
    assert "more starts of 1 each tell more in the same time" in of_plan(found, quick)[0]
    assert "tell more in the same time" not in of_plan(found, slow)[0]

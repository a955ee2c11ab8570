"""The report of ``make demo``: a CPU that no datasheet knows, probed, and one server start of the quick profile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from click.testing import CliRunner
from synthetic import Point, World, environment, result, write

from loadgen.cli import main
from loadgen.plan.plan import make_plan
from loadgen.profile.read import load_profile
from loadgen.selfcheck.probe import save
from loadgen.theory.ceilings import Ceilings

PROFILE = Path(__file__).resolve().parents[2] / "profiles/quick.toml"
CPU = environment("cpu", gpus=0)
PROBED = Ceilings(device=CPU.cpu, source="measured", bandwidth=1e10, matrix={"float32": 1e11}, shared=True)
WORLD = World(prefill=lambda point: 2e-3 + 1e-5 * point.tokens, step=lambda _point: 2e-3, noise=0.1)


def test_a_sweep_of_the_quick_profile_on_a_probed_cpu_has_a_report(tmp_path: Path) -> None:
    """Neither noise nor a floor of its prefill is known, so a law of it may be bounded by nothing."""
    rng = np.random.default_rng(1)
    results = []
    for trial in make_plan(load_profile(PROFILE)).trials:
        load = trial.load
        point = Point(
            batch=max(load.batch_size, load.concurrency),
            input_tokens=load.input_tokens,
            output_tokens=load.output_tokens,
            kind=load.kind,
        )
        made = result(point, WORLD, rng=rng, start="the one start")
        results.append(replace(made, trial=trial, environment=CPU.id))
    sizes = {each.trial.load.batch_size * each.trial.load.input_tokens for each in results}
    assert len(sizes) >= 4, "else no law of prefill is fitted"
    folder = write(tmp_path / "quick", results, environments=[CPU])
    save([PROBED], folder)
    out = tmp_path / "all.md"
    done = CliRunner().invoke(main, ["report", str(folder), "--format", "md", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "not resolvable" in out.read_text(), "F8 has looked at the law"

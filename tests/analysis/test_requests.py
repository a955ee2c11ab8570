"""What stored requests tell of a trial: here, whether its warm-up was served."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from synthetic import (
    Point,
    environment,
    result,
    roofline_world,
    samples_of,
)

from loadgen.analysis.analyse import analyse
from loadgen.records import TrialResult
from loadgen.results.store import Store


def test_a_trial_whose_warm_up_was_not_served_has_no_say(tmp_path: Path) -> None:
    """Such a trial fails nowadays; those that were stored before are told by their samples."""

    def spoiled(folder: Path, found: TrialResult, *errors: str | None) -> Path:
        with Store.create(folder, {"name": folder.name, "trials": [found.trial.id]}) as store:
            store.add_environment(environment())
            store.append(found)
            writer = store.sample_writer(found.trial.id)
            warm, *rest = samples_of(found)
            for seq, error in enumerate(errors):
                reply = dataclasses.replace(warm.reply, seq=100 + seq, error=error)
                writer.add(dataclasses.replace(warm, reply=reply))
            for sample in rest:
                writer.add(sample)
            writer.close()
        return folder

    found = result(Point(), roofline_world(plateau_s=30e-3))
    assert found.trial.load.warmup == 1
    refused, short = "Refused: 500 Internal Server Error", "WrongLength: asked 20, got 3 (sequence 0)"
    for name, errors, why in (
        ("cold", (refused,), {"its warm-up was not served: requests that were measured met a cold server"}),
        ("again", (refused, None), set()),
        ("short", (short,), set()),
    ):
        analysis = analyse([spoiled(tmp_path / name, found, *errors)])
        assert set(analysis.excluded.values()) == why, name
        assert len(analysis.study.cells) == (not why)

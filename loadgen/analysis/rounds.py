"""Trials that ran side by side: the same work on rivals, one right after the other. Their differences are paired.

Read from what happened, not from what was planned: a sweep may have been interrupted within a round, or a trial of it
run again a day later.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from loadgen.identity import rivals_key
from loadgen.records import TrialResult

PAUSE_S = 600.0  # between trials of one round: a large model's server may have been started anew


def rounds_of(found: Sequence[TrialResult]) -> dict[str, str]:
    """Trial id → its round's name, for trials in the order they finished; those that ran in no round are left out."""
    rounds: list[list[TrialResult]] = []
    for result in found:
        if rounds and _joins(rounds[-1], result):
            rounds[-1].append(result)
        else:
            rounds.append([result])
    return {
        result.trial.id: f"{members[0].trial.id} {members[0].started}"
        for members in rounds
        if len(members) > 1
        for result in members
    }


def _joins(members: Sequence[TrialResult], result: TrialResult) -> bool:
    last, server = members[-1], result.trial.server
    if server is None or last.trial.server is None or rivals_key(server) != rivals_key(last.trial.server):
        return False
    alike = (last.trial.load, last.trial.start, last.trial.repeat, last.environment) == (
        result.trial.load,
        result.trial.start,
        result.trial.repeat,
        result.environment,
    )
    if not alike or any(member.trial.server == server for member in members):
        return False
    pause_s = _pause_s(last, result)
    return pause_s is not None and pause_s < PAUSE_S


def _pause_s(last: TrialResult, result: TrialResult) -> float | None:
    try:
        began, then = datetime.fromisoformat(result.started), datetime.fromisoformat(last.started)
    except ValueError:
        return None
    return (began - then).total_seconds() - last.wall_s

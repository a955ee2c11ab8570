"""Findings as tables: servers under a claim, and what is open by its reason, with the cells that would tell."""

from __future__ import annotations

from dataclasses import replace

from cases import case, rows
from synthetic import grid, roofline_world, sweep

from loadgen.analysis.finding import CLAIMS, Finding, Wanted
from loadgen.report.claim_tables import behind_text, effect_text, open_table, server_table, shared_parts


def untold(subject: str, *wanted: Wanted) -> Finding:
    return Finding(
        id="F2", claim=CLAIMS["F2"], subject=subject, verdict="not tested", sentence="Why.", wanted=wanted
    )


def test_what_is_open_is_one_row_for_each_reason_with_the_cells_that_would_tell() -> None:
    keys = list(case(rows(sweep(grid(batch=(1, 2, 4, 8)), roofline_world()))).study.cells)
    wanted = [Wanted(key=key, why="more") for key in keys[:3]] + [Wanted(key=keys[3], why="more", again=True)]
    table = open_table([untold("a · 13b · H200", *wanted), untold("b · 13b · H200")])
    assert table is not None
    assert table.head[1] == "server, all 13b · H200"
    tells = "add tp 1, batch 1, 20/20; add tp 1, batch 2, 20/20; add tp 1, batch 4, 20/20; and 1 more"
    assert table.rows == (("F2", "a; b", "Why.", tells),)
    again = open_table([untold("a · 13b", wanted[3])])
    assert again is not None
    assert again.rows[0][3] == "more starts of tp 1, batch 8, 20/20"


def test_without_open_or_decided_findings_there_is_no_table() -> None:
    assert server_table([untold("a")]) is None
    assert open_table([replace(untold("a"), verdict="holds")]) is None


def test_what_was_not_measured_is_a_dash() -> None:
    assert behind_text(untold("a").behind) == effect_text(untold("a")) == "–"


def test_only_what_every_subject_has_is_shared() -> None:
    both = ["hf/generate · 13b · H200", "ds · 13b · A100 · closed", "two machines"]
    assert shared_parts(both) == ["13b"]
    assert shared_parts(["two machines"]) == []
    assert shared_parts([]) == []

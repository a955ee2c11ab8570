"""One row a claim: counted over all servers, never "holds" on one of nine, and with what lies behind it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cases import EXP1, EXP3, case, rows
from synthetic import A100, World, grid, roofline_world, sweep

from loadgen.analysis.analyse import findings_of
from loadgen.analysis.finding import CLAIMS, LONGEST, Behind, Finding, Verdict
from loadgen.analysis.headline import headlines, with_behind
from loadgen.report.claim_tables import behind_text


def found(verdict: Verdict, p: float | None = 0.001, subject: str = "server", starts: int = 3) -> Finding:
    return Finding(
        id="F5",
        claim=CLAIMS["F5"],
        subject=subject,
        verdict=verdict,
        sentence=f"{subject} is {verdict}.",
        p=p,
        behind=Behind(trials=9, starts=starts, machines=1),
    )


@pytest.mark.parametrize(
    ("members", "verdict", "said"),
    [
        ([found("holds")], "holds", "holds"),
        ([found("holds")] * 3, "holds", "holds on 3 of 3"),
        ([found("holds"), *[found("not tested", None)] * 8], "in part", "holds on 1 of 9, 8 not tested"),
        ([found("holds"), found("refuted")], "differs", "holds on 1 of 2, refuted on 1 of 2"),
        ([found("refuted", None)] * 2, "refuted", "refuted on 2 of 2"),
        ([found("not tested", None)], "not tested", "not tested"),
        ([found("holds"), *[found("holds", 0.04)] * 2], "in part", "holds on 1 of 3, 2 told alone only (Holm)"),
        ([found("holds", 0.04)] * 2, "not tested", "told on 2 of 2 alone, not over all of them (Holm)"),
    ],
)  # fmt: skip
def test_a_claim_over_servers_is_counted(members: list[Finding], verdict: str, said: str) -> None:
    (row,) = headlines(members)
    assert (row.verdict, row.said) == (verdict, said)
    assert len(row.told) + len(row.untold) == len(members)


def test_the_server_with_most_starts_speaks_of_those_that_decide() -> None:
    members = [
        found("holds", subject="few"),
        found("holds", subject="many", starts=5),
        found("not tested", None, subject="open", starts=9),
    ]
    (row,) = headlines(members)
    assert row.sentence == "many is holds."
    assert behind_text(row.behind) == "9 trials, 5 starts, 1 machine"


def test_trials_and_starts_behind_a_finding_are_counted() -> None:
    world = World(prefill=lambda _p: 5e-3, step=lambda _p: 5e-3, noise=0.005)
    points = grid(batch=(1, 4), output_tokens=(100,))
    both = [*sweep(points, world, repeats=4), *sweep([replace(p, machine=A100) for p in points], world)]
    known = case(rows(both))
    f11 = next(each for each in with_behind(findings_of(known), known.study) if each.id == "F11")
    assert (f11.behind.trials, f11.behind.starts) == (14, 7)


def test_every_claim_has_one_row_and_no_sentence_is_longer_than_a_reader_bears() -> None:
    servers = [
        replace(point, engine=engine) for engine in ("generate", "compiled") for point in (*EXP1, *EXP3)
    ]
    stages = grid(pp=(1, 2, 4, 8), batch=(1, 8), output_tokens=(100,))
    rivals = [replace(point, framework="ds", engine="mii-fastgen") for point in EXP3]
    there = [replace(point, machine=A100) for point in EXP3]
    points = list({repr(point): point for point in (*servers, *stages, *rivals, *there)}.values())
    decided = findings_of(case(rows(sweep(points, roofline_world(), repeats=2))))
    assert [row.id for row in headlines(decided)] == list(CLAIMS)
    assert max(len(each.sentence) for each in decided) <= LONGEST
    assert all(each.sentence.endswith((".", "…")) for each in decided)

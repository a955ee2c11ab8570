"""One row a claim: what it comes to over all servers, one effect at the report's own cell, what lies behind it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from loadgen.analysis.cells import holm
from loadgen.analysis.finding import SHOWN, Behind, Finding, Number, Verdict
from loadgen.analysis.starts import machines, start_of
from loadgen.analysis.study import Study
from loadgen.analysis.table import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """A claim over all servers of some results.

    ``verdict`` is "holds" or "refuted" where that is shown on every server, over all of them at 5 % (Holm), else
    "differs" or "in part"; ``said`` counts. ``speaker`` is the finding that ``sentence``, ``effect`` and ``behind`` are
    of, the one with most starts. ``told`` are the findings that decide, ``untold`` those that cannot.
    """

    id: str
    claim: str
    verdict: Verdict | str
    said: str
    speaker: Finding
    told: tuple[Finding, ...]
    untold: tuple[Finding, ...]

    @property
    def sentence(self) -> str:
        """In plain words, at most ``finding.LONGEST`` characters."""
        return self.speaker.sentence

    @property
    def effect(self) -> Number | None:
        """The one figure that decides."""
        return self.speaker.effect

    @property
    def behind(self) -> Behind:
        """Trials, starts and machines behind the sentence."""
        return self.speaker.behind


def headlines(findings: Iterable[Finding]) -> list[Headline]:
    """A row for each claim, in the order of the findings."""
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.id, []).append(finding)
    return [_headline(members) for members in groups.values()]


def _headline(members: Sequence[Finding]) -> Headline:
    told = [each for each in members if each.verdict != "not tested"]
    # Of m servers some are called wrongly by chance; a verdict with nothing random in it (p None) is not.
    adjusted = iter(holm([each.p for each in told if each.p is not None]))
    over_all = [each for each in told if each.p is None or next(adjusted) < SHOWN]
    counts = {verdict: sum(each.verdict == verdict for each in over_all) for verdict in ("holds", "refuted")}
    verdict: Verdict | str = "not tested"
    if any(counts.values()):
        whole = next((name for name, count in counts.items() if count == len(members)), None)
        verdict = whole or "differs" if all(counts.values()) else whole or "in part"
    speakers = over_all or told or members
    return Headline(
        id=members[0].id,
        claim=members[0].claim,
        verdict=verdict,
        said=_said(counts, len(members), len(told) - len(over_all)),
        speaker=max(speakers, key=lambda each: (each.behind.starts, each.behind.trials)),
        told=tuple(told),
        untold=tuple(each for each in members if each.verdict == "not tested"),
    )


def _said(counts: dict[str, int], servers: int, alone: int) -> str:
    """``holds on 3 of 9 servers, 6 not tested``; never "holds" on one of nine."""
    if not any(counts.values()):
        return (
            "not tested" if not alone else f"told on {alone} of {servers} alone, not over all of them (Holm)"
        )
    if servers == 1:
        return next(name for name, count in counts.items() if count)
    parts = [f"{name} on {count} of {servers}" for name, count in counts.items() if count]
    parts += [f"{alone} told alone only (Holm)"] if alone else []
    open_ = servers - alone - sum(counts.values())
    return ", ".join([*parts, *([f"{open_} not tested"] if open_ else [])])


def with_behind(findings: Iterable[Finding], study: Study) -> list[Finding]:
    """The findings, each with the trials, server starts and machines that lie behind its cells."""
    return [replace(finding, behind=_behind(finding, study)) for finding in findings]


def _behind(finding: Finding, study: Study) -> Behind:
    cells = [study.cells[key] for key in dict.fromkeys(finding.cells) if key in study.cells]
    rows: list[Row] = [row for cell in cells for row in cell.rows]
    starts = {(cell.server.key, start_of(row)) for cell in cells for row in cell.rows}
    return Behind(trials=len(rows), starts=len(starts), machines=machines(rows))

"""From results folders to everything a report says."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import orjson

from loadgen.analysis import monotone
from loadgen.analysis.finding import CLAIMS, LONGEST, Case, Finding, Rules, ratio_text, server_text
from loadgen.analysis.findings import declared
from loadgen.analysis.findings.gpu_order import f3a, f4a
from loadgen.analysis.findings.latency import f1, f2
from loadgen.analysis.findings.memory import f6, f7
from loadgen.analysis.findings.output_length import f5
from loadgen.analysis.findings.pipeline import f9
from loadgen.analysis.findings.plateau import f3b
from loadgen.analysis.findings.ridge import f8
from loadgen.analysis.findings.throughput import f4b, f4c
from loadgen.analysis.findings.versus import f10, f11
from loadgen.analysis.headline import Headline, headlines, with_behind
from loadgen.analysis.refine import RefineCell, refine
from loadgen.analysis.roofline import Physics, examine
from loadgen.analysis.same_data import other_data
from loadgen.analysis.same_work import Proof, proofs
from loadgen.analysis.starts import Cell
from loadgen.analysis.statistics import Drift, Noise
from loadgen.analysis.study import Study
from loadgen.analysis.table import Key, Row, Source, read, set_apart, work_of
from loadgen.errors import BadInput, NotResults
from loadgen.input_files import MARK, read_input
from loadgen.records import DEFINITIONS
from loadgen.results.store import open_results
from loadgen.theory.ceilings import CEILINGS_FILE, Ceilings, datasheet, from_dict
from loadgen.units import show_share

IDS = list(CLAIMS)
PER_SUBJECT = (f1, f2, f3a, f3b, f4a, f4b, f4c, f5, f6, f7, f8, f9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """All that is known of some results. ``physics`` and ``excluded`` (why a trial may not speak) have
    ``Row.run`` as keys."""

    sources: tuple[Source, ...]
    rows: tuple[Row, ...]
    study: Study
    physics: Mapping[str, Physics]
    ceilings: Mapping[str, Ceilings]
    findings: tuple[Finding, ...]
    excluded: Mapping[str, str]
    noise: Noise | None
    drift: Drift | None
    proofs: tuple[Proof, ...]
    inside_noise: tuple[str, ...]
    notes: tuple[str, ...]
    rules: Rules

    @property
    def headlines(self) -> list[Headline]:
        """One row a claim."""
        return headlines(self.findings)

    def refine(self) -> list[RefineCell]:
        """The cells that would resolve what is open."""
        return refine(self.findings, self.rows)


def analyse(folders: Sequence[str | Path], rules: Rules | None = None) -> Analysis:
    """Everything about these results folders. Raises StoreError for a folder that is none."""
    sources = [read(open_results(folder)) for folder in folders]
    names = [source.name for source in sources]
    for source, folder in zip(sources, folders, strict=True):
        if names.count(source.name) > 1:
            source.name = str(folder)
            source.rows = [replace(row, source=source.name) for row in source.rows]
    return analyse_rows(sources, rules or Rules())


def checked(
    sources: Sequence[Source], *, with_failures: bool = False
) -> tuple[list[Row], Mapping[str, Physics], Mapping[str, Ceilings]]:
    """The rows of several folders, flagged where no hardware can do it or where more work took less time; with the
    physics by run, and the ceilings by machine. Raises BadInput for folders that hold the same runs.
    """
    names: dict[Hashable, str] = {}
    for source in sources:
        runs = runs_of(source.rows)
        if (twice := next((names[run] for run in runs if run in names), None)) is not None:
            raise BadInput(
                f"{twice} and {source.name} hold the same runs: a copy would count as more of them, and as starts of "
                "its own (accepted: each run once)"
            )
        names |= dict.fromkeys(runs, source.name)
    rows = set_apart([row for source in sources for row in source.rows])
    if with_failures:
        rows = [replace(row, with_failures=True) for row in rows]
    ceilings = ceilings_of(sources)
    physics = examine(rows, ceilings)
    rows = [
        replace(row, flags=physics[row.run].impossible)
        if row.run in physics and physics[row.run].impossible
        else row
        for row in rows
    ]
    falling = monotone.violations(Study(rows))
    rows = [
        replace(row, flags=(*row.flags, falling[row.key])) if row.key in falling and row.usable else row
        for row in rows
    ]
    return rows, physics, ceilings


def runs_of(rows: Sequence[Row]) -> set[Hashable]:
    """What tells runs from one another: a trial on such a machine at that time, with these figures."""
    return {(row.id, row.key.machine, row.result.started, repr(row.summary)) for row in rows}


def analyse_rows(sources: Sequence[Source], rules: Rules) -> Analysis:
    """Physics and findings over the rows of several folders; what no hardware can do is flagged."""
    rows, physics, ceilings = checked(sources, with_failures=rules.with_failures)
    study = Study(rows)
    case = Case(study=study, rows=rows, physics=physics, ceilings=ceilings, rules=rules)
    partly = [row for row in rows if row.usable and row.failed_share]
    findings = findings_of(case, sources)
    return Analysis(
        sources=tuple(sources),
        rows=tuple(rows),
        study=study,
        physics=physics,
        ceilings=ceilings,
        findings=tuple(of_the_served(finding, partly) for finding in with_behind(findings, study)),
        excluded={row.run: row.unusable for row in rows if not row.usable},
        noise=study.noise("e2e_s"),
        drift=study.drift("e2e_s"),
        proofs=tuple(proofs(study)),
        inside_noise=tuple(inside_noise(study)),
        notes=(
            *_kept_notes(sources),
            *_served_notes(partly),
            *_definition_notes(rows),
            *_notes(study, ceilings, rows),
        ),
        rules=rules,
    )


def findings_of(case: Case, sources: Sequence[Source] = ()) -> list[Finding]:
    """F1 to F11 for every subject, in that order, then what the profiles declare."""
    subjects = case.subjects()
    found = [
        finding
        for decider in PER_SUBJECT
        for subject, study in subjects.items()
        for finding in decider(case, subject, study)
    ]
    found.sort(key=lambda finding: IDS.index(finding.id))
    found += f10(case)
    found += f11(case)
    for source in sources:
        entries = declared_in(source)
        found += [declared.judge(case, each) for each in declared.parse(entries, source.name)]
    return found


def declared_in(source: Source) -> object:
    """The ``[[finding]]`` tables of a stored profile. Raises StoreError for one that is no TOML."""
    text = source.results.sweep.get("profile")
    try:
        return tomllib.loads(text).get("finding", []) if isinstance(text, str) else []
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise NotResults(f"{source.results.path / 'sweep.json'}: its profile is not TOML: {error}") from None


def of_the_served(finding: Finding, partly: Sequence[Row]) -> Finding:
    """The finding, saying so where trials that lost requests speak in it."""
    lost = [row for row in partly if row.key in finding.cells]
    if not lost:
        return finding
    share = show_share(max(row.failed_share for row in lost))
    words = f"Of the served ones: {len(lost)} of its trials lost up to {share} of their requests."
    room = LONGEST - len(words) - 1
    kept = finding.sentence if len(finding.sentence) <= room else f"{finding.sentence[: room - 1]}…"
    return replace(finding, sentence=f"{kept} {words}")


def ceilings_of(sources: Sequence[Source]) -> dict[str, Ceilings]:
    """Ceilings by machine: measured where a folder holds them, else the datasheet's; a machine may have neither."""
    measured: dict[str, Ceilings] = {}
    for source in sources:
        measured |= read_ceilings(source.results.path)
    found = {}
    for machine in {row.key.machine for source in sources for row in source.rows}:
        known = measured.get(machine) or datasheet(machine)
        if known is not None:
            found[machine] = known
    return found


def read_ceilings(folder: Path) -> dict[str, Ceilings]:
    """The probe's figures kept in a results folder, by device. Raises StoreError for a file that is broken."""
    path = folder / CEILINGS_FILE
    if not path.exists():
        return {}
    try:
        entries = orjson.loads(read_input(path).removeprefix(MARK))
        found = [from_dict(entry) for entry in entries]
    except (ValueError, TypeError, OSError) as error:
        raise NotResults(f"{path}: not ceilings as the probe writes them: {error}") from None
    return {each.device: each for each in found}


def inside_noise(study: Study) -> list[str]:
    """Differences between frameworks at equal work and GPUs that the noise hides."""
    by_work: dict[tuple[Key, int], list[Cell]] = {}
    for key, cell in study.cells.items():
        if key.kind in ("static", "closed"):
            by_work.setdefault((work_of(key), key.gpus), []).append(cell)
    said = []
    for cells in by_work.values():
        for one, other in combinations(cells, 2):
            if (one.key.label, one.key.variant) == (other.key.label, other.key.variant):
                continue
            if other_data(one.rows, other.rows):
                continue
            ratio = study.ratio(one, other, "e2e_s")
            if ratio is not None and ratio.told and not ratio.differs:
                key = one.key
                said.append(
                    f"{server_text(one.key)} and {server_text(other.key)} at batch {key.batch}, "
                    f"{key.input_tokens}/{key.output_tokens}: latency {ratio_text(ratio)}"
                )
    return said


def _kept_notes(sources: Sequence[Source]) -> list[str]:
    """What was left out of results in compact form, each rule once."""
    return list(dict.fromkeys(filter(None, (source.results.left_out for source in sources))))


def _definition_notes(rows: Sequence[Row]) -> list[str]:
    """Whether trials of earlier versions, whose percentiles were interpolated, stand beside those of now."""
    summaries = [row.summary for row in rows if row.summary is not None]
    older = sum(each.definitions < DEFINITIONS for each in summaries)
    if older in (0, len(summaries)):
        return []
    return [
        f"Percentiles of {older} of {len(summaries)} trials are interpolated, as earlier versions had them, those of "
        "the others nearest ranks: medians of 2 requests then differ by half of what lies between these."
    ]


def _served_notes(partly: Sequence[Row]) -> list[str]:
    """What ``--with-failures`` let in."""
    if not partly:
        return []
    share = show_share(max(row.failed_share for row in partly))
    return [
        f"{len(partly)} trials that lost up to {share} of their requests speak, as asked: their latencies are of the "
        "served ones, their rates over the time of all."
    ]


def _notes(study: Study, ceilings: Mapping[str, Ceilings], rows: Sequence[Row]) -> list[str]:
    """What the reader must know before believing anything."""
    notes = []
    machines = {row.key.machine for row in rows}
    for machine in sorted(machines):
        known = ceilings.get(machine)
        if known is None:
            notes.append(
                f"{machine}: no ceilings are known, so nothing was checked against physics: run `loadgen probe`."
            )
        elif known.source == "datasheet":
            notes.append(f"{machine}: ceilings are the datasheet's, not measured: run `loadgen probe`.")
    single = [cell for cell in study.cells.values() if cell.starts("e2e_s") == 1]
    if single:
        notes.append(
            f"{len(single)} of {len(study.cells)} cells ran on one server start. How starts differ is not known there: "
            "no difference between servers is called, except by the spread of other servers of the same engine."
        )
    mixed = [cell for cell in study.cells.values() if len({row.result.environment for row in cell.rows}) > 1]
    if mixed:
        notes.append(f"{len(mixed)} cells pool runs of different environments (see Environment).")
    noise = study.noise("e2e_s")
    if noise is None and study.cells:
        notes.append("The noise between runs was not measured (no repeats): small differences may be none.")
    elif noise is not None:
        notes.append(
            f"Trials of one start differ by {show_share(noise.relative)} (standard deviation), and starts by more: a "
            f"difference below {show_share(noise.detectable(1))} would be missed more often than 1 time in 5."
        )
        servers = sorted({server_text(key) for key in study.cells})
        own = [(name, study.noise("e2e_s", _of(study, name))) for name in servers]
        told = [
            f"{name} {show_share(each.relative)}" if each else f"{name} not measured" for name, each in own
        ]
        if len(told) > 1:
            notes.append(f"That is of all servers together. By server: {', '.join(told)}.")
    return notes


def _of(study: Study, server: str) -> Callable[[Key], bool]:
    return lambda key: server_text(key) == server

"""Two results folders, cell by cell: was the work the same, what differs beyond the noise, what changed around it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from loadgen.analysis.analyse import runs_of
from loadgen.analysis.cells import holm
from loadgen.analysis.changes import changes
from loadgen.analysis.claims import cell_figure, cell_ratios, mean_ratio
from loadgen.analysis.finding import server_text
from loadgen.analysis.gates import Gate, Judgement, Outcome, judge, parse_gate
from loadgen.analysis.pairing import cell_words, key_words, load_of, paired
from loadgen.analysis.ratios import Ratio, ratio_of
from loadgen.analysis.same_work import Work, same_work
from loadgen.analysis.side import Side, renamed, side_of
from loadgen.analysis.slow import share_differs
from loadgen.analysis.starts import Cell, Server, log_of, server_of, start_of
from loadgen.analysis.study import Study
from loadgen.analysis.table import METRICS, Key, Row
from loadgen.errors import BadInput

CHANCE = 0.05  # below it a larger share of failed requests is no accident


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One cell in both folders; ratios are B / A by metric, their p-values adjusted over all pairs.

    ``failed_a`` and ``failed_b`` count (failed, all) requests of all trials of the cell.
    """

    a: Cell
    b: Cell
    work: Work
    ratios: dict[str, Ratio]
    failed_a: tuple[int, int]
    failed_b: tuple[int, int]

    @property
    def text(self) -> str:
        """Servers, load and lengths in one line."""
        a, b = server_text(self.a.key), server_text(self.b.key)
        key = self.a.key
        name = a if a == b else f"{a} → {b}"
        lossy = any(row.failed_share for row in (*self.a.rows, *self.b.rows))
        served = ", of the served ones" if lossy else ""
        return f"{name}, {key.load}, {key.input_tokens}/{key.output_tokens}{served}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """``overall`` holds the geometric mean of B / A over the pairs of the same data, by metric.

    ``changed`` maps what differs in the environments to (A, B). ``unpaired`` cells have no partner; ``lost`` are those
    of A that B has no usable trial of, with the reason. ``worse`` says where more requests of B failed beyond chance,
    ``slow`` what was set apart as slow.
    """

    a: str
    b: str
    pairs: tuple[Pair, ...]
    overall: dict[str, Ratio]
    unpaired: tuple[str, ...]
    lost: tuple[str, ...]
    excluded: tuple[str, ...]
    changed: dict[str, tuple[str, str]]
    gates: tuple[Outcome, ...]
    worse: tuple[str, ...]
    slow: str
    strict: bool = False

    @property
    def failed(self) -> bool:
        """A gate failed, or was not shown to be kept where that is asked for; or B failed where A did not."""
        if self.gates:
            return any(
                each.verdict == "fails" or (self.strict and each.verdict != "passes") for each in self.gates
            )
        return bool(self.worse) or any("failed" in text for text in self.lost)

    @property
    def exit_code(self) -> int:
        """1 when it failed, else 0."""
        return 1 if self.failed else 0


def compare(
    a: str | Path,
    b: str | Path,
    gates: Sequence[str] = (),
    *,
    strict: bool = False,
    every_cell: bool = False,
    with_failures: bool = False,
    servers: tuple[str | None, str | None] = (None, None),
) -> Comparison:
    """A against B, paired by cell; each side a results folder or a folder of some, of all servers or of the one named.

    ``strict``: a gate that is not shown to be kept fails; ``every_cell``: it passes by each cell alone;
    ``with_failures`` lets trials speak that lost requests. Raises StoreError for a folder that is none, BadInput when
    nothing pairs up or both hold the same server starts.
    """
    for text in gates:
        parse_gate(text)  # before anything is read
    left, right = (
        side_of(folder, server, with_failures=with_failures)
        for folder, server in zip((a, b), servers, strict=True)
    )
    if left.name == right.name:  # else starts whose identity rests on the folder's name would be the same
        left, right = (renamed(side, str(Path(folder).resolve())) for side, folder in ((left, a), (right, b)))
    _refuse_same_starts(left, right)
    found = compare_rows(
        left.rows,
        right.rows,
        gates,
        names=(left.name, right.name),
        strict=strict,
        every_cell=every_cell,
    )
    return replace(found, changed=changes(left, right))


def compare_rows(
    left: Sequence[Row],
    right: Sequence[Row],
    gates: Sequence[str] = (),
    *,
    names: tuple[str, str] = ("A", "B"),
    strict: bool = False,
    every_cell: bool = False,
) -> Comparison:
    """A against B as rows; as ``compare``, but for what changed around them."""
    rows = (left, right)
    parsed = [parse_gate(text) for text in gates]
    studies = [Study(each) for each in rows]
    silent = [{row.run: row.unusable for row in each if not row.usable} for each in rows]
    dead_a, dead_b = (
        {row.key: row.unusable for row in each if not (row.usable or row.key in study.cells)}
        for each, study in zip(rows, studies, strict=True)
    )
    cells, unpaired, lost = paired(studies[0], studies[1], dead_a, dead_b)
    if not cells and not {load_of(key) for key in dead_b} & {load_of(key) for key in studies[0].cells}:
        for name, study, found in zip(names, studies, silent, strict=True):
            if found and not study.cells:
                raise BadInput(f"{name} has no trial that may speak: {next(iter(found.values()))}")
        why = f" ({lost[0]})" if lost else ""
        raise BadInput(
            f"{' and '.join(names)} have no pair of cells of equal load: nothing can be compared{why}"
        )
    servers = [server for study in studies for server in study.servers]
    metrics = [metric for metric in METRICS if any(cell.values(metric) for pair in cells for cell in pair)]
    failed = [_failed_requests(each) for each in rows]
    works = [same_work(*each) for each in cells]
    over = [(other, one) for (one, other), work in zip(cells, works, strict=True) if work.comparable]
    ratios: dict[Key, dict[str, Ratio]] = defaultdict(dict)
    for metric in metrics:
        for (other, _), ratio in zip(over, cell_ratios(over, metric, servers), strict=True):
            if ratio is not None:
                ratios[other.key][metric] = ratio
        for (one, other), work in zip(cells, works, strict=True):
            if not work.comparable and one.starts(metric) and other.starts(metric):
                ratios[other.key][metric] = ratio_of(log_of(other, metric) - log_of(one, metric), None)
    pairs = [
        Pair(
            a=one,
            b=other,
            work=work,
            ratios=ratios[other.key],
            failed_a=failed[0][one.key],
            failed_b=failed[1][other.key],
        )
        for (one, other), work in zip(cells, works, strict=True)
    ]
    worse = _fails_more(pairs)
    means = {metric: mean_ratio(over, metric, servers) for metric in metrics}
    return Comparison(
        a=names[0],
        b=names[1],
        pairs=tuple(pairs),
        overall={metric: mean for metric, mean in means.items() if mean is not None},
        unpaired=tuple(unpaired),
        lost=tuple(lost),
        excluded=tuple(
            f"{name}: {reason}"
            for name, found in zip(names, silent, strict=True)
            for reason in dict.fromkeys(found.values())
        ),
        changed={},
        gates=tuple(
            _outcome(gate, pairs, studies[1], [*lost, *worse], dead_b, servers, every_cell) for gate in parsed
        ),
        worse=tuple(worse),
        slow=_slow_words(cells),
        strict=strict,
    )


def _refuse_same_starts(left: Side, right: Side) -> None:
    starts = [{(server_of(row.key), start_of(row)) for row in side.rows} for side in (left, right)]
    if starts[0] & starts[1] or runs_of(left.rows) & runs_of(right.rows):
        raise BadInput(
            f"{left.name} and {right.name} hold trials of the same server starts: what differs between them is no "
            "difference of systems (accepted: two folders with starts of their own)"
        )


def _outcome(
    gate: Gate,
    pairs: Sequence[Pair],
    right: Study,
    broken: Sequence[str],
    dead: Mapping[Key, str],
    servers: Sequence[Server],
    every_cell: bool,
) -> Outcome:
    """A gate's verdict, with the cells and reasons behind it: what is missing or failed in B cannot be kept.

    ``dead`` are B's cells without a trial that may speak, by the reason: a gate of B alone asks for them, too.
    """
    if gate.absolute:
        cells = right.cells.values()
        named = [(cell_words(cell), cell_figure(cell, gate.metric, servers)) for cell in cells]
        mean = None
    else:
        alike = [pair for pair in pairs if pair.work.comparable]
        over = [(pair.b, pair.a) for pair in alike]
        mean = mean_ratio(over, gate.metric, servers)
        found = cell_ratios(over, gate.metric, servers)
        named = [(pair.text, ratio) for pair, ratio in zip(alike, found, strict=True)]
    known = [(text, ratio) for text, ratio in named if ratio is not None]
    judged = judge(gate, mean, [ratio for _, ratio in known], every_cell=every_cell or gate.absolute)
    absent = [f"{text}: {_untold(gate)}" for text, ratio in named if ratio is None]
    if gate.absolute:
        absent += [f"{key_words(key)}: {why} in B" for key, why in dead.items()]
    reasons = [*broken, *absent]
    verdict: Judgement = "fails" if reasons else judged.verdict
    other = [] if gate.absolute else [f"{p.text}: {p.work.verdict}" for p in pairs if not p.work.comparable]
    if verdict == "passes" and other:
        verdict = "not shown"
    reasons += other
    return Outcome(
        gate=gate, judged=judged, verdict=verdict, mean=mean, cells=tuple(known), reasons=tuple(reasons)
    )


def _untold(gate: Gate) -> str:
    return "too few requests for it, or not measured" if "@p" in gate.metric else "not measured"


def _fails_more(pairs: Sequence[Pair]) -> list[str]:
    """Where a larger share of B's requests failed than of A's, by Fisher's exact test: over all cells, or in some."""
    all_a, all_b = (
        (sum(failed for failed, _ in side), sum(every for _, every in side))
        for side in ([pair.failed_a for pair in pairs], [pair.failed_b for pair in pairs])
    )
    every = [("all cells", all_a, all_b)]
    cells = [(pair.text, pair.failed_a, pair.failed_b) for pair in pairs]
    for group in (every, cells):
        p_values = holm([share_differs(a, b) for _, a, b in group])
        found = [
            f"{text}: {b[0]} of {b[1]} requests failed in B, {a[0]} of {a[1]} in A"
            for (text, a, b), p in zip(group, p_values, strict=True)
            if p < CHANCE and b[0] * a[1] > a[0] * b[1]
        ]
        if found:
            return found
    return []


def _failed_requests(rows: Sequence[Row]) -> dict[Key, tuple[int, int]]:
    """(failed, all) requests by cell; a trial that failed counts with all that it would have sent, as one where a
    duration bounds that."""
    found: dict[Key, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for row in rows:
        asked = row.trial.load.requests or 1
        failed, every = (asked, asked) if row.summary is None else (row.summary.requests_failed, 0)
        if row.summary is not None:
            every = row.summary.requests_ok + failed
        found[row.key] = (found[row.key][0] + failed, found[row.key][1] + every)
    return found


def _slow_words(cells: Sequence[tuple[Cell, Cell]]) -> str:
    """What was set apart as slow, by side; empty for nothing."""
    counts = []
    for side in (0, 1):
        told = [server.slow_trials("e2e_s") for server in dict.fromkeys(pair[side].server for pair in cells)]
        counts.append((sum(slow for slow, _ in told), sum(every for _, every in told)))
    (a, all_a), (b, all_b) = counts
    if not a + b:
        return ""
    p = share_differs(*counts)
    return (
        f"Trials slower than their like by 30 % and 8 standard deviations are set apart: {a} of {all_a} in A, "
        f"{b} of {all_b} in B ({'more than chance' if p < CHANCE else 'no more than chance'}, p {p:.2g}). "
        "Ratios speak of undisturbed trials."
    )

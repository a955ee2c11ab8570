"""Did two servers do the same work? Prompts, counts, and the first greedy tokens."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import combinations, zip_longest
from typing import Literal

from loadgen.analysis.finding import server_text
from loadgen.analysis.requests import first_tokens
from loadgen.analysis.same_data import OTHER_DATA, other_data
from loadgen.analysis.starts import Cell
from loadgen.analysis.study import Study
from loadgen.analysis.table import Key, Row, work_of
from loadgen.load_records import LoadSpec, Timeouts
from loadgen.units import show_share

TOKENS_COMPARED = 4000  # of one pair of cells: enough to see, few enough to be quick
CELLS_PER_PAIR = 3
ORDER = ("different", OTHER_DATA, "not proven", "same")
ALIKE = 0.9  # near-ties in bf16 flip a few greedy tokens between kernels and splits; other weights flip nearly all


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Whether two cells did the same work, and by what evidence.

    ``tokens_alike`` is the share of sequences whose first greedy tokens agree; ``None`` where they were not stored.
    """

    verdict: Literal["same", "different", "not the same data", "not proven"]
    why: str
    tokens_alike: float | None

    @property
    def comparable(self) -> bool:
        """Whether a difference of times may be called one of servers."""
        return self.verdict != OTHER_DATA


def same_work(one: Cell, other: Cell) -> Work:
    """Equal prompts (same seeded loads), equal data where these decide the clock, equal counts in every sample, and
    greedy first tokens that agree.

    Prompts follow from model vocabulary and load (its seed included), so equal loads are equal prompts.
    """
    loads = [sorted(_prompts(row) for row in cell.rows) for cell in (one, other)]
    if not set(loads[0]) & set(loads[1]):
        return Work(
            verdict="different", why="their prompts differ (other seeds or vocabularies)", tokens_alike=None
        )
    if why := other_data(one.rows, other.rows):
        return Work(verdict="not the same data", why=why, tokens_alike=None)
    counts = [_counts(cell) for cell in (one, other)]
    if None not in counts and counts[0] != counts[1]:
        return Work(
            verdict="different",
            why=f"tokens per request differ: {counts[0]} and {counts[1]}",
            tokens_alike=None,
        )
    alike = _tokens_alike(one, other)
    if None in counts:
        return Work(
            verdict="not proven", why="equal prompts; token counts were not stored", tokens_alike=alike
        )
    if alike is None:
        return Work(
            verdict="not proven",
            why="equal prompts and counts; first tokens were not stored",
            tokens_alike=None,
        )
    if alike < ALIKE:
        why = f"equal prompts and counts, but first greedy tokens agree in {show_share(alike)} only: other weights"
        return Work(verdict="not proven", why=why, tokens_alike=alike)
    why = f"equal prompts, equal counts, first greedy tokens agree in {show_share(alike)}"
    return Work(verdict="same", why=why, tokens_alike=alike)


def _prompts(row: Row) -> str:
    """What decides a trial's prompts, as text."""
    load: LoadSpec = row.trial.load
    return repr((replace(load, stream=True, workers=1, nodes=1, timeouts=Timeouts()), row.trial.vocab))


def _counts(cell: Cell) -> tuple[float, float] | None:
    """Input and output tokens per valid request, of all runs."""
    found = set()
    for row in cell.rows:
        summary = row.summary
        if summary is None or not summary.requests_ok or summary.output_tokens is None:
            return None
        found.add((summary.input_tokens / summary.requests_ok, summary.output_tokens / summary.requests_ok))
    return found.pop() if len(found) == 1 else None


def _tokens_alike(one: Cell, other: Cell) -> float | None:
    """The share of sequences whose stored first tokens agree, over runs of equal prompts."""
    partners = {_prompts(row): row for row in other.rows}
    same = compared = 0
    for row in one.rows:
        partner = partners.get(_prompts(row))
        if partner is None or compared >= TOKENS_COMPARED:
            continue
        theirs = first_tokens(partner.results, partner.id)
        for seq, ours in first_tokens(row.results, row.id).items():
            against = theirs.get(seq, ())
            if ours and against:
                same += sum(left == right for left, right in zip_longest(ours, against))
                compared += max(len(ours), len(against))
    return same / compared if compared else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Whether two servers of one sweep did the same work, over ``cells`` common cells that were looked at."""

    one: str
    other: str
    work: Work
    cells: int


def proofs(study: Study) -> list[Proof]:
    """One per pair of servers (framework, engine, split) with cells of equal load: the weakest verdict among them."""
    servers: dict[tuple[str, Key], dict[Key, Cell]] = defaultdict(dict)
    for key, cell in study.cells.items():
        name = server_text(key)
        group = replace(work_of(key), kind="", batch=-1, input_tokens=-1, output_tokens=-1, rate=-1.0)
        servers[name, group][work_of(key)] = cell
    found = []
    for (one, group), (other, other_group) in combinations(sorted(servers), 2):
        common = sorted(servers[one, group].keys() & servers[other, other_group].keys())
        if group != other_group or not common:
            continue
        picked = common[:: max(1, len(common) // CELLS_PER_PAIR)][:CELLS_PER_PAIR]
        works = [same_work(servers[one, group][key], servers[other, group][key]) for key in picked]
        weakest = min(works, key=lambda work: ORDER.index(work.verdict))
        found.append(Proof(one=one, other=other, work=weakest, cells=len(picked)))
    return found

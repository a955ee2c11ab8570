"""Findings as tables: one row a claim, the servers that decide it, and what is not tested with what would tell."""

from __future__ import annotations

from collections.abc import Sequence

from loadgen.analysis.finding import Behind, Finding, Wanted, split_text
from loadgen.analysis.headline import headlines
from loadgen.analysis.table import Key
from loadgen.text_table import Table, table_of

BETWEEN = " · "  # the parts of a subject
MOST_CELLS = 3  # of one open finding, by name


def claim_table(findings: Sequence[Finding]) -> Table | None:
    """One row a claim: counted verdict, a sentence, its effect, and how much lies behind; ``None`` without findings."""
    rows = [
        (
            f"{row.id}. {row.claim}",
            row.said,
            f"{row.speaker.subject}: {row.sentence}",
            effect_text(row.speaker),
            behind_text(row.behind),
        )
        for row in headlines(findings)
    ]
    note = "Sentence and effect are those of the deciding server with most starts, at the lengths named."
    return table_of("Findings", ("claim", "verdict", "one server", "effect", "behind it"), rows, note=note)


def cells_text(cells: Sequence[Key]) -> list[str]:
    """Cells in a line a series: ``hf/generate tp 1, static 20/100: batch 1, 8``."""
    series: dict[str, list[str]] = {}
    for key in cells:
        name = f"{key.label} {split_text(key)}, {key.kind} {key.input_tokens}/{key.output_tokens}"
        series.setdefault(name, []).append(str(key.batch))
    return [f"{name}: batch {', '.join(batches)}" for name, batches in series.items()]


def effect_text(finding: Finding) -> str:
    """``×0.7 [0.69, 0.71] at 20/100``; a dash without one."""
    if finding.effect is None:
        return "–"
    return f"{finding.effect.text} at {finding.at}" if finding.at else finding.effect.text


def server_table(findings: Sequence[Finding]) -> Table | None:
    """A row for each server that decides a claim."""
    told = [each for each in findings if each.verdict != "not tested"]
    shared = shared_parts([each.subject for each in told])
    rows = [
        (each.id, short(each.subject, shared), each.verdict, each.sentence, behind_text(each.behind))
        for each in told
    ]
    return table_of(
        "Servers that decide", ("claim", server_head(shared), "verdict", "why", "behind it"), rows
    )


def server_head(shared: Sequence[str]) -> str:
    """The head of a column of servers, with the parts that all have."""
    return "server" + (f", all {BETWEEN.join(shared)}" if shared else "")


def open_table(findings: Sequence[Finding]) -> Table | None:
    """A row for each reason why servers do not decide a claim, with the cells that would."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for each in findings:
        if each.verdict == "not tested":
            groups.setdefault((each.id, each.sentence), []).append(each)
    shared = shared_parts([each.subject for members in groups.values() for each in members])
    rows = [
        (id, "; ".join(short(each.subject, shared) for each in members), why, _wanted(members))
        for (id, why), members in groups.items()
    ]
    return table_of("Not tested", ("claim", server_head(shared), "why", "what would tell"), rows)


def _wanted(members: Sequence[Finding]) -> str:
    wanted = [wanted_text(each) for finding in members for each in finding.wanted]
    rest = len(wanted) - MOST_CELLS
    return "; ".join(wanted[:MOST_CELLS]) + (f"; and {rest} more" if rest > 0 else "") if wanted else "–"


def wanted_text(wanted: Wanted) -> str:
    """``add tp 2, batch 3, 20/20`` or ``more starts of …``."""
    return f"{'more starts of' if wanted.again else 'add'} {cell_words(wanted.key)}"


def cell_words(key: Key) -> str:
    """A cell without its server's name: ``tp 2, batch 3, 20/20``."""
    return f"{split_text(key)}, batch {key.batch}, {key.input_tokens}/{key.output_tokens}"


def shared_parts(subjects: Sequence[str]) -> list[str]:
    """What every subject has beside its first part, the server; those of one part (two machines) do not count."""
    parted = [subject.split(BETWEEN)[1:] for subject in subjects if BETWEEN in subject]
    return [part for part in parted[0] if all(part in parts for parts in parted)] if parted else []


def short(subject: str, shared: Sequence[str]) -> str:
    """A subject without the parts that all have."""
    first, *rest = subject.split(BETWEEN)
    return BETWEEN.join([first, *(part for part in rest if part not in shared)])


def behind_text(behind: Behind) -> str:
    """``40 trials, 3 starts, 2 machines``; a dash where nothing was measured."""
    parts = ((behind.trials, "trial"), (behind.starts, "start"), (behind.machines, "machine"))
    return (
        ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for count, name in parts)
        if behind.trials
        else "–"
    )

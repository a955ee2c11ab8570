"""Several results folders as one Markdown file: findings first, then each folder's report.

A file that somebody wrote and that holds the lines BEGIN and END gets the table of findings between them instead, and
keeps all else: so a text about results can be held to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from loadgen.analysis.analyse import analyse
from loadgen.analysis.finding import Finding, Rules
from loadgen.errors import BadInput
from loadgen.report import write_whole
from loadgen.report.analysis_tables import tables_of
from loadgen.report.markdown import gather, markdown_table, to_markdown
from loadgen.text_table import Table

BEGIN, END = "<!-- findings: begin -->", "<!-- findings: end -->"
BETWEEN = " · "  # the parts of a subject


def write_document(folders: Sequence[str | Path], out: Path, rules: Rules | None = None) -> Path:
    """Write ``out``, or only its block of findings where it has one.

    Raises StoreError for a folder that is none, BadInput for a file with half a block.
    """
    analysis = analyse(folders, rules)
    block = findings_table(analysis.findings)
    text = with_block(out, block) if out.exists() else None
    if text is None:
        others = [table for table in tables_of(analysis) if table.title != "Findings"]
        parts = ["# Findings", block]
        parts += [part for table in others for part in (f"## {table.title}", markdown_table(table))]
        text = "\n\n".join([*parts, *(to_markdown(gather(folder)).rstrip() for folder in folders)]) + "\n"
    return write_whole(out, text)


def findings_table(findings: Sequence[Finding]) -> str:
    """A row per claim and subject; what all subjects share (model, dtype, machine) stands in the head, once."""
    shared = shared_parts([finding.subject for finding in findings])
    head = "server" + (f", all {BETWEEN.join(shared)}" if shared else "")
    rows = tuple(
        (finding.id, _short(finding.subject, shared), finding.verdict, finding.sentence)
        for finding in findings
    )
    return markdown_table(Table(title="Findings", head=("claim", head, "verdict", "why"), rows=rows))


def shared_parts(subjects: Sequence[str]) -> list[str]:
    """What every subject has beside its first part, the server; those of one part (two machines) do not count."""
    parted = [subject.split(BETWEEN)[1:] for subject in subjects if BETWEEN in subject]
    return [part for part in parted[0] if all(part in parts for parts in parted)] if parted else []


def _short(subject: str, shared: Sequence[str]) -> str:
    first, *rest = subject.split(BETWEEN)
    return BETWEEN.join([first, *(part for part in rest if part not in shared)])


def with_block(path: Path, block: str) -> str | None:
    """The file's text with ``block`` between its two lines; ``None`` for a file that has neither.

    Raises BadInput for a file that has only one of them.
    """
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    places = [[at for at, line in enumerate(lines) if line.strip() == mark] for mark in (BEGIN, END)]
    if places == [[], []]:
        return None
    (begin, *more), (end, *others) = (found or [-1] for found in places)
    if more or others or not 0 <= begin < end:
        raise BadInput(
            f"--out {path}: its block of findings is not whole (accepted: one line {BEGIN}, and after it one {END})"
        )
    return "\n".join([*lines[: begin + 1], "", block, "", *lines[end:]]) + "\n"

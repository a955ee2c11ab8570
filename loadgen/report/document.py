"""Several results folders as one Markdown file: findings first, then each folder's report.

A file that somebody wrote and that holds the lines BEGIN and END gets the table of findings between them instead, and
keeps all else: so a text about results can be held to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from loadgen.analysis.analyse import Analysis, analyse
from loadgen.analysis.finding import Finding, Rules
from loadgen.errors import BadInput
from loadgen.input_files import read_input
from loadgen.report import write_whole
from loadgen.report.analysis_tables import doubt_tables
from loadgen.report.capacity_found import found_in
from loadgen.report.capacity_pairs import mixed_searches, pairs_table
from loadgen.report.claim_tables import claim_table, open_table, server_table
from loadgen.report.markdown import escape, gather, markdown_table, to_markdown

BEGIN, END = "<!-- findings: begin -->", "<!-- findings: end -->"


def write_document(
    folders: Sequence[str | Path], out: Path, rules: Rules | None = None, analysis: Analysis | None = None
) -> Path:
    """Write ``out``, or only its block of findings where it has one.

    Raises StoreError for a folder that is none, BadInput for a file with half a block.
    """
    analysis = analysis or analyse(folders, rules)
    block = findings_block(analysis.findings)
    text = with_block(out, block) if out.exists() else None
    if text is None:
        searched = found_in([Path(folder) for folder in folders]) if len(folders) > 1 else []
        others = [pairs_table(searched), mixed_searches(searched), *doubt_tables(analysis)]
        parts = ["# Findings", block]
        for table in filter(None, others):
            parts += filter(None, [f"## {table.title}", markdown_table(table), escape(table.note)])
        text = "\n\n".join([*parts, *(to_markdown(gather(folder)).rstrip() for folder in folders)]) + "\n"
    return write_whole(out, text)


def findings_block(findings: Sequence[Finding]) -> str:
    """One row a claim; below it a row for each server that decides, and what is not tested with what would tell."""
    tables = [claim_table(findings), server_table(findings), open_table(findings)]
    parts: list[str] = []
    for table in filter(None, tables):
        parts += [f"**{table.title}**"] if parts else []
        parts += filter(None, [markdown_table(table), escape(table.note)])
    return "\n\n".join(parts)


def with_block(path: Path, block: str) -> str | None:
    """The file's text with ``block`` between its two lines; ``None`` for a file that has neither.

    Raises BadInput for a file that has only one of them.
    """
    try:
        text = read_input(path).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise BadInput(
            f"--out {path}: cannot be read: {why} (accepted: a new file, or one of text)"
        ) from None
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

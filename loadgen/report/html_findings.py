"""The page's first part: every claim's verdict with its numbers, cells, and what would settle it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

from loadgen.analysis.finding import CLAIMS, Finding, Verdict, split_text
from loadgen.analysis.table import Key

BADGES: dict[Verdict, tuple[str, str]] = {
    "holds": ("holds", "✓ holds"),
    "refuted": ("refuted", "✗ refuted"),
    "not tested": ("open", "– not tested"),
}
MOST_CELLS = 60  # of one finding, by name
CODE = re.compile(r"`([^`]+)`")


def listed(lines: Iterable[str], empty: str = "") -> str:
    """Items as a list, or a sentence where there is none."""
    items = "".join(f"<li>{marked(line)}</li>" for line in lines)
    return (
        f'<ul class="notes">{items}</ul>'
        if items
        else f'<p class="soft">{escape(empty)}</p>'
        if empty
        else ""
    )


def marked(text: str) -> str:
    """Escaped text with `commands` set apart."""
    return CODE.sub(r"<code>\1</code>", escape(text))


def folded(summary: str, lines: Sequence[str]) -> str:
    """A list to open, cut at MOST_CELLS."""
    rest = len(lines) - MOST_CELLS
    shown = [*lines[:MOST_CELLS], *([f"and {rest} more"] if rest > 0 else [])]
    return f"<details><summary>{escape(summary)}</summary>{listed(shown)}</details>"


def badge(verdict: Verdict) -> str:
    """A verdict as a coloured label."""
    kind, text = BADGES[verdict]
    return f'<span class="verdict {kind}">{text}</span>'


def finding_matrix(findings: Sequence[Finding]) -> str:
    """One look: claims down, subjects across."""
    subjects = list(
        dict.fromkeys(each.subject for each in findings if each.id in CLAIMS and _per_subject(each))
    )
    if not subjects:
        return ""
    ids = [id for id in CLAIMS if any(each.id == id and each.subject in subjects for each in findings)]
    verdicts = {(each.id, each.subject): each.verdict for each in findings}
    head = "".join(f'<th scope="col">{escape(subject)}</th>' for subject in subjects)
    rows = "".join(
        f'<tr><th scope="row"><a href="#{id}">{id}</a> {escape(CLAIMS[id])}</th>'
        + "".join(
            f"<td>{badge(verdicts[id, subject]) if (id, subject) in verdicts else ''}</td>"
            for subject in subjects
        )
        + "</tr>"
        for id in ids
    )
    head = f'<thead><tr><th scope="col">claim</th>{head}</tr></thead>'
    return f'<div class="wide"><table class="matrix">{head}<tbody>{rows}</tbody></table></div>'


def _per_subject(finding: Finding) -> bool:
    return finding.id not in ("F10", "F11")


def finding_list(findings: Sequence[Finding]) -> str:
    """Each claim with every subject's verdict, numbers, cells, and what would settle it."""
    parts = []
    for id in dict.fromkeys(each.id for each in findings):
        members = [each for each in findings if each.id == id]
        bodies = "".join(_subject(each) for each in members)
        title = f"<h3>{escape(id)}. {escape(members[0].claim)}</h3>"
        parts.append(f'<section class="finding" id="{escape(id)}">{title}{bodies}</section>')
    return "".join(parts)


def _subject(finding: Finding) -> str:
    numbers = "".join(
        f"<tr><td>{escape(number.name)}</td><td>{escape(number.text)}</td></tr>" for number in finding.numbers
    )
    title = f"{badge(finding.verdict)} <b>{escape(finding.subject)}</b>"
    parts = [f'<div class="subject">{title}<p>{marked(finding.sentence)}</p>']
    if numbers:
        parts.append(
            f'<details><summary>numbers</summary><div class="wide"><table>{numbers}</table></div></details>'
        )
    if finding.cells:
        parts.append(
            folded(f"{len(finding.cells)} cells behind it", [cell_text(key) for key in finding.cells])
        )
    if finding.wanted:
        lines = [
            f"{'repeat' if each.again else 'add'} {cell_text(each.key)}: {each.why}"
            for each in finding.wanted
        ]
        parts.append(
            folded(f"{len(lines)} cells would settle what is open (sweep --refine runs them)", lines)
        )
    return "".join(parts) + "</div>"


def cell_text(key: Key) -> str:
    """A cell in one line: server, split, load and lengths."""
    return (
        f"{key.label} {split_text(key)}, {key.kind} batch {key.batch}, {key.input_tokens}/{key.output_tokens}"
    )


def open_questions(findings: Sequence[Finding], inside: Sequence[str]) -> str:
    """What was not tested, and which differences are inside the noise."""
    untold = [
        f"{each.id} ({each.subject}): {each.sentence}" for each in findings if each.verdict == "not tested"
    ]
    return (
        "<h3>Not tested</h3>"
        + listed(untold, "Every claim was decided.")
        + "<h3>Differences inside the noise</h3>"
        + listed(
            [
                *inside[:MOST_CELLS],
                *([f"and {len(inside) - MOST_CELLS} more"] if len(inside) > MOST_CELLS else []),
            ],
            "No two servers at equal work are closer than the noise, or only one server was measured.",
        )
    )

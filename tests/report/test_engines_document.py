"""docs/engines.md claims of today's engines what their kept results give."""

from __future__ import annotations

import re
from pathlib import Path

from loadgen.analysis.analyse import analyse
from loadgen.analysis.finding import CLAIMS
from loadgen.report.document import BEGIN, END, findings_block

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs/engines.md").read_text()


def test_the_claims_of_the_document_are_what_the_results_give() -> None:
    (line,) = re.findall(r"^TODAY := (.*)$", (ROOT / "Makefile").read_text(), flags=re.M)
    assert line in DOCUMENT
    found = analyse([part for parts in line.split() for part in sorted(ROOT.glob(parts))])
    block = DOCUMENT.partition(f"\n{BEGIN}\n")[2].partition(f"\n{END}\n")[0].strip()
    assert block == findings_block(found.findings), "run `make reproduction`, then read the text against it"
    rows = block.split("\n\n")[0].splitlines()[2:]
    assert [row.split(". ")[0].removeprefix("| ") for row in rows] == list(CLAIMS)

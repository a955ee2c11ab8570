"""The kept study of H200s and an H100, FasterTransformer in it: docs/REPRODUCTION.md claims what its results give."""

from __future__ import annotations

import re
import shlex
import socket
import sys
from html import unescape
from pathlib import Path
from typing import Any

import browser as headless
import pytest
from click.testing import CliRunner

from loadgen.analysis.analyse import Analysis, analyse
from loadgen.analysis.finding import CLAIMS, LONGEST
from loadgen.cli import main
from loadgen.report.document import BEGIN, END, findings_block

ROOT = Path(__file__).resolve().parents[2]
KEPT = ("h200/[0-9]*", "h100/[0-9]*", "h200-ft/[127]*-tp[12]")
STORED = [part for parts in KEPT for part in sorted((ROOT / "docs/results").glob(parts))]
SUBJECT = r'<div class="subject"><span class="verdict \w+">\S (.*?)</span> <b>(.*?)</b>\s*<p>(.*?)</p>'
DOCUMENT = (ROOT / "docs/REPRODUCTION.md").read_text()


GPU_LIBRARIES = ("pynvml", "torch")


class NoGpu:
    """Refuses the ways to a GPU. A ``None`` in ``sys.modules`` would be asked for its ``Tensor`` by scipy."""

    def find_spec(self, name: str, *_: object) -> None:
        if name in GPU_LIBRARIES:
            raise ImportError(f"a report needs no {name}")


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Analysis, Path]:
    """The study and its page, as the command makes them: from stored results, without a network or a GPU."""

    def refuse(*_args: object) -> None:
        raise AssertionError("a report needs no network")

    found: list[Analysis] = []

    def kept(*args: Any) -> Analysis:
        found.append(analyse(*args))
        return found[-1]

    out = tmp_path_factory.mktemp("study") / "report.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(sys, "meta_path", [NoGpu(), *sys.meta_path])
        for library in GPU_LIBRARIES:
            patch.delitem(sys.modules, library, raising=False)
        patch.setattr("loadgen.analysis.analyse.analyse", kept)
        done = CliRunner().invoke(main, ["report", *map(str, STORED), "--format", "html", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert list(out.parent.iterdir()) == [out]
    (analysis,) = found
    return analysis, out


@pytest.fixture(scope="module")
def study(reported: tuple[Analysis, Path]) -> Analysis:
    return reported[0]


@pytest.fixture(scope="module")
def page(reported: tuple[Analysis, Path]) -> Path:
    return reported[1]


def block() -> str:
    assert DOCUMENT.count(f"\n{BEGIN}\n") == DOCUMENT.count(f"\n{END}\n") == 1
    return DOCUMENT.partition(f"\n{BEGIN}\n")[2].partition(f"\n{END}\n")[0].strip()


def test_the_table_of_the_document_is_what_the_results_give(study: Analysis) -> None:
    assert block() == findings_block(study.findings), "run `make reproduction`, then read the text against it"


def test_every_claim_has_one_row(study: Analysis) -> None:
    rows = block().split("\n\n")[0].splitlines()[2:]
    assert [row.split(". ")[0].removeprefix("| ") for row in rows] == list(CLAIMS)
    assert {each.verdict for each in study.findings} <= {"holds", "refuted", "not tested"}


def test_no_sentence_is_longer_than_a_reader_bears(study: Analysis) -> None:
    assert max(len(each.sentence) for each in study.findings) <= LONGEST


def test_the_text_counts_the_trials_that_are_stored(study: Analysis) -> None:
    (said,) = re.findall(r"from (\d+) trials", DOCUMENT)
    assert int(said) == len(study.rows)


def test_the_page_regenerates_from_the_stored_results_alone(study: Analysis, page: Path) -> None:
    assert page.stat().st_size < 4e6
    said = verdicts(page.read_text())
    assert said == [
        (finding.id, finding.subject, finding.verdict, finding.sentence)
        for row in study.headlines
        for finding in (*row.told, *row.untold)
    ]


@pytest.mark.skipif(headless.find() is None, reason="no Chromium here: apt-get install chromium")
def test_the_page_is_readable_on_a_screen_and_on_a_phone(page: Path, tmp_path: Path) -> None:
    with headless.Browser(tmp_path / "profile") as browser:
        for width, height in ((1400, 900), (390, 844)):
            browser.resize(width, height)
            browser.open(page, ready="document.documentElement?.dataset.ready === 'yes'")
            browser.wait("document.querySelector('.plot svg.main-svg') !== null")
            for at in range(20):  # charts are drawn as they come near
                browser.run(f"window.scrollTo(0, {at * height})")
                browser.run("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
            assert browser.run("document.querySelectorAll('.plot:not(:has(svg))').length") == 0
            until = browser.run("document.getElementById('all').getBoundingClientRect().top + scrollY")
            assert until <= 20 * height, f"{width} px: {until / height:.1f} screens until the table of trials"
            assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")
        assert browser.problems() == []
        assert browser.requests() == []


def verdicts(page: str) -> list[tuple[str, str, str, str]]:
    """Id, subject, verdict and sentence of each finding of the page, in its order."""
    found = []
    for row in page.split('<tr class="finding" id="')[1:]:
        id_, _, body = row.partition('"')
        for verdict, subject, sentence in re.findall(SUBJECT, body, flags=re.S):
            found.append((id_, *map(unescape, (subject, verdict, re.sub("</?code>", "`", sentence)))))
    return found


@pytest.mark.parametrize("line", re.findall(r"^loadgen .*", DOCUMENT, flags=re.M))
def test_every_shown_command_parses(line: str) -> None:
    name, *args = shlex.split(line, comments=True)[1:]
    with main.commands[name].make_context(name, args):  # raises UsageError for an unknown option
        pass

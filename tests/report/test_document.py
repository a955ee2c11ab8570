"""Several results folders as one Markdown file, and the findings in a text that somebody wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic import grid, roofline_world, sweep, write

from loadgen.analysis.analyse import analyse
from loadgen.analysis.finding import CLAIMS
from loadgen.errors import BadInput
from loadgen.report import export
from loadgen.report.document import BEGIN, END, findings_block
from loadgen.report.markdown import escape, gather, to_markdown


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    home = tmp_path_factory.mktemp("world")
    return [
        write(home / str(tp), sweep(grid(batch=(1, 8, 64), tp=(tp,)), roofline_world()), samples=False)
        for tp in (1, 2)
    ]


def test_one_file_has_all_folders_and_what_only_all_of_them_tell(folders: list[Path], tmp_path: Path) -> None:
    assert export.write(folders, "md", tmp_path / "study.md") == [tmp_path / "study.md"]
    assert not any((folder / "report.md").exists() for folder in folders)
    text = (tmp_path / "study.md").read_text()
    both = analyse(folders)
    assert text.startswith(f"# Findings\n\n{findings_block(both.findings)}\n\n## To know\n")
    assert all(text.count(to_markdown(gather(folder)).rstrip()) for folder in folders)
    assert "tp 1 → 2" in next(line for line in text.splitlines() if line.startswith("| F3a. "))
    assert all("tp 1 → 2" not in finding.sentence for finding in analyse(folders[:1]).findings)


def test_without_out_each_folder_has_its_own_file(folders: list[Path]) -> None:
    written = export.write(folders, "md")
    assert written == [folder / "report.md" for folder in folders]
    for path in written:
        path.unlink()


def test_a_claim_is_one_row_with_its_servers_below(folders: list[Path]) -> None:
    found = analyse(folders)
    claims, _note, *parts = findings_block(found.findings).split("\n\n")
    below = dict(zip(parts[::2], parts[1::2], strict=True))
    head, _ruler, *rows = claims.splitlines()
    assert head == "| claim | verdict | one server | effect | behind it |"
    assert [row.split(". ")[0].removeprefix("| ") for row in rows] == list(CLAIMS)
    for row, headline in zip(rows, found.headlines, strict=True):
        assert escape(headline.sentence) in row
        assert f" | {escape(headline.said)} | " in row
    told = [each for each in found.findings if each.verdict != "not tested"]
    head, _ruler, *rows = below["**Servers that decide**"].splitlines()
    assert head == "| claim | server, all llama-13b · bfloat16 · NVIDIA H200 | verdict | why | behind it |"
    assert [row.split(" | ")[2] for row in rows] == [each.verdict for each in told]


def test_a_text_keeps_its_words_and_gets_the_findings(folders: list[Path], tmp_path: Path) -> None:
    text = tmp_path / "text.md"
    text.write_text(f"# Mine\n\nbefore\n{BEGIN}\nold | claims\n{END}\nafter, with {BEGIN} in a line\n")
    export.write(folders, "md", text)
    table = findings_block(analyse(folders).findings)
    wanted = f"# Mine\n\nbefore\n{BEGIN}\n\n{table}\n\n{END}\nafter, with {BEGIN} in a line\n"
    assert text.read_text() == wanted
    export.write(folders, "md", text)
    assert text.read_text() == wanted


@pytest.mark.parametrize(
    "lines", [[BEGIN], [END], [END, BEGIN], [BEGIN, BEGIN, END], [BEGIN, END, END], [BEGIN, END, BEGIN, END]]
)
def test_half_a_block_is_refused_and_nothing_is_written(
    folders: list[Path], tmp_path: Path, lines: list[str]
) -> None:
    text = tmp_path / "text.md"
    text.write_text("\n".join(lines))
    with pytest.raises(
        BadInput, match=r"text\.md: its block of findings is not whole .*one line <!-- findings"
    ):
        export.write(folders, "md", text)
    assert text.read_text() == "\n".join(lines)
    assert list(tmp_path.iterdir()) == [text]

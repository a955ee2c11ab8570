"""What a sweep ends with: winners first, open claims nowhere, doubts by kind, and on a terminal one screen of it."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from synthetic import Point, failed, grid, limited, roofline_world, sweep, write

from loadgen.analysis.analyse import Analysis, analyse
from loadgen.commands.report import MOST_LINES
from loadgen.live.terminal import print_summary
from loadgen.records import Caveat
from loadgen.report.ending import ending
from loadgen.text_table import Line


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    points = grid(batch=(1, 8, 64), input_tokens=(20, 128), tp=(1, 2))
    results = sweep(points, roofline_world(), starts=3)
    doubts = [Caveat(kind=f"kind-{at}", message="seen " * 40, remedy="mend it " * 20) for at in range(6)]
    results[0] = replace(results[0], caveats=(limited(), *doubts))
    folder = tmp_path_factory.mktemp("results") / "mine"
    return analyse([write(folder, [*results, failed(Point(batch=512))], samples=False)])


@pytest.fixture(scope="module")
def rows(analysis: Analysis) -> list[Line]:
    results = [row.result for row in analysis.rows]
    return ending(analysis, results, Path("results/mine"), [Path("results/mine/report.html")])


def test_the_winners_come_first_and_what_is_open_is_not_told(rows: list[Line], analysis: Analysis) -> None:
    labels = [row.label.strip() for row in rows]
    assert labels[0] == "mine"
    assert labels[1:4] == ["best", "lowest latency", "most tokens/s"]
    assert labels.index("decided") < labels.index("doubt") < labels.index("report")
    decided = {row.id for row in analysis.headlines if row.told}
    told = [label for label in labels if label.startswith("F")]
    assert {label.split()[0] for label in told} <= decided
    assert not [row for row in rows if "not tested" in row.label + row.text]
    assert "ServerOutOfMemory" in rows[labels.index("failed")].text
    assert next(label for label in labels if "×" in label).startswith("!client")
    assert any(row.text.endswith("more kinds of doubt in the report") for row in rows)


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_the_end_is_one_screen_and_no_line_is_wider(rows: list[Line], width: int) -> None:
    out = io.StringIO()
    print_summary(rows, MOST_LINES, Console(file=out, width=width, force_terminal=True, color_system=None))
    lines = out.getvalue().splitlines()
    assert len(lines) <= MOST_LINES + (2 if width < 80 else 0)  # paths are never shortened
    assert max(map(len, lines)) <= width
    assert "report.html" in "".join(line.strip() for line in lines)


def test_where_there_is_no_terminal_a_shortened_text_is_shortened_once(rows: list[Line]) -> None:
    out = io.StringIO()
    print_summary(rows, MOST_LINES, Console(file=out))
    assert all("… " not in line and not line.endswith("……") for line in out.getvalue().splitlines())
    assert "".join(rows[1].text.split()) in "".join(out.getvalue().split())


def test_a_sweep_of_failures_ends_with_them(build: Any, tmp_path: Path) -> None:
    found = analyse([write(tmp_path / "f", [failed(Point(batch=512))], samples=False)])
    labels = [
        row.label.strip() for row in ending(found, [row.result for row in found.rows], tmp_path / "f", [])
    ]
    assert labels == ["f", "best", "doubt", "failed", "every table"]

"""What is drawn: frames at two sizes, columns that fit, tables, the doctor's list."""

from __future__ import annotations

import dataclasses
import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from loadgen.live.progress import Live, result_row, to_plain, trial_row
from loadgen.live.screen import choose_columns, frame, sparkline
from loadgen.live.state import LiveState
from loadgen.live.tally import Tally
from loadgen.live.terminal import print_doctor, print_tables
from loadgen.protocols import Need
from loadgen.report.tables import full_table
from loadgen.selfcheck.doctor import Section
from loadgen.text_table import Table
from loadgen.units import show_number, show_s


def render(shown: LiveState, width: int, height: int, now_s: float = 60.0) -> list[str]:
    """A frame as the lines of a terminal without colours."""
    out = io.StringIO()
    console = Console(file=out, width=width, height=height, color_system=None, force_terminal=True)
    console.print(frame(shown, width, height - 1, now_s))
    return out.getvalue().rstrip("\n").split("\n")


def state_of(build: Any, finished: int = 30, total: int = 40) -> LiveState:
    """A sweep in its middle."""
    shown = LiveState(began_s=0.0)
    trials = [build.trial(2**n, 128, tp=tp) for tp in (1, 2, 4, 8) for n in range(10)][:total]
    shown.feed("plan", [[to_plain(trial_row(trial)) for trial in trials], []], 0.0)
    shown.feed("server", ["hf/generate llama-13b tp1", "starting"], 0.0)
    shown.feed("server", ["hf/generate llama-13b tp1", "ready"], 9.0)
    for trial in trials[:finished]:
        shown.feed("trial", to_plain(trial_row(trial)), 10.0)
        shown.feed("result", to_plain(result_row(build.result(trial, 1.5))), 20.0)
    if finished < total:
        shown.feed("trial", to_plain(trial_row(trials[finished])), 50.0)
        tally = Tally()
        tally.fold(build.sample(0, phase="warmup"), 1)
        for seq in range(5):
            tally.fold(build.sample(seq, sent_ms=100 * seq, e2e_ms=100 + 10 * seq), 4)
        shown.feed("live", to_plain(tally.figures()), 55.0)
    return shown


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 50), (40, 10), (20, 4)])
def test_a_frame_fits_its_terminal(build: Any, width: int, height: int) -> None:
    lines = render(state_of(build), width, height)
    assert len(lines) < height
    assert max(map(len, lines)) <= width


def test_at_80_columns_all_that_matters_is_there(build: Any) -> None:
    lines = render(state_of(build), 80, 24)
    text = "\n".join(lines)
    assert "30/40 trials" in lines[0]
    assert "1m00s gone, about" in lines[0]
    assert "hf/generate llama-13b tp1  ready" in lines[1]
    assert "batch 1, 128 in, 20 out" in lines[2]
    assert "5/20 requests" in lines[2]
    assert "E2E p50 120.0 ms" in lines[3]
    assert "TTFT 10.00 ms" in lines[3]
    assert "in flight 4" in lines[3]
    assert "failed 0" in lines[3]
    assert "…" not in text
    for head in ("load", "in", "out", "tp", "E2E p50", "TTFT", "TPOT", "tok/s out"):
        assert head in next(line for line in lines if "E2E p50  " in line and "TPOT" in line)
    assert len([line for line in lines if line.strip().startswith("batch")]) == 16, (
        "the table fills the height"
    )


def test_a_wide_terminal_shows_more(build: Any) -> None:
    text = "\n".join(render(state_of(build, finished=20), 200, 50))
    for head in ("p99", "tok/s total", "req/s", "took", "server"):
        assert head in text
    assert text.count("batch") == 24, "20 finished trials, the running one, and the best at three goals"


def test_the_newest_trials_stay_visible(build: Any) -> None:
    shown = state_of(build, finished=40)
    rows = [line.split()[:2] for line in render(shown, 80, 24) if line.strip().startswith("batch")]
    assert rows[-1] == ["batch", "512"]
    assert "none running" in "\n".join(render(shown, 80, 24))


def test_failures_client_limits_and_lost_requests_stand_out(build: Any) -> None:
    shown = LiveState(began_s=0.0)
    for result in (
        build.result(build.trial(1), failure=build.out_of_memory),
        build.result(build.trial(2), caveats=(build.client,)),
        build.result(build.trial(4), requests_failed=7),
    ):
        shown.feed("result", to_plain(result_row(result)), 1.0)
    lines = render(shown, 160, 24)
    assert "1 failed" in lines[0]
    rows = [line for line in lines if line.strip().startswith("batch")]
    assert "ServerOutOfMemory: CUDA out of memory" in rows[0]
    assert "ms" not in rows[0]
    assert " 0 " not in rows[0], "a failed trial measured nothing, not zero"
    assert "!client" in rows[1]
    assert "7 failed" in rows[2]


def test_errors_of_the_running_trial_are_named(build: Any) -> None:
    shown = state_of(build)
    shown.feed("live", to_plain(Live(failed=3, errors={"TimedOut": 2, "Refused": 1})), 56.0)
    text = "\n".join(render(shown, 80, 24))
    assert "failed 3" in text
    assert "2 × TimedOut, 1 × Refused" in text


def test_markup_from_outside_is_shown_as_it_is(build: Any) -> None:
    shown = LiveState(began_s=0.0)
    shown.feed("server", ["evil [red]label[/red]", "[link=x]"], 1.0)
    assert "evil [red]label[/red]  [link=x]" in render(shown, 80, 24)[1]


def test_time_left_shrinks_while_a_trial_runs(build: Any) -> None:
    shown = state_of(build)
    early, late = shown.left_s(50.0), shown.left_s(52.0)
    assert early is not None
    assert late == pytest.approx(early - 2)
    assert shown.left_s(1e6) == pytest.approx(shown.left_s(2e6)), (
        "an overdue trial takes no time off the others"
    )


def test_stored_results_count_as_done(build: Any) -> None:
    shown = LiveState(began_s=0.0)
    trials = [build.trial(1), build.trial(2)]
    done = [build.result(trials[0])]
    shown.feed(
        "plan", [[to_plain(trial_row(t)) for t in trials], [to_plain(result_row(r)) for r in done]], 0.0
    )
    assert "1/2 trials" in render(shown, 80, 24)[0]


@pytest.mark.parametrize(("width", "height"), [(80, 24), (130, 45)])
def test_of_a_cluster_each_node_has_its_line(build: Any, width: int, height: int) -> None:
    shown = state_of(build, finished=30)
    alone_s = shown.left_s(60.0)
    shown.feed("result", to_plain(result_row(build.result(build.trial(1, 128), 1.5))), 60.0)
    shown.feed("place", ["10.0.0.2 GPU 0", "hf llama-13b tp1: starting"], 50.0)
    shown.feed("place", ["10.0.0.2 GPU 0", "hf llama-13b tp1: batch 8"], 60.0)
    shown.feed("place", ["10.0.0.3 GPU 0, 1", "hf llama-13b tp2: ready"], 30.0)
    lines = render(shown, width, height, now_s=75.0)
    assert lines[1].rstrip() == " 10.0.0.2 GPU 0     hf llama-13b tp1: batch 8  15s"
    assert lines[2].rstrip() == " 10.0.0.3 GPU 0, 1  hf llama-13b tp2: ready  45s"
    assert "none running" not in "\n".join(lines)
    left_s = shown.left_s(60.0)
    assert alone_s is not None
    assert left_s is not None
    assert left_s < 0.6 * alone_s, "two share what is left"
    for number in range(40):
        shown.feed("place", [f"10.0.1.{number}", "hf llama-13b tp1: ready"], 30.0)
    lines = render(shown, width, height)
    assert any("and " in line and " more" in line for line in lines)
    assert len(lines) < height
    shown.feed("place", ["10.0.0.2 GPU 0", ""], 90.0)
    assert "10.0.0.2 GPU 0" not in shown.places


def test_bars_start_at_zero() -> None:
    assert sparkline([1.0, 1.0, 1.0], 10) == "███"
    assert sparkline([0.0, 0.5, 1.0], 10) == "▁▄█"
    assert sparkline([0.1, 1.0, 1.0], 2) == "██"
    assert sparkline([], 10) == ""
    assert sparkline([0.0], 10) == ""
    assert sparkline([1.0], 0) == ""


def test_what_never_varies_takes_no_column(build: Any) -> None:
    rows = [result_row(build.result(build.trial(batch))) for batch in (1, 2)]
    assert not {"server", "options"} & {column.head for column in choose_columns(rows, 200)}
    other = dataclasses.replace(rows[0], trial=dataclasses.replace(rows[0].trial, options="itl_ms=2"))
    assert "options" in [column.head for column in choose_columns([*rows, other], 200)]
    rows.append(result_row(build.result(build.trial(1, framework="ds"))))
    assert "server" in [column.head for column in choose_columns(rows, 200)]


def printed(tables: list[Table], width: int, *, terminal: bool) -> str:
    out = io.StringIO()
    print_tables(tables, Console(file=out, width=width, color_system=None, force_terminal=terminal))
    return out.getvalue()


def test_tables_lose_nothing(build: Any) -> None:
    long = "x" * 150
    table = Table(title="T [b]", head=("a", "b"), rows=(("1", long), ("2", "[red]y")), note="n [i]")
    piped = printed([table], 80, terminal=False)
    assert long in piped, "without a terminal a row stays on one line"
    folded = printed([table], 80, terminal=True)
    assert folded.count("x") == 150
    assert max(map(len, folded.splitlines())) <= 80
    for text in (piped, folded):
        assert "T [b]" in text
        assert "[red]y" in text
        assert "n [i]" in text


def test_the_doctor_shows_every_remedy() -> None:
    out = io.StringIO()
    needs = (
        Need(name="a", ok=True, found="here"),
        Need(name="b", ok=False, found="gone", remedy="pip install '.[hf]'"),
    )
    print_doctor([Section(title="Things", needs=needs)], Console(file=out, width=80, color_system=None))
    assert "Things  1 missing" in out.getvalue()
    assert "✓ a  here" in out.getvalue()
    assert "✗ b  gone\n      → pip install '.[hf]'" in out.getvalue()


def test_a_narrow_terminal_leaves_out_what_is_asked_for_least() -> None:
    head = ("batch", "E2E p50", "very long column name", "marks")
    table = Table(
        title="t",
        head=head,
        rows=(("1", "1.00 s", "12.34 ms", "spread"),),
        optional=("very long column name",),
    )
    wide, narrow = printed([table], 80, terminal=True), printed([table], 32, terminal=True)
    assert "12.34 ms" in wide
    assert "report.md" not in wide
    assert "12.34 ms" not in narrow
    assert "1.00 s" in narrow
    assert "spread" in narrow
    assert "see report.md: very long" in " ".join(narrow.split())


def test_figures_are_never_broken_over_lines() -> None:
    rows = tuple((str(n), "123.4 ms", "words that may be folded over several lines") for n in range(3))
    text = printed(
        [Table(title="t", head=("a", "latency per output token", "c"), rows=rows)], 40, terminal=True
    )
    assert text.count("123.4 ms") == 3


@pytest.mark.parametrize("width", [60, 80, 97, 120, 140, 200])
def test_no_letter_is_lost_at_any_width(build: Any, width: int) -> None:
    doubts = tuple(replace(build.spread, kind=kind) for kind in ("few-samples", "spread", "slow-first"))
    results = [build.result(build.trial(b, i), caveats=doubts) for b in (1, 16) for i in (20, 2048)]
    text = printed([full_table(results)], width, terminal=True)
    for kind in ("few-samples", "spread", "slow-first"):
        assert text.count(kind) == 4, text
    assert text.count("1.00 s") == 4
    assert max(map(len, text.splitlines())) <= width


def test_a_large_terminal_draws_the_trial_the_best_and_what_marks_mean(build: Any) -> None:
    shown = state_of(build, finished=3)
    doubtful = build.result(build.trial(512, 128), 1.5, caveats=(build.client,))
    shown.feed("result", to_plain(result_row(doubtful)), 56.0)
    shown.feed("trial", to_plain(trial_row(build.trial(256, 128))), 57.0)
    tally = Tally()
    for seq in range(40):
        tally.fold(build.sample(seq, sent_ms=100 * seq, e2e_ms=100 + 10 * seq), 4)
    shown.feed("live", to_plain(tally.figures()), 58.0)
    lines = render(shown, 120, 40)
    text = "\n".join(lines)
    assert len(lines) < 40
    assert max(map(len, lines)) <= 120
    assert "E2E latency, mean of the replies of each 250.0 ms" in text
    assert show_s(max(filter(None, tally.course.latencies_s))) in text  # the axis' top
    assert "output tokens per second; the newest 295.0 ms lacks what is in flight" in text
    assert f"{show_number(max(tally.course.tokens_per_s))} " in text
    assert "after it" in text
    assert "lowest E2E p50" in text
    assert " marks  !client: event loop 12 ms late at p99" in text
    small = "\n".join(render(shown, 119, 40)) + "\n".join(render(shown, 120, 39))
    assert "mean of the replies" not in small
    assert "marks " not in small


def test_before_any_trial_has_ended_the_time_left_is_predicted(build: Any) -> None:
    trials = [build.trial(1), build.trial(2)]
    shown = LiveState(began_s=0.0)
    shown.feed("plan", [[to_plain(trial_row(trial, 30.0)) for trial in trials], []], 0.0)
    assert "about 1m00s left (predicted)" in render(shown, 100, 24, 0.0)[0]
    shown.feed("plan", [[to_plain(trial_row(trial)) for trial in trials], []], 0.0)
    assert "time left not known yet" in render(shown, 100, 24, 0.0)[0]
    shown.feed("trial", to_plain(trial_row(trials[0])), 10.0)
    shown.feed("live", to_plain(Live(warmup=1)), 20.0)
    assert "time left not known yet" in render(shown, 100, 24, 20.0)[0], "a first request is no measure"
    shown.feed("live", to_plain(Live(warmup=2, ok=9)), 21.0)  # half of its 22 requests in 11 s: 22 s a trial
    left = shown.left_s(21.0)
    assert left is not None
    assert 33 <= left < 60  # and the other one, which costs no less
    assert "(predicted)" in render(shown, 100, 24, 21.0)[0]
    shown.feed("result", to_plain(result_row(build.result(trials[0], wall_s=20.0))), 30.0)
    assert "(predicted)" not in render(shown, 100, 24, 31.0)[0]


def test_objectives_are_held_while_the_trial_runs_and_in_its_row(build: Any) -> None:
    shown = state_of(build, finished=1)
    kept = {"all": 0.9, "ttft": 0.95, "tpot": 0.9}
    shown.feed("live", to_plain(Live(ok=9, kept=kept)), 56.0)
    assert "kept 90.0 % (ttft 95.0 %, tpot 90.0 %)" in render(shown, 120, 24)[2]
    assert render(shown, 80, 24)[2].endswith("kept 90.0 %")
    assert not any("kept" in line for line in render(shown, 80, 24)[3:])
    held = replace(result_row(build.result(build.trial(4))), kept=0.875, goodput_per_s=2.5)
    shown.feed("result", to_plain(held), 57.0)
    head, *rows = [line for line in render(shown, 120, 40) if "kept" in line or "87.5 %" in line]
    assert "kept" in head
    assert len(rows) == 1
    assert any("most goodput" in line and "2.5" in line for line in render(shown, 120, 40))

"""Everything drawn with rich, and the only file that imports it: the live view's frames, tables, ``doctor``'s list.

Run as a process (``main``), it draws the live view from JSON lines on its standard input, until that ends.
All text from outside goes into ``Text`` objects, which know no markup.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live as LiveDisplay
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from loadgen.labels import again_label
from loadgen.live.best import MARKS_TOLD, best_so_far, marks_lines
from loadgen.live.course import BLOCKS, bars
from loadgen.live.progress import ResultRow
from loadgen.live.state import LiveState
from loadgen.units import show_duration, show_number, show_rate, show_s, show_share

PERIOD_S = 0.25
WIDE, HIGH = 120, 39  # from here on there is room for a chart; the cursor has a line of its own
MOST_CHART_ROWS, BEST_ROWS = 8, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of the finished trials. A lower ``rank`` stays longer on a narrow terminal; one in which every row says
    ``usual`` is left out.
    """

    head: str
    rank: int
    text: Callable[[ResultRow], str]
    left: bool = False
    only_if_varied: bool = False
    usual: str | None = None


def _failed(row: ResultRow) -> str:
    if row.ok is None or row.failed is None:
        return "–"
    return f"{row.failed}/{row.ok + row.failed}" if row.failed else "0"


COLUMNS = (
    Column(head="server", rank=6, text=lambda r: r.trial.server, left=True, only_if_varied=True),
    Column(head="options", rank=4, text=lambda r: r.trial.options, left=True, only_if_varied=True),
    Column(head="load", rank=0, text=lambda r: r.trial.load, left=True),
    Column(head="in", rank=0, text=lambda r: str(r.trial.input_tokens)),
    Column(head="out", rank=0, text=lambda r: str(r.trial.output_tokens)),
    Column(head="tp", rank=1, text=lambda r: "–" if r.trial.tp is None else str(r.trial.tp)),
    Column(head="pp", rank=5, text=lambda r: "–" if r.trial.pp is None else str(r.trial.pp), only_if_varied=True),
    Column(head="start", rank=5, text=lambda r: str(r.trial.start + 1), only_if_varied=True),
    Column(head="repeat", rank=5, text=lambda r: str(r.trial.repeat + 1), only_if_varied=True),
    Column(head="E2E p50", rank=0, text=lambda r: show_s(r.e2e_p50_s)),
    Column(head="p99", rank=7, text=lambda r: show_s(r.e2e_p99_s)),
    Column(head="TTFT", rank=3, text=lambda r: show_s(r.ttft_p50_s)),
    Column(head="TPOT", rank=4, text=lambda r: show_s(r.tpot_p50_s)),
    Column(head="tok/s out", rank=2, text=lambda r: show_number(r.output_tokens_per_s)),
    Column(head="tok/s total", rank=8, text=lambda r: show_number(r.total_tokens_per_s)),
    Column(head="req/s", rank=8, text=lambda r: show_number(r.requests_per_s)),
    Column(head="kept", rank=1, text=lambda r: "–" if r.kept is None else show_share(r.kept), usual="–"),
    Column(head="failed", rank=1, text=_failed, usual="0"),
    Column(head="took", rank=9, text=lambda r: show_duration(r.wall_s)),
)  # fmt: skip
MARKS_WIDTH = 8  # room for "!client"


def frame(shown: LiveState, width: int, height: int, now_s: float) -> RenderableType:
    """The whole view, at most ``height`` lines of ``width`` columns: on a large terminal with a chart and the best."""
    parts: list[RenderableType] = [_plan_line(shown, width, now_s)]
    wide = width >= WIDE and height >= HIGH
    if shown.places:
        parts += [*_place_lines(shown, height // 2, now_s), *(_best_lines(shown) if wide else ())]
    else:
        trial = _trial_lines(shown, width, now_s)
        parts.append(_server_line(shown, now_s))
        parts += [*trial[:2], *_chart_lines(shown, width, height), *_best_lines(shown)] if wide else trial
    room = height - len(parts) - 2 - (MARKS_TOLD if wide else 0)  # a blank line and the table's head
    if room > 0 and shown.finished:
        parts += [Text(), finished_table(shown.finished, width, room)]
        if wide:
            told = marks_lines(shown.finished[-room:], width - 8)
            heads = (" marks  ", *[" " * 8] * MARKS_TOLD)
            parts += [_line((head, "dim"), (text, "yellow")) for head, text in zip(heads, told, strict=False)]
    return Group(*parts[:height])


def _chart_lines(shown: LiveState, width: int, height: int) -> list[RenderableType]:
    """The running trial's latency and token rate over time; blank while there is none, so that nothing below jumps."""
    live, rows = shown.live, min(MOST_CHART_ROWS, (height - 19) // 4)
    lines: list[RenderableType] = []
    if shown.trial is not None and live.errors:
        lines = [_line(("        ", ""), (live.told, "red"))]
    elif shown.trial is not None and any(live.course_s):
        late = f"; the newest {show_s(live.e2e_p50_s)} lacks what is in flight" if live.in_flight else ""
        lines = [
            _line((f"  E2E latency, mean of the replies of each {show_s(live.bin_s)}", "dim")),
            *_bar_lines(live.course_s, rows, width, show_s),
            _line((f"  output tokens per second{late}", "dim")),
            *_bar_lines(live.course_tokens_per_s, rows, width, show_number),
            _line((f"{'':11}first request … {show_s(live.bin_s * len(live.course_s))} after it", "dim")),
        ]
    return [*lines, *[Text()] * (2 * rows + 3 - len(lines))]


def _bar_lines(
    values: Sequence[float | None], rows: int, width: int, show: Callable[[float | None], str]
) -> list[RenderableType]:
    """Bars beside an upright axis from zero to the largest value."""
    known = [value for value in values if value is not None]
    axis = [show(max(known)), *[""] * (rows - 2), "0"] if known else [""] * rows
    drawn = bars(values, rows, width - 12)
    return [_line((f"{label:>10} ", "dim"), (bar, "cyan")) for label, bar in zip(axis, drawn, strict=True)]


def _best_lines(shown: LiveState) -> list[RenderableType]:
    """The best so far for each goal; as many lines whether there are any or not."""
    found = best_so_far(shown.finished, shown.trial)
    lines: list[RenderableType] = [
        _line(
            (f" {'best so far' if at == 0 else '':12}{goal:<22}", "dim"),
            (f"{figure:>14}", "green"),
            f"  {where}",
        )
        for at, (goal, figure, where) in enumerate(found)
    ]
    return [*lines, *[Text()] * (BEST_ROWS - len(lines))]


def _line(*parts: str | tuple[str, str]) -> Text:
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def _plan_line(shown: LiveState, width: int, now_s: float) -> RenderableType:
    done = len(shown.finished)
    searched = (
        shown.trial is not None and shown.trial.id not in shown.todo
    )  # a search's trials are in no plan
    total = done + len(shown.todo) + searched
    failed = sum(row.failure is not None for row in shown.finished)
    words = f" {done}/{total} trials"
    if failed:
        words += f", {failed} failed"
    times = f"{show_duration(now_s - shown.began_s)} gone"
    if shown.todo:
        left = shown.left_s(now_s)
        told = "" if shown.measured else " (predicted)"
        times += ", time left not known yet" if left is None else f", about {show_duration(left)} left{told}"
    grid = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=max(total, 1), completed=done, width=max(8, width - len(words) - len(times) - 4))
    grid.add_row(_line((words, "bold")), bar, _line(times))
    return grid


def _place_lines(shown: LiveState, most: int, now_s: float) -> list[RenderableType]:
    """A line for each node of a cluster that has work; of those without room, how many there are."""
    rows = sorted(shown.places.items())
    kept = rows if len(rows) <= most else rows[: most - 1]
    width = max((len(name) for name, _ in kept), default=0)
    lines: list[RenderableType] = [
        _line((f" {name:<{width}}  ", "dim"), doing, f"  {show_duration(now_s - since_s)}")
        for name, (doing, since_s) in kept
    ]
    return lines if kept == rows else [*lines, _line((f" and {len(rows) - len(kept)} more", "dim"))]


def _server_line(shown: LiveState, now_s: float) -> RenderableType:
    label, state = shown.server
    if not label:
        return _line((" server ", "dim"), "none yet")
    word = state.split(maxsplit=1)[0].rstrip(":,") if state.strip() else ""
    colour = {"ready": "green", "failed": "bold red", "died": "bold red", "stopped": "dim"}.get(
        word, "yellow"
    )
    since = "" if word in ("ready", "stopped") else f"  {show_duration(now_s - shown.server_since_s)}"
    return _line((" server ", "dim"), label, "  ", (state, colour), since)


def _trial_lines(shown: LiveState, width: int, now_s: float) -> list[RenderableType]:
    trial, live = shown.trial, shown.live
    if trial is None:
        return [_line((" trial  ", "dim"), "none running"), Text(), Text()]
    spent = show_duration(now_s - trial_since) if (trial_since := shown.trial_since_s) else ""
    shape = f"{trial.load}, {trial.input_tokens} in, {trial.output_tokens} out"
    again = again_label(trial.start, trial.repeat)
    warm = f"warm-up {live.warmup}/{trial.warmup}, " if live.ok == 0 and trial.warmup else ""
    kept = live.kept_text if width >= WIDE else live.kept_text.partition(" (")[0]
    head = _line(
        (" trial  ", "dim"),
        (shape + again, "bold"),
        f"  {warm}{trial.done_text(live.ok)}  {spent}",
        (f"  {kept}", "cyan"),
    )
    in_flight = "–" if live.in_flight is None else str(live.in_flight)
    figures = _line(
        ("        E2E p50 ", "dim"), (show_s(live.e2e_p50_s), "cyan"),
        ("  TTFT ", "dim"), (show_s(live.ttft_p50_s), "cyan"),
        ("  out ", "dim"), (show_rate(live.tokens_per_s, "tok/s"), "cyan"),
        ("  in flight ", "dim"), in_flight,
        ("  failed ", "dim"), (str(live.failed), "bold red" if live.failed else ""),
    )  # fmt: skip
    if live.errors:
        return [head, figures, _line(("        ", ""), (live.told, "red"))]
    bars = sparkline(live.recent_e2e_s, width - 46)
    if not bars:
        return [head, figures, Text()]
    spread = f"  {show_s(min(live.recent_e2e_s))} to {show_s(max(live.recent_e2e_s))}"
    return [head, figures, _line(("        last E2E ", "dim"), (bars, "cyan"), spread)]


def sparkline(values: Sequence[float], width: int) -> str:
    """The newest ``width`` values as bars from zero, so that a flat line is drawn flat."""
    newest = values[-width:] if width > 0 else []
    top = max(newest, default=0.0)
    if top <= 0:
        return ""
    return "".join(BLOCKS[min(7, int(value / top * 7.999))] for value in newest)


def choose_columns(rows: Sequence[ResultRow], width: int) -> list[Column]:
    """The columns that fit, by rank, and say something: one that never varies may be left out."""
    texts = {c.head: {c.text(row) for row in rows} for c in COLUMNS}
    wanted = [
        c for c in COLUMNS if not (c.only_if_varied and len(texts[c.head]) < 2) and texts[c.head] != {c.usual}
    ]
    left = width - MARKS_WIDTH - 1
    kept = []
    for column in sorted(wanted, key=lambda c: c.rank):
        left -= max(len(column.head), *(len(column.text(row)) for row in rows)) + 2
        if left < 0:
            break
        kept.append(column)
    return [column for column in wanted if column in kept]


def finished_table(rows: Sequence[ResultRow], width: int, room: int) -> RenderableType:
    """The newest ``room`` trials, the latest at the bottom; what a client limited or failed stands out."""
    shown = rows[-room:]
    columns = choose_columns(shown, width)
    table = Table(
        box=None, padding=(0, 1), pad_edge=True, header_style="dim", width=width, collapse_padding=False
    )
    for column in columns:
        table.add_column(
            column.head, justify="left" if column.left else "right", no_wrap=True, overflow="ellipsis"
        )
    table.add_column("", no_wrap=True, overflow="ellipsis", ratio=1, min_width=MARKS_WIDTH - 2)
    for row in shown:
        if row.failure is not None:
            marks, style = Text(f"{row.failure}: {row.message}"), "red"
        else:
            marks, style = Text(" ".join(row.marks), style="yellow"), "dim" if row.client_limited else ""
            if row.failed:
                marks.append(f" {row.failed} failed", style="red")
        table.add_row(*(Text(column.text(row)) for column in columns), marks, style=style)
    return table


def draw(shown: LiveState, display: LiveDisplay) -> None:
    """One frame, and above it what is to stay: the notes."""
    console = display.console
    for note in shown.notes:
        console.print(Text(note))
    shown.notes.clear()
    display.update(frame(shown, console.width, console.height - 1, time.monotonic()), refresh=True)


def main() -> None:
    """Draw until standard input ends, which it does as well when the parent is killed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent decides when the view ends
    os.nice(19)  # a late frame hurts nobody, a late request falsifies a figure
    parent = os.getppid()
    shown, rest = LiveState(began_s=time.monotonic()), b""
    with LiveDisplay(console=Console(), auto_refresh=False, vertical_overflow="crop") as display:
        drawn_s = 0.0
        while os.getppid() == parent:
            readable, _, _ = select.select(
                [sys.stdin], [], [], max(0.0, drawn_s + PERIOD_S - time.monotonic())
            )
            if readable:
                data = os.read(sys.stdin.fileno(), 1 << 16)
                if not data:
                    break
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    kind, payload = json.loads(line)
                    shown.feed(kind, payload, time.monotonic())
            if time.monotonic() - drawn_s >= PERIOD_S:
                draw(shown, display)
                drawn_s = time.monotonic()
        draw(shown, display)

"""Results → tables: what varied decides the axes, and every cell says what limits it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from loadgen.report.tables import (
    conditions,
    describe,
    fixed_words,
    full_table,
    pivot_tables,
    unmeasured,
    varying,
)
from loadgen.text_table import Table, holds_figures


def only(tables: list[Table], title: str) -> Table:
    (table,) = [table for table in tables if table.title.startswith(title)]
    return table


def test_input_by_batch(build: Any) -> None:
    results = [build.result(build.trial(b, i), b * i / 100) for i in (2048, 128) for b in (8, 1, 64)]
    (table,) = pivot_tables(results)
    assert table.title == "E2E p50: input tokens × batch, static load"
    assert table.head == ("input tokens", "batch 1", "batch 8", "batch 64")
    assert table.rows == (("128", "1.28 s", "10.24 s", "81.92 s"), ("2048", "20.48 s", "164 s", "1311 s"))


def test_output_by_batch_shows_latency_per_token_too(build: Any) -> None:
    results = [build.result(build.trial(b, 20, o), o * 0.01) for o in (20, 100) for b in (1, 8)]
    tables = pivot_tables(results)
    assert only(tables, "E2E p50").rows[1] == ("100", "1.00 s", "1.00 s")
    assert only(tables, "latency per output token p50: output tokens × batch").rows[0] == (
        "20",
        "10.00 ms",
        "10.00 ms",
    )


def test_batch_by_tp_shows_throughput(build: Any) -> None:
    results = [build.result(build.trial(b, tp=tp), 1 / tp) for tp in (1, 4) for b in (1, 64)]
    tables = pivot_tables(results)
    throughput = only(tables, "output tok/s: batch × tp")
    assert throughput.head == ("batch", "tp 1", "tp 4")
    assert throughput.rows == (("1", "20", "80"), ("64", "1,280", "5,120"))
    assert only(tables, "E2E p50: batch × tp").rows[0] == ("1", "1.00 s", "250.0 ms")


def test_the_rest_of_what_varies_leads_each_row(build: Any) -> None:
    results = [
        build.result(build.trial(b, i, tp=tp)) for tp in (1, 2) for i in (20, 128) for b in (1, 8)
    ]  # fmt: skip
    table = only(pivot_tables(results), "E2E p50: input tokens × batch")
    assert table.head == ("tp", "input tokens", "batch 1", "batch 8")
    assert [row[:2] for row in table.rows] == [("1", "20"), ("1", "128"), ("2", "20"), ("2", "128")]


def test_closed_loops_pivot_by_what_is_in_flight(build: Any) -> None:
    results = [
        build.result(build.trial(1, i, kind="closed", concurrency=c)) for i in (20, 128) for c in (1, 16)
    ]
    assert pivot_tables(results)[0].head == ("input tokens", "in flight 1", "in flight 16")


def test_modes_are_not_mixed_in_one_table(build: Any) -> None:
    static = [build.result(build.trial(b, i), 1) for i in (20, 128) for b in (1, 8)]
    closed = [
        build.result(build.trial(1, i, kind="closed", concurrency=c), 2) for i in (20, 128) for c in (1, 8)
    ]
    titles = [table.title for table in pivot_tables(static + closed)]
    assert titles == [
        "E2E p50: input tokens × batch, static load",
        "E2E p50: input tokens × in flight, closed load",
    ]


def test_nothing_varies_nothing_to_pivot(build: Any) -> None:
    assert pivot_tables([build.result(build.trial())]) == []
    assert pivot_tables([]) == []


def test_a_cell_says_what_limits_it(build: Any) -> None:
    """Every kind of cell in one table; none may look like a clean figure."""
    grid = {(b, i): build.trial(b, i) for i in (1, 2, 3, 4, 5, 6) for b in (1, 8)}
    results = [
        build.result(grid[1, 1], 1.0),
        build.result(grid[1, 2], 1.0, caveats=(build.client, build.spread)),
        build.result(grid[1, 3], 1.0, caveats=(build.spread,)),
        build.result(grid[1, 4], failure=build.out_of_memory),
        build.result(grid[1, 5], 1.0, e2e_s=None),
        build.result(grid[8, 1], 2.0),
    ]
    planned = [trial for cell, trial in grid.items() if cell != (8, 6)]
    (table,) = pivot_tables(results, planned)
    cells = {row[0]: row[1:] for row in table.rows}
    assert cells["1"] == ("1.00 s", "2.00 s")
    assert cells["2"][0] == "1.00 s !client"
    assert cells["3"][0] == "1.00 s *"
    assert cells["4"][0] == "failed: ServerOutOfMemory"
    assert cells["5"] == ("–", "not run")
    assert cells["6"] == ("not run", "")


def test_a_cell_says_what_share_of_its_requests_failed(build: Any) -> None:
    lost = {"requests_ok": 16, "requests_failed": 4, "errors": {"TimedOut": 4}}
    results = [
        build.result(build.trial(b, i), 1.0, **(lost if b == 8 else {})) for b in (1, 8) for i in (20, 128)
    ]
    again = build.result(build.trial(8, 20, repeat=1), 1.0)
    (table,) = pivot_tables([*results, again])
    assert table.rows[0][1:] == ("1.00 s", "1.00 s (up to 20.0 % of requests failed)")
    assert table.rows[1][1:] == ("1.00 s", "1.00 s (20.0 % of requests failed)")


def test_repeats_become_a_median_with_its_spread(build: Any) -> None:
    results = [
        build.result(build.trial(b, i, repeat=r), 1.0 + 0.1 * r)
        for b in (1, 8)
        for i in (20, 128)
        for r in (0, 1, 2)
    ]
    results[0] = build.result(results[0].trial, failure=build.out_of_memory)
    (table,) = pivot_tables(results)
    assert table.rows[0] == ("20", "1.15 s (1 of 3 failed)", "1.10 s")
    assert table.note == "Medians of up to 3 repeats; widest cell: (max − min)/median 18.2 %."


def test_the_full_table_has_every_trial_and_no_invented_zero(build: Any) -> None:
    unstreamed = {"ttft_s": None, "tpot_s": None, "itl_s": None}
    results = [
        build.result(build.trial(8), 1.0, **unstreamed),
        build.result(build.trial(1), 0.5, requests_ok=17, requests_failed=3, **unstreamed),
        build.result(build.trial(64), failure=build.out_of_memory),
    ]
    table = full_table(results)
    assert table.head[0] == "batch"
    assert [row[0] for row in table.rows] == ["1", "8", "64"]
    assert not [head for head in table.head if head.startswith(("TTFT", "TPOT", "ITL", "send lag"))]
    assert [row[table.head.index("failed")] for row in table.rows] == ["15.0 % (3 of 20)", "0", "–"]
    assert "failed" not in table.optional
    assert table.rows[0][table.head.index("E2E p99")] == "650.0 ms (largest of 20)"
    assert table.rows[2][1:] == ("–",) * (len(table.head) - 2) + ("failed: ServerOutOfMemory",)


def test_a_dash_is_not_a_measured_zero(build: Any) -> None:
    results = [build.result(build.trial(1), ttft_s=None), build.result(build.trial(2), requests_per_s=0.0)]
    table = full_table(results)
    assert table.rows[0][table.head.index("TTFT p50")] == "–"
    assert table.rows[1][table.head.index("requests/s")] == "0"


def test_what_was_not_measured_is_listed_with_the_reason(build: Any) -> None:
    results = [build.result(build.trial(1), ttft_s=None), build.result(build.trial(2))]
    table = unmeasured(results)
    assert table is not None
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["TTFT p50"] == ("1 of 2", "needs token arrival times: stream the replies")
    assert rows["send lag p99"][0] == "2 of 2"
    assert "E2E p50" not in rows
    assert unmeasured([]) is None


def test_conditions_name_every_axis(build: Any) -> None:
    trial = build.trial(8, 128, 64, tp=2)
    assert conditions(trial).items() >= {
        "framework": "hf", "engine": "generate", "model": "llama-13b", "tp": 2, "batch": 8, "input tokens": 128,
        "output tokens": 64, "mode": "static",
    }.items()  # fmt: skip
    assert conditions(build.endpoint_trial())["endpoint"] == "http://127.0.0.1:8000"
    assert varying([trial, build.trial(8, 128, 64, tp=4)]) == ["tp"]
    assert varying([trial]) == []
    assert describe(build.trial(8, repeat=1), ["batch", "tp"]) == "batch 8, tp 1, repeat 2"


def test_framework_options_are_axes_too(build: Any) -> None:
    one = build.trial()
    assert one.server is not None
    other = replace(
        one, id="x", server=replace(one.server, options={"engine": "generate", "attention": "eager"})
    )
    assert varying([one, other]) == ["attention"]


def test_what_all_share_is_told_once(build: Any) -> None:
    words = fixed_words([build.trial(1), build.trial(8)])
    assert "model llama-13b" in words
    assert "batch" not in words
    assert fixed_words([]) == ""


def test_columns_of_figures_are_known() -> None:
    assert holds_figures(["1.0 s", "", "–", "failed: X", "not run", "2 s !client"])
    assert not holds_figures(["hf", "1"])
    assert holds_figures(["4.0 ms (3 of 4 failed) (up to 12 % of requests failed) !client"])
    assert not holds_figures(["2 of 200 streamed replies came in one piece"]), (
        "a sentence is not set to the right"
    )

"""Pairs of servers by their starts' capacities: a difference must stand among all that were looked at."""

from __future__ import annotations

from collections.abc import Sequence

from loadgen.load_records import LoadSpec
from loadgen.records import Trial
from loadgen.report.capacity_found import Found
from loadgen.report.capacity_pairs import pairs_table, server_lines
from loadgen.search_records import Capacity, CapacitySearch


def starts(name: str, found: Sequence[float]) -> list[Found]:
    load = LoadSpec(kind="poisson", input_tokens=8, output_tokens=4)
    point = Trial(id="", load=load, url=f"http://{name}", model_name=name)
    return [
        Found(
            capacity=Capacity(
                search=CapacitySearch(point=point), environment="e", ended="found",
                capacity=each, low=each / 1.01, high=each * 1.01,
            ),
            trials=(), server=name, engine="one class", start=at,
        )
        for at, each in enumerate(found)
    ]  # fmt: skip


def test_a_difference_stands_among_all_pairs_or_is_not_told() -> None:
    """Of two servers alone these are told apart; of four, six pairs were looked at."""
    fast, slow = starts("fast", [10.4, 11.2, 10.8]), starts("slow", [9.6, 10.0, 9.8])
    alone = pairs_table([*fast, *slow])
    assert alone is not None
    assert "not told" not in alone.rows[0][-1]
    others = [*starts("third", [10.1, 10.5, 10.3]), *starts("fourth", [10.2, 10.6, 10.4])]
    every = pairs_table([*fast, *slow, *others])
    assert every is not None
    assert len(every.rows) == 6
    (row,) = (row for row in every.rows if "fast" in row[0] and "slow" in row[1])
    assert row[-1] == f"{alone.rows[0][-1]}: not told apart"
    assert not [name for name, _ in server_lines([*fast, *slow, *others]) if " against " in name]
    assert [name for name, _ in server_lines([*fast, *slow]) if " against " in name]

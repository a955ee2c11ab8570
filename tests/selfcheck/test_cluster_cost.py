"""What a cluster of clients costs, as it is told; measured on a real one in tests/load/test_nodes.py."""

from __future__ import annotations

import pytest

from loadgen.load_records import LoadSpec
from loadgen.records import ClientNode, ClientQuality
from loadgen.selfcheck.cluster_cost import Cost, counts, part_of, table
from loadgen.selfcheck.replay import Replay
from loadgen.selfcheck.timing_errors import Errors

LOAD = LoadSpec(
    kind="ramp", input_tokens=8, output_tokens=5, rate=90.0, rate_end=30.0, requests=60, warmup=6, nodes=3
)


def cost(nodes: int, *, known: bool = True) -> Cost:
    hosts = tuple(
        ClientNode(
            address=f"h{n}",
            workers=2,
            bound_s=(n + 1) * 1e-6,
            drift_ppm=0.0,
            began_s=n * 1e-3 if known else None,
        )
        for n in range(nodes)
    )
    quality = ClientQuality(
        driver="openai-raw",
        stamps="kernel",
        cpu_s=0.03 if known else None,
        rss_bytes=nodes * 2**20 if known else None,
        nodes=hosts,
    )
    replay = Replay(
        load=part_of(LOAD, nodes, 3),
        requests=20 * nodes,
        tokens=100 * nodes,
        failed={} if known else {"TimedOut: total": 2},
        errors=Errors(ttft_s=None, itl_s=None, e2e_s=None, late_s=None),
        rate_share=1.0,
        server_share=1.0,
        quality=quality,
        took_s=2.0,
    )
    return Cost(
        nodes=nodes,
        workers=2,
        replay=replay,
        actors_up_s=1.5,
        workers_up_s=2.5,
        actor_cpu_s=tuple(0.1 * (n + 1) for n in range(nodes)),
        actor_rss_bytes=(2**20,) * nodes,
    )


@pytest.mark.parametrize(
    ("most", "found"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (5, [1, 2, 4, 5])]
)
def test_numbers_of_nodes_double_up_to_all(most: int, found: list[int]) -> None:
    assert counts(most) == found


def test_a_node_has_as_much_to_do_whatever_their_number() -> None:
    two = part_of(LOAD, 2, 3)
    assert (two.nodes, two.rate, two.rate_end, two.requests, two.warmup) == (2, 60.0, 20.0, 40, 4)
    assert part_of(LOAD, 3, 3) == LOAD
    closed = LoadSpec(
        kind="closed", input_tokens=8, output_tokens=5, concurrency=12, requests=24, max_rate=6.0
    )
    one = part_of(closed, 1, 4)
    assert (one.concurrency, one.requests, one.max_rate, one.rate) == (3, 6, 1.5, None)
    trace = LoadSpec(kind="trace", input_tokens=8, output_tokens=5, trace="t", requests=24)
    assert part_of(trace, 1, 4) == trace


def test_the_table_has_a_column_for_each_number_of_nodes() -> None:
    shown = table([cost(1), cost(3), cost(2, known=False)])
    assert shown.head == ("figure", "1 node", "3 nodes", "2 nodes")
    rows = {row[0]: row[1:] for row in shown.rows}
    assert rows["load"] == ("ramp at 30 requests/s", "ramp at 90 requests/s", "ramp at 60 requests/s")
    assert rows["load generator processes"] == ("1 × 2", "3 × 2", "2 × 2")
    assert rows["failed"] == ("0", "0", "2")
    assert rows["requests/s"] == ("10", "30", "20")
    assert rows["tokens/s"] == ("50", "150", "100")
    assert rows["CPU per token"] == ("300.0 µs", "100.0 µs", "–")
    assert rows["CPU of a node's actor, at most"] == ("100.0 ms", "300.0 ms", "200.0 ms")
    assert rows["clock bound"] == ("1.0 µs", "3.0 µs", "2.0 µs")
    assert rows["start skew"] == ("0.0 µs", "2.00 ms", "–")
    assert rows["start-up of actors"] == ("1.50 s",) * 3
    assert rows["memory of a node"] == ("2.0 MiB", "2.0 MiB", "–")

from __future__ import annotations

from loadgen.servers._null.queue import Queue

MS = 1_000_000


def queue(slots: int = 2) -> Queue[str]:
    return Queue(slots=slots, step_ns=10 * MS, sequence_ns=MS, prompt_ns=2 * MS)


def steps(of: Queue[str]) -> list[tuple[int, list[str], list[str]]]:
    found = []
    while of.ends_ns is not None:
        at = of.ends_ns // MS
        found.append((at, *of.end_step()))
    return found


def test_a_request_alone_takes_its_steps() -> None:
    alone = queue()
    alone.add("a", 100 * MS, tokens=3, prompt_tokens=5)
    # 10 + 1 a step, and 5 × 2 in the first for the prompt
    assert steps(alone) == [(121, ["a"], []), (132, [], []), (143, [], ["a"])]


def test_requests_wait_for_a_slot_in_order_and_join_at_a_step() -> None:
    two = queue()
    two.add("a", 0, tokens=1, prompt_tokens=0)
    two.add("b", 1 * MS, tokens=2, prompt_tokens=0)
    two.add("c", 2 * MS, tokens=1, prompt_tokens=0)
    two.add("d", 3 * MS, tokens=1, prompt_tokens=0)
    assert steps(two) == [
        (11, ["a"], ["a"]),  # alone: the others came after the step had begun
        (23, ["b", "c"], ["c"]),
        (35, ["d"], ["b", "d"]),
    ]


def test_a_batch_waits_for_all_its_slots() -> None:
    two = queue()
    two.add("a", 0, tokens=2, prompt_tokens=0)
    two.add("pair", 0, tokens=1, prompt_tokens=0, sequences=2)
    two.add("c", 0, tokens=1, prompt_tokens=0)
    assert [started for _, started, _ in steps(two)] == [["a"], [], ["pair"], ["c"]]


def test_a_full_queue_serves_as_many_as_its_costs_say() -> None:
    full = Queue[int](slots=4, step_ns=10 * MS, sequence_ns=MS, prompt_ns=MS // 10)
    for key in range(400):
        full.add(key, 0, tokens=5, prompt_tokens=20)
    last = 0
    while full.ends_ns is not None:
        last = full.ends_ns
        full.end_step()
    # slots / (n · (step + slots · sequence) + slots · p · prompt), as servers/null.py says; the ends are partly empty
    per_s = 4 / (5 * (0.010 + 4 * 0.001) + 4 * 20 * 0.0001)
    assert abs(400 / (last / 1e9) / per_s - 1) < 0.02

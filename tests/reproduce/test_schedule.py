"""Parts side by side: who runs when, on which share of the machine."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from loadgen.reproduce.schedule import Job, Schedule, Slot, cluster_slots, forecast, slots


def job(id_: str, gpus: int, *, folder: str = "", tier: str = "", takes_s: float = 1.0) -> Job:
    return Job(id=id_, folder=folder or id_, gpus=gpus, tier=tier, estimate_s=takes_s)


def schedule(gpus: int, *jobs: Job, alone: bool = False) -> Schedule:
    return Schedule(slots=slots(range(gpus), range(16)), waiting=list(jobs), alone=alone)


def begun(machine: Schedule) -> list[str]:
    return [run.job.id for run in machine.start()]


def test_a_gpu_has_an_equal_contiguous_share_of_the_cores() -> None:
    assert slots((0, 2), (4, 5, 6, 7, 8)) == (Slot(gpu=0, cores=(4, 5)), Slot(gpu=2, cores=(6, 7)))


def test_without_gpus_there_are_as_many_shares_as_jobs_or_cores() -> None:
    assert [slot.cores for slot in slots((), (0, 1, 2, 3), cpu_jobs=2)] == [(0, 1), (2, 3)]
    assert [slot.cores for slot in slots((), (0, 1), cpu_jobs=5)] == [(0,), (1,)]


def test_fewer_cores_than_gpus_are_shared_by_all() -> None:
    assert {slot.cores for slot in slots((0, 1, 2), (0, 1))} == {(0, 1)}


def test_first_fit_in_listed_order() -> None:
    machine = schedule(4, job("a", 1), job("b", 4), job("c", 2), job("d", 1), job("e", 1))
    assert begun(machine) == ["a", "c", "d"]
    a, c, d = machine.running
    assert (a.gpus, c.gpus, d.gpus) == ((0,), (1, 2), (3,))
    assert (a.cores, c.cores) == (tuple(range(4)), tuple(range(4, 12)))
    machine.end(a)
    assert begun(machine) == ["e"]


def test_a_later_tier_never_overtakes_an_earlier_one() -> None:
    machine = schedule(4, job("a", 1, tier="core"), job("wide", 4, tier="core"), job("z", 1, tier="full"))
    assert begun(machine) == ["a"]
    machine.end(machine.running[0])
    assert begun(machine) == ["wide"]
    machine.end(machine.running[0])
    assert begun(machine) == ["z"]


def test_two_parts_of_one_folder_never_run_at_once() -> None:
    machine = schedule(2, job("core/x", 1, folder="x"), job("full/x", 1, folder="x"))
    assert begun(machine) == ["core/x"]
    machine.end(machine.running[0])
    assert begun(machine) == ["full/x"]


def test_alone_means_one_at_a_time_with_all_cores() -> None:
    machine = schedule(4, job("a", 1), job("b", 2), alone=True)
    (run,) = machine.start()
    assert (run.gpus, len(run.cores)) == ((0,), 16)
    machine.end(run)
    (run,) = machine.start()
    assert run.gpus == (0, 1)


def test_a_job_for_the_cpu_takes_a_share_and_no_gpu() -> None:
    machine = schedule(2, job("cpu", 0), job("gpu", 1))
    cpu, gpu = machine.start()
    assert (cpu.gpus, gpu.gpus) == ((), (1,))
    assert not set(cpu.cores) & set(gpu.cores)


def test_the_forecast_packs_by_time() -> None:
    plan = forecast(schedule(2, job("a", 1, takes_s=10), job("b", 1, takes_s=4), job("c", 2, takes_s=1)))
    assert [(run.job.id, from_s, to_s) for run, from_s, to_s in plan] == [
        ("a", 0, 10),
        ("b", 0, 4),
        ("c", 10, 11),
    ]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.floats(0, 100)), max_size=12))
def test_every_job_runs_once_and_no_two_share_anything(given_: list[tuple[int, int, float]]) -> None:
    jobs = [
        job(str(i), gpus, folder=f"folder{folder}", takes_s=takes_s)
        for i, (gpus, folder, takes_s) in enumerate(given_)
    ]
    plan = list(forecast(schedule(4, *jobs)))
    assert sorted(run.job.id for run, _, _ in plan) == sorted(job.id for job in jobs)
    for (one, from_a, to_a), (other, from_b, to_b) in itertools.combinations(plan, 2):
        if from_a < to_b and from_b < to_a:
            assert not set(one.cores) & set(other.cores)
            assert not set(one.gpus) & set(other.gpus)
            assert one.job.folder != other.job.folder


def test_a_cluster_has_a_slot_for_each_gpu_or_node() -> None:
    assert len(set(cluster_slots(4, 2))) == 4
    assert len(set(cluster_slots(0, 2))) == 2
    jobs = [job(name, 0) for name in "abc"]
    assert len(Schedule(slots=cluster_slots(0, 2), waiting=jobs).start()) == 2

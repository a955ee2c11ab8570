"""Which parts of a reproduction run side by side, on which GPUs and cores. Pure.

A machine is cut into equal slots, one for each GPU: that GPU, and an equal contiguous share of the CPU cores. A part
takes as many slots as it needs GPUs, and has them to itself.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A share of the machine. ``gpu`` is ``None`` on a machine without GPUs."""

    gpu: int | None
    cores: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is to run. Jobs of one ``folder`` never run at the same time. No job starts before all of an earlier
    ``tier`` have started: a wide job would wait for ever behind narrow ones of less worth."""

    id: str
    folder: str
    gpus: int
    tier: str = ""
    estimate_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A job with its share of the machine."""

    job: Job
    slots: tuple[Slot, ...]

    @property
    def gpus(self) -> tuple[int, ...]:
        """Devices of the job: none for one that runs on the CPU, which keeps its slots' GPUs idle."""
        return tuple(slot.gpu for slot in self.slots if slot.gpu is not None)[: self.job.gpus]

    @property
    def cores(self) -> tuple[int, ...]:
        """CPUs of all slots, to which the job is confined."""
        return tuple(core for slot in self.slots for core in slot.cores)


def slots(gpus: Sequence[int], cores: Sequence[int], cpu_jobs: int = 1) -> tuple[Slot, ...]:
    """The machine in equal shares; without GPUs, one for each of ``cpu_jobs`` as far as there are cores."""
    count = len(gpus) or max(1, min(len(cores), cpu_jobs))
    share = len(cores) // count
    if share == 0:  # fewer cores than GPUs: nothing to divide
        return tuple(Slot(gpu=gpu, cores=tuple(cores)) for gpu in gpus)
    shares = [tuple(cores[i * share : (i + 1) * share]) for i in range(count)]
    devices: Sequence[int | None] = gpus or [None] * count
    return tuple(Slot(gpu=gpu, cores=own) for gpu, own in zip(devices, shares, strict=True))


def cluster_slots(gpus: int, nodes: int) -> tuple[Slot, ...]:
    """A cluster's GPUs, whichever they are, or its nodes where it has none: Ray places what runs on them."""
    if gpus:
        return tuple(Slot(gpu=gpu, cores=()) for gpu in range(gpus))
    return tuple(Slot(gpu=None, cores=(node,)) for node in range(nodes))


@dataclass(slots=True, kw_only=True)
class Schedule:
    """Hands out slots to jobs, first fit in listed order. ``alone``: one job at a time, with all cores."""

    slots: tuple[Slot, ...]
    waiting: list[Job]
    alone: bool = False
    running: list[Run] = field(default_factory=list, init=False)

    def start(self) -> list[Run]:
        """The runs that can begin now, marked as running."""
        begun: list[Run] = []
        while (run := self._next()) is not None:
            self.waiting.remove(run.job)
            self.running.append(run)
            begun.append(run)
        return begun

    def end(self, run: Run) -> None:
        """Give a run's slots back."""
        self.running.remove(run)

    def _next(self) -> Run | None:
        busy = {slot for run in self.running for slot in run.slots}
        free = [slot for slot in self.slots if slot not in busy]
        held = {run.job.folder for run in self.running}
        for job in (job for job in self.waiting if job.tier == self.waiting[0].tier):
            need = max(1, job.gpus)
            if job.folder not in held and need <= len(free) and not (self.alone and self.running):
                return Run(job=job, slots=self.slots if self.alone else tuple(free[:need]))
        return None


def forecast(schedule: Schedule) -> Iterator[tuple[Run, float, float]]:
    """Each run with the seconds at which it would begin and end if every job took as long as estimated."""
    ends: list[tuple[float, int, Run]] = []
    now_s, number = 0.0, 0
    while True:
        for run in schedule.start():
            number += 1
            heapq.heappush(ends, (now_s + run.job.estimate_s, number, run))
            yield run, now_s, now_s + run.job.estimate_s
        if not ends:
            return
        now_s, _, run = heapq.heappop(ends)
        schedule.end(run)

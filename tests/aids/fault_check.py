"""What a fault has cost a sweep: trials lost or doubled, processes and files left, what was said, how it ended."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import orjson
import psutil
from fault_list import Hit

from loadgen.results.store import open_results, read_samples

GRACE_S = 45  # more than any guard gives its server to drain before it kills it


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the checker found; all but ``code`` and ``hung`` are to be empty or 0."""

    code: int | None
    hung: bool
    lost: int
    double: int
    orphans: int
    leftovers: tuple[str, ...]
    tracebacks: int
    unsaid: str
    wrong_code: bool
    resume: str

    @property
    def faults(self) -> list[str]:
        """In words what is wrong; empty when all is right."""
        found = {
            "hung": self.hung, "lost": self.lost, "double": self.double, "orphans": self.orphans,
            "leftovers": list(self.leftovers), "tracebacks": self.tracebacks, "unsaid": self.unsaid,
            "exit code": f"{self.code} is not right" if self.wrong_code else "", "resume": self.resume,
        }  # fmt: skip
        return [f"{name}: {value}" for name, value in found.items() if value]


def living(hit: Hit) -> int:
    _gone, alive = psutil.wait_procs(hit.family(), timeout=GRACE_S)
    return sum(process.status() != psutil.STATUS_ZOMBIE for process in alive)


def meant_to_stay(path: Path) -> bool:
    """Results that the sweep put there because their folder failed it, and said so; torch's own cache of compiled code,
    which its next process uses again."""
    return path.name.startswith(("loadgen-rescued-", "torchinductor_"))


def double(folder: Path, *, failed: bool = True) -> int:
    """Results of one trial beyond the first; with ``failed`` false, served ones alone: a failed one may be tried again."""
    if not (folder / "trials.jsonl").exists():
        return 0
    lines = [orjson.loads(line) for line in (folder / "trials.jsonl").read_bytes().splitlines()]
    counts = Counter(line["trial"]["id"] for line in lines if failed or line["failure"] is None)
    return sum(count - 1 for count in counts.values())


def lost(folder: Path) -> int:
    """Trials of the plan without a result, or without whole samples, once all was mended."""
    if not (folder / "sweep.json").exists():
        return 2  # all of them
    results = open_results(folder)
    whole = 0
    for result in results.results():
        samples = list(read_samples(results.samples_path(result.trial.id)))
        planned = result.trial.load.requests + result.trial.load.warmup
        whole += result.failure is None and len(samples) == planned
    return len(results.sweep["plan"]) - whole

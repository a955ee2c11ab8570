"""Two results folders, trial by trial: was the work the same, what differs beyond the noise, what changed around it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from loadgen.analysis.analyse import analyse_rows
from loadgen.analysis.finding import Rules, server_text
from loadgen.analysis.same_work import Work, same_work
from loadgen.analysis.study import Cell, Ratio, Study, mean_quotient, quotient
from loadgen.analysis.table import METRICS, Key, Source, read
from loadgen.engine_facts import weights_of
from loadgen.errors import BadInput
from loadgen.records import DEFINITIONS, TrialResult
from loadgen.results.store import open_results

Gated = Literal["passes", "fails", "inside the noise", "not measured"]
GATE = re.compile(r"^\s*(?P<metric>\w+?)(?:_p50)?\s*(?P<sign><=|>=)\s*(?P<percent>[+-]?[0-9.]+)\s*%\s*$")
SHORT = {name.removesuffix("_s"): name for name in METRICS} | {"tok_s": "output_tokens_per_s"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What a difference may be: ``e2e_p50 <= +3%`` reads "B at most 3 % above A"."""

    text: str
    metric: str
    at_most: bool
    percent: float

    @property
    def level(self) -> float:
        """The ratio B / A that the gate allows: 1.03 for 3 %."""
        return 1 + self.percent / 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One cell in both folders; ratios are B / A by metric."""

    a: Cell
    b: Cell
    work: Work
    ratios: dict[str, Ratio]
    gates: dict[str, Gated]

    @property
    def text(self) -> str:
        """Servers, load and lengths in one line."""
        a, b = server_text(self.a.key), server_text(self.b.key)
        key = self.a.key
        name = a if a == b else f"{a} → {b}"
        lossy = any(row.failed_share for row in (*self.a.rows, *self.b.rows))
        served = ", of the served ones" if lossy else ""
        return f"{name}, {key.kind} batch {key.batch}, {key.input_tokens}/{key.output_tokens}{served}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """``overall`` holds the geometric mean of B / A over the pairs of the same data, by metric.

    ``changed`` maps what differs in the environments to (A, B). ``unpaired`` cells have no partner.
    """

    a: str
    b: str
    pairs: tuple[Pair, ...]
    overall: dict[str, Ratio]
    unpaired: tuple[str, ...]
    excluded: tuple[str, ...]
    changed: dict[str, tuple[str, str]]
    gates: tuple[Gate, ...]

    @property
    def failed(self) -> bool:
        """A gate failed beyond the noise, in the mean or in a cell; or nothing could be gated at all."""
        verdicts = [verdict for pair in self.pairs for verdict in pair.gates.values()]
        measured = [verdict for verdict in verdicts if verdict != "not measured"]
        return "fails" in verdicts or (bool(self.gates) and not measured)

    @property
    def exit_code(self) -> int:
        """1 when a gate failed, else 0."""
        return 1 if self.failed else 0


def parse_gate(text: str) -> Gate:
    """Raises BadInput for a gate that cannot be read."""
    match = GATE.match(text)
    metric = SHORT.get(match["metric"], match["metric"]) if match else ""
    if match is None or metric not in METRICS:
        accepted = ", ".join(sorted(SHORT))
        raise BadInput(
            f"--gate {text!r}: cannot be read (accepted: METRIC <= +3%, METRIC >= -5%; METRIC: {accepted})"
        )
    return Gate(
        text=text.strip(), metric=metric, at_most=match["sign"] == "<=", percent=float(match["percent"])
    )


def compare(
    a: str | Path, b: str | Path, gates: Sequence[str] = (), *, with_failures: bool = False
) -> Comparison:
    """A against B, paired by trial; ``with_failures`` lets trials speak that lost requests.

    Raises StoreError for a folder that is none, BadInput when nothing pairs up.
    """
    parsed = tuple(parse_gate(text) for text in gates)
    left, right = (read(open_results(folder)) for folder in (a, b))
    studies, excluded = [], []
    for side in (left, right):
        analysis = analyse_rows([side], Rules(with_failures=with_failures))
        studies.append(analysis.study)
        excluded += [f"{side.name}: {reason}" for reason in analysis.excluded.values()]
    pairs, unpaired = _pair(studies[0], studies[1])
    if not pairs:
        raise BadInput(f"{a} and {b} have no cell of equal load in common: nothing can be compared")
    metrics = [metric for metric in METRICS if any(cell.values(metric) for pair in pairs for cell in pair)]
    found = []
    for one, other in pairs:
        ratios = {}
        for metric in metrics:
            ratio = quotient(studies[1].estimate(other, metric), studies[0].estimate(one, metric))
            if ratio is not None:
                ratios[metric] = ratio
        work = same_work(one, other)
        told = ratios if work.comparable else {}
        judged = {gate.text: judge(gate, told.get(gate.metric)) for gate in parsed}
        found.append(Pair(a=one, b=other, work=work, ratios=ratios, gates=judged))
    comparable = [(pair.a, pair.b) for pair in found if pair.work.comparable]
    return Comparison(
        a=left.name,
        b=right.name if right.name != left.name else str(b),
        pairs=tuple(found),
        overall=overall(studies[0], studies[1], comparable, metrics),
        unpaired=tuple(unpaired),
        excluded=tuple(dict.fromkeys(excluded)),
        changed=changes(left, right),
        gates=parsed,
    )


def overall(
    left: Study, right: Study, pairs: Sequence[tuple[Cell, Cell]], metrics: Sequence[str]
) -> dict[str, Ratio]:
    """The geometric mean of B / A over all pairs that have the figure."""
    found = {}
    for metric in metrics:
        both = [(right.estimate(b, metric), left.estimate(a, metric)) for a, b in pairs]
        known = [(top, bottom) for top, bottom in both if top is not None and bottom is not None]
        if known:
            found[metric] = mean_quotient(known)
    return found


def _pair(left: Study, right: Study) -> tuple[list[tuple[Cell, Cell]], list[str]]:
    """Cells of equal keys; where a side has none, cells of equal load on as many GPUs, when there is just one such."""
    pairs = [(left.cells[key], right.cells[key]) for key in left.cells if key in right.cells]
    paired = {key for one, other in pairs for key in (one.key, other.key)}
    by_load: dict[tuple[Key, int], list[Cell]] = defaultdict(list)
    for key, cell in right.cells.items():
        if key not in paired:
            by_load[_load(key)].append(cell)
    unpaired = []
    for key, cell in left.cells.items():
        if key in paired:
            continue
        partners = by_load.get(_load(key), [])
        if len(partners) == 1:
            pairs.append((cell, partners.pop()))
        else:
            why = "no partner" if not partners else f"{len(partners)} possible partners"
            unpaired.append(
                f"A: {server_text(key)} batch {key.batch} {key.input_tokens}/{key.output_tokens}: {why}"
            )
    left_over = [cell for cells in by_load.values() for cell in cells]
    unpaired += [
        f"B: {server_text(key)} batch {key.batch} {key.input_tokens}/{key.output_tokens}: no partner"
        for key in (cell.key for cell in left_over)
    ]
    return pairs, unpaired


def _load(key: Key) -> tuple[Key, int]:
    blank = replace(key, machine="", label="", dtype="", tp=-1, pp=-1, variant="", stream=False)
    return blank, key.gpus


def judge(gate: Gate, ratio: Ratio | None) -> Gated:
    """A gate fails when the whole interval lies beyond it; without an interval, when the figure does."""
    if ratio is None:
        return "not measured"
    low, high = (
        (ratio.value, ratio.value) if ratio.low is None or ratio.high is None else (ratio.low, ratio.high)
    )
    if gate.at_most:
        return "passes" if ratio.value <= gate.level else "fails" if low > gate.level else "inside the noise"
    return "passes" if ratio.value >= gate.level else "fails" if high < gate.level else "inside the noise"


def changes(left: Source, right: Source) -> dict[str, tuple[str, str]]:
    """What differs between where the two ran, engines' own versions included."""
    facts = [_facts(side) for side in (left, right)]
    names = dict.fromkeys([*facts[0], *facts[1]])
    found = {name: (facts[0].get(name, "–"), facts[1].get(name, "–")) for name in names}
    return {name: (one, other) for name, (one, other) in found.items() if one != other}


def _facts(source: Source) -> dict[str, str]:
    values: dict[str, set[str]] = defaultdict(set)
    for row in source.rows:
        environment = row.environment
        if environment is not None:
            for name in ("host", "os", "cpu", "cpus", "driver", "cuda", "commit"):
                values[name].add(str(getattr(environment, name)))
            values["gpus"].add(", ".join(str(gpu.get("name")) for gpu in environment.gpus) or "none")
            for name, version in environment.packages.items():
                values[f"version of {name}"].add(version)
        if row.summary is not None:
            older = row.summary.definitions < DEFINITIONS
            values["percentiles"].add("interpolated" if older else "nearest ranks")
        versions = row.result.engine.get("versions")
        for name, version in versions.items() if isinstance(versions, dict) else ():
            values[f"{row.key.framework}'s {name}"].add(str(version))
        for name, told in _engine_facts(row.result):
            values[f"{row.key.framework}'s {name}"].add(told)
    return {name: " / ".join(sorted(found)) for name, found in values.items()}


def _engine_facts(result: TrialResult) -> Iterator[tuple[str, str]]:
    """What decides an engine's figures beside its versions: its library, how it was started, on which cores."""
    engine, cores = result.engine, result.cores
    if (weights := weights_of(engine, result.trial.server)) is not None:
        yield "weights", weights.text
    for name in ("server", "variant", "stream_step", "launcher"):
        if name in engine:
            yield name, str(engine[name])
    library = engine.get("library")
    for file, hashed in library.items() if isinstance(library, dict) else ():
        yield f"{file}, SHA-256", str(hashed)
    if cores is not None:
        quota = "" if cores.limit_cores is None else f", at most {cores.limit_cores:g} at a time"
        yield "cores", cores.affinity + quota

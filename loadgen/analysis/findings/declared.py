"""Findings that a profile declares for itself: a ratio or a value, and what is expected of it.

::

    [[finding]]
    id = "mine"
    claim = "fastgen is at least 1.5 times faster than transformers at batch 8"
    metric = "e2e_s"                                  # a metric of the results table
    over = { label = "hf/generate", batch = 8 }       # fields of a cell; the fields not named pair up
    under = { label = "ds/mii-fastgen", batch = 8 }   # leave it out to judge the figure itself
    expect = ">= 1.5"
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from loadgen.analysis.finding import Case, Finding, Number, Verdict, ratio_number, ratio_text
from loadgen.analysis.starts import Cell
from loadgen.analysis.study import Study
from loadgen.analysis.table import METRICS, Key
from loadgen.errors import ProfileError
from loadgen.units import show_number

FIELDS = tuple(field.name for field in fields(Key))
ACCEPTED = ("id", "claim", "metric", "over", "under", "expect")
EXPECT = re.compile(r"^\s*(<=|>=|<|>)\s*([0-9.eE+-]+)\s*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """A checked declaration."""

    id: str
    claim: str
    metric: str
    over: Mapping[str, Any]
    under: Mapping[str, Any] | None
    below: bool
    level: float


def parse(entries: Any, file: str = "profile") -> tuple[Declared, ...]:
    """The ``[[finding]]`` tables of a profile. Raises ProfileError for one that cannot be decided."""
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise ProfileError(file, "finding", entries, "must be an array of tables", "[[finding]]")
    return tuple(_parse(entry, f"finding[{at}]", file) for at, entry in enumerate(entries))


def _parse(entry: Any, where: str, file: str) -> Declared:
    if not isinstance(entry, Mapping):
        raise ProfileError(file, where, entry, "must be a table", ", ".join(ACCEPTED))
    for name in entry:
        if name not in ACCEPTED:
            raise ProfileError(file, f"{where}.{name}", None, "unknown key", ", ".join(ACCEPTED))
    for name in ("id", "claim", "metric", "expect"):
        if not isinstance(entry.get(name), str):
            raise ProfileError(file, f"{where}.{name}", entry.get(name), "must be text")
    if entry["metric"] not in METRICS:
        raise ProfileError(file, f"{where}.metric", entry["metric"], "unknown metric", ", ".join(METRICS))
    match = EXPECT.match(entry["expect"])
    level = _number(match[2]) if match else None
    if match is None or level is None:
        raise ProfileError(file, f"{where}.expect", entry["expect"], "not a comparison", "'<= 1.5', '> 0'")
    for side in ("over", "under"):
        chosen = entry.get(side)
        if chosen is None and side == "under":
            continue
        if not isinstance(chosen, Mapping):
            raise ProfileError(file, f"{where}.{side}", chosen, "must be a table", ", ".join(FIELDS))
        for name in chosen:
            if name not in FIELDS:
                raise ProfileError(file, f"{where}.{side}.{name}", None, "unknown field", ", ".join(FIELDS))
    return Declared(
        id=entry["id"],
        claim=entry["claim"],
        metric=entry["metric"],
        over=entry["over"],
        under=entry.get("under"),
        below=match[1].startswith("<"),
        level=level,
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def judge(case: Case, declared: Declared) -> Finding:
    """Holds or is refuted when the whole interval lies on one side of the level."""
    over = [cell for key, cell in case.study.cells.items() if _matches(key, declared.over)]
    number, low, high, cells = (
        _value(case.study, over, declared.metric)
        if declared.under is None
        else _ratio(case.study, over, declared)
    )
    sign = "at most" if declared.below else "at least"
    verdict: Verdict = "not tested"
    sentence = "No cells match, or they lack the figure."
    if number is not None:
        sentence = f"{number.text}; expected {sign} {declared.level:g}."
        if low is None or high is None:
            sentence += " Without repeats this cannot be decided."
        else:
            inside = high <= declared.level if declared.below else low >= declared.level
            outside = low > declared.level if declared.below else high < declared.level
            verdict = "holds" if inside else "refuted" if outside else "not tested"
            sentence += "" if verdict != "not tested" else " The difference is inside the noise."
    return Finding(
        id=declared.id,
        claim=declared.claim,
        subject="declared in the profile",
        verdict=verdict,
        sentence=sentence,
        numbers=() if number is None else (number,),
        cells=cells,
    )


def _matches(key: Key, chosen: Mapping[str, Any]) -> bool:
    return all(getattr(key, name) == value for name, value in chosen.items())


Judged = tuple[Number | None, float | None, float | None, tuple[Key, ...]]


def _ratio(study: Study, over: Sequence[Cell], declared: Declared) -> Judged:
    assert declared.under is not None
    free = {name: getattr(BLANK_KEY, name) for name in {*declared.over, *declared.under}}
    if "label" in free:
        free["variant"] = ""  # options belong to their framework and have no counterpart in another
    partners: dict[Key, list[Cell]] = defaultdict(list)
    for key, cell in study.cells.items():
        if _matches(key, declared.under):
            partners[replace(key, **free)].append(cell)
    pairs = [(cell, other) for cell in over for other in partners[replace(cell.key, **free)]]
    mean = study.mean_ratio(pairs, declared.metric)
    if mean is None:
        return None, None, None, ()
    cells = tuple(cell.key for pair in pairs for cell in pair)
    number = replace(ratio_number(declared.metric, mean), text=f"{ratio_text(mean)} over {len(pairs)} pairs")
    return number, mean.low, mean.high, cells


def _value(study: Study, cells: Sequence[Cell], metric: str) -> Judged:
    found = study.mean_figure(cells, metric)
    if found is None:
        return None, None, None, ()
    keys = tuple(cell.key for cell in cells if cell.values(metric))
    text = show_number(found.value)
    if found.low is not None and found.high is not None:
        text += f" [{show_number(found.low)}, {show_number(found.high)}] {METRICS[metric]}"
    number = Number(name=metric, text=text, value=found.value, low=found.low, high=found.high)
    return number, found.low, found.high, keys


BLANK_KEY = Key(
    machine="", label="", model="", dtype="", tp=-1, pp=-1, kind="", batch=-1, rate=-1.0, input_tokens=-1,
    output_tokens=-1, stream=False,
)  # fmt: skip

"""F8: the predicted ridge between bandwidth and compute against the measured one, for each split of the model."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from loadgen.analysis.finding import (
    CLAIMS,
    Case,
    Finding,
    Number,
    Verdict,
    Wanted,
    not_tested,
    split_text,
    subject_text,
    threshold_number,
)
from loadgen.analysis.ridge_fit import RISEN, Ridge, Scatter, fit
from loadgen.analysis.starts import Cell
from loadgen.analysis.study import Study
from loadgen.analysis.table import Key
from loadgen.analysis.within import Effects
from loadgen.records import ModelSpec
from loadgen.theory import physics
from loadgen.theory.ceilings import Ceilings, datasheet
from loadgen.units import show_s, show_share

MOST = 0.5  # of a plateau's time: what explains less does not set it
CACHE_BYTES = 256e6  # weights smaller than this may lie in a device's cache and beat its memory's bandwidth


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRidge:
    """A fitted ridge with the cells and the prefill times behind it."""

    ridge: Ridge
    cells: tuple[Cell, ...]
    tokens: tuple[int, ...]
    seconds: tuple[float, ...]


def ridges(study: Study) -> dict[Key, MeasuredRidge]:
    """By server: prefill time (TTFT, or E2E of one output token) of static batches against batch × input tokens.

    Cells of one size (batch 4 × 32 and 1 × 128) stay apart; the fit sees both.
    """
    groups: dict[Key, list[tuple[Cell, str]]] = defaultdict(list)
    for key, cell in study.cells.items():
        if key.kind != "static":
            continue
        metric = "ttft_s" if cell.values("ttft_s") else "e2e_s" if key.output_tokens == 1 else None
        if metric is not None:
            server = replace(key, batch=-1, input_tokens=-1, output_tokens=-1, stream=False)
            groups[server].append((cell, metric))
    found = {}
    for key, cells in groups.items():
        points: list[tuple[int, float, Cell]] = []
        told = []
        for metric in dict.fromkeys(metric for _, metric in cells):
            members = [cell for cell, measured in cells if measured == metric]
            levels = study.levels(members, metric)
            assert levels is not None
            told.append(levels)
            sizes = [cell.key.batch * cell.key.input_tokens for cell in members]
            points += zip(sizes, map(float, np.exp(levels.values)), members, strict=True)
        points.sort(key=lambda point: (point[0], point[2].key))
        tokens = [size for size, _, _ in points]
        seconds = [time for _, time, _ in points]
        model = points[0][2].rows[0].model
        fitted = fit(tokens, seconds, _scatter(told), _datasheet_read_s(key, model))
        if fitted is not None:
            found[key] = MeasuredRidge(
                ridge=fitted,
                cells=tuple(cell for _, _, cell in points),
                tokens=tuple(tokens),
                seconds=tuple(seconds),
            )
    return found


def _scatter(told: Sequence[Effects]) -> Scatter | None:
    """The variance of a size's log time between starts; ``None`` where start × cell is unknown."""
    known = [(each.variances, each.df) for each in told if each.variances is not None and each.df is not None]
    if len(known) < len(told):
        return None
    variances = np.concatenate([variances for variances, _ in known])
    return Scatter(variance=float(variances.mean()), freedom=min(df for _, df in known))


def _datasheet_read_s(key: Key, model: ModelSpec | None) -> float | None:
    """Seconds to read all weights once at the datasheet's bandwidth; stages of a pipeline read one after another."""
    sheet = datasheet(key.machine)
    if (
        sheet is None
        or model is None
        or (size := physics.read_bytes(model, key.dtype)) / key.gpus < CACHE_BYTES
    ):
        return None
    return size / (sheet.bandwidth * key.tp)


def f8(case: Case, subject: Key, study: Study) -> list[Finding]:
    """F8, decided for each split: the measured ridge against the one that bandwidth and compute give."""
    name = subject_text(subject)
    measured = ridges(study)
    if not measured:
        why = "Needs prefill times (streamed TTFT, or trials of one output token) of four or more sizes."
        return [not_tested("F8", name, why)]
    ceilings = case.ceilings.get(subject.machine)
    if ceilings is None:
        why = f"No ceilings are known for {subject.machine}: run `loadgen probe` on it."
        return [not_tested("F8", name, why)]
    found = [_of_split(case, key, each, name, ceilings) for key, each in measured.items()]
    decided = [each for each in found if each is not None]
    why = f"{ceilings.device} has no known matrix rate for {subject.dtype}."
    return decided or [not_tested("F8", name, why)]


def _of_split(case: Case, key: Key, found: MeasuredRidge, name: str, ceilings: Ceilings) -> Finding | None:
    model = found.cells[0].rows[0].model
    predicted = physics.ridge_tokens(model, key.dtype, ceilings, tp=key.tp) if model else None
    if model is None or predicted is None:
        return None
    fitted = found.ridge
    explained = _read_s(model, key, ceilings) / fitted.plateau_least_s
    span = f"{fitted.tokens:.0f} [{fitted.low:.0f}, {fitted.high:.0f}] tokens"
    place = span if fitted.resolved else f"not resolvable: {fitted.why}"
    verdict = _verdict(case, fitted, predicted, explained)
    parts = f"host at most {show_s(fitted.host_most_s)}, reading at least {show_s(fitted.read_least_s)}"
    cause = (
        parts if fitted.resolved else f"time passes {RISEN:g} × the smallest's {fitted.turn.text('tokens')}"
    )
    if verdict == "refuted" and explained < MOST:
        cause = f"reading at the ceiling explains at most {show_share(explained)} of the plateau"
    known = fitted.resolved
    numbers = (
        Number(name="predicted ridge", text=f"{predicted:.0f} tokens", value=predicted),
        Number(
            name="measured ridge",
            text=place,
            value=fitted.tokens if known else None,
            low=fitted.low if known else None,
            high=fitted.high if known else None,
        ),
        Number(name="host and reading", text=parts),
        Number(name="weight read over plateau, at most", text=show_share(explained), value=explained),
        threshold_number(f"time passes {RISEN:g} × that of the smallest size", fitted.turn, "tokens"),
    )
    return Finding(
        id="F8",
        claim=CLAIMS["F8"],
        subject=f"{name} · {split_text(key)}",
        verdict=verdict,
        sentence=f"Predicted {predicted:.0f} tokens ({ceilings.source}), measured {place}; {cause}.",
        numbers=numbers,
        cells=tuple(cell.key for cell in found.cells),
        wanted=() if known else tuple(_wanted(found)),
    )


def _verdict(case: Case, fitted: Ridge, predicted: float, explained: float) -> Verdict:
    """Refuted, too, where the plateau is the host's: wherever it turns, what lies below is not bandwidth's."""
    factor = case.rules.ridge_factor
    agrees = fitted.low <= predicted * factor and fitted.high >= predicted / factor
    if fitted.turn.state == "no interval":
        return "not tested"
    if fitted.read_share_most <= MOST:
        return "refuted"
    if fitted.resolved:
        return "holds" if agrees else "refuted"
    rises = math.isfinite(fitted.turn.high)
    return "refuted" if rises and explained < MOST else "not tested"


def _read_s(model: ModelSpec, key: Key, ceilings: Ceilings) -> float:
    """Seconds to read all weights once at the best rate that is known of this machine."""
    size, devices = physics.read_bytes(model, key.dtype), ceilings.devices(key.tp)
    return size / (ceilings.bandwidth_for(size / devices) * devices)


def _wanted(found: MeasuredRidge) -> Sequence[Wanted]:
    """Sizes that would show the missing side, as batches of the most common input length.

    As inputs of one sequence where larger batches have no prefill time of their own (an engine that mixes its calls).
    """
    why = f"measured ridge: {found.ridge.why}"
    if {cell.key.batch for cell in found.cells} == {1}:
        largest = max(found.cells, key=lambda cell: cell.key.input_tokens)
        model = largest.rows[0].model
        most = model.max_context - largest.key.output_tokens if model else max(found.ridge.add, default=0)
        sizes = {min(size, most) for size in found.ridge.add}
        inputs = sorted(
            size for size in sizes if not max(found.tokens) / RISEN < size < max(found.tokens) * RISEN
        )
        return [Wanted(key=replace(largest.key, input_tokens=size), why=why) for size in inputs]
    lengths = [cell.key.input_tokens for cell in found.cells]
    length = max(set(lengths), key=lengths.count)
    like = next(cell.key for cell in found.cells if cell.key.input_tokens == length)
    batches = sorted({max(1, round(size / length)) for size in found.ridge.add})
    return [Wanted(key=replace(like, batch=batch), why=why) for batch in batches]

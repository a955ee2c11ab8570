"""F8: the predicted ridge between bandwidth and compute against the measured one."""

from __future__ import annotations

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
    some,
    split_text,
    subject_text,
)
from loadgen.analysis.study import Cell, Study
from loadgen.analysis.table import Key
from loadgen.analysis.thresholds import RISEN, Ridge, ridge
from loadgen.theory import physics
from loadgen.units import show_s, show_share

MOST = 0.5  # of a plateau's time: what explains less does not set it


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
        points = [
            (cell.key.batch * cell.key.input_tokens, estimate, cell)
            for cell, metric in cells
            if (estimate := study.estimate(cell, metric)) is not None
        ]
        points.sort(key=lambda point: point[0])
        known = [estimate.draws for _, estimate, _ in points if estimate.draws is not None]
        draws = np.stack(known, axis=1) if points and len(known) == len(points) else None
        tokens = [size for size, _, _ in points]
        seconds = [estimate.value for _, estimate, _ in points]
        fitted = ridge(tokens, seconds, draws)
        if fitted is not None:
            found[key] = MeasuredRidge(
                ridge=fitted,
                cells=tuple(cell for _, _, cell in points),
                tokens=tuple(tokens),
                seconds=tuple(seconds),
            )
    return found


def f8(case: Case, subject: Key, study: Study) -> Finding:
    """F8: the measured ridge against the one that bandwidth and compute give."""
    name = subject_text(subject)
    measured = ridges(study)
    if not measured:
        return not_tested(
            "F8",
            name,
            "Needs prefill times (streamed TTFT, or trials of one output token) of four or more sizes.",
        )
    ceilings = case.ceilings.get(subject.machine)
    if ceilings is None:
        return not_tested(
            "F8", name, f"No ceilings are known for {subject.machine}: run `loadgen probe` on it.", ()
        )
    verdicts: list[Verdict] = []
    numbers: list[Number] = []
    cells: list[Key] = []
    wanted: list[Wanted] = []
    said: list[str] = []
    for key, found in measured.items():
        model = found.cells[0].rows[0].model
        predicted = physics.ridge_tokens(model, key.dtype, ceilings, tp=key.tp) if model else None
        if model is None or predicted is None:
            continue
        fitted = found.ridge
        place = split_text(key)
        numbers.append(
            Number(name=f"predicted ridge ({place})", text=f"{predicted:.0f} tokens", value=predicted)
        )
        text = f"{fitted.tokens:.0f} [{fitted.low:.0f}, {fitted.high:.0f}] tokens"
        text = text if fitted.resolved else f"not resolvable: {fitted.why}"
        numbers.append(
            Number(
                name=f"measured ridge ({place})",
                text=text,
                value=fitted.tokens if fitted.resolved else None,
                low=fitted.low if fitted.resolved else None,
                high=fitted.high if fitted.resolved else None,
            )
        )
        cells += [cell.key for cell in found.cells]
        read_s = physics.read_bytes(model, key.dtype) / (
            ceilings.bandwidth_for(physics.read_bytes(model, key.dtype) / ceilings.devices(key.tp))
            * ceilings.devices(key.tp)
        )
        seconds = fitted.plateau_s if fitted.resolved else fitted.fastest_plateau_s
        said.append(f"{place}: predicted {predicted:.0f} tokens, measured {text}")
        if seconds is not None:
            plateau = read_s / seconds
            cause = (
                "bandwidth sets it"
                if plateau >= MOST
                else "host and launches rather than bandwidth set most of it"
            )
            said[-1] += (
                f"; below it prefill takes {'' if fitted.resolved else 'at least '}{show_s(seconds)}, of which reading "
                f"the weights explains {show_share(plateau)} ({cause})"
            )
            numbers.append(
                Number(name=f"weight read over plateau ({place})", text=show_share(plateau), value=plateau)
            )
        factor = case.rules.ridge_factor
        agrees = fitted.low <= predicted * factor and fitted.high >= predicted / factor
        if seconds is not None and plateau < MOST:
            verdicts.append("refuted")  # wherever it turns, what lies below is not bandwidth's
        elif fitted.resolved:
            verdicts.append("holds" if agrees else "refuted")
        else:
            verdicts.append("not tested")
        if not fitted.resolved:
            wanted += _wanted(found)
    if not verdicts:
        return not_tested("F8", name, f"{ceilings.device} has no known matrix rate for {subject.dtype}.")
    return Finding(
        id="F8",
        claim=CLAIMS["F8"],
        subject=name,
        verdict=some(verdicts),
        sentence="; ".join(said) + f" ({ceilings.source} ceilings of {ceilings.device}).",
        numbers=tuple(numbers),
        cells=tuple(dict.fromkeys(cells)),
        wanted=tuple(wanted),
    )


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

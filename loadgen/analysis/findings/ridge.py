"""F8: the predicted ridge between bandwidth and compute against the measured one, for each split of the model."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from loadgen.analysis.finding import (
    CLAIMS,
    SHOWN,
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
from loadgen.analysis.findings.decisions import sentence
from loadgen.analysis.ridge_fit import RISEN, Ridge, Scatter, fit
from loadgen.analysis.starts import Cell
from loadgen.analysis.study import Study
from loadgen.analysis.table import Key
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
        scatters: list[Scatter | None] = []
        for metric in sorted({metric for _, metric in cells}):
            members = _joined([cell for cell, measured in cells if measured == metric], metric)
            levels = study.levels(members, metric) if members else None
            if levels is None:
                continue
            points += [
                (cell.key.batch * cell.key.input_tokens, math.exp(value), cell)
                for cell, value in zip(members, levels.values, strict=True)
            ]
            scatters.append(
                None
                if levels.variances is None or levels.df is None
                else Scatter(variance=float(levels.variances.mean()), freedom=levels.df)
            )
        points.sort(key=lambda point: (point[0], point[2].key))
        known = [scatter for scatter in scatters if scatter is not None]
        # Where a server has prefill times of two kinds, the larger noise serves both.
        scatter = (
            max(known, key=lambda each: each.variance) if known and len(known) == len(scatters) else None
        )
        tokens = [size for size, _, _ in points]
        seconds = [time for _, time, _ in points]
        model = points[0][2].rows[0].model if points else None
        fitted = fit(tokens, seconds, scatter, _datasheet_read_s(key, model))
        if fitted is not None:
            found[key] = MeasuredRidge(
                ridge=fitted,
                cells=tuple(cell for _, _, cell in points),
                tokens=tuple(tokens),
                seconds=tuple(seconds),
            )
    return found


def _joined(cells: Sequence[Cell], metric: str) -> list[Cell]:
    """The most cells of one server that a chain of starts joins: the level of others is another start's."""
    groups: dict[int, list[Cell]] = defaultdict(list)
    for cell in cells:
        if cell.starts(metric):
            server = cell.server
            groups[int(server.fit(metric).groups[server.cells[cell.key]])].append(cell)
    return max(groups.values(), key=len, default=[])


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
    read_s = _read_s(model, key, ceilings)
    # The plateau may be as low as nothing where sizes are few and scatter: then no share is bounded.
    explained = read_s / fitted.plateau_least_s if fitted.plateau_least_s > 0 else math.inf
    span = f"{fitted.tokens:.0f} [{fitted.low:.0f}, {fitted.high:.0f}] tokens"
    place = span if fitted.resolved else f"not resolvable: {fitted.why}"
    verdict, p = _verdict(case, fitted, predicted, read_s)
    parts = f"host ≤ {show_s(fitted.host_most_s)}, reading ≥ {show_s(fitted.read_least_s)}"
    turn = threshold_number(f"time passes {RISEN:g} × the smallest size's", fitted.turn, "tokens")
    cause = parts if fitted.resolved else f"{turn.name} {turn.text}"
    if verdict == "refuted" and explained < MOST:
        cause = f"reading at the ceiling explains at most {show_share(explained)} of the plateau"
    known = fitted.resolved
    ridge = Number(
        name="measured ridge",
        text=place,
        value=fitted.tokens if known else None,
        low=fitted.low if known else None,
        high=fitted.high if known else None,
    )
    numbers: tuple[Number, ...] = (
        ridge,
        Number(name="predicted ridge", text=f"{predicted:.0f} tokens", value=predicted),
        Number(name="host and reading", text=parts),
        turn,
    )
    if explained < math.inf:
        share = Number(name="weight read over plateau, at most", text=show_share(explained), value=explained)
        numbers = (*numbers[:-1], share, turn)
    return Finding(
        id="F8",
        claim=CLAIMS["F8"],
        subject=f"{name} · {split_text(key)}",
        verdict=verdict,
        sentence=sentence(f"Predicted {predicted:.0f} tokens a forward, measured {place}", cause),
        effect=ridge,
        at="prefill",
        p=p,
        numbers=numbers,
        cells=tuple(cell.key for cell in found.cells),
        wanted=() if known else tuple(_wanted(found)),
    )


def _verdict(case: Case, fitted: Ridge, predicted: float, read_s: float) -> tuple[Verdict, float | None]:
    """With the p-value of a refutation; that it holds is agreement within a factor, and no test.

    Refuted, too, where the plateau is the host's: wherever it turns, what lies below is not bandwidth's.
    """
    factor = case.rules.ridge_factor
    elsewhere = fitted.p_elsewhere(predicted / factor, predicted * factor)
    host = fitted.p_read_most()
    if host < SHOWN:
        return "refuted", host
    if fitted.resolved:
        return ("refuted", elsewhere) if elsewhere < SHOWN else ("holds", None)
    slow = fitted.p_plateau_short(read_s / MOST)
    rises = math.isfinite(fitted.turn.high)
    return ("refuted", slow) if rises and slow < SHOWN else ("not tested", None)


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

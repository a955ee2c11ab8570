"""Cells of two results folders that did the same load, and those that have no partner."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from loadgen.analysis.finding import server_text
from loadgen.analysis.starts import Cell
from loadgen.analysis.study import Study
from loadgen.analysis.table import Key


def paired(
    left: Study, right: Study, reasons: Mapping[tuple[Key, int], str]
) -> tuple[list[tuple[Cell, Cell]], list[str], list[str]]:
    """Cells of equal keys; where a side has none, cells of equal load on as many GPUs, when there is just one such.

    Beside them what has no partner, and the cells of A of which B has no usable trial; ``reasons`` say why B's load
    has none.
    """
    ours, theirs = left.cells, right.cells
    pairs = [(ours[key], theirs[key]) for key in ours if key in theirs]
    paired = {key for one, other in pairs for key in (one.key, other.key)}
    by_load: dict[tuple[Key, int], list[Cell]] = defaultdict(list)
    for key, cell in theirs.items():
        if key not in paired:
            by_load[load_of(key)].append(cell)
    unpaired, lost = [], []
    for key, cell in ours.items():
        if key in paired:
            continue
        partners = by_load.get(load_of(key), [])
        if len(partners) == 1:
            pairs.append((cell, partners.pop()))
            continue
        why = f"{len(partners)} possible partners" if partners else reasons.get(load_of(key)) or "no partner"
        unpaired.append(f"A: {cell_words(cell)}: {why}")
        lost.append(f"{cell_words(cell)}: {'missing in B' if why == 'no partner' else f'{why} in B'}")
    left_over = [cell for cells in by_load.values() for cell in cells]
    unpaired += [f"B: {cell_words(cell)}: no partner" for cell in left_over]
    return pairs, unpaired, lost


def cell_words(cell: Cell) -> str:
    """Server, load and lengths in one line."""
    key = cell.key
    return f"{server_text(key)} {key.load} {key.input_tokens}/{key.output_tokens}"


def load_of(key: Key) -> tuple[Key, int]:
    """What cells of two servers must have in common to be paired: the load, and as many GPUs."""
    blank = replace(key, machine="", label="", dtype="", tp=-1, pp=-1, variant="", stream=False)
    return blank, key.gpus

"""Cells of two results folders that did the same load, and those that have no partner."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

from loadgen.analysis.finding import server_text
from loadgen.analysis.starts import Cell
from loadgen.analysis.study import Study
from loadgen.analysis.table import Key


def paired(
    left: Study, right: Study, silent_a: Mapping[Key, str], silent_b: Mapping[Key, str]
) -> tuple[list[tuple[Cell, Cell]], list[str], list[str]]:
    """Cells of equal keys; where a side has none, cells of equal load on as many GPUs, when each side has just one.

    Beside them what has no partner, and the cells of A of which B has no usable trial. ``silent_a`` and ``silent_b``
    say why all trials of a key may not speak: its cell on the other side gets no other server's for a partner.
    """
    ours, theirs = left.cells, right.cells
    pairs = [(ours[key], theirs[key]) for key in ours if key in theirs]
    failed = [{_asked(key): why for key, why in silent.items()} for silent in (silent_a, silent_b)]
    by_load = [
        _by_load(cell for key, cell in mine.items() if key not in other and _asked(key) not in silent)
        for mine, other, silent in ((ours, theirs, failed[1]), (theirs, ours, failed[0]))
    ]
    of_load = {load_of(key): why for key, why in silent_b.items()}
    unpaired, lost = [], []
    for key, cell in ours.items():
        if key in theirs:
            continue
        own = failed[1].get(_asked(key))
        rivals, partners = ([] if own else side[load_of(key)] for side in by_load)
        if len(rivals) == len(partners) == 1:
            pairs.append((cell, partners.pop()))
            continue
        why = own or (f"{len(partners)} possible partners for {len(rivals)}" if partners else "")
        why = why or of_load.get(load_of(key)) or "no partner"
        unpaired.append(f"A: {cell_words(cell)}: {why}")
        lost.append(f"{cell_words(cell)}: {'missing in B' if why == 'no partner' else f'{why} in B'}")
    used = {other.key for _, other in pairs}
    for key, cell in theirs.items():
        if key not in used:
            own = failed[0].get(_asked(key))
            unpaired.append(f"B: {cell_words(cell)}: {f'{own} in A' if own else 'no partner'}")
    return pairs, unpaired, lost


def _by_load(cells: Iterable[Cell]) -> dict[tuple[Key, int], list[Cell]]:
    found: dict[tuple[Key, int], list[Cell]] = defaultdict(list)
    for cell in cells:
        found[load_of(cell.key)].append(cell)
    return found


def _asked(key: Key) -> Key:
    """The key as far as a server that never came up tells it: without its engine's own name, on any machine."""
    return replace(key, machine="", label=key.framework)


def cell_words(cell: Cell) -> str:
    """Server, load and lengths in one line."""
    return key_words(cell.key)


def key_words(key: Key) -> str:
    """The same of a key, which may have no cell."""
    return f"{server_text(key)} {key.load} {key.input_tokens}/{key.output_tokens}"


def load_of(key: Key) -> tuple[Key, int]:
    """What cells of two servers must have in common to be paired: the load, and as many GPUs."""
    blank = replace(key, machine="", label="", dtype="", tp=-1, pp=-1, variant="", stream=False)
    return blank, key.gpus

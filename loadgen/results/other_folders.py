"""What other results folders hold already, such as kept copies: a sweep need not measure it again."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from pathlib import Path

from loadgen.errors import BadInput
from loadgen.results.store import open_results


def folders(patterns: Iterable[str]) -> list[Path]:
    """The results folders that the patterns name: themselves, or those right in a folder that is none.

    Raises BadInput for a pattern that names none, StoreError for a folder that cannot be read.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        matches = [Path(match) for match in sorted(glob.glob(pattern))] or [Path(pattern)]
        named = [path for match in matches for path in (match, *sorted(match.glob("*")))]
        results = [path for path in named if (path / "sweep.json").exists()]
        if not results:
            raise BadInput(
                f"--have {pattern}: no results there (accepted: a results folder, a folder of some, or a glob)"
            )
        found |= dict.fromkeys(results)
    return list(found)


def held(patterns: Sequence[str], retry_failed: bool) -> frozenset[str]:
    """Ids of the trials stored there; with ``retry_failed`` without those that failed. Raises as ``folders`` does."""
    return frozenset(
        result.trial.id
        for folder in folders(patterns)
        for result in open_results(folder).results()
        if not (retry_failed and result.failure is not None)
    )

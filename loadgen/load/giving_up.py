"""Which requests of a load are cancelled: by their number and the load's seed alone, on any number of workers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from loadgen.load_records import LoadSpec
from loadgen.workload_records import Cancel

CHUNK = 4096
_SEED = 0x63616E63


class GivingUp:
    """Says of a request's number whether it is cancelled, and how."""

    def __init__(self, load: LoadSpec) -> None:
        self._cancel, self._seed = load.cancel, load.seed
        self._chunk = -1
        self._chosen: NDArray[np.bool_] = np.zeros(0, np.bool_)

    def of(self, number: int) -> Cancel | None:
        """How the request of this number is cancelled; ``None``: it is not."""
        if self._cancel is None:
            return None
        chunk, place = divmod(number, CHUNK)
        if chunk != self._chunk:
            random = np.random.default_rng([_SEED, self._seed, chunk])
            self._chunk, self._chosen = chunk, random.random(CHUNK) < self._cancel.share
        return self._cancel if self._chosen[place] else None

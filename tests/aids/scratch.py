"""One folder for the files of a fuzzed edge: made once, in memory where there is such a place, and gone at the end."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path


@functools.cache
def scratch(name: str = "") -> Path:
    """The folder of this name. A new one for each of thousands of inputs takes longer than what is tried."""
    memory = Path("/dev/shm")
    made = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}", dir=memory if memory.is_dir() else None))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made

"""The state of loadgen's own source that a process runs."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path

OURS = "loadgen"
BEGUN_BY = "loadgen.launch._child"  # the file that every server's process of ours begins with
DIGITS = 12


def running_code(*started_by: str) -> str:
    """12 hex digits that change with any source file of loadgen that this process runs, and with nothing else.

    SHA-256 over the files of all our modules that are loaded, and of the modules ``started_by``, which need not be:
    those that made its command. The same wherever the files lie. To be asked once all is loaded.
    Raises ModuleNotFoundError for a name of none.
    """
    specs = [importlib.util.find_spec(name) for name in (BEGUN_BY, *started_by)]
    if None in specs:
        missing = (BEGUN_BY, *started_by)[specs.index(None)]
        raise ModuleNotFoundError(f"no module {missing}")
    specs += [getattr(module, "__spec__", None) for module in list(sys.modules.values())]
    # By the spec's name: the program itself is loaded as __main__.
    files = {spec.origin for spec in specs if spec and spec.origin and spec.name.partition(".")[0] == OURS}
    hashes = sorted(hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files)
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:DIGITS]

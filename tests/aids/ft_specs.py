"""What FasterTransformer is asked for in tests: two small checkpoints, and a folder that looks like its backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loadgen.records import ServerSpec
from loadgen.servers._triton import find
from loadgen.theory import models

GOLDEN = Path(__file__).parents[1] / "data" / "ft-golden"
MHA, GQA = (models.resolve(str(GOLDEN / name)) for name in ("mha", "gqa"))


def spec(model: Any = MHA, **changes: Any) -> ServerSpec:
    given = {"tp": 2, "gpus": (0, 1), "dtype": "float16", "dummy_weights": False, **changes}
    return ServerSpec(framework="ft", model=model, **given)


def backend_in(folder: Path) -> Path:
    """A folder that looks as if it held the backend."""
    library = folder / "backends" / "fastertransformer" / find.FT_LIBRARY
    library.parent.mkdir(parents=True)
    library.write_bytes(b"not a library")
    return library.parent.parent

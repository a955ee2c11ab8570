"""What ``loadgen serve`` hands on when nothing is asked for but a small server without GPUs."""

from collections.abc import Mapping
from typing import Any

SERVE: Mapping[str, Any] = {
    "framework": "null", "model": "tiny", "tp": 1, "pp": 1, "gpus": "", "dtype": None, "dummy_weights": True,
    "max_batch": None, "max_context": None, "python": None, "host": "127.0.0.1", "port": 0, "ready_timeout": 60.0,
    "options": (),
}  # fmt: skip

"""The command line's options of a load as `load_spec` takes them, and tables of a profile that names an endpoint."""

from __future__ import annotations

from typing import Any

TARGET = {"url": "http://127.0.0.1:8000", "model": "m"}
LENGTHS = {"input_tokens": 8, "output_tokens": 4}
COMMAND_LINE: dict[str, Any] = {
    "mode": "closed", "concurrency": 1, "batch_size": 1, "rate": None, "rate_end": None, "burstiness": 1.0,
    "trace": None, "max_rate": None, "input_tokens": 48, "output_tokens": 6, "requests": 4, "warmup": 1,
    "stream": True, "seed": 0, "workers": 1, "timeout": 60.0,
}  # fmt: skip

"""What the child that starts the shards is told. Pure."""

from __future__ import annotations

from dataclasses import dataclass

PAGE = "info.json"  # beside the sockets, where the driver reads how many tokens the cache holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """``uds`` is the beginning of the sockets' paths, a rank's number its end; the lengths are of the warm-up."""

    model: str
    dtype: str
    uds: str
    ranks: int
    host: str
    port: int
    master_port: int
    max_input_tokens: int
    max_total_tokens: int
    max_prefill_tokens: int

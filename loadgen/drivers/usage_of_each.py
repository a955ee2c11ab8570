"""Completions that tell each prompt's usage in an event of its own, as TensorRT-LLM does: they add up."""

from __future__ import annotations

from typing import Any

from loadgen.drivers.answer import Answer


class UsageOfEach(Answer):
    """Reads completions as ``Answer`` does; usage is the sum of all that are told."""

    __slots__ = ()

    def _note_usage(self, usage: Any) -> None:
        told = {key: value for key, value in usage.items() if value.__class__ is int}
        self._usage = {key: self._usage.get(key, 0) + value for key, value in told.items()}

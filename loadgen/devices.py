"""The ceilings of a device by the name that its driver gives."""

from __future__ import annotations

from loadgen.ceilings import Ceilings, datasheet


def device_named(name: str | None) -> Ceilings | None:
    """The datasheet of ``NVIDIA H200`` and the like, ``None`` when unknown."""
    return None if name is None else datasheet(name)

"""Profiles built from text, for the tests of ``loadgen.profile``."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from loadgen.errors import ProfileError
from loadgen.profile.profile import Cell, Profile
from loadgen.profile.read import build_profile

BASE = """
name = "mine"
[server]
framework = "hf"
model = "llama-13b"
[load]
input_tokens = 20
output_tokens = 100
"""


def profile(text: str = BASE, *sets: str, gpus: int | None = None, known: list[str] | None = None) -> Profile:
    return build_profile(
        tomllib.loads(text), file="p.toml", text=text, sets=sets, gpu_count=gpus, frameworks=known
    )


def cells(text: str = BASE, *sets: str, **more: Any) -> tuple[Cell, ...]:
    return profile(text, *sets, **more).cells


def problem(text: str = BASE, *sets: str, **more: Any) -> str:
    with pytest.raises(ProfileError) as caught:
        profile(text, *sets, **more)
    return str(caught.value)


def swept(found: tuple[Cell, ...], *names: str) -> list[tuple[Any, ...]]:
    return [
        tuple(getattr(cell.load, n) if hasattr(cell.load, n) else getattr(cell.server, n) for n in names)
        for cell in found
    ]

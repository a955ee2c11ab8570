"""Frameworks by name: each is a module of ``loadgen.servers``, found there, never registered.

The only module that imports ``loadgen.servers``; a name that starts with ``_`` belongs to a framework's child
process and is none itself.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from typing import cast

from loadgen.errors import UnknownFramework
from loadgen.protocols import Framework

PACKAGE = "loadgen.servers"
# What the protocol asks of every framework: its attributes and methods.
QUESTIONS = sorted(
    {*Framework.__annotations__, *(name for name in vars(Framework) if not name.startswith("_"))}
)


def names() -> tuple[str, ...]:
    """All framework names, sorted; found by listing files, so nothing of them is imported."""
    package = importlib.import_module(PACKAGE)
    found = pkgutil.iter_modules(package.__path__)
    return tuple(sorted(module.name for module in found if not module.name.startswith("_")))


def find(name: str) -> Framework:
    """The framework ``name``.

    Raises UnknownFramework with the nearest name and the whole list, and for a module that binds none or one that
    leaves questions of ``Framework`` open.
    """
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UnknownFramework(f"unknown framework {name!r}.{hint} (accepted: {', '.join(known)})")
    module = importlib.import_module(f"{PACKAGE}.{name}")
    if not hasattr(module, "FRAMEWORK"):
        raise UnknownFramework(f"servers/{name}.py binds no FRAMEWORK, so it offers nothing to start")
    if silent := [question for question in QUESTIONS if not hasattr(module.FRAMEWORK, question)]:
        raise UnknownFramework(
            f"servers/{name}.py does not answer {', '.join(silent)} (accepted: all of protocols.Framework)"
        )
    return cast(Framework, module.FRAMEWORK)


def every() -> tuple[Framework, ...]:
    """All frameworks, by name."""
    return tuple(find(name) for name in names())

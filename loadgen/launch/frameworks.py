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


def names() -> tuple[str, ...]:
    """All framework names, sorted; found by listing files, so nothing of them is imported."""
    package = importlib.import_module(PACKAGE)
    found = pkgutil.iter_modules(package.__path__)
    return tuple(sorted(module.name for module in found if not module.name.startswith("_")))


def find(name: str) -> Framework:
    """The framework ``name``; UnknownFramework with the nearest name and the whole list otherwise."""
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UnknownFramework(f"unknown framework {name!r}.{hint} (accepted: {', '.join(known)})")
    module = importlib.import_module(f"{PACKAGE}.{name}")
    if not hasattr(module, "FRAMEWORK"):
        raise UnknownFramework(f"servers/{name}.py binds no FRAMEWORK, so it offers nothing to start")
    return cast(Framework, module.FRAMEWORK)


def every() -> tuple[Framework, ...]:
    """All frameworks, by name."""
    return tuple(find(name) for name in names())

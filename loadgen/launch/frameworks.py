"""Frameworks by name: each is a module of ``loadgen.servers``, found there, or another package's entry point.

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
from loadgen.system import plugins

PACKAGE = "loadgen.servers"
# What the protocol asks of every framework: its attributes and methods.
QUESTIONS = sorted(
    {*Framework.__annotations__, *(name for name in vars(Framework) if not name.startswith("_"))}
)


def names() -> tuple[str, ...]:
    """All framework names, sorted; nothing of them is imported, so that a plug-in among them may be broken."""
    return tuple(sorted({*built_in(), *plugins.offered(plugins.SERVERS)}))


def built_in() -> frozenset[str]:
    """The names of loadgen's own frameworks, found by listing files."""
    package = importlib.import_module(PACKAGE)
    found = pkgutil.iter_modules(package.__path__)
    return frozenset(module.name for module in found if not module.name.startswith("_"))


def find(name: str) -> Framework:
    """The framework ``name``; one of loadgen's own before another package's.

    Raises UnknownFramework with the nearest name and the whole list, and for a module that binds none or one that
    leaves questions of ``Framework`` open; MissingDependency for a plug-in that cannot be loaded.
    """
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UnknownFramework(f"unknown framework {name!r}.{hint} (accepted: {', '.join(known)})")
    if name in built_in():
        where, module = f"servers/{name}.py", importlib.import_module(f"{PACKAGE}.{name}")
        if not hasattr(module, "FRAMEWORK"):
            raise UnknownFramework(f"{where} binds no FRAMEWORK, so it offers nothing to start")
        found = module.FRAMEWORK
    else:
        where = f"plug-in {name!r} of {plugins.package_of(plugins.offered(plugins.SERVERS)[name])}"
        found = plugins.load(plugins.SERVERS, name)
    if silent := [question for question in QUESTIONS if not hasattr(found, question)]:
        raise UnknownFramework(
            f"{where} does not answer {', '.join(silent)} (accepted: all of protocols.Framework)"
        )
    return cast(Framework, found)

"""Frameworks by name: each is a module of ``loadgen.servers``, found there, or another package's entry point.

The only module that imports ``loadgen.servers``; a name that starts with ``_`` belongs to a framework's child
process and is none itself.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

from loadgen.errors import BadInput, MissingDependency, UnknownFramework
from loadgen.launch import container
from loadgen.launch.options import Options
from loadgen.protocols import Command, Framework
from loadgen.records import ServerSpec
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


def of(spec: ServerSpec) -> Framework:
    """The framework of a spec; where its options name a container image, that framework from the image.

    Raises as ``find`` does, and BadInput for options that choose none of a framework's transports.
    """
    found = find(spec.framework)
    if (choose := getattr(found, "for_spec", None)) is not None:
        found = choose(_plain(spec))
    asked = container.OPTIONS.keys() & spec.options.keys()
    return cast(Framework, FromImage(found)) if asked - found.options.keys() else found


class FromImage:
    """A framework whose server runs from a container image. What it has not of its own is that framework's."""

    def __init__(self, framework: Framework) -> None:
        self._framework = framework

    def __getattr__(self, name: str) -> Any:
        return getattr(self._framework, name)

    @property
    def options(self) -> Mapping[str, str]:
        """Those of the framework, and those of containers."""
        return {**self._framework.options, **container.OPTIONS}

    def library(self, spec: ServerSpec) -> str:
        """Nothing: the image's name tells."""
        return ""

    def check(self, spec: ServerSpec) -> None:
        """What the framework refuses, but for what this machine lacks: the image has that. Raises BadInput for an image
        that cannot be or options without one, MissingDependency where nothing here runs it."""
        options = Options(spec.framework, spec.options)
        image = container.image_of(options)
        if image is None:
            named = ", ".join(sorted(container.OPTIONS.keys() & spec.options.keys()))
            raise BadInput(
                f"{spec.framework}: option {named} without an image (accepted: with --option image=)"
            )
        with suppress(MissingDependency):
            self._framework.check(_plain(spec))
        container.check(options)

    def command(self, spec: ServerSpec, run_dir: str, ports: Sequence[int]) -> Command:
        """The framework's command, in a container."""
        image = container.image_of(Options(spec.framework, spec.options))
        assert image is not None, "check comes first"
        command = self._framework.command(_plain(spec), run_dir, ports)
        return container.contained(command, image, spec, run_dir, ports[0])

    def driver_options(self, spec: ServerSpec) -> Mapping[str, Any]:
        """Those of the framework."""
        return self._framework.driver_options(_plain(spec))


def _plain(spec: ServerSpec) -> ServerSpec:
    options = {name: value for name, value in spec.options.items() if name not in container.OPTIONS}
    return replace(spec, options=options)

"""What other packages bring by entry points: frameworks, drivers, names of telemetry. Loaded on first need alone.

A package names them in its metadata, by the word that a user types::

    [project.entry-points."loadgen.servers"]
    toy = "toy_package.server:FRAMEWORK"    # a protocols.Framework
    [project.entry-points."loadgen.drivers"]
    toy-wire = "toy_package.driver:make_driver"    # a protocols.DriverFactory, for protocol = "toy-wire"
    [project.entry-points."loadgen.telemetry"]
    toy = "toy_package.metrics:RULES"    # series of its metrics page -> telemetry.prometheus_text.Rule

What loadgen has itself wins a clash of names.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import metadata
from typing import Any

from loadgen.errors import MissingDependency

SERVERS, DRIVERS, TELEMETRY = GROUPS = ("loadgen.servers", "loadgen.drivers", "loadgen.telemetry")


@cache
def offered(group: str) -> Mapping[str, metadata.EntryPoint]:
    """The entry points of a group by name, nothing of them imported. Of two with one name, the first package's by name
    holds, so that it is the same one each time."""
    found = sorted(metadata.entry_points(group=group), key=lambda each: (each.name, package_of(each)))
    return {each.name: each for each in reversed(found)}


def package_of(entry: metadata.EntryPoint) -> str:
    """The distribution that brings it, with its version."""
    return (
        f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "a package without metadata"
    )


def load(group: str, name: str) -> Any:
    """The object behind an offered name.

    Raises MissingDependency, with the package's name and its error, for one that cannot be imported.
    """
    entry = offered(group)[name]
    try:
        return entry.load()
    except Exception as error:  # noqa: BLE001 - foreign code at its import: nothing narrower is promised
        package = package_of(entry)
        raise MissingDependency(
            f"plug-in {name!r} of {package} ({group}: {entry.value}) cannot be loaded: {type(error).__name__}: {error}",
            f"mend that package, or pip uninstall {package.partition(' ')[0]}",
        ) from None

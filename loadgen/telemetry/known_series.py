"""The series that telemetry knows: loadgen's own, and those that other packages name by entry points."""

from __future__ import annotations

from collections.abc import Mapping

from loadgen.errors import MissingDependency
from loadgen.system import plugins
from loadgen.telemetry.prometheus_text import RULES, Rule


def known_series() -> tuple[Mapping[str, Rule], tuple[str, ...]]:
    """The rules by name of series, and what was wrong with the plug-ins that are skipped. Ours win a clash."""
    others: dict[str, Rule] = {}
    faults = []
    for name in plugins.offered(plugins.TELEMETRY):
        try:
            found = plugins.load(plugins.TELEMETRY, name)
        except MissingDependency as error:
            faults.append(error.what)
            continue
        if isinstance(found, Mapping) and all(isinstance(rule, Rule) for rule in found.values()):
            others |= {str(series): rule for series, rule in found.items()}
        else:
            faults.append(
                f"plug-in {name!r} of {plugins.package_of(plugins.offered(plugins.TELEMETRY)[name])} "
                f"({plugins.TELEMETRY}): not a mapping of series to prometheus_text.Rule"
            )
    return {**others, **RULES}, tuple(faults)

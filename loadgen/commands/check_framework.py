"""``loadgen check-framework``: the contract of frameworks, for whoever writes one."""

from __future__ import annotations

import click

from loadgen.launch import frameworks
from loadgen.selfcheck.contract import CHECKS, breaches


def run(name: str) -> int:
    """Print what is kept and what is not; 1 where anything is not. Raises BadInput for a name of no framework."""
    framework = frameworks.find(name)
    broken = 0
    if framework.name != name:
        click.echo(f"✗ it is found as {name!r} and calls itself {framework.name!r}")
        broken += 1
    for title in CHECKS:
        wrong = breaches(framework, title)
        broken += bool(wrong)
        click.echo(f"{'✗' if wrong else '✓'} {title}" + "".join(f"\n    {words}" for words in wrong))
    click.echo(f"{name}: {broken} of {len(CHECKS) + 1} broken" if broken else f"{name}: the contract is kept")
    return 1 if broken else 0

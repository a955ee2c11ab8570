"""``loadgen keep``: results folders → compact copies for a repository."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click


def run(sources: Sequence[Path], target: Path, samples_limit: int) -> int:
    """Make the copies, tell their sizes and what in them to look at before they are shown. Returns the exit code."""
    from loadgen.analysis.analyse import analyse
    from loadgen.analysis.audit import breaches
    from loadgen.report.archive import keep
    from loadgen.units import show_bytes

    for folder in keep(sources, target, samples_limit):
        files = [path for path in folder.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        click.echo(
            f"kept: {folder}, {show_bytes(size)} in {len(files)} files; its report: loadgen report {folder}"
        )
        for line in breaches(analyse([folder])):
            click.echo(f"look at this before it is shown: {line}", err=True)
    return 0

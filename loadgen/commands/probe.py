"""``loadgen probe``: this machine's ceilings, kept for its later reports."""

from __future__ import annotations

import click

from loadgen.commands.serve import gpu_list
from loadgen.selfcheck.probe import cache_folder, probe, save
from loadgen.text_table import Table
from loadgen.theory.ceilings import Ceilings
from loadgen.units import show_number, show_s


def run(*, gpus: str | None, python: str | None) -> int:
    """Measure, print, keep. Returns the exit code."""
    from loadgen.live import terminal

    found = probe(
        gpus=None if gpus is None else gpu_list(gpus),
        python=python,
        on_step=lambda step: click.echo(step, err=True),
    )
    terminal.print_tables([table(each) for each in found])
    click.echo(f"kept in {save(found, cache_folder())}")
    return 0


def table(found: Ceilings) -> Table:
    """One device's ceilings."""
    rows = [("memory bandwidth (copy, read + write)", f"{found.bandwidth / 1e9:,.1f} GB/s")]
    rows += [(f"matrix rate {dtype}", f"{rate / 1e12:,.3g} TFLOP/s") for dtype, rate in found.matrix.items()]
    if found.launch_s is not None:
        rows.append(("launch of one small operation", show_s(found.launch_s)))
    for line in found.all_reduce:
        per_s = show_number(line.beta_bytes_per_s / 1e9)
        rows.append(
            (
                f"all-reduce over {line.ranks}, {line.how}",
                f"{show_s(line.alpha_s)} + bytes at {per_s} GB/s bus",
            )
        )
    return Table(title=found.device, head=("ceiling", found.source), rows=tuple(rows))

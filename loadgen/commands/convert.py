"""``loadgen convert``: a framework's own checkpoint layout, written ahead of time or checked."""

from __future__ import annotations

from pathlib import Path

import click

from loadgen.errors import BadInput
from loadgen.launch import convert as command
from loadgen.units import show_bytes


def run(
    *,
    to: str,
    model: str | None,
    tp: int,
    variant: str,
    dtype: str,
    out: Path | None,
    check: Path | None,
    seed: int,
    replace: bool,
) -> int:
    """Write or check. Returns the exit code: 1 when a check found problems.

    Raises BadInput for options that do not go together.
    """
    if check is not None:
        if model or out:
            raise BadInput("--check takes no MODEL and no --out: it only reads")
        return report_check(to, check)
    if model is None or out is None:
        raise BadInput("convert needs MODEL and --out DIR (or --check DIR)")
    from loadgen.live import terminal
    from loadgen.theory import models

    models.resolve(model)  # a model that is not there is told before a bar is drawn
    with terminal.byte_progress(f"{to} checkpoint") as progress:
        done = command.convert(
            to,
            model,
            tp=tp,
            variant=variant,
            dtype=dtype,
            out=out,
            seed=seed,
            replace=replace,
            progress=progress,
        )
    how = "there already, made of the same source" if done.reused else "written"
    click.echo(f"{done.folder}: {how}, {show_bytes(done.bytes)}")
    return 0


def report_check(to: str, folder: Path) -> int:
    """Print every checkpoint's problems, file by file. Returns 1 for any, else 0.

    Raises BadInput where there is no checkpoint.
    """
    found = command.check(to, folder)
    if not found:
        raise BadInput(
            f"--check {folder}: no {to} checkpoint there (a folder such as 2-gpu with a config.ini)"
        )
    for checkpoint, problems in found.items():
        click.echo(f"{checkpoint}: {'whole' if not problems else f'{len(problems)} problems'}")
        for problem in problems:
            click.echo(f"  {problem}")
    return 1 if any(found.values()) else 0

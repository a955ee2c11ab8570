"""``loadgen doctor``: what this machine can run, as a list, or as JSON for an issue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click
import orjson

from loadgen import __version__
from loadgen.report.redact import Redactor
from loadgen.selfcheck.doctor import Section, examine
from loadgen.system.environment import capture


def run(as_json: bool) -> None:
    """Print what was found."""
    from loadgen.live import console

    sections = examine()
    if as_json:
        click.echo(orjson.dumps(public(sections), option=orjson.OPT_INDENT_2))
    else:
        console.print_doctor(sections)


def public(sections: Sequence[Section]) -> dict[str, Any]:
    """Version, environment and sections as plain data, without paths, host and user names: it will be read by all."""
    environment = {
        key: value for key, value in asdict(capture(())).items() if key not in ("id", "argv", "started")
    }
    told = {
        "loadgen": __version__,
        "environment": environment,
        "sections": [{**asdict(section), "ok": section.ok} for section in sections],
    }
    plain = orjson.loads(orjson.dumps(told))
    redactor = Redactor()
    redactor.learn(plain)
    found: dict[str, Any] = redactor.plain(plain)
    return found

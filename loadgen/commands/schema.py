"""``loadgen schema``: what profiles and results look like, for editors, readers and people."""

from __future__ import annotations

import click
import orjson

from loadgen.schemas.json_schemas import profile_schema, trials_schema
from loadgen.schemas.page import page


def text(what: str) -> str:
    """The schema of a ``profile`` or of ``trials`` as JSON, or the ``page`` as Markdown."""
    if what == "page":
        return page()
    found = profile_schema() if what == "profile" else trials_schema()
    return orjson.dumps(found, option=orjson.OPT_INDENT_2).decode() + "\n"


def run(what: str) -> None:
    """Print it."""
    click.echo(text(what), nl=False)

"""Servers whose starts count as repeats of one another although they did not run the same code, or may not have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from loadgen.analysis.finding import split_text, subject_text
from loadgen.analysis.starts import Server
from loadgen.analysis.versions import Difference, mixed
from loadgen.report.claim_tables import server_head, shared_parts, short
from loadgen.text_table import Table, table_of

TITLE = "One server, several versions"
NOTE = (
    "Starts of a server count as repeats of one another, whatever they ran: its figures are means over these versions, "
    "its intervals hold their difference. Keep each version in folders of its own, and compare them (loadgen compare A "
    "B). Where no code is stored and no commit names it, starts of several folders may have run different code."
)


def mixed_servers(servers: Iterable[Server]) -> Table | None:
    """In what the starts of each server differ; ``None`` where none do."""
    found = mixed(servers)
    return version_table(
        (f"{subject_text(replace(key, stream=True))} · {split_text(key)}", each)
        for key, differences in found.items()
        for each in differences
    )


def version_table(found: Iterable[tuple[str, Difference]], of: str = "") -> Table | None:
    """Servers, in words, with what their starts differ in; ``of`` names the figures that are pooled."""
    found = list(found)
    shared = shared_parts([server for server, _ in found])
    rows = [(short(server, shared), each.what, each.words) for server, each in found]
    return table_of(f"{TITLE}{of}", (server_head(shared), "what differs", "values"), rows, NOTE)

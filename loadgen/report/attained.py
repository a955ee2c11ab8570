"""How many requests kept their objectives, as cells of tables."""

from __future__ import annotations

from collections.abc import Mapping

from loadgen.slo_records import Attained
from loadgen.units import show_number, show_share


def attained_words(found: Attained | None) -> tuple[str, str]:
    """The share that kept all objectives, with its interval where there is one goal; and goodput per second."""
    if found is None or found.share is None:
        return "–", "–"
    share = show_share(found.share)
    if len(found.goals) == 1:
        share += f" [{show_share(found.goals[0].low)}, {show_share(found.goals[0].high)}]"
    return share, show_number(found.goodput_per_s)


def kept_words(found: Attained | None, name: str) -> str:
    """The share that kept one objective."""
    known: Mapping[str, int] = found.kept if found is not None and found.share is not None else {}
    return show_share(known[name] / found.due) if found is not None and name in known else "–"


def binding_words(found: Attained | None) -> str:
    """The objective that binds, with the share that kept it."""
    return f"{found.binding} ({kept_words(found, found.binding)})" if found and found.binding else "–"

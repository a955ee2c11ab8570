"""The dashboard is one that Grafana knows: every key and every type, by Grafana's own models of its schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from pydantic import ConfigDict, TypeAdapter, ValidationError

KNOWN = json.loads((Path(__file__).parents[2] / "docs" / "grafana.json").read_text())
TARGET = KNOWN["panels"][0]["targets"][0]

register_default_plugins()  # else panels' options and queries are not looked into


def unknown(given: Any, known: Any, at: str = "") -> Iterator[str]:
    """What of a JSON value did not survive the way through Grafana's models, which drop what they do not know."""
    if isinstance(given, Mapping) and isinstance(known, Mapping):
        for key, value in given.items():
            yield from unknown(value, known.get(key), f"{at}.{key}")
    elif isinstance(given, list) and isinstance(known, list) and len(given) == len(known):
        for place, (one, other) in enumerate(zip(given, known, strict=True)):
            yield from unknown(one, other, f"{at}[{place}]")
    elif given != known:
        yield at


def ill_typed(model: Any, at: str = "") -> Iterator[str]:
    """Where a field of Grafana's models holds another type, or a word that its enumeration has not."""
    if isinstance(model, list | tuple):
        for place, each in enumerate(model):
            yield from ill_typed(each, f"{at}[{place}]")
    if not type(model).__module__.startswith("grafana_foundation_sdk"):
        return
    for name, hint in get_type_hints(type(model)).items():
        value = getattr(model, name)
        try:
            TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
        except ValidationError as error:
            yield f"{at}.{name.removesuffix('_val')}: {error.errors()[0]['msg']}"
        yield from ill_typed(value, f"{at}.{name.removesuffix('_val')}")


def faults(dashboard: Mapping[str, Any]) -> list[str]:
    model = Dashboard.from_json(dict(dashboard))
    return [*unknown(dashboard, json.loads(JSONEncoder().encode(model))), *ill_typed(model)]


def test_grafana_knows_every_key_and_type_of_the_dashboard() -> None:
    assert faults(KNOWN) == []


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"titel": "x"}, [".titel"]),
        ({"refresh": 5}, [".refresh"]),
        ({"panels": [KNOWN["panels"][0] | {"gridpos": {}}]}, [".panels[0].gridpos"]),
        (
            {"panels": [KNOWN["panels"][0] | {"targets": [TARGET | {"exp": "up"}]}]},
            [".panels[0].targets[0].exp"],
        ),
        ({"templating": {"list": [{"name": "x", "type": "databank"}]}}, [".templating.list[0].type"]),
    ],
)
def test_what_grafana_does_not_know_is_found(change: Mapping[str, Any], where: Sequence[str]) -> None:
    assert [fault.partition(":")[0] for fault in faults(KNOWN | change)] == where


def test_panels_keep_to_the_width_and_never_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in KNOWN["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in KNOWN["panels"]}) == len(KNOWN["panels"])

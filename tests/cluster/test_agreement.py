"""Nodes that cannot take part are named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loadgen.cluster import agreement
from loadgen.errors import BadInput


def test_a_node_like_ours_takes_part() -> None:
    ours = agreement.facts()
    assert len(ours.package) == 16
    agreement.check({"10.0.0.2": ours}, "http://127.0.0.1:8000")
    agreement.check({"10.0.0.2": replace(ours, network="another")}, "http://10.0.0.1:8000")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"package": "another"}, "its loadgen is another one"),
        ({"network": "another"}, "is another place there"),
    ],
)
def test_one_that_differs_is_named(change: dict[str, str], words: str) -> None:
    with pytest.raises(BadInput, match=rf"node 10\.0\.0\.2 .*{words}"):
        agreement.check({"10.0.0.2": replace(agreement.facts(), **change)}, "http://localhost:8000")


def test_a_key_is_to_be_there_and_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(agreement.KEY, "secret")
    ours = agreement.facts()
    assert "secret" not in repr(ours)
    with pytest.raises(BadInput, match="LOADGEN_API_KEY is not set there"):
        agreement.check({"n": replace(ours, has_key=False)}, "http://10.0.0.1")

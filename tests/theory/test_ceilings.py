"""Ceilings read back: those that the probe wrote, and nothing else."""

from dataclasses import replace
from typing import Any

import pytest

from loadgen.theory.ceilings import DATASHEET, AllReduce, from_dict, to_dict

LINE = AllReduce(ranks=2, how="eager", alpha_s=1e-5, beta_bytes_per_s=1e9, points=((8, 1e-5),))
KNOWN = replace(DATASHEET[0][1], all_reduce=(LINE,), ladder=((1024, 1e9),), launch_s=1e-6, facts={"cores": 2})


def test_they_come_back_equal() -> None:
    assert from_dict(to_dict(KNOWN)) == KNOWN


@pytest.mark.parametrize(
    "odd",
    [
        {"bandwidth": "x"}, {"bandwidth": float("nan")}, {"matrix": []}, {"ladder": [[1]]}, {"source": "guessed"},
        {"all_reduce": [5]}, {"launch_s": -1}, {"facts": 5},
    ],
    ids=str,
)  # fmt: skip
def test_anything_else_is_refused(odd: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        from_dict({**to_dict(KNOWN), **odd})
    with pytest.raises(ValueError):
        from_dict([])  # type: ignore[arg-type]

"""What ``report --price`` takes, and what it refuses before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic import Point, result, roofline_world, write

from loadgen.commands import report
from loadgen.errors import BadInput


def test_a_price_is_of_all_gpus_or_of_those_named() -> None:
    assert report.parse_prices([]) == {}
    assert report.parse_prices(["2.5"]) == {"": 2.5}
    assert report.parse_prices(["H100=2", "NVIDIA H200 = 3.4"]) == {"H100": 2.0, "NVIDIA H200": 3.4}


@pytest.mark.parametrize("text", ["", "cheap", "0", "-1", "nan", "inf", "H100=", "H100=two"])
def test_what_is_no_price_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"is no price \(accepted: a number above 0, or GPU=number\)"):
        report.parse_prices([text])


def test_two_prices_of_one_gpu_are_refused() -> None:
    with pytest.raises(BadInput, match="a second price of the same GPU"):
        report.parse_prices(["2", "3"])


def test_a_price_of_a_gpu_that_is_not_there_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "one", [result(Point(), roofline_world())], samples=False)
    with pytest.raises(BadInput, match=r"--price H100=…: no machine .* \(there are: NVIDIA H200\)"):
        report.run([folder], ["csv"], None, ["H100=2"])
    assert not list(folder.glob("report.*"))


@pytest.mark.parametrize(("out", "why"), [("no/x.csv", "its folder is none"), ("d.csv", "is a folder")])
def test_an_out_that_cannot_be_is_bad_input(tmp_path: Path, out: str, why: str) -> None:
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(BadInput, match=rf"--out .*{out}: {why}"):
        report.run([tmp_path], [], tmp_path / out)

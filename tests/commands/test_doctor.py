"""``doctor --json``: all that the list says, for everybody's eyes."""

from __future__ import annotations

import json
import socket
import sys
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner

from loadgen.cli import main
from loadgen.commands.doctor import public
from loadgen.protocols import Need
from loadgen.selfcheck import doctor
from loadgen.selfcheck.doctor import Section


def test_it_says_what_an_issue_needs_and_nothing_of_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "alices-box")
    done = CliRunner().invoke(main, ["doctor", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["environment"]["packages"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert told["environment"]["packages"]["numpy"] == metadata.version("numpy")
    assert [section["title"] for section in told["sections"]] == [each.title for each in doctor.examine()]
    for section in told["sections"]:
        assert section["ok"] is all(need["ok"] for need in section["needs"])
        assert all({"name", "ok", "found", "remedy"} == set(need) for need in section["needs"])
    assert told["environment"]["host"] == "<host>"
    for secret in ("alices-box", str(Path(sys.executable).parent), str(Path(__file__).parents[2])):
        assert secret not in done.stdout


def test_user_names_are_left_out() -> None:
    need = Need(name="results folder", ok=False, found="/home/alice/results is full", remedy="tell alice so")
    told = public([Section(title="Machine", needs=(need,))])
    assert "alice" not in json.dumps(told)
    assert told["sections"][0]["ok"] is False

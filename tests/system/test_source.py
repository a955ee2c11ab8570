"""The hash of our own source that a process runs: what changes it, and what does not."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

import loadgen
from loadgen.system.source import running_code


def load(monkeypatch: pytest.MonkeyPatch, name: str, path: Path, place: str = "") -> None:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, place or name, module)


def test_each_file_of_ours_that_is_loaded_changes_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = running_code()
    assert len(before) == 12
    assert set(before) <= set("0123456789abcdef")
    path, elsewhere = tmp_path / "toy.py", tmp_path / "moved.py"
    path.write_text("A = 1\n")
    elsewhere.write_text("A = 1\n")
    load(monkeypatch, "other.toy", path)
    load(monkeypatch, "loadgenerator", path)
    assert running_code() == before
    load(monkeypatch, "loadgen.toy", path)
    loaded = running_code()
    assert loaded != before
    load(monkeypatch, "loadgen.toy", elsewhere)
    assert running_code() == loaded
    elsewhere.write_text("A = 2\n")
    assert running_code() not in (before, loaded)
    monkeypatch.delitem(sys.modules, "loadgen.toy")
    load(monkeypatch, "loadgen.servers._toy.main", path, "__main__")  # as a server's process has its program
    assert running_code() == loaded


def test_what_made_the_command_counts_though_it_is_not_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "toy_maker.py"
    path.write_text("A = 1\n")
    monkeypatch.setattr(loadgen, "__path__", [*loadgen.__path__, str(tmp_path)])
    first = running_code("loadgen.toy_maker")
    assert first != running_code()
    path.write_text("A = 2\n")
    assert running_code("loadgen.toy_maker") not in (first, running_code())
    assert "loadgen.toy_maker" not in sys.modules
    with pytest.raises(ModuleNotFoundError, match=r"no module loadgen\.toy_breaker"):
        running_code("loadgen.toy_breaker")

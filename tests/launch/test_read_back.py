"""What a framework reads from its running server: facts of the results, or the end of a server that is not as asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadgen.errors import ServerError
from loadgen.launch import frameworks, running
from loadgen.launch.endpoint import engine_of, page_of
from loadgen.launch.process import port_is_free
from loadgen.protocols import Command
from loadgen.records import ServerSpec
from loadgen.theory.models import PRESETS

SPEC = ServerSpec(framework="null", model=PRESETS["tiny"])


def start(read_back: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any, list[Command]]:
    framework = frameworks.find("null")
    plain, made = framework.command, []

    def command(*asked: Any) -> Command:
        made.append(replace(plain(*asked), read_back=read_back))
        return made[-1]

    monkeypatch.setattr(framework, "command", command)
    try:
        return *running.start_server(SPEC, folder / "log", folder / "run", lambda _state: None), made
    except ServerError as error:
        return error, None, made


def test_facts_join_those_of_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs: list[str] = []

    def read_back(log: str) -> dict[str, object]:
        logs.append(log)
        return {"attention": "FLASH_ATTN", "engine": "what its page says holds"}

    (tmp_path / "log").write_text("of an earlier start\n")
    server, endpoint, _ = start(read_back, tmp_path, monkeypatch)
    try:
        page = page_of(endpoint)
        assert page["attention"] == "FLASH_ATTN"
        assert page["engine"].startswith("null")
        assert engine_of(endpoint, "", "")["attention"] == "FLASH_ATTN"
        assert ["of an earlier start\n" + log for log in logs] == [(tmp_path / "log").read_text()]
    finally:
        server.stop()


def test_one_that_is_not_as_asked_is_stopped_and_told_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_back(_log: str) -> dict[str, object]:
        raise ServerError("it caches prefixes")

    error, _, made = start(read_back, tmp_path, monkeypatch)
    assert isinstance(error, ServerError)
    assert "it caches prefixes" in str(error)
    assert str(tmp_path / "log") in str(error)
    assert port_is_free(int(made[0].base_url.rpartition(":")[2]))

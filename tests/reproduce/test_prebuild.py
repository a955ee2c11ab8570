"""Set-up that stays on a machine, run ahead of the first start: once for each engine, within the time that is left."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from loadgen.launch import frameworks
from loadgen.protocols import Command
from loadgen.records import ServerSpec
from loadgen.reproduce import prebuild
from loadgen.theory.models import PRESETS

SPEC = ServerSpec(framework="made", model=PRESETS["tiny"], tp=1, gpus=(), options={"engine": "one"})


class FakeFramework:
    """Its set-up appends the engine and tp of its spec to a file, or fails where the engine is called so."""

    options: ClassVar[dict[str, str]] = {}
    name, protocol, ports = "made", "openai", 1

    def __init__(self, written: Path, stays: bool = True) -> None:
        self.written, self.stays = written, stays

    def command(self, spec: ServerSpec, run_dir: str, ports: Sequence[int]) -> Command:
        engine = spec.options["engine"]
        source = f"open({str(self.written)!r}, 'a').write('{engine} {spec.tp}\\n')"
        if engine == "fails":
            source = "raise SystemExit('no compiler')"
        if engine == "hangs":
            source = "import time; time.sleep(600)"
        return Command(
            argv=("never-started",),
            setup=((sys.executable, "-c", source),),
            setup_stays=self.stays,
            ready_url="http://127.0.0.1:1/",
            base_url="http://127.0.0.1:1",
        )


def engine(name: str, tp: int = 1) -> ServerSpec:
    return replace(SPEC, tp=tp, options={"engine": name})


@pytest.fixture
def told() -> list[str]:
    return []


def test_each_engine_is_set_up_once_for_its_widest_server(
    tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frameworks, "find", lambda _name: FakeFramework(tmp_path / "written"))
    specs = [engine("one"), engine("one", 4), engine("two"), engine("one", 2)]
    prebuild.run_ahead(specs, tmp_path / "logs", lambda: 60.0, told.append)
    assert (tmp_path / "written").read_text().splitlines() == ["one 4", "two 1"]
    assert [line for line in told if "set up after" in line and "tp4" in line]


def test_what_would_not_stay_is_left_to_the_server(
    tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frameworks, "find", lambda _name: FakeFramework(tmp_path / "written", stays=False))
    prebuild.run_ahead([SPEC], tmp_path / "logs", lambda: 60.0, told.append)
    assert not (tmp_path / "written").exists()
    assert told == []


def test_a_failure_is_told_and_the_next_engine_goes_on(
    tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frameworks, "find", lambda _name: FakeFramework(tmp_path / "written"))
    prebuild.run_ahead(
        [engine("fails"), engine("hangs"), engine("one")],
        tmp_path / "logs",
        iter([60.0, 1.0, 60.0]).__next__,
        told.append,
    )
    assert any("made/fails" in line and "not set up: its preparation (python" in line for line in told)
    assert any("made/hangs" in line and "took more than 1 s" in line for line in told)
    assert (tmp_path / "written").read_text() == "one 1\n"
    assert "no compiler" in next((tmp_path / "logs").glob("set-up-made-fails*")).read_text()


def test_nothing_is_begun_when_the_time_is_over(
    tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frameworks, "find", lambda _name: FakeFramework(tmp_path / "written"))
    prebuild.run_ahead([SPEC], tmp_path / "logs", lambda: -1.0, told.append)
    assert not (tmp_path / "written").exists()


def test_deepspeeds_op_for_two_ranks_on_a_cpu_is_built_ahead(tmp_path: Path, told: list[str]) -> None:
    options: dict[str, Any] = {"engine": "ds-inference-autotp"}
    spec = replace(SPEC, framework="ds", dtype="float32", tp=2, options=options)
    prebuild.run_ahead([spec], tmp_path, lambda: 500.0, told.append)
    assert "set up after" in told[-1]
    (log,) = tmp_path.glob("set-up-ds-*.log")
    assert "deepspeed_shm_comm" in log.read_text()

"""Discovery by module name, and the contract that every framework found keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadgen.errors import UnknownFramework
from loadgen.launch import frameworks
from loadgen.records import ServerSpec
from loadgen.selfcheck.contract import CHECKS, breaches
from loadgen.theory.models import PRESETS

NAMES = frameworks.names()


def test_frameworks_are_the_modules_without_an_underscore() -> None:
    folder = Path(__file__).resolve().parents[2] / "servers"
    assert set(NAMES) == {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")}
    assert "hf" in NAMES


def test_an_unknown_name_is_told_with_its_neighbour_and_the_list() -> None:
    with pytest.raises(UnknownFramework) as caught:
        frameworks.find("hff")
    assert "'hff'" in str(caught.value)
    assert "Did you mean 'hf'?" in str(caught.value)
    assert ", ".join(NAMES) in str(caught.value)
    with pytest.raises(UnknownFramework) as caught:
        frameworks.find("zzzzzz")
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize("name", ["_hf_server", "__init__", "os", "../hf", "hf.HuggingFace", ""])
def test_only_frameworks_are_found(name: str) -> None:
    with pytest.raises(UnknownFramework):
        frameworks.find(name)


def test_a_module_without_framework_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import loadgen.servers

    (tmp_path / "hollow_framework.py").write_text("x = 1\n")
    monkeypatch.setattr(loadgen.servers, "__path__", [*loadgen.servers.__path__, str(tmp_path)])
    with pytest.raises(UnknownFramework, match="binds no FRAMEWORK"):
        frameworks.find("hollow_framework")


def test_an_answer_that_is_missing_is_told_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import loadgen.servers

    (tmp_path / "mute_framework.py").write_text(
        "class Mute:\n    name, protocol, ports, options, uses_gpus = 'mute_framework', 'openai', 1, {}, False\n"
        "    def check(self, spec): ...\n    def command(self, spec, run_dir, ports): ...\n"
        "    def driver_options(self, spec): ...\n    def needs(self): ...\nFRAMEWORK = Mute()\n"
    )
    monkeypatch.setattr(loadgen.servers, "__path__", [*loadgen.servers.__path__, str(tmp_path)])
    with pytest.raises(
        UnknownFramework, match=r"mute_framework\.py does not answer default_dtype, library, needs_gpus \("
    ):
        frameworks.find("mute_framework")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("check", CHECKS)
def test_it_keeps_the_contract(name: str, check: str) -> None:
    framework = frameworks.find(name)
    assert framework.name == name
    assert breaches(framework, check) == []


def test_another_transport_of_a_framework_keeps_it_too() -> None:
    spec = ServerSpec(framework="tgi", model=PRESETS["tiny"], gpus=(0,), options={"transport": "shard"})
    framework = frameworks.of(spec)
    assert framework.protocol == "tgi-shard"
    assert [fault for check in CHECKS for fault in breaches(framework, check)] == []

"""The doctor: what it finds is true, and every lack comes with its remedy."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from loadgen.errors import UnknownFramework
from loadgen.launch import frameworks
from loadgen.live.console import print_doctor
from loadgen.protocols import Need
from loadgen.selfcheck import doctor
from loadgen.selfcheck.doctor import Section


def test_every_topic_is_examined_and_every_lack_has_a_remedy() -> None:
    sections = doctor.examine()
    titles = [section.title for section in sections]
    assert titles[:2] == ["Python and libraries", "GPUs"]
    assert titles[-1] == "Machine"
    for name in frameworks.names():
        assert f"Framework {name}" in titles
    for section in sections:
        for need in section.needs:
            assert need.found
            assert need.ok or need.remedy, f"{section.title}: {need.name}"


def test_it_imports_no_engine_and_prints(capsys: pytest.CaptureFixture[str]) -> None:
    loaded = set(sys.modules)
    print_doctor(doctor.examine())
    assert not {"torch", "transformers"} & (set(sys.modules) - loaded)
    assert "Python and libraries" in capsys.readouterr().out


def test_missing_libraries_are_named_by_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [
        "pytest>=8",
        "no-such-one>=1",
        'no-such-two[grpc]>=2; extra == "triton"',
        'no-such-dev; extra == "dev"',
    ]
    monkeypatch.setattr(metadata, "requires", lambda _name: wanted)
    base, triton = doctor.libraries()
    assert (base.name, base.ok, base.found) == ("libraries of llm-loadgen", False, "missing: no-such-one")
    assert (triton.name, triton.ok, triton.found) == (
        "libraries of llm-loadgen[triton]",
        False,
        "missing: no-such-two",
    )
    assert "[triton]'" in triton.remedy


def test_a_source_that_is_not_installed_is_no_traceback() -> None:
    (need,) = doctor.libraries("no-such-distribution")
    assert (need.ok, need.found) == (False, "runs from its source, not installed")
    assert "pip install" in need.remedy


def test_installed_libraries_are_listed() -> None:
    assert doctor.libraries()[0].ok
    assert f"rich {metadata.version('rich')}" in doctor.libraries()[0].found


def gpus_of(monkeypatch: pytest.MonkeyPatch, used: Sequence[int | None], torch: str = "2.13.0") -> list[Need]:
    gpu = {"name": "NVIDIA H200", "memory_bytes": 141 << 30, "power_cap_w": 700.0}
    found = tuple({**gpu, "index": index} for index in range(len(used)))
    monkeypatch.setattr(
        doctor, "read_gpus", lambda: (found, "580.1" if found else None, "13.0" if found else None)
    )
    monkeypatch.setattr(doctor, "gpu_memory_used", lambda: list(used))
    monkeypatch.setattr(doctor, "package_versions", lambda _names: {"torch": torch})
    return doctor.gpus()


def test_no_gpu_is_told_with_what_runs_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    (need,) = gpus_of(monkeypatch, [])
    assert not need.ok
    assert "CPU" in need.found
    assert "driver" in need.remedy


def test_a_gpu_in_use_is_a_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    driver, idle, busy, silent = gpus_of(monkeypatch, [500 << 20, 90 << 30, None])
    assert driver.ok
    assert idle.ok
    assert idle.found == "NVIDIA H200, 141.00 GiB, 700 W cap"
    assert not busy.ok
    assert "90.00 GiB already in use" in busy.found
    assert "nvidia-smi" in busy.remedy
    assert silent.ok


def test_a_torch_without_cuda_beside_a_gpu_is_a_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    need = gpus_of(monkeypatch, [0], torch="2.13.0+cpu")[-1]
    assert (need.name, need.ok) == ("torch for CUDA", False)
    assert "pip install" in need.remedy
    assert all(need.ok for need in gpus_of(monkeypatch, [0], torch="2.13.0+cu130"))


def test_a_broken_framework_does_not_stop_the_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> Any:
        raise {"hollow": UnknownFramework("binds no FRAMEWORK"), "torn": ImportError("no module x")}[name]

    monkeypatch.setattr(frameworks, "find", find)
    for name, words in (("hollow", "binds no FRAMEWORK"), ("torn", "no module x")):
        section = doctor.framework(name)
        assert not section.ok
        assert section.needs[0].found == words


def test_ports_that_cannot_be_bound_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_count: int) -> list[int]:
        raise OSError(99, "Cannot assign requested address")

    assert doctor.ports().ok
    monkeypatch.setattr(doctor, "free_ports", refuse)
    assert "Cannot assign requested address" in doctor.ports().found
    assert not doctor.ports().ok


def test_shared_memory_is_measured(tmp_path: Path) -> None:
    assert doctor.shared_memory(str(tmp_path), least=1).ok
    small = doctor.shared_memory(str(tmp_path), least=1 << 60)
    assert not small.ok
    assert "--shm-size" in small.remedy
    assert not doctor.shared_memory(str(tmp_path / "none")).ok


def test_few_open_files_are_a_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (1024, 4096))
    need = doctor.open_files()
    assert not need.ok
    assert need.found == "1024 (at most 4096)"
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert doctor.open_files().ok


def test_the_results_folder_is_judged_where_it_will_be(tmp_path: Path) -> None:
    assert doctor.disk(tmp_path / "not" / "yet", least=1).ok
    assert not doctor.disk(tmp_path, least=1 << 60).ok
    (tmp_path / "file").write_text("")
    blocked = doctor.disk(tmp_path / "file" / "results")
    assert not blocked.ok
    assert "--out" in blocked.remedy


def test_git_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "source_commit", lambda: "abc")
    assert doctor.git().found == "commit abc"
    monkeypatch.setattr(doctor, "source_commit", lambda: None)
    monkeypatch.setattr(doctor, "checkout", lambda: None)
    assert doctor.git().ok
    assert "version" in doctor.git().found
    monkeypatch.setattr(doctor, "checkout", lambda: Path("/somewhere"))
    assert "safe.directory" in doctor.git().remedy
    monkeypatch.setattr(doctor.shutil, "which", lambda _name: None)
    assert doctor.git().remedy == "apt-get install git"


def test_a_section_is_ok_when_all_is_there() -> None:
    there, lacking = Need(name="a", ok=True, found="x"), Need(name="b", ok=False, found="-", remedy="r")
    assert Section(title="t", needs=(there,)).ok
    assert not Section(title="t", needs=(there, lacking)).ok

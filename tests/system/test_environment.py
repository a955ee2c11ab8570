"""The record of where a sweep ran."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pynvml
import pytest

import loadgen
from loadgen.system import environment


def test_capture_is_stable_and_knows_its_machine() -> None:
    one, two = environment.capture(["loadgen", "a"]), environment.capture(["loadgen", "b"])
    assert one.id == two.id
    assert one.argv == ("loadgen", "a")
    assert one.cpus == len(os.sched_getaffinity(0))
    assert one.memory_bytes > 1 << 28
    assert one.packages["loadgen"] == loadgen.__version__
    assert one.packages["python"].startswith(f"{sys.version_info[0]}.{sys.version_info[1]}")
    assert one.cpu
    assert one.os


def test_the_id_follows_what_can_move_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    before = environment.capture([])
    monkeypatch.setattr(environment, "package_versions", lambda: {"torch": "0.0.1"})
    assert environment.capture([]).id != before.id


def test_capture_imports_no_engine() -> None:
    program = (
        "import sys; from loadgen.system.environment import capture; found = capture([]);"
        "assert 'torch' in found.packages; assert 'torch' not in sys.modules; assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_absent_packages_are_left_out() -> None:
    assert set(environment.package_versions(["no-such-package", "pytest"])) == {"python", "pytest"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("processor : 0\nmodel name\t: Some CPU @ 3 GHz\n", "Some CPU @ 3 GHz"), ("CPU part : 0xd0c\n", None)],
)
def test_the_cpu_has_a_name_or_an_architecture(tmp_path: Path, text: str, expected: str | None) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(text)
    assert environment.cpu_model(cpuinfo) == (expected or os.uname().machine)
    assert environment.cpu_model(tmp_path / "missing") == os.uname().machine


def test_the_commit_is_the_checkouts_own(tmp_path: Path) -> None:
    def git(*args: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", "-C", str(tmp_path), *who, *args], check=True, capture_output=True, text=True
        ).stdout.strip()

    assert environment.source_commit(tmp_path) is None
    git("init", "-q")
    assert environment.source_commit(tmp_path) is None, "a repository without a commit has none"
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-q", "-m", "first")
    head = git("rev-parse", "HEAD")
    assert environment.source_commit(tmp_path) == head
    (tmp_path / "untracked").write_text("1")
    assert environment.source_commit(tmp_path) == head
    (tmp_path / "file").write_text("2")
    assert environment.source_commit(tmp_path) == f"{head}+changes"
    inside = tmp_path / "venv" / "site-packages"
    inside.mkdir(parents=True)
    assert environment.source_commit(inside) is None, "somebody else's repository is not ours"


@dataclass
class Memory:
    total: int
    used: int


class FakeNvml:
    """NVML's functions as two H200s answer them, one question refused."""

    def __init__(self, refuse: Sequence[str] = ()) -> None:
        self.refuse = refuse
        self.open = 0

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml"):
            return getattr(pynvml, name)  # constants

        def call(*args: Any) -> Any:
            if name in self.refuse:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return self.answers[name](*args)

        return call

    @property
    def answers(self) -> dict[str, Any]:
        return {
            "nvmlInit": lambda: setattr(self, "open", self.open + 1),
            "nvmlShutdown": lambda: setattr(self, "open", self.open - 1),
            "nvmlDeviceGetCount": lambda: 2,
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlSystemGetDriverVersion": lambda: "580.95.05",
            "nvmlSystemGetCudaDriverVersion_v2": lambda: 13010,
            "nvmlDeviceGetName": lambda _h: "NVIDIA H200",
            "nvmlDeviceGetUUID": lambda h: f"GPU-{h}",
            "nvmlDeviceGetMemoryInfo": lambda h: Memory(total=150 << 30, used=(3 * h) << 30),
            "nvmlDeviceGetEnforcedPowerLimit": lambda _h: 700_000,
            "nvmlDeviceGetPowerManagementDefaultLimit": lambda _h: 700_000,
            "nvmlDeviceGetCudaComputeCapability": lambda _h: (9, 0),
            "nvmlDeviceGetMigMode": lambda _h: [0, 0],
            "nvmlDeviceGetMaxClockInfo": lambda _h, kind: 1980 if kind == pynvml.NVML_CLOCK_SM else 3201,
            "nvmlDeviceGetApplicationsClock": lambda _h, _kind: 1980,
            "nvmlDeviceGetMaxPcieLinkGeneration": lambda _h: 5,
            "nvmlDeviceGetMaxPcieLinkWidth": lambda _h: 16,
            "nvmlDeviceGetP2PStatus": lambda _a, _b, _index: pynvml.NVML_P2P_STATUS_OK,
            "nvmlDeviceGetTopologyCommonAncestor": lambda _a, _b: pynvml.NVML_TOPOLOGY_SYSTEM,
        }  # fmt: skip


def use(fake: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_module: Any = fake
    fake_module.NVMLError = pynvml.NVMLError
    monkeypatch.setitem(sys.modules, "pynvml", fake_module)


def test_gpus_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml()
    use(fake, monkeypatch)
    gpus, driver, cuda = environment.read_gpus()
    assert (driver, cuda) == ("580.95.05", "13.1")
    assert fake.open == 0, "NVML was left open"
    assert [gpu["uuid"] for gpu in gpus] == ["GPU-0", "GPU-1"]
    assert gpus[0]["power_cap_w"] == 700.0
    assert gpus[0]["compute_capability"] == "9.0"
    assert gpus[0]["mig"] is False
    assert gpus[1]["links"] == {"0": "NVLink"}
    assert environment.gpu_memory_used() == [0, 3 << 30]


def test_what_a_gpu_withholds_is_none_and_not_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = (
        "nvmlDeviceGetEnforcedPowerLimit", "nvmlDeviceGetMigMode", "nvmlDeviceGetP2PStatus", "nvmlDeviceGetMemoryInfo",
    )  # fmt: skip
    use(FakeNvml(refused), monkeypatch)
    gpus, _, _ = environment.read_gpus()
    assert gpus[0]["power_cap_w"] is None
    assert gpus[0]["mig"] is None
    assert gpus[0]["memory_bytes"] is None
    assert gpus[0]["links"] == {"1": "SYS"}
    assert environment.gpu_memory_used() == [None, None]


def test_without_a_driver_there_are_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    use(FakeNvml(["nvmlInit"]), monkeypatch)
    assert environment.read_gpus() == ((), None, None)
    assert environment.gpu_memory_used() == []
    assert environment.visible_gpus() == ()


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [(None, (0, 1)), ("1", (1,)), ("GPU-1,0", (1, 0)), ("7", ()), ("", ()), ("nonsense", ()), ("²", ())],
)
def test_only_allowed_gpus_are_handed_out(
    monkeypatch: pytest.MonkeyPatch, allowed: str | None, expected: tuple[int, ...]
) -> None:
    use(FakeNvml(), monkeypatch)
    if allowed is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    assert environment.visible_gpus() == expected


@pytest.mark.gpu
def test_a_real_gpu_tells_all() -> None:
    gpus, driver, cuda = environment.read_gpus()
    assert gpus
    assert driver
    assert cuda
    assert all(gpu["name"] and gpu["uuid"] and gpu["memory_bytes"] for gpu in gpus)

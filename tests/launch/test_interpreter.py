"""Interpreters of others: looked at for real, in a virtual environment that has nothing."""

from __future__ import annotations

import subprocess
import sys
import venv
from dataclasses import replace
from pathlib import Path

import pytest

import loadgen
from loadgen.errors import BadInput, MissingDependency
from loadgen.launch import frameworks, running
from loadgen.launch.child import servers_folder
from loadgen.launch.interpreter import interpreter_of, look_into
from loadgen.records import ServerSpec
from loadgen.theory.models import PRESETS

SPEC = ServerSpec(framework="hf", model=PRESETS["tiny"], dtype="float32")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with Python alone, and three modules: one that imports, one that fails, one within a package that
    fails."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python3*/site-packages")
    (site / "well.py").write_text("print('noise')\n")
    (site / "ill.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    (site / "package").mkdir()
    (site / "package/__init__.py").write_text("raise SystemError('seconds of imports')\n")
    (site / "package/part.py").write_text("")
    (site / "engine_cpu-1.2.dist-info").mkdir()
    (site / "engine_cpu-1.2.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: engine-cpu\nVersion: 1.2\n"
    )
    return folder / "bin/python"


def test_another_interpreter_tells_what_it_has(bare: Path) -> None:
    found = look_into(
        str(bare),
        distributions=("engine", "engine-cpu", "pytest"),
        modules=("well", "package.part", "package.none", "pytest", "none.part"),
        imports=("well", "ill", "absent"),
    )
    assert found.version == ".".join(map(str, sys.version_info[:3]))
    assert found.first(("engine", "engine-cpu")) == ("engine-cpu", "1.2")
    assert found.first(("pytest",)) is None
    assert found.modules == {"well", "package.part"}
    assert found.failures == {"ill": "RuntimeError: operator torchvision::nms does not exist"}


def test_our_own_interpreter_tells_the_same_without_a_process() -> None:
    found = look_into(sys.executable, distributions=("pytest",), modules=("pytest", "loadgen.cli", "none"))
    assert found.versions == {"pytest": pytest.__version__}
    assert found.modules == {"pytest", "loadgen.cli"}


def test_what_lies_beside_an_installed_loadgen_is_not_an_engines(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "loadgen").symlink_to(Path(loadgen.__file__).parent)
    (tmp_path / "decoy.py").write_text("")
    for module, code in (("loadgen.units", 0), ("loadgen.servers._llama.files", 0), ("decoy", 1)):
        argv = [str(bare), str(tmp_path / "loadgen/launch/_child.py"), str(servers_folder()), module]
        done = subprocess.run(argv, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        assert ("No module named decoy" in done.stderr) is bool(code)


def test_where_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOADGEN_HF_PYTHON", raising=False)
    assert interpreter_of("hf", None) == sys.executable
    monkeypatch.setenv("LOADGEN_HF_PYTHON", "/opt/engine/bin/python")
    assert interpreter_of("hf", None) == "/opt/engine/bin/python"
    assert interpreter_of("hf", "env/bin/python") == f"{tmp_path}/env/bin/python"
    assert interpreter_of("ds", None) == sys.executable
    framework = frameworks.find("hf")
    assert framework.command(SPEC, "/run", (1,)).argv[0] == "/opt/engine/bin/python"


@pytest.mark.parametrize(
    "name", ["no such file", "a folder", "no program", "no Python", "a Python that fails"]
)
def test_what_is_no_interpreter_is_refused_by_its_path(name: str, tmp_path: Path) -> None:
    path = tmp_path / "python"
    if name == "a folder":
        path.mkdir()
    elif name == "no program":
        path.write_text("")
    elif name != "no such file":
        path.write_text(
            "#!/bin/sh\necho hello\nexit 0\n" if name == "no Python" else "#!/bin/sh\necho bad >&2\nexit 3\n"
        )
        path.chmod(0o755)
    with pytest.raises(BadInput, match=r"python = .*accepted") as caught:
        look_into(str(path))
    assert str(path) in str(caught.value)
    if name == "a Python that fails":
        assert "bad" in str(caught.value)


def test_a_server_is_not_started_in_one_that_is_not_there(tmp_path: Path) -> None:
    spec = replace(SPEC, framework="null", python=str(tmp_path / "none"))
    with pytest.raises(BadInput, match="no such program"):
        running.start_server(spec, tmp_path / "log", tmp_path / "run", lambda _state: None)
    assert not (tmp_path / "log").exists()


def test_what_an_engine_lacks_there_is_told_before_the_start(bare: Path) -> None:
    with pytest.raises(MissingDependency, match=r"hf: .*/bin/python has no torch, transformers"):
        frameworks.find("hf").check(replace(SPEC, python=str(bare)))

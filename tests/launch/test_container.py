"""Servers from a container image: the command line as data, which program runs it, and its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from loadgen.errors import BadInput, MissingDependency
from loadgen.launch import container, frameworks
from loadgen.launch.options import Options
from loadgen.launch.process import free_ports, serving
from loadgen.records import OptionValue, ServerSpec
from loadgen.theory.models import PRESETS

SPEC = ServerSpec(framework="hf", model=PRESETS["tiny"], dtype="float32")


def spec(**options: OptionValue) -> ServerSpec:
    return replace(SPEC, options=options)


@pytest.mark.parametrize("heeds_sigterm", [True, False])
def test_a_container_never_outlives_its_client(tmp_path: Path, heeds_sigterm: bool) -> None:
    """``docker run`` passes SIGTERM on; one that hangs is answered with ``docker kill``, by name."""
    engine = tmp_path / "docker"
    killed = tmp_path / "killed"
    trap = "trap 'exit 0' TERM" if heeds_sigterm else "trap '' TERM"
    engine.write_text(
        "#!/bin/sh\n"
        f'if [ "$1" = kill ]; then echo "$2" > {killed}; kill -KILL "$(cat {tmp_path}/pid)"; exit 0; fi\n'
        f"{trap}\necho $$ > {tmp_path}/pid.new\nmv {tmp_path}/pid.new {tmp_path}/pid\n"
        "while true; do sleep 0.05; done\n"
    )
    engine.chmod(0o755)
    argv = [sys.executable, "-m", "loadgen.launch.container", "--program", str(engine), "--name", "mine"]
    wrapper = subprocess.Popen([*argv, "--grace", "0.5", "--", str(engine), "run"])
    while not (tmp_path / "pid").exists():
        assert wrapper.poll() is None
    wrapper.send_signal(signal.SIGTERM)
    wrapper.wait(30)
    assert killed.exists() is not heeds_sigterm
    if not heeds_sigterm:
        assert killed.read_text().strip() == "mine"


def test_programs_are_looked_for_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    podman = tmp_path / "podman"
    podman.write_text("#!/bin/sh\n")
    podman.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = container.image_of(Options("ft", {"image": "i"}))
    assert found is not None
    assert found.program == "podman"
    container.check(Options("ft", {"image": "i"}))
    assert container.need().ok
    with pytest.raises(MissingDependency, match="needs docker on PATH"):
        container.check(Options("ft", {"image": "i", "container": "docker"}))
    podman.unlink()
    with pytest.raises(MissingDependency, match="needs docker or podman on PATH"):
        container.check(Options("ft", {"image": "i"}))
    assert not container.need().ok
    assert container.need().remedy


@pytest.mark.parametrize(
    "options",
    [
        {"image": "--privileged"},
        {"image": "-v/:/host"},
        {"image": "i --privileged"},
        {"image": "i\n--privileged"},
        {"image": ""},
        {"image": "i", "shm_size": "2g --privileged"},
        {"image": "i", "shm_size": "--privileged"},
        {"image": "i", "container": "/bin/sh"},
        {"shm_size": "2g"},
        {"container": "docker"},
    ],
)
def test_no_option_is_smuggled_in(options: dict[str, OptionValue]) -> None:
    with pytest.raises(BadInput, match="hf: option") as caught:
        frameworks.of(spec(**options)).check(spec(**options))
    assert not isinstance(caught.value, MissingDependency)
    assert "accepted" in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["i", "my/triton-ft:1", "localhost:5000/a/b:c", "ghcr.io/x/y:3.3.5", "r.io/n@sha256:00ff", "a_b/c.d-e"],
)
def test_names_of_images(name: str) -> None:
    assert container.image_of(Options("hf", {"image": name})) is not None


def test_any_framework_runs_from_an_image(tmp_path: Path) -> None:
    asked = replace(
        spec(image="my/hf:1", container="docker", shm_size="8g", engine="compiled"), gpus=(2, 3), tp=2
    )
    found = frameworks.of(asked).command(asked, "/run-dir", (30001,))
    client = found.argv[found.argv.index("--") + 1 :]
    assert client[:10] == (
        *("docker", "run", "--rm", "--init", "--name", "loadgen-hf-30001"),
        *("--gpus", '"device=2,3"', "--network", "host"),
    )
    assert client[10:12] == ("--shm-size", "8g")
    plain = frameworks.find("hf").command(
        replace(asked, options={"engine": "compiled"}), "/run-dir", (30001,)
    )
    at = client.index("my/hf:1")
    assert client[at - 2 : at] == ("--entrypoint", "python3")
    assert client[at + 1 :] == plain.argv[1:], "the same command, by the image's own Python"
    assert "/run-dir:/run-dir:rw" in client
    assert f"{Path(plain.argv[1]).parents[1]}:{Path(plain.argv[1]).parents[1]}:ro" in client
    assert not any(part.startswith("CUDA_VISIBLE_DEVICES") for part in client), (
        "they are numbered from 0 inside"
    )
    assert (found.ready_url, found.base_url) == (plain.ready_url, plain.base_url)
    assert "127.0.0.1" in found.ready_url
    on_cpu = replace(asked, gpus=(), tp=1)
    cpu = frameworks.of(on_cpu).command(on_cpu, "/run-dir", (30001,)).argv
    assert "--gpus" not in cpu
    assert "CUDA_VISIBLE_DEVICES=" in cpu


def test_a_framework_in_an_image_is_not_looked_for_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = tmp_path / "docker"
    engine.write_text("#!/bin/sh\n")
    engine.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    asked = replace(spec(image="i"), framework="ds")
    frameworks.of(asked).check(asked)
    wrong = replace(asked, options={"image": "i", "no_such": 1})
    with pytest.raises(BadInput, match="no_such"):
        frameworks.of(wrong).check(wrong)


def test_a_server_from_an_image_starts_serves_and_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in engine, which runs what docker would in the container: the command line behind it is for real."""
    engine = tmp_path / "docker"
    engine.write_text(
        f"#!{sys.executable}\n"
        "import json, os, sys\n"
        f"open({str(tmp_path / 'asked.json')!r}, 'w').write(json.dumps(sys.argv))\n"
        "words = sys.argv[sys.argv.index('--entrypoint') + 1:]\n"
        f"program = {{'python3': {sys.executable!r}}}[words[0]]\n"
        "os.execv(program, [program, *words[2:]])\n"
    )
    engine.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    asked = replace(spec(image="null:1"), framework="null")
    framework = frameworks.of(asked)
    framework.check(asked)
    command = framework.command(asked, str(tmp_path / "run"), free_ports(1))
    with serving(command, tmp_path / "run", tmp_path / "log", ready_timeout_s=60) as server:
        assert server.alive()
    words = json.loads((tmp_path / "asked.json").read_text())
    assert words[1:3] == ["run", "--rm"]

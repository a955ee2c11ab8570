"""FasterTransformer from a container image: its program, and its end."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from loadgen.errors import MissingDependency
from loadgen.servers._ft import container, weights


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
    argv = [sys.executable, "-m", "loadgen.servers._ft.container", "--program", str(engine), "--name", "mine"]
    wrapper = subprocess.Popen([*argv, "--grace", "0.5", "--", str(engine), "run"])
    while not (tmp_path / "pid").exists():
        assert wrapper.poll() is None
    wrapper.send_signal(signal.SIGTERM)
    wrapper.wait(30)
    assert killed.exists() is not heeds_sigterm
    if not heeds_sigterm:
        assert killed.read_text().strip() == "mine"


def test_container_programs_are_looked_for_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    podman = tmp_path / "podman"
    podman.write_text("#!/bin/sh\n")
    podman.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert container.program(weights.Options("ft", {})) == "podman"
    with pytest.raises(MissingDependency, match="needs docker on PATH"):
        container.program(weights.Options("ft", {"container": "docker"}))

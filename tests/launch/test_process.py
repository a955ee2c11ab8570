"""Process care: readiness, death, and nothing left behind, with real processes."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from multiprocessing import shared_memory
from pathlib import Path

import pytest

from loadgen.errors import BadInput, ServerDied, ServerNotReady, ServerOutOfMemory
from loadgen.launch.child import child_argv
from loadgen.launch.process import GUARD, Server, free_ports, log_tail, port_is_free, serving
from loadgen.protocols import Command

SERVER = """
import http.server, os, subprocess, sys
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
open("pids", "w").write(f"{os.getpid()} {grandchild.pid}")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("content-length", "0"); self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def command(source: str, *args: str, port: int = 1, stop_timeout_s: float = 5.0, **rest: object) -> Command:
    return Command(
        argv=(sys.executable, "-c", source, *args),
        ready_url=f"http://127.0.0.1:{port}/",
        base_url=f"http://127.0.0.1:{port}",
        stop_timeout_s=stop_timeout_s,
        **rest,  # type: ignore[arg-type]
    )


def gone(pid: int, within_s: float = 10.0) -> bool:
    """Whether a process ends (a zombie that its new parent has yet to reap counts as ended)."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_a_ready_server_and_its_daemonised_grandchild_are_gone_after_stop(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    states: list[str] = []
    with serving(
        command(SERVER, str(port), port=port),
        tmp_path / "run",
        tmp_path / "log",
        ready_timeout_s=20,
        on_state=states.append,
    ) as server:
        assert server.alive()
        pids = [int(word) for word in (tmp_path / "run/pids").read_text().split()]
    assert states == ["starting", "ready"]
    assert all(gone(pid) for pid in pids)
    assert not server.alive()


def test_a_server_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    source = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SERVER
    server = Server(command(source, str(port), port=port, stop_timeout_s=0.2), tmp_path, tmp_path / "log")
    server.start(20)
    pids = [int(word) for word in (tmp_path / "pids").read_text().split()]
    server.stop()
    assert all(gone(pid) for pid in pids)


def test_death_before_readiness_is_told_with_the_last_log_lines(tmp_path: Path) -> None:
    server = Server(command("print('weights are missing'); raise SystemExit(3)"), tmp_path, tmp_path / "log")
    with pytest.raises(ServerDied, match="exit status 3") as caught:
        server.start(20)
    assert "weights are missing" in str(caught.value)
    assert str(tmp_path / "log") in str(caught.value)


def test_one_that_is_killed_while_it_loads_is_told_in_a_sentence_above_its_log(tmp_path: Path) -> None:
    source = "import os; print('loading', flush=True); os.kill(os.getpid(), 9)"
    with pytest.raises(ServerDied) as caught:
        Server(command(source), tmp_path, tmp_path / "log").start(20)
    first, *rest = str(caught.value).splitlines()
    assert first.startswith("the server ended while it loaded (signal SIGKILL: killed from outside")
    assert "loading" in rest[-1]


def test_running_out_of_memory_is_told_apart(tmp_path: Path) -> None:
    server = Server(
        command("print('torch.OutOfMemoryError: CUDA out of memory.'); raise SystemExit(1)"),
        tmp_path,
        tmp_path / "log",
    )
    with pytest.raises(ServerOutOfMemory):
        server.start(20)


def test_a_server_that_never_gets_ready_is_stopped(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    source = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(600)"
    server = Server(command(source, port=port), tmp_path, tmp_path / "log")
    with pytest.raises(ServerNotReady, match=r"within 1 s"):
        server.start(1.0)
    assert gone(int((tmp_path / "pid").read_text()))


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    missing = Command(
        argv=("no-such-program",), ready_url="http://127.0.0.1:1/", base_url="http://127.0.0.1:1"
    )
    with pytest.raises(ServerDied, match="cannot run no-such-program"):
        Server(missing, tmp_path, tmp_path / "log").start(5)


def test_setup_runs_first_and_its_failure_is_the_servers(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    setup = ((sys.executable, "-c", "open('made', 'w').write('yes')"),)
    with serving(
        command(SERVER, str(port), port=port, setup=setup, files={"sub/a.txt": "hello"}),
        tmp_path / "run",
        tmp_path / "log",
        ready_timeout_s=20,
    ):
        assert (tmp_path / "run/made").read_text() == "yes"
        assert (tmp_path / "run/sub/a.txt").read_text() == "hello"
    broken = command(SERVER, "1", setup=((sys.executable, "-c", "raise SystemExit('no space')"),))
    with pytest.raises(
        ServerDied, match=r"its preparation \(python\S*\) failed \(exit status 1\)\n(.*\n)*.*no space"
    ):
        Server(broken, tmp_path / "run2", tmp_path / "log2").start(20)


def test_sigkill_of_the_parent_leaves_nothing(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    (tmp_path / "server.py").write_text(SERVER)
    parent = f"""
import os, signal, sys
from pathlib import Path
from loadgen.launch.process import Server
from loadgen.protocols import Command
server = Server(Command(argv=(sys.executable, {str(tmp_path / "server.py")!r}, "{port}"),
                        ready_url="http://127.0.0.1:{port}/", base_url=""),
                Path({str(tmp_path)!r}), Path({str(tmp_path)!r}) / "log")
server.start(20)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", parent], timeout=60)
    assert done.returncode == -signal.SIGKILL
    pids = [int(word) for word in (tmp_path / "pids").read_text().split()]
    assert all(gone(pid) for pid in pids)


def test_sigkill_of_the_guard_takes_the_server_along(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    server = Server(command(SERVER, str(port), port=port), tmp_path, tmp_path / "log")
    server.start(20)
    main_pid, grandchild = (int(word) for word in (tmp_path / "pids").read_text().split())
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    try:
        assert gone(main_pid)
        while server.alive():
            time.sleep(0.02)
        assert isinstance(server.death(), ServerDied)
    finally:
        os.kill(grandchild, signal.SIGKILL)  # only a killed guard can lose a daemon
        server.stop()


def test_own_shared_memory_is_removed_and_no_other(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    mine, other = tmp_path / "seg_mine_1", tmp_path / "seg_other_1"
    mine.touch()
    other.touch()
    cmd = command(SERVER, str(port), port=port, cleanup=(str(tmp_path / "seg_mine_*"),))
    with serving(cmd, tmp_path / "run", tmp_path / "log", ready_timeout_s=20):
        pass
    assert not mine.exists()
    assert other.exists()


SHARER = (
    """
import os, sys, time
from multiprocessing import resource_tracker, shared_memory
resource_tracker.register = lambda *_: None  # which would remove it behind a process that is killed
mine = shared_memory.SharedMemory(create=True, size=4096)
theirs = shared_memory.SharedMemory(sys.argv[2])
open("names", "w").write(mine.name)
"""
    + SERVER
)


def test_shared_memory_of_random_names_goes_with_those_that_held_it(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    other = shared_memory.SharedMemory(create=True, size=4096)
    try:
        cmd = command(SHARER, str(port), other.name, port=port)
        with serving(cmd, tmp_path / "run", tmp_path / "log", ready_timeout_s=20) as server:
            mine = Path("/dev/shm", (tmp_path / "run/names").read_text())
            assert mine.exists()
            for pid, _ in server.family():
                with suppress(ProcessLookupError):  # the first one's end takes others along
                    os.kill(pid, signal.SIGKILL)
        assert not mine.exists()
        assert Path("/dev/shm", other.name).exists(), "it was there before the server"
    finally:
        other.close()
        other.unlink()


def test_free_ports_are_free_and_different() -> None:
    ports = free_ports(8)
    assert len(set(ports)) == 8
    assert all(port_is_free(port) for port in ports)


def test_log_tail_of_no_log_is_empty(tmp_path: Path) -> None:
    assert log_tail(tmp_path / "none") == ""
    (tmp_path / "log").write_text("\n".join(str(n) for n in range(100)))
    assert log_tail(tmp_path / "log", 2) == "98\n99"


def test_a_child_module_runs_without_loadgen_installed(tmp_path: Path) -> None:
    argv = child_argv(sys.executable, "loadgen.records")
    done = subprocess.run(
        [argv[0], "-I", "-S", *argv[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_a_server_may_open_as_many_files_as_its_client(tmp_path: Path) -> None:
    """The client raises its own soft limit; each of its requests is a file of the server's, too."""
    show = "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    argv = [
        "prlimit",
        f"--nofile=256:{hard}",
        sys.executable,
        "-I",
        "-S",
        str(GUARD),
        "5",
        sys.executable,
        "-c",
        show,
    ]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as guard:
        assert guard.stdout is not None
        assert int(guard.stdout.read()) == min(hard, 65536)


def test_a_killed_guard_leaves_nobody_behind(tmp_path: Path) -> None:
    """Its child dies with it, by the kernel; the grandchildren are left to init."""
    port = free_ports(1)[0]
    server = Server(command(SERVER, str(port), port=port), tmp_path / "run", tmp_path / "log")
    server.start(30.0)
    pids = [int(pid) for pid in (tmp_path / "run" / "pids").read_text().split()]
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    server.stop()
    assert all(gone(pid) for pid in pids)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1", "a" * 70 + ".invalid"])
def test_a_host_that_is_not_this_machine_s_is_told_at_once(host: str) -> None:
    with pytest.raises(BadInput, match="accepted: an address of this machine"):
        free_ports(1, host)

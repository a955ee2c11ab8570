"""Keeps one server's whole family on a leash: nothing it starts outlives loadgen.

Usage: ``python -I -S _guard.py STOP_TIMEOUT_S COMMAND [ARG…]`` with stdin a pipe whose writing end only loadgen
holds. When that pipe ends (loadgen closes it to stop the server, or died, even by SIGKILL), or on SIGTERM, the
command gets SIGTERM, then, after the time-out, every descendant gets SIGKILL. The guard is a child subreaper, so
daemons and workers in sessions of their own are still its descendants. It exits with the command's status when
no descendant is left.
"""

import contextlib
import ctypes
import os
import resource
import select
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
HANDLED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)
MOST_FILES = 65536  # some programs walk through all that they may open


def prctl(option: int, value: int) -> None:
    """Set a property of this process. Raises OSError where the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def spawn(argv: list[str]) -> int:
    """Fork and exec ``argv`` in its own process group, to die if the guard itself is killed."""
    signal.pthread_sigmask(
        signal.SIG_BLOCK, HANDLED
    )  # until the child has no handlers: none may be lost on it
    pid = os.fork()
    if pid:
        # As the child does, which may have run or even ended by now: the group is there before it is asked to stop.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(pid, pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        return pid
    try:
        os.setpgid(0, 0)
        soft, hard = resource.getrlimit(
            resource.RLIMIT_NOFILE
        )  # the client raises its own: each request is a file
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, MOST_FILES)), hard))
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        for number in HANDLED:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.execvp(argv[0], argv)  # noqa: S606 - an argv list from the launcher, never a shell
    except OSError as error:
        os.write(2, f"cannot run {argv[0]}: {error.strerror}\n".encode())
    os._exit(127)


def children() -> list[int]:
    """Process ids whose parent is this process, zombies included."""
    me, found = os.getpid(), []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as stat:
                fields = stat.read().rpartition(b")")[2].split()
        except OSError:
            continue  # it ended between the listing and the look
        if int(fields[1]) == me:
            found.append(int(name))
    return found


def kill_all() -> None:
    """SIGKILL and reap until no descendant is left; grandchildren become children as their parents go."""
    while True:
        for pid in children():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def main(stop_timeout_s: float, argv: list[str]) -> int:
    """Run the command of ``argv`` in a group of its own, and end all of it when the parent's pipe closes."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write)
    asked_to_stop = False

    def on_stop(_number: int, _frame: object) -> None:
        nonlocal asked_to_stop
        asked_to_stop = True

    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.signal(signal.SIGTERM, on_stop)
    signal.signal(signal.SIGINT, on_stop)

    main_pid = spawn(argv)
    status: int | None = None
    deadline: float | None = None
    watched = [0, wake_read]
    while status is None:
        wait = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select(watched, [], [], wait)
        if wake_read in ready:
            os.read(wake_read, 4096)
        if 0 in ready and not os.read(0, 4096):
            watched.remove(0)
            asked_to_stop = True
        if asked_to_stop and deadline is None:
            deadline = time.monotonic() + stop_timeout_s
            os.killpg(main_pid, signal.SIGTERM)
        if deadline is not None and time.monotonic() >= deadline:
            break
        while True:
            try:
                pid, code = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == main_pid:
                status = code
    kill_all()
    if status is None:
        return 137
    return os.waitstatus_to_exitcode(status) % 256 if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))

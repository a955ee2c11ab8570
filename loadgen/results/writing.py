"""Files written so that no reader and no crash ever sees half of one, and lines so that none is torn."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from loadgen.errors import BadInput, StoreError
from loadgen.results.record_json import to_json


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A file to write to, which takes the place of ``path`` at once when the block has ended, on disk: no reader and no
    crash ever sees half of it. A device or a pipe, which nothing may take the place of, is written to as it is, and a
    link stays one. Raises StoreError."""
    target = path if is_stream(path) else Path(os.path.realpath(path))
    beside = target if is_stream(path) else target.with_name(target.name + ".new")
    try:
        yield beside
        if beside != target:
            with beside.open("rb+") as file:
                os.fsync(file.fileno())
            beside.replace(target)
    except OSError as error:
        raise StoreError(
            f"StoreError: {path}: cannot be written: {os.strerror(error.errno) if error.errno else error}\n"
            "  remedy: free or name a place that can be written (--out)"
        ) from None
    finally:
        if beside != target:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)


def check_place(path: Path, option: str) -> None:
    """Raise BadInput where no file of that name can be written, while nothing is lost yet; ``option`` named it."""
    why = (
        "is a folder"
        if path.is_dir()
        else "its folder is none"
        if not path.parent.is_dir()
        else "cannot be written to"
        if not os.access(path if path.exists() else path.parent, os.W_OK)
        else None
    )
    if why is not None:
        raise BadInput(
            f"{option} {path}: {why} (accepted: a file's name, in a folder that can be written to)"
        )


def is_stream(path: Path) -> bool:
    """Whether a path is a device, a pipe or a socket, such as ``/dev/stdout``, and no name that a file may have."""
    streams = any(path.is_relative_to(place) for place in ("/dev", "/proc"))
    return path.exists() and not path.is_dir() and (streams or not path.is_file())


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """Replace a file at once; see ``written_whole``."""
    with written_whole(path) as beside:
        beside.write_bytes(data)


def append_line(file: IO[bytes], record: Any) -> None:
    """Write a record as one more line of an open file, and wait until it is on disk. Raises StoreError."""
    line = memoryview(to_json(record) + b"\n")
    number = file.fileno()
    size = os.fstat(number).st_size
    try:
        while line:  # past the buffer, which would write what is left of a failed line when it is closed
            line = line[os.write(number, line) :]
        os.fsync(number)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.ftruncate(number, size)  # half a line would be taken for a crash's
        raise StoreError(f"{file.name}: cannot be written: {error.strerror}") from None


def cut_torn_line(path: Path) -> bool:
    """Cut off a last line that a crash tore in two, before the next is written. Says whether there was one."""
    if not path.exists():
        return False
    with path.open("rb+") as file:
        content = file.read()
        end = content.rfind(b"\n") + 1
        file.truncate(end)
    return end < len(content)

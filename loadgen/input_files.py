"""Files that people name: opened only where they are files; a pipe would hang us, and a device fill the memory."""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO

MARK = b"\xef\xbb\xbf"  # which some editors put before UTF-8, and no reader of JSON takes
MOST_BYTES = 64 << 20  # of a file that is read whole and that people write by hand


def open_input(path: str | os.PathLike[str]) -> BinaryIO:
    """A file, opened to read bytes. Raises OSError for what is none: a folder, a pipe, a device, a name with a NUL."""
    try:
        # A pipe that nobody writes to would be waited for without an end.
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:
        raise OSError(errno.EINVAL, f"cannot be the name of a file ({error})") from None
    kind = os.fstat(number).st_mode
    if not stat.S_ISREG(kind):
        os.close(number)
        what = "a folder" if stat.S_ISDIR(kind) else "a pipe" if stat.S_ISFIFO(kind) else "a device or socket"
        raise OSError(errno.EINVAL, f"is {what}, not a file")
    return os.fdopen(number, "rb")


def unreadable(path: str | os.PathLike[str], error: Exception) -> str:
    """Why a file that somebody named cannot be read; of a relative path that leads nowhere, also from where."""
    words = f"cannot be read: {getattr(error, 'strerror', None) or error}"
    if isinstance(error, FileNotFoundError) and not os.path.isabs(path):
        words += f"; a relative path counts from the current folder, {os.getcwd()}"
    return words


def read_input(path: str | os.PathLike[str], most: int = MOST_BYTES) -> bytes:
    """All of a file, which is no longer than ``most`` bytes. Raises OSError for another one."""
    with open_input(path) as file:
        found = file.read(most + 1)
    if len(found) > most:
        raise OSError(errno.EFBIG, f"is longer than {most >> 20} MiB")
    return found

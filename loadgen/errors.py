"""Every exception that loadgen raises on purpose.

::

    LoadgenError
    ├── BadInput                 the user's input; exit code 2
    │   ├── ProfileError         a profile: file, key, value, what is accepted
    │   ├── UnknownFramework
    │   ├── NotResults           a folder given as results that are none; a StoreError, too
    │   └── MissingDependency    a library, program or device that this machine lacks, with the remedy
    ├── ServerError              a server under test: log path and its last lines
    │   ├── ServerDied
    │   ├── ServerHung
    │   ├── ServerNotReady
    │   ├── ServerRestarted      an endpoint that somebody else runs
    │   └── ServerOutOfMemory
    ├── DriverError              one request; becomes Sample.error, never ends a trial
    │   ├── ConnectFailed
    │   ├── TimedOut
    │   ├── BadReply
    │   ├── Refused              the server answered with an error of its own (4xx, 5xx, gRPC status)
    │   ├── WrongLength          a reply with another number of tokens than was asked for
    │   └── Cancelled            the client gave it up, as the load says: counted apart from what failed
    ├── WarmupRefused            the server refused every request of the warm-up: nothing is measured
    ├── WorkerDied               a load generator process ended early: its trial fails
    └── StoreError               a results folder that cannot be read or written
"""

from __future__ import annotations

import re


class LoadgenError(Exception):
    """Root of the tree."""


class BadInput(LoadgenError):
    """Something the user gave cannot be used; the message says what, where and what is accepted."""


class ProfileError(BadInput):
    """A profile that cannot be run.

    The message reads ``FILE: KEY = VALUE: why (accepted: …)`` so that one line is enough to mend it.
    """

    def __init__(self, file: str, key: str, value: object, why: str, accepted: str | None = None) -> None:
        shown = "" if value is None else f" = {value!r}"
        shown = re.sub(r"(\w+://)[^/@\s'\"]*@", r"\1…@", shown)  # credentials are neither printed nor stored
        hint = f" (accepted: {accepted})" if accepted else ""
        super().__init__(f"{file}: {key}{shown}: {why}{hint}")
        self.file, self.key, self.value, self.accepted = file, key, value, accepted


class UnknownFramework(BadInput):
    """A framework name with no module in ``servers/``."""


class MissingDependency(BadInput):
    """A library, program or device that this machine lacks; ``remedy`` is what to do about it."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}\n  remedy: {remedy}")
        self.what, self.remedy = what, remedy


class ServerError(LoadgenError):
    """A server under test failed; carries the log's path and its last lines."""

    def __init__(self, message: str, log_path: str | None = None, tail: str = "") -> None:
        where = f"\n  log: {log_path}" if log_path else ""
        lines = "".join(f"\n  | {line}" for line in tail.splitlines())
        super().__init__(f"{message}{where}{lines}")
        self.message, self.log_path, self.tail = message, log_path, tail


class ServerDied(ServerError):
    """The server process ended although nobody asked it to."""


class ServerHung(ServerError):
    """The server still runs, but answers nothing any more."""


class ServerNotReady(ServerError):
    """The server did not become ready in time."""


class ServerRestarted(ServerError):
    """An endpoint that somebody else runs ended, or was started anew, while a trial loaded it."""


class ServerOutOfMemory(ServerError):
    """The server ran out of device memory."""


class DriverError(LoadgenError):
    """One request failed. Stored as ``ClassName: message`` in ``Sample.error``."""


class ConnectFailed(DriverError):
    """The connection could not be made, or was lost before the first byte of the reply."""


class TimedOut(DriverError):
    """Connect, first-byte, between-bytes or total time-out; the message says which."""


class BadReply(DriverError):
    """The reply broke its protocol: malformed, or ended before its end."""


class Refused(DriverError):
    """The server answered with an error; the message carries its status and words."""


class WrongLength(DriverError):
    """The reply held another number of tokens than was asked for."""


class Cancelled(DriverError):
    """The client closed the connection of a request that its load has cancelled."""


class WarmupRefused(LoadgenError):
    """The server refused every request of the warm-up; the message is the last refusal."""


class WorkerDied(LoadgenError):
    """A load generator worker process ended before its share of the schedule was done."""


class StoreError(LoadgenError):
    """A results folder that cannot be read or written."""


class NotResults(BadInput, StoreError):
    """The folder that was named holds no results, or results of a version that this loadgen does not read."""


def unserved(error: str | None) -> bool:
    """Whether a sample's error says that there was no answer; one of another length than asked for is an answer, and
    one that was given up might have become one."""
    return error is not None and not error.startswith((WrongLength.__name__, Cancelled.__name__))


def cancelled(error: str | None) -> bool:
    """Whether a sample's error says that the client gave the request up, as its load says."""
    return error is not None and error.startswith(Cancelled.__name__)

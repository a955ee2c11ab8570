"""What a server's log says it died of: the last exception that a Python process of it left there."""

from __future__ import annotations

import re

from loadgen.labels import clean

# Behind what launchers and loggers put before a line: ``[rank0]: ``, ``(EngineCore pid=7) ERROR 12:00 [core.py:9] ``.
RAISED = re.compile(
    r"^(?:[\[(][^\])\n]{0,80}[\])]:? |[\w:.,/-]{1,40} ){0,8}((?:\w+\.){0,8}\w*(?:Error|Exception)): (\S.*)$"
)
LONGEST = 200  # characters of it
LINE = 2000  # characters of a line that are looked at
MERE = (
    "RuntimeError",
    "ChildFailedError",
    "ProcessRaisedException",
)  # mostly told about another process's end


def last_error(log: str) -> str | None:
    """``ModuleNotFoundError: No module named 'x'``, of a log's last lines; None where no exception stands in them.

    A launcher raises one of its own when a worker of it has ended, so that of a worker comes first.
    """
    found = [match for line in log.splitlines() if (match := RAISED.match(line[:LINE].rstrip()))]
    telling = [match for match in found if match[1].rpartition(".")[2] not in MERE] or found
    if not telling:
        return None
    text = clean(f"{telling[-1][1]}: {telling[-1][2]}")
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"

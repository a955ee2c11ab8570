"""The interpreter that an engine lives in: found, and looked at before anything is started in it.

Engines pin their own torch, so each may have an installation of its own: ``python`` of a profile, ``--python``, or
``LOADGEN_NAME_PYTHON`` in the environment (so that a profile need not name a machine's paths), else loadgen's own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from loadgen.errors import BadInput
from loadgen.launch import _look

LOOK = Path(_look.__file__).resolve()
LIMIT_S = 120.0  # an import of torch from a cold disk takes tens of seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """What was found in an interpreter: ``versions`` of distributions that are there, ``modules`` that are, and the
    imports that fail, with their errors."""

    path: str
    version: str
    versions: Mapping[str, str] = field(default_factory=dict)
    modules: frozenset[str] = frozenset()
    failures: Mapping[str, str] = field(default_factory=dict)

    def first(self, distributions: Sequence[str]) -> tuple[str, str] | None:
        """Name and version of the first of ``distributions`` that is there: some have several names."""
        return next(((name, self.versions[name]) for name in distributions if name in self.versions), None)


def variable(framework: str) -> str:
    """The environment variable that names a framework's interpreter where neither profile nor command line does."""
    return f"LOADGEN_{framework.upper()}_PYTHON"


def interpreter_of(framework: str, python: str | None) -> str:
    """The absolute path of the interpreter that a server runs in, there or not: ``look_into`` tells. A server runs in
    another folder, where a relative path would be another file; a virtual environment's link is not followed."""
    named = os.path.expanduser(python or os.environ.get(variable(framework)) or sys.executable)
    return os.path.abspath(named) if os.sep in named else shutil.which(named) or named


def program_of(framework: str, python: str | None, program: str) -> str:
    """Where a framework's program lies, or should: beside the interpreter that is named for it, else on PATH."""
    if python is None and variable(framework) not in os.environ:
        return shutil.which(program) or program
    return os.path.join(os.path.dirname(interpreter_of(framework, python)), program)


def look_into(
    path: str,
    *,
    distributions: Sequence[str] = (),
    modules: Sequence[str] = (),
    imports: Sequence[str] = (),
) -> Interpreter:
    """What the interpreter at ``path`` has. Asked once per question in a process, in seconds where ``imports`` are.

    Raises BadInput where there is none, for a program that is no Python 3, and for one that does not answer within
    ``LIMIT_S``.
    """
    if not os.path.isfile(path) or not os.access(path, os.X_OK):
        raise BadInput(f"python = {path!r}: no such program (accepted: the path of a Python 3 interpreter)")
    return _looked(path, os.stat(path).st_mtime_ns, tuple(distributions), tuple(modules), tuple(imports))


@cache
def _looked(
    path: str, _changed_ns: int, distributions: tuple[str, ...], modules: tuple[str, ...], imports: tuple[str, ...]
) -> Interpreter:  # fmt: skip
    asked = {"distributions": list(distributions), "modules": list(modules), "imports": list(imports)}
    own = path == sys.executable and not imports
    told = _look.look(asked) if own else _ask(path, json.dumps(asked))
    return Interpreter(
        path=path,
        version=told["version"],
        versions=told["versions"],
        modules=frozenset(told["modules"]),
        failures=told["failures"],
    )


def _ask(path: str, asked: str) -> dict[str, Any]:
    argv = [path, str(LOOK), asked]
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, errors="replace", timeout=LIMIT_S, stdin=subprocess.DEVNULL
        )
        last = done.stdout.strip().rpartition("\n")[2]
        told = json.loads(last) if done.returncode == 0 else None
    except subprocess.TimeoutExpired:
        raise BadInput(
            f"python = {path!r}: does not answer within {LIMIT_S:g} s (accepted: a Python interpreter)"
        ) from None
    except (OSError, ValueError) as error:
        raise BadInput(f"python = {path!r}: {error} (accepted: the path of a Python 3 interpreter)") from None
    if not isinstance(told, dict) or not {"version", "versions", "modules", "failures"} <= told.keys():
        words = done.stderr.strip().rpartition("\n")[2][:200] or f"exit status {done.returncode}"
        raise BadInput(f"python = {path!r}: {words} (accepted: the path of a Python 3 interpreter)")
    return told

"""What every framework says alike: the argv of one of our modules in any interpreter, and the host of a URL.

Light: each module of ``servers/`` imports it, and finding out which frameworks there are imports all of those.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

CHILD = Path(__file__).resolve().with_name("_child.py")
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # where to listen → where to connect


def servers_folder() -> Path:
    """The absolute path of the folder ``servers``, in a checkout and when installed."""
    spec = importlib.util.find_spec("loadgen.servers")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(next(iter(spec.submodule_search_locations))).resolve()


def child_argv(python: str | None, module: str, *arguments: str) -> tuple[str, ...]:
    """The argv that runs ``module`` (a dotted name) in ``python`` (None: this interpreter), loadgen installed there
    or not."""
    return (python or sys.executable, str(CHILD), str(servers_folder()), module, *arguments)


def url_host(host: str) -> str:
    """The host to connect to in a URL, for one to listen on: no wildcard, and an IPv6 address in brackets."""
    host = WILDCARDS.get(host, host)
    return f"[{host}]" if ":" in host else host

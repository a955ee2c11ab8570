"""Before a FasterTransformer server: let the backend find what the server has, and name what nobody has.

Usage: ``libraries.py SERVER LIBRARY LINKS``. A backend is linked against ``libtritonserver.so``; the PyPI wheel has it
under a name of its own, so a link of the common name goes into the folder ``LINKS``, which ends LD_LIBRARY_PATH: the
loader sees that it is the file that the server already holds, and takes that.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

CORE = "libtritonserver"


def shared_libraries(program: Path, env: dict[str, str]) -> dict[str, Path | None]:
    """Name → file of every shared library that ``program`` needs, None where the loader finds none; by ``ldd``."""
    ldd = shutil.which("ldd")
    if ldd is None:
        return {}
    shown = subprocess.run(
        [ldd, str(program)], env=env, capture_output=True, text=True, timeout=30, check=False
    )
    found: dict[str, Path | None] = {}
    for line in shown.stdout.splitlines():
        name, arrow, where = line.strip().partition(" => ")
        if arrow:
            found[name] = None if where.startswith("not found") else Path(where.split(" (")[0])
    return found


def missing_libraries(program: Path, env: dict[str, str]) -> list[str]:
    """Those that the loader does not find."""
    return [name for name, path in shared_libraries(program, env).items() if path is None]


def main(server: Path, library: Path, links: Path) -> int:
    """Warn of what ``library`` will not find when Triton loads it. Returns 2 where a file is not there, else 0."""
    env = dict(os.environ)
    for program in (server, library):
        if not program.is_file():
            print(f"{program}: no such file", file=sys.stderr)
            return 2
    held = shared_libraries(server, env)
    for name, path in held.items():
        link = links / f"{CORE}.so"
        if name.startswith(CORE) and path is not None and not link.exists():
            links.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
    # What the server has loaded by then, its backends get for nothing.
    missing = [name for name in missing_libraries(library, env) if name not in held]
    if missing:  # Triton refuses next, in a sentence deep in its log; this is the remedy above it
        shown = env.get("LD_LIBRARY_PATH", "")
        print(
            f"warning: {library} cannot load {', '.join(missing)}; LD_LIBRARY_PATH is {shown!r}: add their folder"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))

"""What an interpreter has, told by itself as JSON. Standard library only: it runs in interpreters of others.

Usage: ``PYTHON _look.py '{"distributions": […], "modules": […], "imports": […]}'``.
"""

import contextlib
import importlib
import importlib.util
import io
import json
import os
import platform
import sys
from importlib import metadata
from typing import Any


def look(asked: dict[str, list[str]]) -> dict[str, Any]:
    """Versions of distributions, which modules lie there (nothing is imported for it), and which of ``imports`` fail,
    with the error's class and words. What does not lie there does not fail."""
    versions = {}
    for name in asked["distributions"]:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    failures = {}
    for name in asked["imports"]:
        if lies_there(name):
            try:
                with contextlib.redirect_stdout(io.StringIO()):  # ours holds JSON alone
                    importlib.import_module(name)
            except Exception as error:  # noqa: BLE001 an import may raise anything, and that is the answer
                failures[name] = f"{type(error).__name__}: {error}"
    return {
        "version": platform.python_version(),
        "versions": versions,
        "modules": [name for name in asked["modules"] if lies_there(name)],
        "failures": failures,
    }


def lies_there(module: str) -> bool:
    """Whether a module can be found by its file, so that no package above it is imported (which may take seconds)."""
    top, *below = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # a module without a spec, as __main__ is
        return False
    if spec is None or not below:
        return spec is not None
    for place in spec.submodule_search_locations or ():
        path = os.path.join(place, *below)
        if os.path.isfile(f"{path}.py") or os.path.isfile(os.path.join(path, "__init__.py")):
            return True
    return False


if __name__ == "__main__":
    if os.path.dirname(os.path.abspath(__file__)) == sys.path[0]:
        del sys.path[0]  # its module names would shadow others
    print(json.dumps(look(json.loads(sys.argv[1]))))

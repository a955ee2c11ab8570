"""Run one module of loadgen in an interpreter that need not have loadgen installed.

Usage: ``PYTHON _child.py SERVERS_DIR MODULE [ARG…]``. Engines often live in environments of their own; there only
the standard library, the engine and this source tree are at hand.
"""

import importlib.util
import os
import runpy
import sys


def bootstrap(servers_dir: str) -> None:
    """Make ``loadgen`` and ``loadgen.servers`` importable from where they lie."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[0] = os.path.dirname(
        os.path.dirname(here)
    )  # not loadgen/ itself: its module names would shadow others
    if importlib.util.find_spec("loadgen.servers") is None:
        spec = importlib.util.spec_from_file_location(
            "loadgen.servers",
            os.path.join(servers_dir, "__init__.py"),
            submodule_search_locations=[servers_dir],
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["loadgen.servers"] = module
        spec.loader.exec_module(module)


if __name__ == "__main__":
    bootstrap(sys.argv[1])
    module_name = sys.argv[2]
    sys.argv = sys.argv[2:]
    runpy.run_module(module_name, run_name="__main__", alter_sys=True)

"""Run one module of loadgen in an interpreter that need not have loadgen installed.

Usage: ``PYTHON _child.py SERVERS_DIR MODULE [ARG…]``. Engines often live in environments of their own; there only
the standard library, the engine and this source tree are at hand.
"""

import importlib.util
import os
import runpy
import sys


def bootstrap(servers_dir: str) -> None:
    """Make ``loadgen`` and ``loadgen.servers`` importable from where they lie, and nothing that lies beside them: an
    installed loadgen has its own environment's packages there, which an engine must not find."""
    _place("loadgen", os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    _place("loadgen.servers", servers_dir)


def _place(name: str, folder: str) -> None:
    if name in sys.modules:
        return
    init = os.path.join(folder, "__init__.py")
    spec = importlib.util.spec_from_file_location(name, init, submodule_search_locations=[folder])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


if __name__ == "__main__":
    if os.path.dirname(os.path.abspath(__file__)) == sys.path[0]:
        del sys.path[0]  # its module names would shadow others
    bootstrap(sys.argv[1])
    module_name = sys.argv[2]
    sys.argv = sys.argv[2:]
    runpy.run_module(module_name, run_name="__main__", alter_sys=True)

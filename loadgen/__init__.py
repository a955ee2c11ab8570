"""loadgen: stand up llama inference servers, load them exactly, and say what the numbers mean."""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from loadgen import errors as errors
    from loadgen.analysis.compare import Comparison as Comparison
    from loadgen.api.folders import Tables as Tables
    from loadgen.api.folders import compare as compare
    from loadgen.api.folders import read as read
    from loadgen.api.loads import Load as Load
    from loadgen.api.runs import Target as Target
    from loadgen.api.runs import run as run
    from loadgen.api.sweeps import Swept as Swept
    from loadgen.api.sweeps import sweep as sweep
    from loadgen.records import TrialResult

    Result = TrialResult

__version__ = "0.1.0"

# All that is public, and where it is: imported when it is first asked for, since every server's process has this file.
_PUBLIC = {
    "Comparison": "analysis.compare:Comparison",
    "Load": "api.loads:Load",
    "Result": "records:TrialResult",
    "Swept": "api.sweeps:Swept",
    "Tables": "api.folders:Tables",
    "Target": "api.runs:Target",
    "compare": "api.folders:compare",
    "errors": "errors:",
    "read": "api.folders:read",
    "run": "api.runs:run",
    "sweep": "api.sweeps:sweep",
}
__all__ = [*_PUBLIC]

# In a checkout servers/ and profiles/ lie beside loadgen/, and in a wheel within it. Python started inside a checkout
# takes the package from there, whatever is installed.
_beside = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if not os.path.isdir(os.path.join(__path__[0], "servers")) and os.path.isfile(
    f"{_beside}/servers/__init__.py"
):
    __path__.append(_beside)


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'loadgen' has no attribute {name!r}")
    import importlib

    place, _, theirs = _PUBLIC[name].partition(":")
    home = importlib.import_module(f"loadgen.{place}")
    found: object = getattr(home, theirs) if theirs else home
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

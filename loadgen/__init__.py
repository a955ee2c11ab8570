"""loadgen: stand up llama inference servers, load them exactly, and say what the numbers mean."""

import os

__version__ = "0.1.0"

# In a checkout servers/ and profiles/ lie beside loadgen/, and in a wheel within it. Python started inside a checkout
# takes the package from there, whatever is installed.
_beside = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if not os.path.isdir(os.path.join(__path__[0], "servers")) and os.path.isfile(
    f"{_beside}/servers/__init__.py"
):
    __path__.append(_beside)

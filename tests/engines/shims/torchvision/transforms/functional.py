"""Any name that is imported: none can be called."""

from typing import Any


def _none(*_given: object, **_named: object) -> None:
    raise NotImplementedError("a stand-in for tests: no image is transformed")


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return _none

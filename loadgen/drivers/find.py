"""Drivers by the name of their protocol."""

from __future__ import annotations

import importlib
from typing import cast

from loadgen.errors import MissingDependency
from loadgen.protocols import DriverFactory

EXTRAS = {"triton-grpc": "triton", "mii-grpc": "ds"}


def driver_factory(protocol: str) -> DriverFactory:
    """The driver of a protocol: ``triton-grpc`` is ``make_driver`` of ``loadgen/drivers/triton_grpc.py``.

    Raises MissingDependency when a library of its cannot be imported.
    """
    try:
        module = importlib.import_module(f"loadgen.drivers.{protocol.replace('-', '_')}")
    except (ImportError, RuntimeError, TypeError) as error:  # what a half-installed library raises
        extra = EXTRAS.get(protocol)
        remedy = (
            f"pip install 'loadgen[{extra}]' (its client library, whole)"
            if extra
            else "install loadgen again"
        )
        raise MissingDependency(f"the {protocol} driver cannot be imported: {error}", remedy) from None
    return cast(DriverFactory, module.make_driver)

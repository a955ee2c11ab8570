"""Drivers by the name of their protocol."""

from __future__ import annotations

import importlib
from typing import cast

from loadgen.protocols import DriverFactory


def driver_factory(protocol: str) -> DriverFactory:
    """The driver of a protocol: ``triton-grpc`` is ``make_driver`` of ``loadgen/drivers/triton_grpc.py``."""
    module = importlib.import_module(f"loadgen.drivers.{protocol.replace('-', '_')}")
    return cast(DriverFactory, module.make_driver)

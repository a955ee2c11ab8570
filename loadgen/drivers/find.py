"""Drivers by the name of their protocol."""

from __future__ import annotations

import importlib
from typing import cast

from loadgen.errors import BadInput, MissingDependency
from loadgen.load_records import LoadSpec
from loadgen.protocols import DriverFactory
from loadgen.system import plugins

EXTRAS = {"triton-grpc": "triton", "mii-grpc": "ds", "tgi-shard": "triton"}
BUILT_IN = ("llamacpp", "lmdeploy", "mii-grpc", "openai", "sglang", "tgi", "tgi-shard", "triton-grpc")
STATIC_ALONE = frozenset({"tgi-shard"})  # whose caller is the scheduler, so that nothing arrives meanwhile


def check_load(protocol: str, load: LoadSpec) -> None:
    """Raise BadInput for a load that a protocol cannot carry."""
    if protocol in STATIC_ALONE and load.kind != "static":
        raise BadInput(
            f"mode = {load.kind!r} over {protocol}: its caller forms the batches, and nothing arrives meanwhile "
            "(accepted: static)"
        )


def driver_factory(protocol: str) -> DriverFactory:
    """The driver of a protocol: ``triton-grpc`` is ``make_driver`` of ``loadgen/drivers/triton_grpc.py``; one that
    loadgen has not is another package's entry point.

    Raises MissingDependency when a library of its cannot be imported, BadInput for a protocol that nobody speaks.
    """
    if protocol not in BUILT_IN:
        others = plugins.offered(plugins.DRIVERS)
        if protocol in others:
            return cast(DriverFactory, plugins.load(plugins.DRIVERS, protocol))
        known = sorted({*BUILT_IN, *others})
        raise BadInput(f"protocol {protocol!r}: no driver speaks it (accepted: {', '.join(known)})")
    try:
        module = importlib.import_module(f"loadgen.drivers.{protocol.replace('-', '_')}")
    except (ImportError, RuntimeError, TypeError) as error:  # what a half-installed library raises
        extra = EXTRAS.get(protocol)
        remedy = (
            f"pip install 'llm-loadgen[{extra}]' (its client library, whole)"
            if extra
            else "install loadgen again"
        )
        raise MissingDependency(f"the {protocol} driver cannot be imported: {error}", remedy) from None
    return cast(DriverFactory, module.make_driver)

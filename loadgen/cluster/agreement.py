"""Whether the nodes of a cluster run the same loadgen as we do, and can reach what it is to load."""

from __future__ import annotations

import hashlib
import importlib.util
import ipaddress
import os
import platform
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from loadgen.errors import BadInput

KEY = "LOADGEN_API_KEY"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What decides whether a node can take part. ``package`` is a hash of all of loadgen's source, ``network`` is equal
    where 127.0.0.1 is the same place; ``has_key``: the variable of the API key is set there."""

    host: str
    python: str
    package: str
    network: str
    has_key: bool


def facts() -> NodeFacts:
    """Those of this process."""
    return NodeFacts(
        host=socket.gethostname(),
        python=platform.python_version(),
        package=package_hash(),
        network=_network(),
        has_key=bool(os.environ.get(KEY)),
    )


@cache
def package_hash() -> str:
    """SHA-256 of the names and bytes of loadgen's modules, wherever they are installed; 16 hex digits."""
    files: dict[str, Path] = {}
    for package in ("loadgen", "loadgen.servers"):
        spec = importlib.util.find_spec(package)
        # The first place alone: in a checkout the second one of loadgen is the checkout, with environments in it.
        for folder in list(spec.submodule_search_locations or ())[:1] if spec else ():
            for path in Path(folder).rglob("*.py"):
                files["/".join([*package.split("."), *path.relative_to(folder).parts])] = path
    found = hashlib.sha256()
    for name in sorted(files):
        found.update(name.encode() + b"\0" + hashlib.sha256(files[name].read_bytes()).digest())
    return found.hexdigest()[:16]


def check(nodes: Mapping[str, NodeFacts], url: str) -> None:
    """Raise BadInput that names the first node which cannot take part in loading ``url``."""
    ours = facts()
    for name, theirs in nodes.items():
        if theirs.package != ours.package:
            raise BadInput(
                f"node {name} ({theirs.host}): its loadgen is another one, {theirs.package}, ours is {ours.package} "
                "(accepted: the same files on every node)"
            )
        if is_loopback(urlsplit(url).hostname or "") and theirs.network != ours.network:
            raise BadInput(
                f"node {name} ({theirs.host}): {url} is another place there "
                "(accepted: an address that every node reaches)"
            )
        if ours.has_key and not theirs.has_key:
            raise BadInput(
                f"node {name} ({theirs.host}): {KEY} is not set there (accepted: it is set where `ray start` runs; "
                "it is sent to no node)"
            )


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this host alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _network() -> str:
    """The running system and its network namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/net')}"
    except OSError:  # no Linux: the host's name tells hosts apart
        return socket.gethostname()

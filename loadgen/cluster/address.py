"""Where a Ray cluster is: resolved, probed before Ray is asked (which waits 82 s for nobody), and not left open."""

from __future__ import annotations

import os
import re
import socket
import tempfile
from pathlib import Path

from loadgen.cluster.agreement import is_loopback
from loadgen.errors import BadInput

PROBE_S = 3.0
ACCEPTED = "accepted: auto, or HOST:PORT of the cluster's head"


def resolved(address: str) -> str:
    """``auto`` as the address that Ray knows: RAY_ADDRESS, else the cluster that runs on this host. Raises BadInput."""
    if address != "auto":
        return address
    if told := os.environ.get("RAY_ADDRESS"):
        return told
    noted = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir())) / "ray" / "ray_current_cluster"
    try:
        return noted.read_text().strip()
    except OSError:
        raise BadInput(
            f"--ray auto: RAY_ADDRESS is not set, and no cluster was started on this host ({ACCEPTED})"
        ) from None


def probe(address: str) -> None:
    """Raise BadInput, within 3 s, for what is no address or where nobody listens."""
    host, _, port = address.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or "/" in host:
        raise BadInput(f"--ray {address}: no address of a cluster ({ACCEPTED})")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_S).close()
    except (OSError, OverflowError) as error:
        raise BadInput(f"--ray {address}: nobody answers there: {error} ({ACCEPTED})") from None


def own_address(address: str) -> str:
    """This host's address on the way to a cluster's HOST:PORT, which its nodes reach as well. Raises BadInput."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_S) as way:
            return str(way.getsockname()[0])
    except OSError as error:
        raise BadInput(f"--ray {address}: nobody answers there: {error} ({ACCEPTED})") from None


def check_token(hosts: list[str], allowed: bool) -> None:
    """Raise BadInput for a cluster beyond this host that asks for no token: whoever reaches a port of it runs code."""
    if allowed or os.environ.get("RAY_AUTH_MODE") == "token":
        return
    beyond = [host for host in hosts if not is_loopback(host)]
    if beyond:
        raise BadInput(
            f"--ray: {beyond[0]} is beyond this host, and RAY_AUTH_MODE=token is not set: whoever reaches the "
            "cluster's ports runs code on it (accepted: RAY_AUTH_MODE=token and RAY_AUTH_TOKEN on every node and here; "
            "or --ray-without-token, for a network that you trust)"
        )

"""How an HTTP address is reached through httpx: proxies and certificates as the environment names them.

httpx would read the environment by itself, and fail for a variable that has nothing to do with the address: this
machine is always reached directly, and certificates are looked at only where there is TLS.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpx

from loadgen.errors import BadInput, MissingDependency

CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


def is_this_machine(host: str) -> bool:
    """Whether ``host`` names the loopback interface, or all of this machine's."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ("." + host.rstrip(".")).endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def proxy_for(scheme: str, host: str) -> str | None:
    """The proxy through which the environment sends ``scheme`` to ``host``; ``None`` where it is reached directly."""
    if is_this_machine(host):
        return None
    known = getproxies()
    found = known.get(scheme) or known.get("all")
    if not found or proxy_bypass(host):
        return None
    return found if "://" in found else f"http://{found}"


def tls_context() -> ssl.SSLContext:
    """What a server's certificate is held against: SSL_CERT_FILE and SSL_CERT_DIR, else what system and certifi have.

    Raises BadInput for a variable that names no certificates.
    """
    named = {name: os.environ[name] for name in CERTIFICATES if os.environ.get(name)}
    for name, path in named.items():
        if not Path(path).exists():
            raise BadInput(f"{name} = {path}: does not exist (accepted: PEM certificates, or unset)")
    try:
        context = ssl.create_default_context(
            cafile=named.get("SSL_CERT_FILE"), capath=named.get("SSL_CERT_DIR")
        )
    except (ssl.SSLError, OSError) as error:
        words = ", ".join(f"{name} = {path}" for name, path in named.items())
        raise BadInput(f"{words}: holds no certificates ({error}; accepted: PEM)") from None
    if not named:
        import certifi

        context.load_verify_locations(certifi.where())
    return context


def access(scheme: str, host: str, socket: str | None = None) -> Mapping[str, Any]:
    """Keyword arguments for an ``httpx.AsyncClient`` that reaches ``host``, or the unix ``socket``.

    Raises BadInput for variables of the environment that cannot be followed.
    """
    verify: Any = tls_context() if scheme == "https" else False
    if socket is not None:
        return {"transport": httpx.AsyncHTTPTransport(uds=socket), "trust_env": False}
    proxy = proxy_for(scheme, host)
    if proxy is None:
        return {"verify": verify, "trust_env": False}
    try:
        httpx.AsyncHTTPTransport(proxy=proxy)
    except ImportError:
        raise MissingDependency(
            f"the environment's proxy for {host} speaks SOCKS, which httpx cannot without socksio",
            "pip install socksio, or list the host in NO_PROXY",
        ) from None
    except (ValueError, TypeError, httpx.InvalidURL) as error:
        raise BadInput(
            f"the environment's proxy for {host}: {error} (accepted: {scheme}_proxy=http://HOST:PORT, or the host in "
            "NO_PROXY)"
        ) from None
    return {"verify": verify, "trust_env": False, "proxy": proxy}

"""URLs that people give: what is wrong with one is said before anything is stored, and without what it holds secret."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from urllib.parse import unquote, urlsplit

from loadgen.errors import BadInput

API_KEY_VARIABLE = "LOADGEN_API_KEY"
SCHEMES = ("http", "https", "http+unix", "grpc", "grpcs")
SOCKET_BYTES = 107  # the longest path of a unix socket on Linux
_SECRETS: set[str] = set()  # values of headers that came from the environment
_QUERY = re.compile(r"([?&;#]([^=?&;#\s]+)=)[^&;#\s]+")
_CREDENTIALS = re.compile(r"(\w+://)[^/@\s'\"]*@")
# Names of what is a secret wherever it stands; a prompt_cache_key or eos_token is none.
_SECRET_NAME = re.compile(
    r"(?:.*[_.-])?(?:(?:api|access|subscription|function|shared|private|secret)_?key|(?:access|auth|security|bearer)_?token"
    r"|secret|password|passwd|passphrase|pwd|credentials?|sig|signature|jwt|sas)"
    r"|authorization|auth|bearer|token|key",
    re.I,
)
_HOST = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,62}))*\.?"
)


def problem(text: str) -> str | None:
    """Why a text is no endpoint's URL, in words that may be shown and stored; ``None`` when it is one."""
    try:
        url = urlsplit(text)
        _ = url.port
    except ValueError as error:
        return f"is not a URL ({error})"
    if url.scheme not in SCHEMES or not url.hostname:
        return "is not a URL"
    if url.username is not None or url.password is not None:
        return f"holds credentials, which do not belong there; set {API_KEY_VARIABLE}"
    if url.fragment:
        return "holds a fragment (#…), which is sent to no server"
    if any(_gives_secret(found) for found in _QUERY.finditer(f"?{url.query}")):
        return f"holds a credential in its query, which would be stored; set {API_KEY_VARIABLE}, or a header"
    if not text.isascii() or not text.isprintable() or " " in text:
        return "holds other than printable ASCII (write it percent-encoded, a host in its xn-- form)"
    if url.scheme == "http+unix":
        path = unquote(url.netloc)
        if not path.startswith("/") or not 1 < len(path.encode()) <= SOCKET_BYTES:
            return "names no unix socket (write http+unix://%2Fpath%2Fof%2Fsocket, up to 107 bytes)"
    elif ":" not in url.hostname and not _HOST.fullmatch(url.hostname):
        return "names a host that cannot be"
    return None


def names_secret(name: str) -> bool:
    """Whether a parameter or field of this name holds a credential."""
    return _SECRET_NAME.fullmatch(name.replace("-", "_")) is not None


def check(text: str, name: str) -> None:
    """Raise BadInput for a text that is no endpoint's URL; ``name`` is the option that gave it."""
    if (wrong := problem(text)) is not None:
        raise BadInput(f"{name} {masked(text)}: {wrong} (accepted: such as http://127.0.0.1:8000)")


def check_key() -> None:
    """Raise BadInput for an API key that no header can carry, without showing it."""
    key = os.environ.get(API_KEY_VARIABLE, "")
    if not (key.isascii() and key.isprintable()):
        raise BadInput(
            f"{API_KEY_VARIABLE}: not a header value (accepted: printable ASCII, without a line end)"
        )


def keep_secret(value: str) -> None:
    """Have ``shown`` leave a value out from now on."""
    _SECRETS.add(value)


def shown(text: str) -> str:
    """A text that may be printed and stored: credentials of URLs in it are left out, and so are the API key and what
    ``keep_secret`` was given."""
    text = _QUERY.sub(lambda found: f"{found[1]}…" if _gives_secret(found) else found[0], text)
    clean = _CREDENTIALS.sub(r"\1…@", text).encode("utf-8", "replace").decode("utf-8")
    for secret in _secrets():
        clean = _written(secret).sub("…", clean)
    return clean


def masked(text: str) -> str:
    """What was given for a URL and need be none, to be shown: all before its last ``@`` may be a password."""
    scheme = re.match(r"\w+://", text)
    _, at, rest = text.rpartition("@")
    return shown(f"{scheme[0] if scheme else ''}…@{rest}" if at else text)


def _gives_secret(found: re.Match[str]) -> bool:
    name = unquote(found[2])
    return names_secret(name) or name.lower() in (
        "code",
        "pass",
    )  # a function's key, where no field is called so


def without_secrets(page: bytes) -> bytes:
    """A page as a server sent it, which may repeat the key that it was asked with, without that key."""
    for secret in _secrets():
        text = page.decode("utf-8", "surrogateescape")
        page = _written(secret).sub("…", text).encode("utf-8", "surrogateescape")
    return page


@lru_cache(maxsize=64)
def _written(secret: str) -> re.Pattern[str]:
    """A secret as it may stand in a page: as it is, or with characters escaped as JSON and URLs allow."""
    return re.compile("".join(each if each.isalnum() else _escaped(each) for each in secret), re.I)


def _escaped(char: str) -> str:
    return rf"(?:\\?{re.escape(char)}|\\u{ord(char):04x}|%{ord(char):02x})"


def _secrets() -> list[str]:
    """What must not be shown; shorter words stand for much else."""
    return [each for each in (os.environ.get(API_KEY_VARIABLE, "").strip(), *_SECRETS) if len(each) >= 4]

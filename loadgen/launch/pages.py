"""What an endpoint says of itself on its pages: which model, which version, how long a context, how large a vocabulary.

``/v1/models`` holds ``max_model_len`` (vLLM, SGLang), ``meta.n_vocab`` (llama.cpp) or ``context_length`` (proxies);
``/info`` is TGI's and ours; ``/props`` llama.cpp's, of one slot; ``/version`` vLLM's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import httpx

from loadgen.drivers.http_access import access
from loadgen.drivers.openai_endpoint import Endpoint
from loadgen.errors import BadInput
from loadgen.launch.page import LIMIT_BYTES, loosely, within
from loadgen.urls import without_secrets

METRICS = "/metrics"
PAGES = {"models": "models", "version": "/version", "info": "/info", "props": "/props", "metrics": METRICS}
CONTEXTS = (
    "max_model_len",
    "context_length",
    "max_context_length",
    "context_window",
    "max_total_tokens",
    "n_ctx",
)
VOCABULARIES = ("n_vocab", "vocab_size", "vocab")
# Servers whose /v1/models says so, and which are known to heed ignore_eos.
HEED_IGNORE_EOS = frozenset({"vllm", "sglang", "llamacpp", "lmdeploy"})
LONGEST_NAME = 500
MOST = 10**9  # tokens: beyond it a figure is none


@dataclass(frozen=True, slots=True, kw_only=True)
class Pages:
    """The pages that were found, by their names in ``PAGES``; ``fault`` says why ``models`` was not. ``metrics``: there
    is a page of counters, too."""

    found: Mapping[str, Mapping[str, Any]]
    fault: str
    reached: bool
    metrics: bool = False

    def model(self, asked: str | None, url: str) -> str:
        """The model to ask for: ``asked``, else the first that is listed. Raises BadInput where none is."""
        if asked is not None:
            return asked
        if not self.reached:
            raise BadInput(f"--url {url}: no server answers there ({self.fault})")
        named = next((entry["id"] for entry in self._entries() if _is_name(entry.get("id"))), None)
        if named is None:
            why = self.fault or "no list of them"
            if why[:3] in ("401", "403"):
                raise BadInput(
                    f"--url {url}: {why}: set LOADGEN_API_KEY, or name the header that it wants with --header"
                )
            raise BadInput(f"--url {url}: /v1/models names no model ({why}); give one with --model")
        return str(named)

    def _entries(self) -> list[Mapping[str, Any]]:
        listed = self.found.get("models", {}).get("data")
        return [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []

    def entry(self, model: str) -> Mapping[str, Any]:
        """What the list of models says of one; empty where it is not listed."""
        return next((entry for entry in self._entries() if entry.get("id") == model), {})

    def context(self, model: str) -> int | None:
        """The smallest context that a page names, in tokens."""
        return self._smallest(model, CONTEXTS)

    def vocabulary(self, model: str) -> int | None:
        """The smallest vocabulary that a page names."""
        return self._smallest(model, VOCABULARIES)

    def _smallest(self, model: str, names: tuple[str, ...]) -> int | None:
        told = [self.entry(model), self.found.get("info", {}), self.found.get("props", {})]
        told += [
            part
            for page in told
            for key in ("meta", "default_generation_settings")
            if isinstance(part := page.get(key), dict)
        ]
        known = [page.get(name) for page in told for name in names]
        return min((value for value in known if type(value) is int and 0 < value < MOST), default=None)

    def ours(self) -> bool:
        """Whether a server of loadgen's own answers: it says which engine runs, and takes all that is sent."""
        return isinstance(self.found.get("info", {}).get("engine"), str)

    def engine(self, model: str) -> dict[str, str]:
        """Name and version of the engine, as far as pages tell."""
        owner, version = self.entry(model).get("owned_by"), self.found.get("version", {}).get("version")
        version = version or self.found.get("info", {}).get("version")
        version = version or self.found.get("props", {}).get("build_info")
        found = {"engine": owner, "version": version}
        return {key: value[:100] for key, value in found.items() if value and _is_text(value)}


def _is_name(found: object) -> TypeGuard[str]:
    """Whether it can stand in every line and page that names a model."""
    return _is_text(found) and 0 < len(found) <= LONGEST_NAME


def _is_text(found: object) -> TypeGuard[str]:
    return isinstance(found, str) and found.isprintable()


def read_pages(endpoint: Endpoint, limit_s: float) -> Pages:
    """Fetch all pages at once, in ``limit_s`` seconds together. Raises BadInput for an environment or a header that
    cannot be followed; a page that does not come is left out."""
    faults: dict[str, str] = {}
    found: dict[str, Mapping[str, Any]] = {}
    reached, counters = [False], [False]

    async def one(client: httpx.AsyncClient, name: str, path: str) -> None:
        try:
            async with client.stream("GET", endpoint.page(path)) as reply:
                reached[0] = True
                if not reply.is_success:
                    faults[name] = f"{reply.status_code} {reply.reason_phrase}".strip()
                    return
                if name == "metrics":
                    counters[0] = "text/plain" in reply.headers.get("content-type", "")
                    return
                body = bytearray()
                async for block in reply.aiter_bytes():
                    body += block
                    if len(body) > LIMIT_BYTES:
                        return
            page = loosely(without_secrets(bytes(body)))
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, RecursionError) as error:
            faults[name] = str(error) or type(error).__name__
            return
        if isinstance(page, dict):
            found[name] = page
        else:
            faults[name] = "no object of JSON"

    async def every() -> None:
        reach = access(endpoint.scheme, endpoint.host, endpoint.socket)
        async with httpx.AsyncClient(headers=endpoint.headers(), timeout=limit_s, **reach) as client:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limit_s):
                    await asyncio.gather(*(one(client, name, path) for name, path in PAGES.items()))

    in_time = within(limit_s + 1.0, lambda: asyncio.run(every()) or True)
    fault = faults.get("models", "" if in_time and "models" in found else f"no answer within {limit_s:g} s")
    return Pages(found=dict(found), fault=fault, reached=reached[0], metrics=counters[0])


def known_facts(pages: Pages, model: str) -> Iterator[tuple[str, object]]:
    """What belongs into a result's ``engine``: facts, and no path of anybody's machine."""
    yield from pages.engine(model).items()
    for name, value in (("context", pages.context(model)), ("vocabulary", pages.vocabulary(model))):
        if value is not None:
            yield name, value


def nothing_there(endpoint: Endpoint, limit_s: float) -> str | None:
    """Why no connection comes about, in the system's words; ``None`` where one does, whatever is answered, and where
    that takes longer. Raises as ``read_pages`` does."""
    reach = access(endpoint.scheme, endpoint.host, endpoint.socket)
    try:
        with (
            httpx.Client(headers=endpoint.headers(), timeout=limit_s, **reach) as client,
            client.stream("GET", endpoint.page(PAGES["models"])),
        ):
            return None
    except httpx.ConnectError as error:
        return str(error) or type(error).__name__
    except (httpx.HTTPError, httpx.InvalidURL, OSError):
        return None


def answers(endpoint: Endpoint, limit_s: float) -> bool:
    """Whether anything comes back, be it a refusal, from where models are listed. Raises as ``read_pages`` does."""
    reach = access(endpoint.scheme, endpoint.host, endpoint.socket)

    def ask() -> bool:
        try:
            with (
                httpx.Client(headers=endpoint.headers(), timeout=limit_s, **reach) as client,
                client.stream("GET", endpoint.page(PAGES["models"])),
            ):
                return True
        except httpx.TimeoutException:
            return False
        except (httpx.HTTPError, httpx.InvalidURL, OSError):
            return True  # its end is no silence

    return bool(within(limit_s + 1.0, ask))

"""What an engine's own page tells that decides how its figures are read. Pure.

A server says it on the page behind ``info_url``, which is stored with every trial; a page that does not say is that of
an earlier version of ours, known by its name.

========== ======================================================================================================
``kv_ahead`` the engine takes its whole KV cache at its start, so its allocator does not tell what a trial needed
``graphs``   its calls are replayed CUDA graphs, whose working memory was taken at the capture
``eager``    it launches every kernel from Python, so that a low share of the memory bandwidth is no wonder
``kv_dtype`` that of the cache's numbers, where it is not the weights'
``kv_tokens`` how many tokens the cache holds that is taken ahead
``keeps_buffers`` it keeps every buffer at its largest, so that its memory tells of its largest trial alone
``code``     the state of loadgen's own source that the server runs (``system/source.py``), of servers of ours alone
``weights``  whose numbers it multiplies: ``maker``, and its ``distribution`` and ``seed``, or the ``fingerprint`` of a
             checkpoint. At the power cap numbers that switch fewer bits leave the clock higher
========== ======================================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from loadgen.records import ServerSpec

Page = Mapping[str, object]
CHECKPOINT = "checkpoint"
OURS = "loadgen"
CODE = "code"
OF_OURS = ("hf", "triton", "ds", "null")  # frameworks whose servers are loadgen's own code
ITS_OWN = "its own"
NORMAL, UNIFORM = (
    "normal, std 0.02",
    "uniform, std 0.02",
)  # as servers/_torch/model.py and _ft/tensors.py make them
# What the pages of earlier versions called weights that were not ours as framework hf makes them.
OLDER = {
    "random (made by the backend itself": ("FasterTransformer", ITS_OWN),
    "random (written by loadgen": (OURS, UNIFORM),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Whose numbers an engine multiplies. ``fingerprint`` is a checkpoint's; ``None`` where it is not known."""

    maker: str
    distribution: str | None = None
    seed: int | None = None
    fingerprint: str | None = None

    @property
    def text(self) -> str:
        """``loadgen's (normal, std 0.02)``, ``a checkpoint (1a2b)``."""
        if self.maker == CHECKPOINT:
            return f"a checkpoint ({self.fingerprint or 'which is not known'})"
        if self.distribution == ITS_OWN:
            return f"{self.maker}'s (random, made by the backend itself)"
        return f"{self.maker}'s ({self.distribution or 'distribution not told'})"

    def like(self, other: Weights) -> bool:
        """Whether two engines multiply numbers of one kind: one distribution by one maker, or one checkpoint."""
        known = self.fingerprint if self.maker == CHECKPOINT else self.distribution
        return known is not None and (self.maker, self.distribution, self.fingerprint) == (
            other.maker,
            other.distribution,
            other.fingerprint,
        )

    def page(self) -> dict[str, str | int]:
        """As a server's page says it."""
        told = {"maker": self.maker, "distribution": self.distribution, "seed": self.seed}
        return {
            name: value
            for name, value in {**told, "fingerprint": self.fingerprint}.items()
            if value is not None
        }


def own_weights(server: ServerSpec) -> Weights:
    """The weights of a server that takes a checkpoint as it is, and else makes them as framework ``hf`` does."""
    if server.model.checkpoint is not None and not server.dummy_weights:
        return Weights(maker=CHECKPOINT, fingerprint=server.model.fingerprint or None)
    seed = server.options.get("seed", 0)
    return Weights(maker=OURS, distribution=NORMAL, seed=seed if isinstance(seed, int) else None)


def weights_of(page: Page, server: ServerSpec | None) -> Weights | None:
    """Whose numbers an engine multiplied; ``None`` where neither page nor name tells."""
    told = page.get("weights")
    if isinstance(told, Mapping):
        texts = {name: told.get(name) for name in ("maker", "distribution", "fingerprint")}
        maker, distribution, fingerprint = (
            value if isinstance(value, str) else None for value in texts.values()
        )
        seed = told.get("seed")
        return (
            None
            if maker is None
            else Weights(
                maker=maker,
                distribution=distribution,
                seed=seed if isinstance(seed, int) else None,
                fingerprint=fingerprint,
            )
        )
    if server is None:
        return None
    for words, (maker, distribution) in OLDER.items():
        if isinstance(told, str) and told.startswith(words):
            return Weights(maker=maker, distribution=distribution)
    if isinstance(told, str) and told.startswith(f"{CHECKPOINT} (given"):
        return Weights(maker=CHECKPOINT)
    known = server.framework in ("hf", "triton", "ds") or (server.framework == "ft" and told is not None)
    return own_weights(server) if known else None


def versions_of(page: Page) -> dict[str, str]:
    """By name, what code an engine is: versions of its libraries and of the server that holds it, hashes of its files,
    and the state of our own source."""
    found = {name: str(page[name]) for name in ("version", "server", "cuda", CODE) if page.get(name)}
    versions, library = page.get("versions"), page.get("library")
    if isinstance(versions, Mapping):
        found |= {str(name): str(version) for name, version in versions.items()}
    if isinstance(library, Mapping):
        found |= {f"{file}, SHA-256": str(hashed) for file, hashed in library.items()}
    return found


def takes_kv_ahead(page: Page) -> bool:
    """Whether the engine of a page takes its whole KV cache at its start."""
    if (told := _told(page, "kv_ahead")) is not None:
        return told
    name = str(page.get("engine", "")).lower()
    return any(known in name for known in ("fastgen", "vllm", "continuous"))


def kv_dtype(page: Page, server: ServerSpec) -> str:
    """The dtype of the key/value cache."""
    told = page.get("kv_dtype")
    return told if isinstance(told, str) else server.dtype


def keeps_buffers(page: Page) -> bool:
    """Whether an engine keeps every buffer at its largest."""
    told = _told(page, "keeps_buffers")
    return told if told is not None else str(page.get("engine", "")).startswith("fastertransformer")


def replays_graphs(page: Page, server: ServerSpec | None) -> bool:
    """Whether a server's calls are CUDA graphs: what those need besides weights and cache was taken at the capture, and
    no later call's peak shows it."""
    if server is None or not server.gpus:
        return False
    if (told := _told(page, "graphs")) is not None:
        return told
    return server.options.get("engine") == "compiled" or server.options.get("cuda_graph") is True


def is_eager(page: Page, server: ServerSpec | None) -> bool | None:
    """Whether the engine launches its kernels one by one; ``None`` where neither page nor name tells."""
    if (told := _told(page, "eager")) is not None:
        return told
    if server is None or server.framework != "hf":
        return False
    return True if server.options.get("engine", "generate") == "generate" else None


def _told(page: Page, name: str) -> bool | None:
    found = page.get(name)
    return found if isinstance(found, bool) else None

"""What an engine's own page tells that decides how its figures are read. Pure.

A server says it on the page behind ``info_url``, which is stored with every trial; a page that does not say is that of
an earlier version of ours, known by its name.

========== ======================================================================================================
``kv_ahead`` the engine takes its whole KV cache at its start, so its allocator does not tell what a trial needed
``graphs``   its calls are replayed CUDA graphs, whose working memory was taken at the capture
``eager``    it launches every kernel from Python, so that a low share of the memory bandwidth is no wonder
========== ======================================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping

from loadgen.records import ServerSpec

Page = Mapping[str, object]


def takes_kv_ahead(page: Page) -> bool:
    """Whether the engine of a page takes its whole KV cache at its start."""
    if (told := _told(page, "kv_ahead")) is not None:
        return told
    name = str(page.get("engine", "")).lower()
    return any(known in name for known in ("fastgen", "vllm", "continuous"))


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

"""Memory figures of server processes: the allocator's peaks since the start and in each call, and the caches."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from loadgen.records import ServerSpec  # noqa: E402
from loadgen.servers._hf.call import Run  # noqa: E402
from loadgen.servers._hf.compiled import SLOT_STEP, CompiledEngine  # noqa: E402
from loadgen.servers._hf.generate import GenerateEngine  # noqa: E402
from loadgen.servers._hf.metrics import Metrics  # noqa: E402
from loadgen.servers._hf.requests import Call  # noqa: E402
from loadgen.servers._torch import model as hf_model  # noqa: E402
from loadgen.servers._torch.memory import Blocks, Memory  # noqa: E402
from loadgen.theory.models import PRESETS, kv_bytes_per_token  # noqa: E402

CPU = torch.device("cpu")
SPEC = ServerSpec(framework="hf", model=PRESETS["tiny"], dtype="float32")
PER_TOKEN = kv_bytes_per_token(SPEC.model, SPEC.dtype)


class Cuda:
    """torch.cuda's allocator statistics of two devices, as they would move."""

    def __init__(self) -> None:
        self.used, self.peaks, self.reserved, self.most = [10, 1], [10, 1], [100, 100], [100, 100]

    def run(self, extra: int) -> None:
        """A call that takes so much more on the first device, and gives it back."""
        self.peaks[0] = max(self.peaks[0], self.used[0] + extra)
        self.most[0] = max(self.most[0], self.reserved[0] + extra)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def reset(device: int) -> None:
            self.peaks[device], self.most[device] = self.used[device], self.reserved[device]

        fakes: dict[str, Any] = {
            "memory_allocated": lambda device: self.used[device],
            "memory_reserved": lambda device: self.reserved[device],
            "max_memory_allocated": lambda device: self.peaks[device],
            "max_memory_reserved": lambda device: self.most[device],
            "reset_peak_memory_stats": reset,
        }
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)


def test_each_call_has_its_own_peak_and_the_process_keeps_its(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda()
    cuda.install(monkeypatch)
    memory = Memory((0, 1), cuda=True)
    assert memory.figures()["0"] == {
        "allocated_bytes": 10,
        "reserved_bytes": 100,
        "peak_allocated_bytes": 10,
        "peak_reserved_bytes": 100,
    }
    memory.load_done()
    seen = []
    for extra in (50, 7, 20):
        memory.begin()
        cuda.run(extra)
        first = memory.figures()["0"]
        seen.append((first["call_peak_allocated_bytes"], first["peak_allocated_bytes"]))
        assert first["call_peak_reserved_bytes"] == 100 + extra
        assert first["peak_reserved_bytes"] == 150
    assert seen == [(60, 60), (17, 60), (30, 60)]
    second = memory.figures()["1"]
    assert (second["peak_allocated_bytes"], second["loaded_bytes"]) == (1, 1)


def test_a_cache_taken_ahead_is_no_weights_and_is_needed_as_far_as_it_was_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = Cuda()
    cuda.install(monkeypatch)
    used = [0]
    blocks = Blocks(4, 16, 2, lambda: used[0])
    memory = Memory((0,), cuda=True)
    memory.count(blocks)
    memory.load_done()
    used[0] = 3
    memory.begin()
    used[0] = 1
    figures = memory.figures()["0"]
    assert (figures["loaded_bytes"], figures["kv_reserved_bytes"], figures["kv_needed_bytes"]) == (2, 8, 6)


def test_ranks_that_know_it_export_it() -> None:
    figures = {"allocated_bytes": 1, "reserved_bytes": 2, "peak_allocated_bytes": 3}
    ranks = {"0": {**figures, "call_peak_allocated_bytes": 4}, "1": figures}
    text = Metrics("hf/generate", lambda: 0, lambda: 0, lambda: ranks).text().decode()
    assert 'hf_cuda_call_peak_allocated_bytes{rank="0"} 4.0' in text
    assert 'hf_cuda_call_peak_allocated_bytes{rank="1"}' not in text
    assert 'hf_cuda_peak_allocated_bytes{rank="1"} 3.0' in text


@pytest.fixture(scope="module")
def model() -> Any:
    return hf_model.build(SPEC, CPU, 0, seed=0, attention="sdpa")


def run(engine: Any, memory: Memory, batch: int, prompt: int, new: int) -> dict[str, int]:
    memory.begin()
    call = Call(prompts=((5,) * prompt,) * batch, max_tokens=new, ignore_eos=True)
    engine.run(Run(call, frozenset()))
    return memory.figures()["0"]


def test_generate_tells_the_bytes_of_the_cache_it_made(model: Any) -> None:
    """The last token is never fed back, so its keys and values are never made."""
    memory = Memory((0,), cuda=False)
    engine = GenerateEngine(model, frozenset(), CPU, memory.used)
    for batch, prompt, new in ((3, 9, 6), (1, 20, 2)):
        cache = batch * (prompt + new - 1) * PER_TOKEN
        assert run(engine, memory, batch, prompt, new) == {"kv_needed_bytes": cache}
    assert not model._forward_pre_hooks
    memory.begin()
    assert memory.figures() == {}  # a call that fails tells nothing of the one before


def test_compiled_tells_its_static_cache_and_what_it_keeps_for_other_shapes() -> None:
    memory = Memory((0,), cuda=False)
    own = hf_model.build(SPEC, CPU, 0, seed=0, attention="sdpa")
    engine = CompiledEngine(own, frozenset(), CPU, compile_mode="off", tp=1, on_cache=memory.used)
    engine._make_room = lambda memory: None  # type: ignore[method-assign]
    slots = SLOT_STEP * PER_TOKEN
    assert run(engine, memory, 2, 10, 5) == {"kv_needed_bytes": 2 * slots}
    assert run(engine, memory, 1, 70, 5) == {"kv_needed_bytes": 2 * slots, "kv_reserved_bytes": 4 * slots}


def test_the_page_names_where_peaks_are_counted_anew() -> None:
    pytest.importorskip("mii")
    from loadgen.servers._ds.service import serve_pages

    begun = []
    server = serve_pages("127.0.0.1", 0, lambda: {"engine": "x"}, lambda: begun.append(1))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    base = f"http://127.0.0.1:{server.server_port}"
    try:
        with opener.open(f"{base}/info") as reply:
            page = json.load(reply)
        assert page == {"engine": "x", "reset_peaks_url": f"{base}/memory/reset"}
        with opener.open(page["reset_peaks_url"], data=b"") as reply:
            assert json.load(reply) == {"status": "ok"}
        with pytest.raises(urllib.error.HTTPError):
            opener.open(f"{base}/info", data=b"")
    finally:
        server.shutdown()
        server.server_close()
    assert begun == [1]

"""The hf server's memory figures: the process's peak, and beside it that of each call."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from loadgen.servers import _hf_device  # noqa: E402
from loadgen.servers._hf_metrics import Metrics  # noqa: E402


class Cuda:
    """torch.cuda's allocator statistics of two devices, as they would move."""

    def __init__(self) -> None:
        self.used, self.peaks = [10, 1], [10, 1]

    def run(self, extra: int) -> None:
        """A call that takes so much more on the first device, and gives it back."""
        self.peaks[0] = max(self.peaks[0], self.used[0] + extra)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def reset(device: int) -> None:
            self.peaks[device] = self.used[device]

        fakes: dict[str, Any] = {
            "is_available": lambda: True,
            "is_initialized": lambda: True,
            "device_count": lambda: 2,
            "memory_allocated": lambda device: self.used[device],
            "memory_reserved": lambda device: 100,
            "max_memory_allocated": lambda device: self.peaks[device],
            "reset_peak_memory_stats": reset,
        }
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)
        monkeypatch.setattr(_hf_device, "_peak_before", None)


def test_each_call_has_its_own_peak_and_the_process_keeps_its(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda()
    cuda.install(monkeypatch)
    assert _hf_device.cuda_memory() == {
        "allocated_bytes": 11,
        "reserved_bytes": 200,
        "peak_allocated_bytes": 11,
    }
    seen = []
    for extra in (50, 7, 20):
        _hf_device.count_call_memory()
        cuda.run(extra)
        memory = _hf_device.cuda_memory()
        assert memory is not None
        seen.append((memory["call_peak_allocated_bytes"], memory["peak_allocated_bytes"]))
    assert seen == [(61, 61), (18, 61), (31, 61)]


def test_ranks_that_know_it_export_it() -> None:
    figures = {"allocated_bytes": 1, "reserved_bytes": 2, "peak_allocated_bytes": 3}
    ranks = {"0": {**figures, "call_peak_allocated_bytes": 4}, "1": figures}
    text = Metrics("hf/generate", lambda: 0, lambda: 0, lambda: ranks).text().decode()
    assert 'hf_cuda_call_peak_allocated_bytes{rank="0"} 4.0' in text
    assert 'hf_cuda_call_peak_allocated_bytes{rank="1"}' not in text
    assert 'hf_cuda_peak_allocated_bytes{rank="1"} 3.0' in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_without_cuda_there_is_nothing_to_count() -> None:
    _hf_device.count_call_memory()
    assert _hf_device.cuda_memory() is None

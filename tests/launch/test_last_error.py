"""What a log says its server died of."""

from __future__ import annotations

import pytest

from loadgen.launch.last_error import LONGEST, last_error

WORKER = """[rank0]: Traceback (most recent call last):
[rank0]:     import ujson
[rank0]: ModuleNotFoundError: No module named 'ujson'
[rank0]:[W1130 14:34:32.6 ProcessGroupNCCL.cpp:1575] Warning: destroy_process_group() was not called
2026-11-30 14:34:33,389 ERROR loadgen.ds: the ranks ended with statuses [1]"""
ENGINE = """(EngineCore pid=7) ERROR 11-30 13:19:15 [core.py:9] ValueError: the cache has no room for 4096 tokens
(APIServer pid=1)     raise RuntimeError(
(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above."""


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (WORKER, "ModuleNotFoundError: No module named 'ujson'"),
        (ENGINE, "ValueError: the cache has no room for 4096 tokens"),
        ("torch.cuda.CudaError: initialization failed", "torch.cuda.CudaError: initialization failed"),
        ("RuntimeError: no kernel image", "RuntimeError: no kernel image"),
        ("E: A\nKeyError: 'first'\nKeyError: 'last'\n", "KeyError: 'last'"),
        ("INFO: all is well\nno Error here", None),
        ("", None),
    ],
)
def test_the_last_exception_is_what_it_died_of(log: str, said: str | None) -> None:
    assert last_error(log) == said


def test_what_is_told_is_short_and_does_no_harm_to_a_terminal() -> None:
    told = last_error("ValueError: \x1b[2J" + "x" * 10_000)
    assert told is not None
    assert len(told) == LONGEST
    assert "\x1b" not in told
    assert last_error("a " * 500_000 + "\n" + "(" * 500_000) is None

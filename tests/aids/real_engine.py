"""Engines of others in environments of their own (`make engines`): started once a file of tests, asked by drivers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from loadgen.drivers.find import driver_factory
from loadgen.launch.endpoint import Endpoint
from loadgen.launch.process import Server
from loadgen.launch.running import start_server
from loadgen.load_records import LoadSpec, Timeouts
from loadgen.records import ServerSpec, Trial, TrialResult
from loadgen.request_records import Reply, Request
from loadgen.trial import run_trial

ROOT = Path(__file__).resolve().parents[2]
LIMITS = Timeouts(first_byte_s=60, between_bytes_s=60, total_s=120)


def python_of(engine: str) -> Path:
    """The interpreter that `make engines` made for one; skips where there is none."""
    found = ROOT / ".engines" / engine / "bin/python"
    if not found.exists():
        pytest.skip(f"{engine} is not installed: make engines", allow_module_level=True)
    return found


@dataclass(frozen=True)
class Running:
    """One start of a server."""

    spec: ServerSpec
    server: Server
    endpoint: Endpoint
    log: Path

    def ask(self, prompts: Sequence[Sequence[int]], tokens: int, *, stream: bool = True) -> Reply:
        """One wire call, through the server's own driver."""
        request = Request(
            seq=0, phase="measured", prompts=tuple(map(tuple, prompts)), output_tokens=tokens, stream=stream
        )

        async def main() -> Reply:
            make = driver_factory(self.endpoint.protocol)
            driver = make(self.endpoint.base_url, self.spec.model.name, LIMITS, self.endpoint.driver_options)
            await driver.open(1)
            done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            driver.start(driver.prepare(request), done.set_result)
            raw = await done
            await driver.close()
            return driver.decode(raw)

        return asyncio.run(asyncio.wait_for(main(), 150))

    def trial(self, **load: Any) -> TrialResult:
        """A whole trial of 20 tokens in and 8 out."""
        given = {"kind": "static", "input_tokens": 20, "output_tokens": 8, "requests": 3, **load}
        trial = Trial(
            id="t", server=self.spec, vocab=self.spec.model.vocab, load=LoadSpec(timeouts=LIMITS, **given)
        )
        return run_trial(trial, self.endpoint, Silent(), environment="e")


class Silent:
    """A watcher that says nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_given: None


@contextmanager
def running(spec: ServerSpec, folder: Path) -> Iterator[Running]:
    """The server of a spec, through the launcher's own start."""
    log = folder / "server.log"
    server, endpoint = start_server(spec, log, folder / "run", lambda _state: None)
    try:
        yield Running(spec, server, endpoint, log)
    finally:
        server.stop()


def greedy(spec: ServerSpec, prompts: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
    """What transformers gives for the same random weights, prompt by prompt."""
    import torch

    from loadgen.servers._torch import model as torch_model

    model = torch_model.build(spec, torch.device("cpu"), 0, seed=0, attention="sdpa")
    found = []
    for prompt in prompts:
        out = model.generate(
            torch.tensor([list(prompt)]),
            attention_mask=torch.ones(1, len(prompt)),
            max_new_tokens=tokens,
            do_sample=False,
        )
        found.append(out[0, len(prompt) :].tolist())
    return found

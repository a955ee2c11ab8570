"""What every driver is handed alike."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from loadgen.drivers.find import BUILT_IN, driver_factory
from loadgen.load_records import Timeouts
from loadgen.request_records import Ids, Request

URLS = {"mii-grpc": "grpc://h:1", "triton-grpc": "grpc://h:1", "tgi-shard": "unix:/tmp/none"}
ROWS = ((5, 31_999, 70_000), (9, 8, 7))
MORE: dict[str, list[Mapping[str, Any]]] = {"openai": [{}, {"prompt": "text"}, {"endpoint": "chat"}]}
ONE_PROMPT = ("lmdeploy", "tgi")


@pytest.mark.parametrize(
    ("protocol", "options"), [(name, options) for name in BUILT_IN for options in MORE.get(name, [{}])]
)
def test_ids_in_arrays_are_sent_as_the_same_ids_in_tuples(protocol: str, options: Mapping[str, Any]) -> None:
    """Prompts are arrays, a probe's ids are not."""

    async def wire(*prompts: Ids) -> bytes:
        driver = driver_factory(protocol)(URLS.get(protocol, "http://h:1"), "m", Timeouts(), options)
        prepared = driver.prepare(Request(seq=0, phase="warmup", prompts=prompts, output_tokens=2))
        await driver.close()
        found: bytes = prepared.wire
        return found

    for rows in (ROWS[:1], ROWS) if protocol not in ONE_PROMPT and "endpoint" not in options else (ROWS[:1],):
        plain = asyncio.run(wire(*rows))
        assert asyncio.run(wire(*np.array(rows, np.int32))) == plain
        if not options:
            assert plain != asyncio.run(wire(*((1, *row[1:]) for row in rows))), "the ids are in it"

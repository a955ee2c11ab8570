"""Tensor parallelism over two CPU processes: the same tokens, one fate."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch

from loadgen.errors import ServerError
from loadgen.launch.process import Server, free_ports, serving
from loadgen.records import ServerSpec
from loadgen.servers._torch import model as hf_model
from loadgen.servers.hf import FRAMEWORK
from loadgen.theory.models import PRESETS

ALONE = ServerSpec(framework="hf", model=PRESETS["tiny"], dtype="float32")
SPEC = dataclasses.replace(ALONE, tp=2)
RAGGED = [[1, 2, 3, 4, 5, 6, 7], [900, 31], [5] * 12]


@pytest.fixture(scope="module", params=["generate", "compiled"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("hf")
    spec = dataclasses.replace(SPEC, options={"engine": request.param, "compile": "off"})
    command = FRAMEWORK.command(spec, str(folder), free_ports(1))
    with serving(command, folder, folder / "log", ready_timeout_s=120) as running:
        yield running


@pytest.fixture(scope="module")
def expected() -> list[list[int]]:
    """Greedy tokens of one process."""
    model: Any = hf_model.build(ALONE, torch.device("cpu"), 0, 0, "sdpa")
    answers = []
    for prompt in RAGGED:
        out = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=24
        )
        answers.append(out[0, len(prompt) :].tolist())
    return answers


def ask(server: Server, timeout: float = 60, **fields: Any) -> dict[str, Any]:
    body = {"ignore_eos": True, "return_token_ids": True, **fields}
    reply = httpx.post(
        f"{server.command.base_url}/v1/completions", json=body, timeout=timeout, trust_env=False
    )
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_two_ranks_give_the_greedy_tokens_of_one(server: Server, expected: list[list[int]]) -> None:
    for _ in range(2):
        reply = ask(server, prompt=RAGGED, max_tokens=24)
        assert [choice["token_ids"] for choice in reply["choices"]] == expected
    info = httpx.get(server.command.info_url, trust_env=False).json()
    cache = {rank: figures["kv_needed_bytes"] for rank, figures in info["memory"]["cpu"].items()}
    assert cache["0"] == cache["1"] >= 3 * 35 * 2 * 4 * 1 * 32 * 4  # one head each, of 4 layers, in float32
    assert info["tp"] == 2
    half = (
        hf_model.weight_bytes(
            hf_model.build(
                ALONE,
                torch.device("cpu"),
                0,
                0,
                "sdpa",
            )
        )
        / 2
    )
    embedding = 4 * SPEC.model.vocab * SPEC.model.hidden
    assert (
        half < info["weight_bytes"] < half + embedding
    )  # all but the embedding and the norms are shared out


def test_ranks_sample_alike(server: Server) -> None:
    def sample(seed: int) -> Any:
        return ask(server, prompt=[1, 2, 3], max_tokens=12, temperature=1.0, seed=seed)["choices"][0][
            "token_ids"
        ]

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_a_client_that_leaves_stops_all_ranks_at_the_same_step(
    server: Server, expected: list[list[int]]
) -> None:
    for _ in range(3):
        with pytest.raises(httpx.ReadTimeout):
            ask(server, timeout=0.5, prompt=[1], max_tokens=4000)
    reply = ask(server, prompt=RAGGED, max_tokens=24)  # hangs or differs if a rank went further than another
    assert [choice["token_ids"] for choice in reply["choices"]] == expected


def ranks(server: Server) -> list[psutil.Process]:
    assert server.pid is not None
    found = psutil.Process(server.pid).children(recursive=True)
    return [process for process in found if "--rank" in process.cmdline()]


def test_when_a_rank_dies_all_die(server: Server) -> None:
    """The last test on each of the two servers: one loses a follower, the other its leader."""
    family = psutil.Process(server.pid).children(recursive=True)
    assert len(family) == 2
    (follower,) = ranks(server)
    (leader,) = [process for process in family if process != follower]
    lose_follower = httpx.get(str(server.command.info_url), trust_env=False).json()["engine"] == "hf/generate"
    (follower if lose_follower else leader).kill()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    if lose_follower:
        assert "rank 1 ended with status -9" in server.log_path.read_text()


def test_a_stopped_server_leaves_no_rank(tmp_path: Path) -> None:
    command = FRAMEWORK.command(SPEC, str(tmp_path), free_ports(1))
    with serving(command, tmp_path, tmp_path / "log", ready_timeout_s=120) as server:
        family = psutil.Process(server.pid).children(recursive=True)
        (follower,) = ranks(server)
        (leader,) = [process for process in family if process != follower]
        leader.terminate()
        _, alive = psutil.wait_procs(family, timeout=30)
        assert not alive
        assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_rank_that_cannot_start_ends_the_server(tmp_path: Path) -> None:
    command = FRAMEWORK.command(SPEC, str(tmp_path), free_ports(1))
    (tmp_path / "hf-rendezvous").mkdir()  # no store can be made there
    with (
        pytest.raises(ServerError),
        serving(command, tmp_path, tmp_path / "log", ready_timeout_s=60),
    ):
        pytest.fail("it became ready")

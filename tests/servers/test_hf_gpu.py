"""What only a GPU can show: CUDA graphs, NCCL inside them, layers over GPUs, running out of memory.

Runs where PyTorch sees a GPU. ``tiny`` in float32, so that greedy tokens of different kernels agree.
"""

import dataclasses
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from loadgen.launch.process import Server, free_ports, serving
from loadgen.records import ServerSpec
from loadgen.servers._hf.call import Cancelled, Run, Step
from loadgen.servers._hf.compiled import CompiledEngine
from loadgen.servers._hf.generate import GenerateEngine
from loadgen.servers._hf.requests import Call
from loadgen.servers._torch import model as hf_model
from loadgen.servers.hf import FRAMEWORK
from loadgen.theory.models import PRESETS

GPUS = torch.cuda.device_count()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(GPUS < 1, reason="no GPU"),
    pytest.mark.filterwarnings("default"),  # torch.compile's imports warn of deprecations of torch's own
]
two_gpus = pytest.mark.skipif(GPUS < 2, reason="fewer than two GPUs")
SPEC = ServerSpec(framework="hf", model=PRESETS["tiny"], dtype="float32", gpus=(0,))
PROMPTS = ((1, 2, 3, 4, 5, 6, 7), (900, 31), (5,) * 12)


def build() -> Any:
    return hf_model.build(SPEC, torch.device("cuda", 0), 0, seed=0, attention="sdpa")


@pytest.fixture(scope="module")
def generate() -> GenerateEngine:
    return GenerateEngine(build(), frozenset(), torch.device("cuda", 0))


@pytest.fixture(scope="module", params=["default", "off"])
def compiled(request: pytest.FixtureRequest) -> Any:
    engine = CompiledEngine(build(), frozenset(), torch.device("cuda", 0), compile_mode=request.param, tp=1)
    yield engine
    engine.close()


def tokens(engine: Any, call: Call) -> list[list[int]]:
    run = Run(call, frozenset())
    engine.run(run)
    return run.tokens


def test_many_sequences_read_filled_blocks_alone(compiled: Any, generate: Any) -> None:
    prompts = tuple((i + 1,) * (1 + i * 7 % 50) for i in range(200))
    call = Call(prompts=prompts, max_tokens=60)
    assert tokens(compiled, call) == tokens(generate, call)
    (buffers,) = (made.buffers for shape, made in compiled._shapes.items() if shape.batch == 200)
    assert (buffers.blocks is not None) == compiled.functions.fused


def test_a_new_shape_leaves_little_beside_its_cache(compiled: Any) -> None:
    """Each capture on a stream of its own left cuBLAS's work space behind, 32 MiB; all share one stream."""
    call = Call(prompts=((1, 2, 3),), max_tokens=8)
    tokens(compiled, call)
    before = torch.cuda.memory_allocated(0)
    for batch in range(2, 8):
        tokens(compiled, dataclasses.replace(call, prompts=call.prompts * batch))
    cache = sum(each.buffers.cache_bytes for each in list(compiled._shapes.values())[-6:])
    assert torch.cuda.memory_allocated(0) - before - cache < 32 << 20


def test_graphs_give_generates_tokens_for_any_order_of_shapes(compiled: Any, generate: Any) -> None:
    calls = [
        Call(prompts=PROMPTS, max_tokens=40),
        Call(prompts=((7,),), max_tokens=1),
        Call(prompts=((7, 8),) * 4, max_tokens=100),
        Call(prompts=((9, 8, 7), (6, 5, 4), (3, 2, 1)), max_tokens=40),
        Call(prompts=PROMPTS, max_tokens=40),
    ]
    for call in calls + calls[::-1]:
        assert tokens(compiled, call) == tokens(generate, call)


def test_sampling_repeats_with_its_seed_inside_graphs(compiled: Any) -> None:
    call = Call(prompts=PROMPTS, max_tokens=30, temperature=1.0, seed=3)
    first = tokens(compiled, call)
    assert tokens(compiled, call) == first
    assert tokens(compiled, dataclasses.replace(call, seed=4)) != first


def test_a_cancelled_call_leaves_the_graphs_usable(compiled: Any, generate: Any) -> None:
    seen: list[Step] = []
    run = Run(
        Call(prompts=PROMPTS, max_tokens=500),
        frozenset(),
        cancelled=lambda: len(seen) > 4,
        on_step=seen.append,
    )
    with pytest.raises(Cancelled):
        compiled.run(run)
    assert len(seen) == 5
    call = Call(prompts=PROMPTS, max_tokens=480)
    assert tokens(compiled, call) == tokens(generate, call)


def ask(server: Server, **fields: Any) -> httpx.Response:
    body = {"ignore_eos": True, "return_token_ids": True, **fields}
    return httpx.post(f"{server.command.base_url}/v1/completions", json=body, timeout=300, trust_env=False)


def served(spec: ServerSpec, folder: Path) -> Any:
    command = FRAMEWORK.command(spec, str(folder), free_ports(1))
    return serving(command, folder, folder / "log", ready_timeout_s=300)


@pytest.mark.parametrize(
    "change",
    [
        {"options": {"engine": "continuous"}},
        pytest.param({"tp": 2, "gpus": (0, 1)}, marks=two_gpus),
        pytest.param({"tp": 2, "gpus": (0, 1), "options": {"engine": "compiled"}}, marks=two_gpus),
        pytest.param({"pp": 2, "gpus": (0, 1)}, marks=two_gpus),
    ],
    ids=["continuous", "tp2", "tp2-compiled", "pp2"],
)
def test_every_way_of_serving_gives_the_same_tokens(
    change: dict[str, Any], generate: Any, tmp_path: Path
) -> None:
    wanted = tokens(generate, Call(prompts=PROMPTS, max_tokens=30))
    with served(dataclasses.replace(SPEC, **change), tmp_path) as server:
        for _ in range(2):
            reply = ask(server, prompt=PROMPTS, max_tokens=30).json()
            assert [choice["token_ids"] for choice in reply["choices"]] == wanted
        info = httpx.get(str(server.command.info_url), trust_env=False).json()
        assert len(info["gpus"]) == change.get("tp", 1) * change.get("pp", 1)
        assert info["memory"]["cuda"]["0"]["allocated_bytes"] > 0


@pytest.mark.parametrize("engine", ["generate", "compiled"])
def test_it_outlives_running_out_of_memory(engine: str, tmp_path: Path) -> None:
    spec = dataclasses.replace(SPEC, model=PRESETS["llama-7b"], dtype="bfloat16", options={"engine": engine})
    with served(spec, tmp_path) as server:
        reply = ask(server, prompt=[[i % 32000 for i in range(1900)]] * 700, max_tokens=2)  # 700 GB of cache
        assert reply.status_code == 500
        assert reply.json()["error"]["type"] == "out_of_memory"
        assert ask(server, prompt=[1, 2, 3], max_tokens=3).json()["usage"]["completion_tokens"] == 3

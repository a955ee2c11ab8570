"""The compiled engine's logic on CPU: the same steps, run directly, give the tokens of transformers' generate."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch._inductor import config as inductor

from loadgen.records import ServerSpec
from loadgen.servers._hf import compiled, decode, static_step
from loadgen.servers._hf.call import Cancelled, Run, Step
from loadgen.servers._hf.compiled import SLOT_STEP, CompiledEngine, shape_of
from loadgen.servers._hf.generate import GenerateEngine
from loadgen.servers._hf.requests import Call
from loadgen.servers._torch import model as hf_model
from loadgen.theory.models import PRESETS

SPEC = ServerSpec(framework="hf", model=PRESETS["tiny"], dtype="float32")
CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")
RAGGED = ((1, 2, 3, 4, 5, 6, 7), (900, 31), (5,) * 12)


def build() -> Any:
    return hf_model.build(SPEC, CPU, 0, seed=0, attention="sdpa")


@pytest.fixture(scope="module")
def engine() -> CompiledEngine:
    return CompiledEngine(build(), frozenset(), CPU, compile_mode="off", tp=1)


@pytest.fixture(scope="module")
def generate() -> GenerateEngine:
    return GenerateEngine(build(), frozenset(), CPU)


def tokens(engine: Any, call: Call, eos: Sequence[int] = ()) -> list[list[int]]:
    run = Run(call, frozenset(eos))
    engine.eos = frozenset(eos)
    engine.run(run)
    assert None not in run.finish
    return run.tokens


@pytest.mark.parametrize(
    "prompts",
    [((7,),), ((1, 2, 3),), RAGGED, tuple((i, i + 1) for i in range(5))],
    ids=["1", "one", "ragged", "even"],
)
@pytest.mark.parametrize("new", [1, 2, 90])
def test_greedy_tokens_equal_generate(engine: Any, generate: Any, prompts: Any, new: int) -> None:
    call = Call(prompts=prompts, max_tokens=new)
    answer = tokens(engine, call)
    assert [len(sequence) for sequence in answer] == [new] * len(prompts)
    assert answer == tokens(generate, call)


def test_a_call_leaves_nothing_behind_for_the_next_of_its_shape(engine: Any, generate: Any) -> None:
    for call in (
        Call(prompts=((9,) * 30, (8,)), max_tokens=20),
        Call(prompts=((3, 4), (5, 6)), max_tokens=20),
    ):
        assert tokens(engine, call) == tokens(generate, call)


def test_ends_of_sequence_and_the_minimum_agree_with_generate(engine: Any, generate: Any) -> None:
    free = tokens(generate, Call(prompts=RAGGED, max_tokens=30))
    eos = (free[0][4], free[1][11])
    for minimum in (0, 1, 8):
        call = Call(prompts=RAGGED, max_tokens=30, min_tokens=minimum)
        wanted = tokens(generate, call, eos)
        assert min(map(len, wanted)) > minimum or minimum == 0
        assert min(map(len, wanted)) < 30
        assert tokens(engine, call, eos) == wanted
    ignoring = dataclasses.replace(call, ignore_eos=True)
    assert tokens(engine, ignoring, eos) == free


def test_grouped_heads_attend_as_with_repeated_keys() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 8, 1, 16), torch.randn(3, 2, 10, 16), torch.randn(3, 2, 10, 16)
    mask = torch.where(torch.rand(3, 1, 1, 10) < 0.7, 0.0, float("-inf"))
    mask[..., 0] = 0
    grouped, _ = static_step.static_attention(torch.nn.Identity(), query, key, value, mask, scaling=0.25)
    repeated = torch.nn.functional.scaled_dot_product_attention(
        query, key.repeat_interleave(4, 1), value.repeat_interleave(4, 1), attn_mask=mask, scale=0.25
    )
    torch.testing.assert_close(grouped, repeated.transpose(1, 2))


def test_sampling_follows_the_distribution_and_the_seed(engine: Any) -> None:
    call = Call(prompts=((1, 2, 3),), max_tokens=12, temperature=1.0, seed=5)
    assert tokens(engine, call) == tokens(engine, call)
    assert tokens(engine, call) != tokens(engine, dataclasses.replace(call, seed=6))
    torch.manual_seed(0)
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(20000, 3)
    drawn = decode.choose(logits, torch.tensor(2.0))
    share = torch.bincount(drawn, minlength=3) / 20000
    torch.testing.assert_close(share, torch.softmax(logits[0] / 2, 0), atol=0.015, rtol=0)


def test_a_cancelled_call_stops_early_and_the_next_is_right(engine: Any, generate: Any) -> None:
    steps: list[Step] = []
    call = Call(prompts=((1, 2),), max_tokens=500)
    run = Run(call, frozenset(), cancelled=lambda: len(steps) == 3, on_step=steps.append)
    with pytest.raises(Cancelled):
        engine.run(run)
    assert len(steps) == 3
    call = Call(prompts=((1, 2),), max_tokens=498)
    assert tokens(engine, call) == tokens(generate, call)


def test_joined_linears_hold_the_weights_once() -> None:
    model = build()
    before = hf_model.weight_bytes(model)
    static_step.join_linears(model)
    assert hf_model.weight_bytes(model) == before
    attention = model.model.layers[1].self_attn
    x = torch.randn(2, 3, SPEC.model.hidden)
    whole = torch.cat([attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)], -1)
    assert attention.q_proj.product.value is None
    plain = build().model.layers[1].self_attn
    torch.testing.assert_close(whole, torch.cat([plain.q_proj(x), plain.k_proj(x), plain.v_proj(x)], -1))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_tokens_are_the_same_by_filled_blocks(monkeypatch: pytest.MonkeyPatch, generate: Any) -> None:
    """Prompts of unlike lengths, one with a block of padding alone; tokens that go into the third block."""
    monkeypatch.setattr(decode, "blocks_pay", lambda *of: True)
    engine = CompiledEngine(build(), frozenset(), CPU, compile_mode="off", tp=1)
    engine.functions = dataclasses.replace(engine.functions, fused=True)
    for prompts, new in ((RAGGED, 40), (((3,) * 40, (4, 5)), 60), (((7,) * 30, (2,) * 30), 5)):
        call = Call(prompts=prompts, max_tokens=new)
        assert tokens(engine, call) == tokens(generate, call)


@pytest.mark.parametrize("fused", [False, True])
def test_one_layer_is_compiled_for_all_layers(monkeypatch: pytest.MonkeyPatch, fused: bool) -> None:
    monkeypatch.setattr(decode, "blocks_pay", lambda *of: True)
    compiled: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(len(inputs))
        return graph.forward

    torch._dynamo.reset()
    model = build()
    static_step.use_static_attention(model)
    static_step.join_linears(model)
    layer = torch.compile(decode.layer, backend=backend, fullgraph=True, dynamic=False)
    prompt = torch.compile(decode.layer, backend=backend, fullgraph=True, dynamic=True)
    functions = decode.Functions(
        before=decode.before, layer=layer, after=decode.after, prompt=prompt, fused=fused
    )
    with torch.no_grad():
        for batch in (1, 3):
            buffers = decode.Buffers(model, functions, decode.Shape(batch, 64), CPU, ranks=1)
            buffers.step(sampled=False)
            buffers.step(sampled=False)
        assert SPEC.model.layers == 4
        assert len(compiled) == 2  # one per batch size, whatever the number of layers
        for batch, longest in ((2, 5), (2, 20), (3, 40), (4, 7)):
            buffers = decode.Buffers(model, functions, decode.Shape(batch, 64), CPU, ranks=1)
            buffers.read_prompts(torch.ones(batch, longest, dtype=torch.long), ragged=False, sampled=False)
        assert len(compiled) == 3  # one more for prompts of whatever number and length
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("prompt", "new", "slots"), [(1, 1, 64), (20, 44, 64), (20, 45, 128), (2000, 48, 2048)]
)
def test_cache_slots_are_rounded_up(prompt: int, new: int, slots: int) -> None:
    assert shape_of(Call(prompts=((1,) * prompt,), max_tokens=new)).slots == slots
    assert slots % SLOT_STEP == 0


@pytest.mark.skipif(not hasattr(inductor, "deterministic"), reason="this torch has no such option")
def test_reductions_are_not_tuned_anew_at_every_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each start sums in another order, and greedy tokens of one server differ between its starts."""
    taken: list[Any] = []

    def compile_(function: Any, **given: Any) -> Any:
        taken.append(given["options"])
        return torch_compile(function, **given)  # which knows all options, or raises

    torch_compile = torch.compile
    monkeypatch.setattr(torch, "compile", compile_)
    compiled._functions("default")
    assert taken == [{"deterministic": True}] * 4
    compiled._functions("autotune")
    assert not any("deterministic" in each for each in taken[4:])

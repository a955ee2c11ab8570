"""Parts of the DeepSpeed server that need no server: weights, decoding, pipes, ops, and MII's own parts."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from loadgen.launch.child import child_argv
from loadgen.records import ServerSpec
from loadgen.servers._ds import decode, ops
from loadgen.servers._ds import fastgen as ds_fastgen
from loadgen.servers._ds import options as ds_options
from loadgen.servers._ds.channel import Call, Follower, Leader
from loadgen.servers._ds.decode import Decoder
from loadgen.servers._ds.text import Decimal
from loadgen.servers._torch import model as hf_model
from loadgen.servers._torch import weights
from loadgen.servers._torch.memory import Blocks, Memory
from loadgen.theory.models import PRESETS

CPU = torch.device("cpu")
SPEC = ServerSpec(framework="hf", model=PRESETS["tiny"], dtype="float32")
pytestmark = pytest.mark.usefixtures("one_thread")
EVEN = ((5, 6, 7, 8, 9), (10, 11, 12, 13, 14))
RAGGED = ((5, 6, 7, 8, 9), (10, 11), (100,) * 9)


@pytest.fixture(scope="module")
def model() -> Any:
    return hf_model.build(SPEC, CPU, 0, seed=3, attention="sdpa")


def direct(model: Any, prompts: Sequence[tuple[int, ...]], new: int) -> list[list[int]]:
    answers = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False)
        answers.append(out[0, len(prompt) :].tolist())
    return answers


class Engine:
    """DeepSpeed's engine as the decoder sees it: callable, with the model as ``module``."""

    def __init__(self, model: Any) -> None:
        self.module = model

    def __call__(self, **inputs: Any) -> Any:
        return self.module(**inputs)


def decoder(model: Any, *, cuda_graph: bool = False) -> Decoder:
    shape = {"layers": 4, "heads": 2, "dim": 32, "dtype": torch.float32, "device": CPU}
    return Decoder(Engine(model), **shape, cuda_graph=cuda_graph)  # type: ignore[arg-type]


class TestWeights:
    def test_they_are_those_of_framework_hf(self, model: Any) -> None:
        state = model.state_dict()
        made = dict(weights.parameters(SPEC.model, torch.float32, CPU, 3))
        assert made.keys() == state.keys() == weights.shapes(SPEC.model).keys()
        assert all(torch.equal(made[name], state[name]) for name in state)

    def test_other_seeds_make_others(self) -> None:
        one, two = (dict(weights.parameters(SPEC.model, torch.float32, CPU, seed)) for seed in (3, 4))
        assert not torch.equal(one["lm_head.weight"], two["lm_head.weight"])

    @pytest.mark.parametrize("name", ["model.layers.1.mlp.down_proj.weight", "lm_head.weight"])
    @pytest.mark.parametrize(
        ("start", "size"), [((0, 0), (128, 64)), ((0, 64), (128, 64)), ((7, 33), (100, 31))]
    )
    def test_any_slice_is_a_slice_of_the_whole(
        self, model: Any, name: str, start: tuple[int, int], size: tuple[int, int]
    ) -> None:
        whole = model.state_dict()[name]
        part = torch.empty(size)
        weights.fill(part, name, tuple(whole.shape), 3, start)
        assert torch.equal(part, whole[start[0] : start[0] + size[0], start[1] : start[1] + size[1]])

    def test_a_tied_head_is_the_embedding(self) -> None:
        tied = replace(SPEC.model, tied=True)
        made = dict(weights.parameters(tied, torch.float32, CPU, 3))
        assert torch.equal(made["lm_head.weight"], made["model.embed_tokens.weight"])


class TestDecoder:
    @pytest.mark.parametrize("prompts", [EVEN, RAGGED])
    def test_tokens_equal_transformers(self, model: Any, prompts: Sequence[tuple[int, ...]]) -> None:
        steps: list[list[int]] = []
        tokens = decoder(model).generate(prompts, 12, steps.append).tolist()
        assert tokens == direct(model, prompts, 12)
        assert [list(column) for column in zip(*steps, strict=True)] == tokens

    def test_the_graphs_step_equals_transformers_over_several_calls(
        self, model: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # On a CPU there is nothing to record: the step itself runs, with all its state on the device as in a graph.
        monkeypatch.setattr(decode._GraphStep, "capture", lambda self: self.body())
        one = decoder(model, cuda_graph=True)
        for prompts in (EVEN, RAGGED, EVEN, EVEN):
            for new in (1, 2, 12):
                steps: list[list[int]] = []
                tokens = one.generate(prompts, new, steps.append).tolist()
                assert tokens == direct(model, prompts, new)
                assert [list(column) for column in zip(*steps, strict=True)] == tokens

    def test_calls_of_like_lengths_share_a_graph(self, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        captures: list[int] = []
        monkeypatch.setattr(decode._GraphStep, "capture", lambda self: captures.append(1))
        one = decoder(model, cuda_graph=True)
        for new in (3, 20, 58):
            one.generate(EVEN, new, None)
        assert len(captures) == 1
        one.generate(EVEN, 60, None)
        one.generate(EVEN[:1], 60, None)
        assert len(captures) == 3


def pipes(count: int) -> tuple[Leader, list[Follower]]:
    leads, follows = [], []
    for _ in range(count):
        (down_read, down_write), (up_read, up_write) = os.pipe(), os.pipe()
        leads.append((down_write, up_read))
        follows.append(Follower(down_read, up_write))
    return Leader(leads), follows


class Count:
    """Ten blocks of 16 tokens and 100 bytes."""

    def __init__(self) -> None:
        self.used = 0
        self.blocks = Blocks(10, 16, 100, lambda: self.used)
        self.blocks.watch(self, "take")

    def take(self, count: int) -> int:
        self.used += count
        return self.used


class TestChannel:
    def test_calls_arrive_whole_and_outcomes_return(self) -> None:
        leader, followers = pipes(2)
        calls = [
            Call(number=1, prompts=((1, 2, 3), (4,)), new_tokens=5),
            Call(number=2, prompts=(tuple(range(70_000)),), new_tokens=1),  # more than a pipe holds
        ]
        seen: list[list[Call]] = [[], []]

        def follow(place: int) -> None:
            followers[place].ready()
            for call in followers[place].calls():
                seen[place].append(call)
                memory = {str(place + 1): {"kv_needed_bytes": call.number}}
                followers[place].answer(call.number, 100 * place + call.number, memory)

        threads = [threading.Thread(target=follow, args=(place,)) for place in range(2)]
        for thread in threads:
            thread.start()
        assert leader.outcomes(0) == [0, 0]
        for call in calls:
            leader.send(call)
            assert leader.outcomes(call.number) == [call.number, 100 + call.number]
            assert leader.memory == {rank: {"kv_needed_bytes": call.number} for rank in ("1", "2")}
        leader.close()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
        for follower in followers:
            follower.close()
        assert seen == [calls, calls]

    def test_ranks_that_take_no_calls_tell_their_memory_when_asked(self) -> None:
        leader, followers = pipes(2)
        memories = [Memory((place,), cuda=False) for place in (1, 2)]
        counts = [Count(), Count()]
        for memory, count in zip(memories, counts, strict=True):
            memory.count(count.blocks)

        def follow(place: int) -> None:
            followers[place].ready()
            followers[place].wait(memories[place])

        threads = [threading.Thread(target=follow, args=(place,)) for place in range(2)]
        for thread in threads:
            thread.start()
        leader.outcomes(0)
        counts[0].take(7)
        counts[0].used = 2
        leader.ask_memory()
        assert [leader.memory[rank]["kv_blocks_peak"] for rank in ("1", "2")] == [7, 0]
        leader.ask_memory(anew=True)
        assert [leader.memory[rank]["kv_needed_bytes"] for rank in ("1", "2")] == [200, 0]
        leader.close()
        for thread, follower in zip(threads, followers, strict=True):
            thread.join(10)
            assert not thread.is_alive()
            follower.close()

    def test_a_follower_that_is_gone_is_told_by_its_rank(self) -> None:
        leader, followers = pipes(1)
        followers[0].close()
        with pytest.raises(EOFError, match="rank 1 is gone"):
            leader.outcomes(0)
        leader.close()


class TestText:
    def test_ids_go_out_and_come_back(self) -> None:
        text = Decimal(1024)
        assert text.encode("5 900 3") == [5, 900, 3]
        assert text.decode([5, 900, 3]) == "5 900 3"

    @pytest.mark.parametrize("words", ["hello", "5 1024", "-1 4", "5.0"])
    def test_what_is_no_id_is_refused(self, words: str) -> None:
        with pytest.raises(ValueError, match="token ids"):
            Decimal(1024).encode(words)


class TestOps:
    def test_engines_need_what_they_load(self) -> None:
        assert ops.needed("ds-inference-autotp", 1, False) == ()
        assert ops.needed("ds-inference-autotp", 2, True) == ()
        assert ops.needed("ds-inference-autotp", 2, False) == ("deepspeed_shm_comm",)
        fastgen = ops.needed("mii-fastgen", 1, True)
        assert set(fastgen) <= set(ops.BUILDERS)
        assert set(ops.OPTIONAL["mii-fastgen"]) < set(fastgen)

    def test_a_failed_build_is_told_and_a_stale_lock_is_cleared(self, tmp_path: Path) -> None:
        """A compiler that fails at once: the words of the build reach the log, and torch's lock is no obstacle."""
        compiler = tmp_path / "bin/c++"
        compiler.parent.mkdir()
        broken = (
            'case "$*" in *" -c "*) echo this compiler is broken >&2; exit 1;; esac; exec /usr/bin/c++ "$@"'
        )
        compiler.write_text(f"#!/bin/sh\n{broken}\n")
        compiler.chmod(0o755)
        place = tmp_path / "ops"
        lock = place / "deepspeed_shm_comm/lock"
        lock.parent.mkdir(parents=True)
        lock.touch()
        argv = child_argv(None, "loadgen.servers._ds.main")
        env = {
            **os.environ,
            "CXX": str(compiler),
            "DS_ACCELERATOR": "cpu",
            "TORCH_EXTENSIONS_DIR": str(place),
        }
        done = subprocess.run(
            [*argv, "--task", "build-op", "--op", "deepspeed_shm_comm", "--place", str(place)],
            env=env, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode != 0
        assert "this compiler is broken" in done.stdout + done.stderr
        assert not lock.exists()
        assert not ops.built(str(place), "deepspeed_shm_comm")


@pytest.mark.filterwarnings("ignore")
class TestMii:
    """MII runs on GPUs only, but its configuration and its choice of tokens are plain Python and torch."""

    @pytest.fixture(autouse=True)
    def on_cpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DS_ACCELERATOR", "cpu")

    def test_fastgens_configuration_is_accepted_by_mii(self, tmp_path: Path) -> None:
        from deepspeed.inference.v2.checkpoint import HuggingFaceCheckpointEngine
        from mii.config import ModelConfig

        from loadgen.servers._ds.patches import Patches, random_weights

        spec = ServerSpec(
            framework="ds",
            model=PRESETS["llama-3-8b"],
            tp=2,
            gpus=(0, 1),
            max_batch=1000,
            options={"kv_tokens": 6401},
        )
        folder = ds_fastgen.model_folder(spec, str(tmp_path))
        config = ModelConfig(**ds_fastgen.model_config(spec, ds_options.read(spec), folder, 25001, 64))
        manager = config.inference_engine_config.state_manager
        assert config.inference_engine_config.tensor_parallel.tp_size == 2
        assert (manager.memory_config.mode, manager.memory_config.size) == ("allocate", 101)
        assert manager.max_ragged_sequence_count == 1000
        assert config.max_length == 8192
        before = HuggingFaceCheckpointEngine._fetch_checkpoint_files, HuggingFaceCheckpointEngine.parameters
        try:
            random_weights(Patches(), lambda: iter([("a", 1)]))
            engine = HuggingFaceCheckpointEngine(folder)
            assert engine.model_config.torch_dtype == torch.bfloat16
            assert engine.model_config.max_seq_length == 8192
            assert list(engine.parameters()) == [("a", 1)]
        finally:
            HuggingFaceCheckpointEngine._fetch_checkpoint_files, HuggingFaceCheckpointEngine.parameters = (
                before
            )

    def test_fastgens_cache_is_counted_at_every_reservation(self) -> None:
        """Over DeepSpeed's own cache and allocator, whose constructors want CUDA."""
        from deepspeed.inference.v2.ragged.blocked_allocator import BlockedAllocator
        from deepspeed.inference.v2.ragged.kv_cache import BlockedKVCache
        from deepspeed.inference.v2.ragged.ragged_manager import DSStateManager

        allocator = BlockedAllocator.__new__(BlockedAllocator)
        allocator._num_blocks = allocator._free_blocks = 12
        allocator._blocks, allocator._head = torch.arange(1, 13, dtype=torch.int32), 0
        cache = BlockedKVCache.__new__(BlockedKVCache)
        cache._caches = (torch.empty((3, 12, 64, 2, 4, 8), dtype=torch.bfloat16),)
        cache._allocators = (allocator,)
        manager = DSStateManager.__new__(DSStateManager)
        manager._kv_cache = cache
        memory = Memory((0,), cuda=False)
        memory.count(ds_fastgen.count_blocks(cache))
        held = manager.allocate_blocks(5)
        more = manager.allocate_blocks(3)
        cache.free(held)
        size = 3 * 64 * 2 * 4 * 8 * 2
        assert memory.figures() == {
            "0": {
                "kv_needed_bytes": 8 * size, "kv_reserved_bytes": 12 * size, "kv_blocks": 12, "kv_blocks_used": 3,
                "kv_blocks_peak": 8, "kv_block_tokens": 64, "kv_block_bytes": size,
            }
        }  # fmt: skip
        memory.begin()
        assert memory.figures()["0"]["kv_blocks_peak"] == 3
        cache.free(more)
        manager.allocate_blocks(2)
        assert memory.figures()["0"]["kv_needed_bytes"] == 3 * size

    def test_the_tuned_choice_of_tokens_is_miis_own(self) -> None:
        from mii.batching.data_classes import RequestBatch
        from mii.batching.ragged_batching import MIIAsyncPipeline

        from loadgen.servers._ds.patches import Patches, tune_fastgen

        class Pipeline(MIIAsyncPipeline):  # type: ignore[misc]
            def __init__(self) -> None:  # without an engine
                from mii.batching import ragged_batching as parts

                self.tokenizer = ds_fastgen.tokenizer(Decimal(512), 512)
                self.vocab_size, self.max_length, self.sync_debug, self._post_processors = 512, 100, False, {}
                self.logit_processor = parts.run_batch_logit_processing
                self.sampler, self.stop_criterion = parts.run_batch_sampler, parts.run_batch_stop_criterion

        class Tuned(Pipeline):
            pass

        interval = sys.getswitchinterval()
        patches = Patches()
        try:
            tune_fastgen(patches, Tuned)
        finally:
            sys.setswitchinterval(interval)
        assert set(patches.made) == {"greedy-argmax", "idle-sleep", "switch-interval"}
        logits = torch.randn(3, 600, generator=torch.Generator().manual_seed(1))  # 88 beyond the vocabulary
        chosen = []
        for pipeline in (Pipeline(), Tuned()):
            greedy = {"max_new_tokens": 5, "ignore_eos": True, "do_sample": False}
            requests = [pipeline.make_request(0, uid, torch.tensor([5, 6]), dict(greedy)) for uid in range(3)]
            chosen.append(pipeline._process_logits(logits.clone(), RequestBatch(requests)))
        (tokens, done), (tuned_tokens, tuned_done) = chosen
        assert torch.equal(tokens, tuned_tokens)
        assert torch.equal(done, tuned_done)
        assert tokens.max() < 512

    def test_a_patch_for_another_version_fails_at_once(self) -> None:
        from loadgen.servers._ds.patches import Patches

        with pytest.raises(RuntimeError, match="patch loopback: str has no bind"):
            Patches().replace("loopback", str, "bind", None)

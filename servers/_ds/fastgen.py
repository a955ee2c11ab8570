"""MII's FastGen on this rank: DeepSpeed's ragged engine under MII's own asynchronous pipeline.

Every rank runs the same pipeline; rank 0 schedules and publishes each step's batch to the others.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch

from loadgen.records import ServerSpec
from loadgen.servers._ds import patches as patching
from loadgen.servers._ds.channel import Follower, Leader
from loadgen.servers._ds.options import Options
from loadgen.servers._ds.patches import Patches
from loadgen.servers._ds.text import Text, text_of
from loadgen.servers._torch import weights
from loadgen.servers._torch.memory import Blocks, Figures, Memory
from loadgen.theory.models import hf_config

SETTLE_S = 0.5  # followers subscribe to rank 0 without a handshake: what it publishes before that is lost
DEFAULT_SEQUENCES = 512  # MII's own limit of sequences in one forward pass


def build(
    spec: ServerSpec,
    options: Options,
    device: torch.device,
    run_dir: str,
    zmq_port: int,
    patches: Patches,
    memory: Memory,
) -> FastGen:
    """MII's pipeline over a loaded engine, not yet started. torch.distributed must be up, for one rank too."""
    from deepspeed.inference import build_hf_engine
    from mii.batching.ragged_batching import MIIAsyncPipeline
    from mii.config import ModelConfig

    folder = model_folder(spec, os.path.join(run_dir, "model"))
    config = ModelConfig(**model_config(spec, options, folder, zmq_port, block_tokens(spec)))
    patching.zmq_on_loopback(patches)
    patching.rms_epsilon(patches, spec.model.rms_eps)
    if not reads_checkpoint(spec):
        dtype = getattr(torch, spec.dtype)
        patching.random_weights(patches, lambda: weights.parameters(spec.model, dtype, device, options.seed))
    if options.tuned:
        patching.tune_fastgen(patches, MIIAsyncPipeline)
    engine = build_hf_engine(path=folder, engine_config=config.inference_engine_config)
    torch.cuda.empty_cache()  # whole parameters on their way to shards
    memory.count(count_blocks(engine._state_manager._kv_cache))
    memory.load_done()
    graphs = None
    if options.cuda_graph:
        from loadgen.servers._ds import fastgen_graph

        graphs = fastgen_graph.install(engine, patches)
    pipeline = MIIAsyncPipeline(
        inference_engine=engine,
        tokenizer=tokenizer(text_of(spec.model.checkpoint, spec.model.vocab), spec.model.vocab),
        model_config=config,
    )
    return FastGen(pipeline, memory, graphs)


def model_folder(spec: ServerSpec, made: str) -> str:
    """The folder FastGen reads, in ``made``: a configuration with the dtype to serve in, which FastGen takes from
    nowhere else, and links to the rest of a checkpoint."""
    os.makedirs(made, exist_ok=True)
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
    }
    if reads_checkpoint(spec):
        folder = os.path.abspath(str(spec.model.checkpoint))
        for name in os.listdir(folder):
            link = os.path.join(made, name)
            if name != "config.json" and not os.path.lexists(link):
                with contextlib.suppress(FileExistsError):  # every rank makes the same links
                    os.symlink(os.path.join(folder, name), link)
        with open(os.path.join(folder, "config.json")) as file:
            config |= json.load(file)
    else:
        config |= hf_config(spec.model)
    config |= {"dtype": spec.dtype, "torch_dtype": spec.dtype}
    path = os.path.join(made, "config.json")
    part = f"{path}.{os.getpid()}"
    with open(part, "w") as file:
        json.dump(config, file)
    os.replace(part, path)
    return made


def reads_checkpoint(spec: ServerSpec) -> bool:
    """Whether weights come from a checkpoint, not from a seed."""
    return spec.model.checkpoint is not None and not spec.dummy_weights


def model_config(
    spec: ServerSpec, options: Options, folder: str, zmq_port: int, block: int
) -> dict[str, Any]:
    """The keyword arguments of MII's ModelConfig. ``block`` is how many tokens one block of the cache holds."""
    sequences = max(DEFAULT_SEQUENCES, spec.max_batch or 0)
    ragged = max(options.ragged_tokens, sequences)
    if options.kv_tokens:
        memory = {"mode": "allocate", "size": max(1, -(-options.kv_tokens // block))}
    else:
        memory = {"mode": "reserve", "size": options.kv_reserve_mb * 1_000_000}
    return {
        "model_name_or_path": folder,
        "tensor_parallel": spec.tp,
        "max_length": spec.model.max_context,
        "zmq_port_number": zmq_port,
        "inference_engine_config": {
            "tensor_parallel": {"tp_size": spec.tp},
            "state_manager": {
                "max_ragged_batch_size": ragged,
                "max_ragged_sequence_count": sequences,
                "max_tracked_sequences": max(2048, 2 * sequences),
                "max_context": spec.model.max_context,
                "memory_config": memory,
            },
        },
    }


def block_tokens(spec: ServerSpec) -> int:
    """Tokens in one block of FastGen's cache, as its attention kernel wants them on this GPU."""
    from deepspeed.inference.v2.kernels.ragged_ops import get_kv_block_size

    return int(get_kv_block_size(spec.model.head_dim))


def count_blocks(cache: Any) -> Blocks:
    """Count what is in use of FastGen's ``BlockedKVCache``, at each reservation of blocks by a step."""
    (tensor,), (allocator,) = cache._caches, cache._allocators  # a llama has one group of layers
    total = int(tensor.shape[1])
    size = tensor.numel() * tensor.element_size() // total
    blocks = Blocks(total, int(tensor.shape[2]), size, lambda: total - allocator.free_blocks)
    blocks.watch(cache, "reserve")
    return blocks


def tokenizer(text: Text, vocab: int) -> Any:
    """``text`` in the shape of MII's tokenizers."""
    from mii.modeling.tokenizers import MIITokenizerWrapper

    class Tokenizer(MIITokenizerWrapper):  # type: ignore[misc]
        @property
        def vocab_size(self) -> int:
            return vocab

        @property
        def eos_token_id(self) -> int:
            ends = getattr(getattr(text, "tokenizer", None), "eos_token_id", None)
            return -1 if ends is None else int(ends)  # no token is −1: random weights know no end

        def encode(self, input: str) -> torch.Tensor:
            return torch.tensor(text.encode(input), dtype=torch.long)

        def decode(self, tokens: Iterable[Any]) -> str:
            ids = tokens.tolist() if isinstance(tokens, torch.Tensor) else [int(t) for t in tokens]
            return text.decode(ids)

    return Tokenizer(text)


class FastGen:
    """See ``place.Rank``."""

    def __init__(self, pipeline: Any, memory: Memory, graphs: Any = None) -> None:
        self.pipeline, self._memory, self._graphs = pipeline, memory, graphs
        self._leader: Leader | None = None

    def lead(self, leader: Leader) -> Any:
        """Rank 0: MII's pipeline, once the other ranks had the time to enter their loops."""
        self._leader = leader
        time.sleep(SETTLE_S)
        return self.pipeline

    def follow(self, follower: Follower) -> None:
        """Another rank: run MII's loop until rank 0 closes the pipe."""
        self.pipeline.start()
        follower.ready()
        follower.wait(self._memory)

    def check(self, ask: Callable[[int], str]) -> None:
        """Hold the tokens of replayed graphs against those of the engine as it comes, where graphs are in use."""
        if self._graphs is not None:
            self._graphs.check(ask)

    def memory(self) -> Figures:
        """Peaks are those since ``begin_memory``: requests come and go, so there is no one call to tell of."""
        return self._all_memory(anew=False)

    def begin_memory(self) -> None:
        """Count peaks anew, on all ranks."""
        self._memory.begin()
        self._all_memory(anew=True)

    def _all_memory(self, *, anew: bool) -> Figures:
        if self._leader is None:
            return self._memory.figures()
        self._leader.ask_memory(anew=anew)
        return {**self._memory.figures(), **self._leader.memory}

    def facts(self) -> dict[str, Any]:
        """What ``/info`` tells of the engine: the cache's size in bytes, tokens and blocks, and its limits."""
        engine = self.pipeline.inference_engine
        caches, config = engine._state_manager._kv_cache._caches, engine._config.state_manager
        return {
            "weight_bytes": engine._model.flattened_params.numel(),
            "scheduling": "iteration level (dynamic SplitFuse)",
            "kv_cache_bytes": sum(cache.numel() * cache.element_size() for cache in caches),
            "kv_cache_tokens": int(caches[0].shape[1] * caches[0].shape[2]),
            "kv_block_tokens": int(caches[0].shape[2]),
            "kv_reserved_by": self._reserved_by(config.memory_config),
            "max_ragged_batch_size": config.max_ragged_batch_size,
            "max_ragged_sequence_count": config.max_ragged_sequence_count,
        }

    @staticmethod
    def _reserved_by(memory: Any) -> str:
        """What decided how large the cache taken ahead is."""
        mode = getattr(memory.mode, "value", memory.mode)
        if mode == "allocate":
            return f"kv_tokens: {memory.size} blocks"
        return f"all free memory but {memory.size} bytes (kv_reserve_mb)"

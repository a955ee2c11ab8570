"""Every change that loadgen makes to DeepSpeed and MII, by name; a server tells which of them it made.

Written against deepspeed 0.19.8 and deepspeed-mii 0.3.3. Each patch checks that what it replaces is there, so that a
later version fails at the start rather than measure something else.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

WHY: dict[str, str] = {
    "random-weights": "parameters are made on the device from seeds, instead of read from a checkpoint",
    "float32-rotary": "init_inference casts the rotary frequencies to the model's dtype, which bends long positions",
    "rms-epsilon": "FastGen computes every norm with epsilon 1e-5, whatever the model's configuration says",
    "loopback": "MII binds its gRPC server and its ZMQ socket to every network interface",
    "no-load-balancer": "MII's proxy in front of its replicas is left out: there is one replica",
    "fail-aloud": "an error in FastGen's own thread leaves requests waiting for ever; here it ends the server",
    "drain-streams": "a stream that its client left keeps its key/value cache for ever, and its tokens go to the next",
    "greedy-argmax": "for greedy requests the top-p sort of all logits and the stop search are skipped",
    "idle-sleep": "FastGen's thread spins while there is nothing to do, and keeps Python's lock from gRPC's threads",
    "switch-interval": "Python's threads may take the lock from each other every 0.5 ms instead of every 5",
    "cuda-graph": "decode steps are replayed as CUDA graphs: DeepSpeed's own refuse tensor parallelism",
    "torch-linear": "FastGen's products run on torch's cuBLAS handle: graphs cannot record the stream of its own",
    "tensor-from-layer": "injected layers return tuples where transformers 5 expects a tensor",
    "residual-once": "injected llama layers add the residual twice",
}


class Patches:
    """Makes patches and remembers which. ``made`` maps name → reason, for the results."""

    def __init__(self) -> None:
        self.made: dict[str, str] = {}

    def note(self, name: str) -> None:
        """Record a change that is made elsewhere."""
        self.made[name] = WHY[name]

    def replace(self, name: str, owner: Any, attribute: str, value: Any) -> Any:
        """Put ``value`` in the place of an attribute that must exist; returns what was there.

        Raises RuntimeError where it does not exist.
        """
        if not hasattr(owner, attribute):
            raise RuntimeError(
                f"patch {name}: {getattr(owner, '__name__', owner)} has no {attribute}; "
                "this version of DeepSpeed or MII is not the one the patch was written for"
            )
        before = getattr(owner, attribute)
        setattr(owner, attribute, value)
        self.note(name)
        return before


def random_weights(patches: Patches, parameters: Callable[[], Any]) -> None:
    """FastGen takes its parameters from ``parameters()`` instead of from files."""
    from deepspeed.inference.v2.checkpoint import HuggingFaceCheckpointEngine as Engine

    patches.replace("random-weights", Engine, "_fetch_checkpoint_files", lambda self: [])
    patches.replace("random-weights", Engine, "parameters", lambda self: parameters())


def rms_epsilon(patches: Patches, epsilon: float) -> None:
    """FastGen's norms get the model's epsilon."""
    from deepspeed.inference.v2.kernels.core_ops.cuda_rms_norm.rms_norm_base import CUDARMSNormBase

    before = CUDARMSNormBase.__init__

    def init(self: Any, channels: int, fp_dtype: Any, epsilon_given: float = epsilon, **_: Any) -> None:
        before(self, channels, fp_dtype, epsilon)

    patches.replace("rms-epsilon", CUDARMSNormBase, "__init__", init)


def zmq_on_loopback(patches: Patches) -> None:
    """FastGen's rank 0 publishes its batches to this machine only."""
    import zmq

    before = zmq.Socket.bind

    def bind(self: Any, address: str) -> Any:
        return before(self, address.replace("tcp://*:", "tcp://127.0.0.1:"))

    patches.replace("loopback", zmq.Socket, "bind", bind)


def fail_aloud(patches: Patches) -> None:
    """An error that a thread does not catch ends the process; its launcher ends the rest."""

    def end(fault: threading.ExceptHookArgs) -> None:
        threading.__excepthook__(fault)
        print("a thread of the engine failed; this process is unusable and ends", file=sys.stderr, flush=True)
        os._exit(1)

    threading.excepthook = end
    patches.note("fail-aloud")


def tune_fastgen(patches: Patches, pipeline_class: Any) -> None:
    """Spare FastGen's host what a greedy benchmark does not need. Tokens stay the same."""
    import torch

    process, generate = pipeline_class._process_logits, pipeline_class.generate

    def process_logits(self: Any, logits: Any, requests: Any) -> Any:
        plain = all(not r.generate_params.do_sample and r.generate_params.ignore_eos for r in requests)
        if not plain:
            return process(self, logits, requests)
        tokens = logits[:, : self.vocab_size].argmax(dim=-1).to("cpu")
        return tokens, torch.zeros(len(requests), dtype=torch.bool)

    def generate_or_rest(self: Any) -> Any:
        idle = not self.scheduled_requests and self.request_queue.empty() and not self.buffer
        if self.is_rank_0 and idle:
            time.sleep(0.0001)
        return generate(self)

    patches.replace("greedy-argmax", pipeline_class, "_process_logits", process_logits)
    patches.replace("idle-sleep", pipeline_class, "generate", generate_or_rest)
    sys.setswitchinterval(0.0005)
    patches.note("switch-interval")


def mend_kernel_inject(patches: Patches) -> None:
    """Injected llama layers compute what transformers computes (checked at the start, see ``kernel.py``)."""
    from deepspeed.ops.transformer.inference.op_binding.residual_add import ResidualAddOp

    before = ResidualAddOp.forward

    def forward(self: Any, **named: Any) -> Any:
        if named["final_bias"] is None and named["attention_bias"] is None:
            return self.vector_add(named["residual"], named["hidden_state"], 1.0 / self.config.mp_size)
        return before(self, **named)

    patches.replace("residual-once", ResidualAddOp, "forward", forward)


def tensors_from_layers(patches: Patches, model: Any) -> None:
    """Injected layers hand on their hidden state alone."""
    for layer in model.model.layers:
        layer.register_forward_hook(lambda module, args, out: out[0] if isinstance(out, tuple) else out)
    patches.note("tensor-from-layer")

"""``deepspeed.init_inference`` with its kernels injected, which deepspeed 0.19 gets wrong for llamas of transformers 5.

It is mended here (see ``patches.py``), and before it serves it must give the logits that the same model gave before
the injection, in the prompt and in the steps after it. An engine that does not is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch

from loadgen.records import ServerSpec
from loadgen.servers._ds import autotp
from loadgen.servers._ds import patches as patching
from loadgen.servers._ds.batches import OnTokens
from loadgen.servers._ds.options import Options
from loadgen.servers._ds.patches import Patches

log = logging.getLogger("loadgen.ds")
CHECK_PROMPT, CHECK_STEPS = 16, 4
# Of the standard deviation of the reference's logits. Mended fp16 kernels differ by a thousandth, unmended by a third.
TOLERANCE = 0.05


def build(spec: ServerSpec, options: Options, device: torch.device, patches: Patches) -> Any:
    """DeepSpeed's InferenceEngine with kernels, checked. Every rank needs memory for the whole model at first."""
    import deepspeed

    dtype = getattr(torch, spec.dtype)
    if spec.dummy_weights or spec.model.checkpoint is None:
        model = autotp.layout(spec, dtype).to_empty(device=device)
        autotp.fill(model, spec, options.seed, patches)
        autotp.restore_rotary(model, device, patches)
    else:
        model = autotp.from_checkpoint(spec, dtype).to(device)
    model.eval().requires_grad_(False)
    tokens = (torch.arange(CHECK_PROMPT + CHECK_STEPS, device=device) * 37 % spec.model.vocab).unsqueeze(0)
    with torch.inference_mode():
        expected = model(input_ids=tokens, use_cache=False).logits[0, CHECK_PROMPT - 1 : -1].float().cpu()
    patching.mend_kernel_inject(patches)
    engine = deepspeed.init_inference(
        model,
        dtype=dtype,
        tensor_parallel={"tp_size": spec.tp},
        replace_with_kernel_inject=True,
        max_out_tokens=spec.model.max_context,
    )
    patching.tensors_from_layers(patches, engine.module)
    check(KernelDecoder(engine), tokens, expected)
    return engine


def decoder(engine: Any, spec: ServerSpec, options: Options, device: torch.device, patches: Patches) -> Any:
    """The decode loop over ``engine``."""
    return KernelDecoder(engine)


def check(decoder: KernelDecoder, tokens: torch.Tensor, expected: torch.Tensor) -> None:
    """Raise RuntimeError unless the engine's logits [steps, vocabulary] of known tokens are the expected ones."""
    got = [decoder.first(tokens[:, :CHECK_PROMPT])]
    got += [decoder.next(tokens[:, place : place + 1]) for place in range(CHECK_PROMPT, tokens.shape[1] - 1)]
    error = (torch.cat(got).float().cpu() - expected).abs().max().item()
    limit = TOLERANCE * expected.std().item()
    if not error <= limit:  # also when it is no number
        raise RuntimeError(
            f"self-check: logits of the injected kernels differ from transformers' by {error:.4g} (limit {limit:.4g}); "
            "this engine computes something else and is not served (--option engine=ds-inference-autotp does)"
        )
    log.info("self-check passed: logits differ from transformers' by %.4g at most (limit %.4g)", error, limit)


class KernelDecoder:
    """Greedy decoding over the kernels' own cache. All prompts of a batch have one length: there is no padding."""

    kv_block_tokens = 1

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Sequence[int]], n: int, on_tokens: OnTokens | None) -> torch.Tensor:
        """Tokens [batch, n] on the CPU; see ``decode.Decoder.generate``."""
        ids = torch.tensor([list(prompt) for prompt in prompts], device=self._engine.module.device)
        tokens = []
        logits = self.first(ids)
        for step in range(n):
            token = logits.argmax(dim=-1)
            tokens.append(token)
            if on_tokens is not None:
                on_tokens(token.tolist())
            if step + 1 < n:
                logits = self.next(token.unsqueeze(1))
        return torch.stack(tokens, dim=1).cpu()

    def weight_bytes(self) -> int:
        """Bytes of this rank's parameters."""
        return sum(p.numel() * p.element_size() for p in self._engine.module.parameters())

    def cache(self) -> tuple[torch.Tensor, ...]:
        """It lies in DeepSpeed's own work space, of unknown share."""
        return ()

    def first(self, ids: torch.Tensor) -> torch.Tensor:
        """Forget everything and take a prompt: logits [batch, vocabulary] after its last token."""
        from deepspeed.model_implementations.transformers.ds_transformer import DeepSpeedTransformerInference

        DeepSpeedTransformerInference.reset_cache()
        return self.next(ids)

    @torch.inference_mode()
    def next(self, ids: torch.Tensor) -> torch.Tensor:
        """Take further tokens [batch, any]: logits [batch, vocabulary] after the last."""
        logits: torch.Tensor = self._engine.module(input_ids=ids, use_cache=False).logits
        return logits[:, -1]

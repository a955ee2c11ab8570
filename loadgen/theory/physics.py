"""What a llama forward must compute, read and send: FLOPs, bytes, floors, ridge, utilisation. Pure formulas.

Symbols: L layers, h hidden size, V vocabulary, H query heads, d head dimension, b bytes per element, p tensor-parallel
degree, B sequences, S input tokens per sequence, n output tokens per sequence, s current context length, P′ parameters
that a forward reads (all but the embedding look-up), F matrix rate, BW memory bandwidth.

Everything here is a lower bound on what an engine must do, so that a time below a floor is a wrong measurement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from loadgen.records import ModelSpec
from loadgen.theory.ceilings import Ceilings
from loadgen.theory.models import DTYPE_BYTES, dtype_name, kv_bytes_per_token, parameters

Bound = Literal["bandwidth", "compute"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What some forwards take together, over all ranks; ``messages`` all-reduces of ``message_bytes`` each."""

    flops: float
    bytes: float
    messages: float = 0
    message_bytes: float = 0

    def __add__(self, other: Work) -> Work:
        """The sum. Messages of two sizes are kept as their number and their mean size: α and β terms stay exact."""
        count = self.messages + other.messages
        sent = self.messages * self.message_bytes + other.messages * other.message_bytes
        return Work(
            flops=self.flops + other.flops,
            bytes=self.bytes + other.bytes,
            messages=count,
            message_bytes=sent / count if count else 0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """The least time that work can take on some ceilings. ``communication_s`` is ``None`` where it is not known."""

    compute_s: float
    memory_s: float
    communication_s: float | None

    @property
    def seconds(self) -> float:
        """The ideal and the communication after it, where that is known."""
        return self.ideal_s + (self.communication_s or 0.0)

    @property
    def ideal_s(self) -> float:
        """Without communication, which an engine may overlap or do by other means: nothing runs faster than this."""
        return max(self.compute_s, self.memory_s)

    @property
    def bound(self) -> Bound:
        """Which of the two resources sets the ideal time."""
        return "compute" if self.compute_s > self.memory_s else "bandwidth"

    def __add__(self, other: Floor) -> PhasedFloor:
        return PhasedFloor(phases=(self, other))


@dataclass(frozen=True, slots=True, kw_only=True)
class PhasedFloor:
    """Floors of phases that run one after the other."""

    phases: tuple[Floor, ...]

    @property
    def seconds(self) -> float:
        """Sum over the phases, their known communication included."""
        return sum(phase.seconds for phase in self.phases)

    @property
    def ideal_s(self) -> float:
        """Sum of the phases without communication: nothing runs faster."""
        return sum(phase.ideal_s for phase in self.phases)

    @property
    def communication_s(self) -> float | None:
        """Sum over the phases; ``None`` when it is unknown of one."""
        known = [phase.communication_s for phase in self.phases]
        return None if None in known else sum(part for part in known if part is not None)

    def bound_s(self, bound: Bound) -> float:
        """The time of the phases that this resource sets."""
        return sum(phase.ideal_s for phase in self.phases if phase.bound == bound)


def read_parameters(model: ModelSpec) -> int:
    """P′: the parameters that every forward reads. The look-up table is not; a tied one is, as the output head."""
    return parameters(model) - (0 if model.tied else model.vocab * model.hidden)


def read_bytes(model: ModelSpec, dtype: str) -> int:
    """P′·b, over all ranks."""
    return read_parameters(model) * DTYPE_BYTES[dtype_name(dtype)]


def prefill(
    model: ModelSpec, dtype: str, batch: float, input_tokens: float, *, tp: int = 1, head: str = "last"
) -> Work:
    """One prefill of B sequences of S tokens: 2·P′·B·S + 2·L·B·S²·H·d FLOPs (the causal half), weights read once.

    ``head="last"`` counts the output head for the last position only (what engines that generate do), ``"all"`` for
    every position.
    """
    tokens = batch * input_tokens
    head_parameters = model.vocab * model.hidden
    body = read_parameters(model) - head_parameters
    head_tokens = tokens if head == "all" else batch
    attention = 2 * model.layers * batch * input_tokens**2 * model.heads * model.head_dim
    return Work(
        flops=2 * (body * tokens + head_parameters * head_tokens) + attention,
        bytes=read_bytes(model, dtype) + tokens * kv_bytes_per_token(model, dtype),
        messages=_messages(model, tp),
        message_bytes=_message_bytes(model, dtype, tokens),
    )


def decode(
    model: ModelSpec, dtype: str, batch: float, input_tokens: float, steps: int, *, tp: int = 1
) -> Work:
    """``steps`` decode steps of B sequences after S input tokens, the i-th at context s = S + i.

    Each step: 2·P′·B + 4·L·B·s·H·d FLOPs, P′·b + B·s·(KV bytes per token) bytes, 2 all-reduces a layer of B·h·b bytes.
    """
    contexts = steps * input_tokens + steps * (steps + 1) / 2  # Σ (S + i), i = 1 … steps
    attention = 4 * model.layers * batch * contexts * model.heads * model.head_dim
    return Work(
        flops=2 * read_parameters(model) * batch * steps + attention,
        bytes=read_bytes(model, dtype) * steps + batch * contexts * kv_bytes_per_token(model, dtype),
        messages=_messages(model, tp) * steps,
        message_bytes=_message_bytes(model, dtype, batch),
    )


def decode_step(model: ModelSpec, dtype: str, batch: float, context: float, *, tp: int = 1) -> Work:
    """One decode step of B sequences at context length s."""
    return decode(model, dtype, batch, context - 1, 1, tp=tp)


def _messages(model: ModelSpec, tp: int) -> int:
    return 2 * model.layers if tp > 1 else 0


def _message_bytes(model: ModelSpec, dtype: str, tokens: float) -> float:
    return tokens * model.hidden * DTYPE_BYTES[dtype_name(dtype)]


def floor(work: Work, ceilings: Ceilings, dtype: str, *, tp: int = 1, working_set: float = 0) -> Floor | None:
    """max(FLOPs/(F·p), bytes/(BW·p)) + communication. ``None`` when the device has no matrix rate for the dtype.

    Layers spread over GPUs (pipeline parallelism) do not lower it: the stages of one batch run one after the other.
    ``working_set`` (bytes over all ranks) picks the bandwidth's step on machines whose caches may hold it.
    """
    rate = ceilings.matrix_rate(dtype)
    if rate is None:
        return None
    devices = ceilings.devices(tp)
    bandwidth = ceilings.bandwidth_for(working_set / devices) if working_set else ceilings.bandwidth
    one = ceilings.all_reduce_s(tp, work.message_bytes)
    return Floor(
        compute_s=work.flops / (rate * devices),
        memory_s=work.bytes / (bandwidth * devices),
        communication_s=None if one is None else one * work.messages,
    )


def request_floor(
    model: ModelSpec,
    dtype: str,
    batch: int,
    input_tokens: int,
    output_tokens: int,
    ceilings: Ceilings,
    *,
    tp: int = 1,
) -> PhasedFloor | None:
    """The least end-to-end time of one static batch: its prefill, then n − 1 decode steps."""
    weights = read_bytes(model, dtype)
    first = floor(
        prefill(model, dtype, batch, input_tokens, tp=tp), ceilings, dtype, tp=tp, working_set=weights
    )
    rest = floor(
        decode(model, dtype, batch, input_tokens, output_tokens - 1, tp=tp),
        ceilings,
        dtype,
        tp=tp,
        working_set=weights,
    )
    return None if first is None or rest is None else first + rest


def ridge_tokens(model: ModelSpec, dtype: str, ceilings: Ceilings, *, tp: int = 1) -> float | None:
    """n* ≈ F·b/(2·BW): the tokens in one forward at which compute overtakes reading the weights.

    Independent of p, except that a smaller shard may fit a cache.
    """
    rate = ceilings.matrix_rate(dtype)
    if rate is None:
        return None
    bandwidth = ceilings.bandwidth_for(read_bytes(model, dtype) / ceilings.devices(tp))
    return rate * DTYPE_BYTES[dtype_name(dtype)] / (2 * bandwidth)


def mbu(work: Work, seconds: float, ceilings: Ceilings, *, devices: int = 1, working_set: float = 0) -> float:
    """Model bandwidth utilisation: bytes / (time · BW · devices). Above 1 the measurement is wrong."""
    count = ceilings.devices(devices)
    bandwidth = ceilings.bandwidth_for(working_set / count) if working_set else ceilings.bandwidth
    return work.bytes / (seconds * bandwidth * count)


def mfu(work: Work, seconds: float, ceilings: Ceilings, dtype: str, *, devices: int = 1) -> float | None:
    """Model FLOP utilisation: FLOPs / (time · F · devices). Above 1 the measurement is wrong."""
    rate = ceilings.matrix_rate(dtype)
    return None if rate is None else work.flops / (seconds * rate * ceilings.devices(devices))

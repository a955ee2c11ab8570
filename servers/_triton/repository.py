"""Triton's model repository for the FasterTransformer tensor contract, as data and as ``config.pbtxt`` text.

Pure and light. One model, always under the same name and with the same tensors, whether NVIDIA's C++ backend or our
Python-backend model serves it: a client cannot tell them apart, and need not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

MODEL = "fastertransformer"
REPOSITORY = "repository"  # within the server's run folder

# name, type, dims; FasterTransformer's optional inputs are all one value per sequence, but for the word lists.
REQUIRED = (("input_ids", "UINT32", (-1,)), ("request_output_len", "UINT32", (-1,)))
SCALARS = {
    "runtime_top_k": "UINT32",
    "runtime_top_p": "FP32",
    "beam_search_diversity_rate": "FP32",
    "temperature": "FP32",
    "len_penalty": "FP32",
    "repetition_penalty": "FP32",
    "random_seed": "UINT64",
    "is_return_log_probs": "BOOL",
    "start_id": "UINT32",
    "end_id": "UINT32",
    "beam_width": "UINT32",
    "prompt_learning_task_name_ids": "UINT32",
    "top_p_decay": "FP32",
    "top_p_min": "FP32",
    "top_p_reset_ids": "UINT32",
}
WORD_LISTS = ("bad_words_list", "stop_words_list")
OUTPUTS = (
    ("output_ids", "UINT32", (-1, -1)),
    ("sequence_length", "UINT32", (-1,)),
    ("cum_log_probs", "FP32", (-1,)),
    ("output_log_probs", "FP32", (-1, -1)),
)


@dataclass(frozen=True, slots=True)
class Word:
    """An enum value or boolean, which the text format wants bare."""

    text: str


Value = str | int | Word | Mapping[str, "Value"] | Sequence["Value"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """The one model of a server: who runs it, how it answers, and the backend's own parameters."""

    backend: str
    decoupled: bool
    max_batch: int = 1024
    dynamic_batching: bool = False
    queue_delay_us: int = 0
    parameters: Mapping[str, str] = field(default_factory=dict)

    def config(self) -> str:
        """``config.pbtxt``."""
        return text_format(self.message())

    def message(self) -> dict[str, Value]:
        """The ``inference.ModelConfig`` message as plain data."""
        message: dict[str, Value] = {
            "name": MODEL,
            "backend": self.backend,
            "max_batch_size": self.max_batch,
            "model_transaction_policy": {"decoupled": Word("true" if self.decoupled else "false")},
            "input": self._inputs(),
            "output": [_tensor(name, kind, dims) for name, kind, dims in OUTPUTS],
            # The C++ backend takes no other kind; it chooses its GPUs itself, as the Python model does.
            "instance_group": [{"count": 1, "kind": Word("KIND_CPU")}],
            "parameters": [
                {"key": key, "value": {"string_value": value}}
                for key, value in sorted(self.parameters.items())
            ],
        }
        if self.dynamic_batching:
            message["dynamic_batching"] = {"max_queue_delay_microseconds": self.queue_delay_us}
            # Ragged inputs arrive end to end; this tells the backend where each ends.
            message["batch_input"] = [
                {
                    "kind": Word("BATCH_ITEM_SHAPE"),
                    "target_name": "input_ids_item_shape",
                    "data_type": Word("TYPE_INT32"),
                    "source_input": "input_ids",
                }
            ]
        return message

    def _inputs(self) -> list[Value]:
        inputs: list[Value] = []
        for name, kind, dims in REQUIRED:
            tensor = _tensor(name, kind, dims)
            if name == "input_ids" and self.dynamic_batching:
                tensor["allow_ragged_batch"] = Word("true")
            inputs.append(tensor)
        inputs.insert(1, _scalar("input_lengths", "UINT32"))
        inputs += [{**_scalar(name, kind), "optional": Word("true")} for name, kind in SCALARS.items()]
        inputs += [{**_tensor(name, "INT32", (2, -1)), "optional": Word("true")} for name in WORD_LISTS]
        return inputs

    def files(self, model_py: str | None = None) -> dict[str, str]:
        """Path within the run folder → text. A version folder must exist, whether or not a backend reads it."""
        folder = f"{REPOSITORY}/{MODEL}"
        version = (
            {"model.py": model_py}
            if model_py is not None
            else {"README": "FasterTransformer reads nothing here.\n"}
        )
        return {f"{folder}/config.pbtxt": self.config()} | {
            f"{folder}/1/{name}": text for name, text in version.items()
        }


def _tensor(name: str, kind: str, dims: Sequence[int]) -> dict[str, Value]:
    return {"name": name, "data_type": Word(f"TYPE_{kind}"), "dims": list(dims)}


def _scalar(name: str, kind: str) -> dict[str, Value]:
    # reshape {}: [batch, 1] on the wire, [batch] for the backend
    return {**_tensor(name, kind, (1,)), "reshape": {"shape": []}}


def text_format(message: Mapping[str, Value], indent: str = "") -> str:
    """Protobuf's text format of nested mappings; a list is a repeated field."""
    lines: list[str] = []
    for name, value in message.items():
        several = isinstance(value, Sequence) and not isinstance(value, str)
        for one in value if several else [value]:  # type: ignore[union-attr]
            if isinstance(one, Mapping):
                lines.append(f"{indent}{name} {{\n{text_format(one, indent + '  ')}{indent}}}\n")
            else:
                lines.append(f"{indent}{name}: {_scalar_text(one)}\n")
    return "".join(lines)


def _scalar_text(value: Value) -> str:
    if isinstance(value, Word):
        return value.text
    if isinstance(value, int):
        return str(value)
    assert isinstance(value, str)
    # Octal escapes are the one spelling for any byte that every version of the format reads alike.
    return (
        '"'
        + "".join(chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\{b:03o}" for b in value.encode())
        + '"'
    )

"""The messages of text-generation-inference's shards, ``generate.v3``: those fields that are sent or read.

Described in place, as MII's are: code generated here would bind the client to one version of protobuf. Fields that are
not named here pass unread.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from loadgen.drivers.mii_messages import add_field

__all__ = ["SERVICE", "DecodeError", "message", "request_of"]

SERVICE = "/generate.v3.TextGenerationService/"
PACKAGE = "generate.v3"
# Message → field → (number, type); a type in brackets is repeated, one with a capital letter a message.
FIELDS: dict[str, dict[str, tuple[int, str]]] = {
    "Empty": {},
    "InfoResponse": {
        "requires_padding": (1, "bool"), "dtype": (2, "string"), "device_type": (3, "string"),
        "speculate": (5, "uint32"), "support_chunking": (6, "bool"), "use_prefix_caching": (7, "bool"),
        "attention_impl": (8, "string"), "block_size": (9, "uint32"),
    },
    "ServiceDiscoveryResponse": {"urls": (1, "[string]")},
    "ClearCacheRequest": {"id": (1, "uint64")},
    "InputChunk": {"text": (1, "string")},
    "Input": {"chunks": (1, "[InputChunk]")},
    "NextTokenChooserParameters": {
        "temperature": (1, "float"), "top_p": (3, "float"), "typical_p": (4, "float"), "do_sample": (5, "bool"),
        "repetition_penalty": (7, "float"),
    },
    "StoppingCriteriaParameters": {"max_new_tokens": (1, "uint32"), "ignore_eos_token": (3, "bool")},
    "Request": {
        "id": (1, "uint64"), "inputs": (2, "string"), "truncate": (3, "uint32"),
        "parameters": (4, "NextTokenChooserParameters"), "stopping_parameters": (5, "StoppingCriteriaParameters"),
        "prefill_logprobs": (6, "bool"), "input_chunks": (8, "Input"), "add_special_tokens": (13, "bool"),
    },
    "Batch": {
        "id": (1, "uint64"), "requests": (2, "[Request]"), "size": (3, "uint32"), "max_tokens": (4, "uint32"),
    },
    "CachedBatch": {
        "id": (1, "uint64"), "request_ids": (2, "[uint64]"), "size": (3, "uint32"), "max_tokens": (4, "uint32"),
        "current_tokens": (5, "uint32"),
    },
    "GeneratedText": {"generated_tokens": (2, "uint32"), "finish_reason": (3, "int32")},
    "Tokens": {"ids": (1, "[uint32]")},
    "Generation": {
        "request_id": (1, "uint64"), "prefill_tokens": (2, "Tokens"), "tokens": (3, "Tokens"),
        "generated_text": (4, "GeneratedText"),
    },
    "FilterBatchRequest": {"batch_id": (1, "uint64"), "request_ids": (2, "[uint64]")},
    "FilterBatchResponse": {"batch": (1, "CachedBatch")},
    "PrefillRequest": {"batch": (1, "Batch")},
    "DecodeRequest": {"batches": (1, "[CachedBatch]")},
    # What Prefill and Decode answer.
    "Step": {"generations": (1, "[Generation]"), "batch": (2, "CachedBatch"), "total_ns": (5, "uint64")},
    "WarmupRequest": {
        "batch": (1, "Batch"), "max_input_tokens": (2, "uint32"), "max_prefill_tokens": (3, "uint32"),
        "max_total_tokens": (4, "uint32"),
    },
    "WarmupResponse": {"max_supported_total_tokens": (1, "uint32")},
}  # fmt: skip


def _pool() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="loadgen/generate.proto", package=PACKAGE, syntax="proto3")
    for name, fields in FIELDS.items():
        made = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            plain = kind.strip("[]")
            add_field(made, number, field, plain, repeated=plain != kind, package=PACKAGE)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


_POOL = _pool()


def message(name: str) -> Any:
    """The class of a message of ``FIELDS``."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))


def request_of(place: int, text: str, tokens: int, output_tokens: int, *, special: bool) -> dict[str, Any]:
    """One sequence of a batch, greedy, to the very length. ``truncate`` keeps the last ``tokens`` of the text's, which
    ``special`` ones of the tokenizer's count among; numbers that are left out are 0, which is none of sampling's."""
    return {
        "id": place,
        "inputs": text,
        "input_chunks": {"chunks": [{"text": text}]},
        "truncate": tokens,
        "add_special_tokens": special,
        "parameters": {"temperature": 1.0, "top_p": 1.0, "typical_p": 1.0, "repetition_penalty": 1.0},
        "stopping_parameters": {"max_new_tokens": output_tokens, "ignore_eos_token": True},
    }

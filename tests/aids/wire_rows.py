"""How fifteen servers stream a chat, each as a short recording made by hand after its documentation and its issues.

A row holds the lines of ``data`` as they came, one read each, and what must be made of it: the reads that bring tokens,
the read with which the answer itself begins, and the counts of the usage that was sent (``None``: nobody counted).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """``reads`` are the events of each read; ``arrivals`` and ``answer`` count reads from 1."""

    reads: list[bytes]
    arrivals: tuple[int, ...]
    answer: int | None
    prompt: int | None = 9
    output: int | None = 3
    finish: str | None = "length"
    error: str | None = None


def event(found: object) -> bytes:
    return b"data: " + (found if isinstance(found, bytes) else json.dumps(found).encode()) + b"\n\n"


def named(kind: str, **found: Any) -> bytes:
    return b"event: " + kind.encode() + b"\n" + event({"type": kind} | found)


def chunk(
    finish: str | None = None, usage: object = ..., choice: dict[str, Any] | None = None, **delta: Any
) -> bytes:
    each = {"index": 0, "delta": delta, "finish_reason": finish} | (choice or {})
    found: dict[str, Any] = {"id": "c", "object": "chat.completion.chunk", "choices": [each]}
    return event(found if usage is ... else found | {"usage": usage})


def no_choices(**more: Any) -> bytes:
    return event({"id": "c", "choices": []} | more)


USED = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
LAST = no_choices(usage=USED)
DONE = event(b"[DONE]")

ROWS: dict[str, Row] = {
    "OpenAI": Row(
        [
            chunk(role="assistant", content="", usage=None),
            chunk(content="a", usage=None),
            chunk(content=" b", usage=None),
            chunk(content=" c", usage=None),
            chunk("length", usage=None),
            LAST,
            DONE,
        ],
        (2, 3, 4),
        2,
    ),
    "Azure OpenAI": Row(
        [
            event({"id": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]}),
            chunk(role="assistant", content=""),
            chunk(content="a b"),
            chunk(content=" c", choice={"content_filter_results": {}}),
            chunk("length"),
            LAST,
            DONE,
        ],
        (3, 4),
        3,
    ),
    "vLLM": Row(
        [
            chunk(role="assistant", content="", usage=USED | {"completion_tokens": 0}),
            chunk(reasoning="a", usage=USED | {"completion_tokens": 1}),
            chunk(reasoning=" b", usage=USED | {"completion_tokens": 2}),
            chunk("length", content="c", usage=USED),
            LAST,
            DONE,
        ],
        (2, 3, 4),
        4,
    ),
    "vLLM with ids": Row(
        [
            chunk(role="assistant", content=""),
            chunk(content="", choice={"token_ids": [5]}),
            chunk("length", content="c", choice={"token_ids": [6, 7]}),
            LAST,
            DONE,
        ],
        (2, 3),
        3,
    ),
    "SGLang": Row(
        [
            chunk(role="assistant", content="", usage=None, choice={"matched_stop": None}),
            chunk(role=None, content=None, reasoning_content="a", usage=None),
            chunk(role=None, content=" b", usage=None),
            chunk("length", content=" c", usage=None, choice={"matched_stop": None}),
            LAST,
            DONE,
        ],
        (2, 3, 4),
        3,
    ),
    "TGI": Row(
        [
            event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": text}}]})
            for text in ("a", " b")
        ]
        + [chunk("length", role="assistant", content=" c", usage=USED), DONE],
        (1, 2, 3),
        1,
    ),
    "TGI 2.2, without usage": Row(
        [chunk(role="assistant", content="a"), chunk("length", role="assistant", content=" b"), DONE],
        (1, 2),
        1,
        prompt=None,
        output=None,
    ),
    "llama.cpp": Row(
        [
            chunk(role="assistant", content=None),
            chunk(content="a"),
            chunk(content=" b"),
            chunk(content=" c"),
            chunk("length", usage=USED, choice={"timings": {"prompt_n": 9}}) + b"data: [DONE]",
        ],
        (2, 3, 4),
        2,
    ),
    "Ollama": Row(
        [
            chunk(role="assistant", content="", reasoning="a"),
            chunk(role="assistant", content="b"),
            chunk("stop", role="assistant", content=""),
            LAST,
            DONE,
        ],
        (1, 2),
        2,
        finish="stop",
    ),
    "LM Studio": Row(
        [
            chunk(role="assistant", content="a"),
            chunk(tool_calls=[{"index": 0, "function": {"name": "", "arguments": ""}}]),
            chunk(tool_calls=[{"index": 0, "function": {"name": "", "arguments": "{}"}}]),
            chunk("tool_calls"),
            DONE,
        ],
        (1, 3),
        1,
        prompt=None,
        output=None,
        finish="tool_calls",
    ),
    "TensorRT-LLM": Row(
        [
            chunk(role="assistant", content=""),
            chunk(content="a"),
            chunk("length", content=" b c"),
            LAST,
            DONE,
        ],
        (2, 3),
        2,
    ),
    "OpenVINO Model Server": Row(
        [chunk(content=""), chunk(content="a b"), chunk("length", content=" c"), LAST, DONE],
        (2, 3),
        2,
    ),
    "OpenRouter": Row(
        [
            b": OPENROUTER PROCESSING\n\n",
            b": OPENROUTER PROCESSING\n\n" + chunk(content="a"),
            event(
                {
                    "id": "c",
                    "error": {"code": 502, "message": "Provider disconnected"},
                    "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}],
                }
            ),
        ],
        (2,),
        2,
        prompt=None,
        output=None,
        finish=None,
        error="Refused: Provider disconnected",
    ),
    "LiteLLM proxy": Row(
        [
            chunk(role="assistant", content="a") + chunk(content=" b"),
            chunk("length", content=" c"),
            LAST,
            DONE,
        ],
        (1, 2),
        1,
    ),
    "SiliconFlow": Row(
        [
            chunk(content="a", usage=USED | {"completion_tokens": 1}),
            chunk(content=" b", usage=USED | {"completion_tokens": 2}),
            chunk("length", content=" c", usage=USED),
            DONE,
        ],
        (1, 2, 3),
        1,
    ),
    "Fireworks": Row(
        [chunk(role="assistant"), chunk("length", usage=USED), DONE],
        (),
        None,
    ),
    "Anthropic Messages": Row(
        [
            named(
                "message_start",
                message={"usage": {"input_tokens": 7, "cache_read_input_tokens": 2, "output_tokens": 1}},
            ),
            named("content_block_start", index=0, content_block={"type": "thinking", "thinking": ""}),
            named("ping"),
            named("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "a"}),
            named("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "x"}),
            named("content_block_start", index=1, content_block={"type": "text", "text": ""}),
            named("content_block_delta", index=1, delta={"type": "text_delta", "text": "b"}),
            named("content_block_delta", index=2, delta={"type": "input_json_delta", "partial_json": "{}"}),
            named("message_delta", delta={"stop_reason": "max_tokens"}, usage={"output_tokens": 3}),
            named("message_stop"),
        ],
        (4, 7, 8),
        7,
        finish="max_tokens",
    ),
    "Anthropic Messages, overloaded": Row(
        [
            named("message_start", message={"usage": {"input_tokens": 9, "output_tokens": 1}}),
            named("error", error={"type": "overloaded_error", "message": "Overloaded"}),
        ],
        (),
        None,
        output=1,
        finish=None,
        error="Refused: Overloaded",
    ),
}

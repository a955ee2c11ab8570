"""Anthropic's Messages events in the shape of chat completions, so that one reader takes both.

docs.anthropic.com, "Streaming messages": message_start (usage.input_tokens), content_block_delta (text_delta,
thinking_delta, input_json_delta), message_delta (stop_reason; usage.output_tokens, cumulative), message_stop, ping,
error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CHANNELS = {"text": "content", "thinking": "reasoning", "partial_json": "tool"}
_INPUT = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


def as_chat(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """The event as a chat completion's chunk; what holds no token, usage or end becomes one without choices.

    An event that is none of Messages' is handed back as it is.
    """
    kind = event["type"]
    if kind == "message_start":
        return {"usage": _usage(event["message"].get("usage"))}
    if kind == "content_block_start":
        return _chunk(event["content_block"])
    if kind == "content_block_delta":
        return _chunk(event["delta"])
    if kind == "message_delta":
        reason = (event.get("delta") or {}).get("stop_reason")
        choices = [{"index": 0, "finish_reason": reason}] if reason else []
        return {"choices": choices, "usage": _usage(event.get("usage"))}
    if kind == "message":
        parts = [_part(block) for block in event.get("content") or ()]
        message = {key: value for part in parts for key, value in part.items()}
        choice = {"index": 0, "message": message, "finish_reason": event.get("stop_reason")}
        return {"choices": [choice], "usage": _usage(event.get("usage"))}
    if kind == "error":
        return {"error": event.get("error") or event}
    return event


def _chunk(piece: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"choices": [{"index": 0, "delta": _part(piece)}]}


def _part(piece: Mapping[str, Any]) -> dict[str, Any]:
    """A block or delta as a chat's delta; a tool's first block tells its name."""
    if piece.get("type") == "tool_use":
        return {"tool_calls": [{"function": {"name": piece.get("name")}}]}
    for key, channel in _CHANNELS.items():
        if found := piece.get(key):
            return (
                {"tool_calls": [{"function": {"arguments": found}}]}
                if channel == "tool"
                else {channel: found}
            )
    return {}


def _usage(usage: Mapping[str, Any] | None) -> dict[str, Any]:
    """Usage under the names of chat completions. What a prompt cache had counts as input, too."""
    if not isinstance(usage, Mapping):
        return {}
    found: dict[str, Any] = {}
    if isinstance(usage.get("input_tokens"), int):
        found["prompt_tokens"] = sum(usage.get(key) or 0 for key in _INPUT)
    if isinstance(cached := usage.get("cache_read_input_tokens"), int):
        found["prompt_tokens_details"] = {"cached_tokens": cached}
    if isinstance(usage.get("output_tokens"), int):
        found["completion_tokens"] = usage["output_tokens"]
    return found

"""The body of ``/v1/completions`` or ``/v1/chat/completions`` → a ``Call``, or one clear refusal. Pure data.

Follows OpenAI's API with vLLM's additions (token ids in and out, ``ignore_eos``, ``min_tokens``).
One deliberate difference: ``temperature`` defaults to 0 (greedy), because a benchmark wants the same work each time.
A field that would silently change the work asked for (a typing slip, an unsupported one) is refused, not ignored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

DEFAULT_MAX_TOKENS = 16  # OpenAI's
# Fields of other servers and clients that are harmless at these values only.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1, None),
    "top_p": (1, 1.0, None),
    "top_k": (-1, 0, None),
    "min_p": (0, 0.0, None),
    "logprobs": (None, 0, False),
    "stop": (None, [], ""),
    "presence_penalty": (0, 0.0, None),
    "frequency_penalty": (0, 0.0, None),
    "repetition_penalty": (1, 1.0, None),
    "logit_bias": (None, {}),
}
NEUTRAL_COMPLETION: dict[str, tuple[Any, ...]] = {
    "best_of": (1, None),
    "echo": (False, None),
    "suffix": (None, ""),
}
NEUTRAL_CHAT: dict[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True, None),
    "response_format": ({"type": "text"}, None),
    "store": (False, None),
    "tools": ([], None),
    "tool_choice": ("none", None),
    "top_logprobs": (None, 0),
}
KNOWN = (
    "model", "max_tokens", "min_tokens", "ignore_eos", "temperature", "seed", "stream", "stream_options",
    "return_token_ids", "user",
)  # fmt: skip
ROLES = ("system", "developer", "user", "assistant")


class BadRequest(Exception):
    """A request that cannot be served: HTTP ``status``, the field it is about, and what would be accepted."""

    def __init__(self, message: str, param: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.message, self.param, self.status = message, param, status

    def body(self) -> dict[str, Any]:
        """The error in OpenAI's shape."""
        return error_body(self.message, "invalid_request_error", self.param, self.status)


def error_body(message: str, kind: str, param: str | None = None, code: int | str = 500) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What this server can take. ``encode`` turns text into token ids, ``converse`` messages (role → words) likewise
    and raises ValueError for those that its chat template refuses."""

    model: str
    vocab: int
    max_context: int
    max_batch: int | None
    encode: Callable[[str], list[int]]
    converse: Callable[[list[dict[str, str]]], list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One wire call: a static batch of prompts (token ids), each continued by up to ``max_tokens``."""

    prompts: tuple[tuple[int, ...], ...]
    max_tokens: int
    min_tokens: int = 0
    ignore_eos: bool = False
    temperature: float = 0.0
    seed: int = 0
    stream: bool = False
    include_usage: bool = False
    return_token_ids: bool = False

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt, to which the others are padded on the left."""
        return max(map(len, self.prompts))


def parse(raw: bytes, limits: Limits, fresh_seed: Callable[[], int], *, chat: bool = False) -> Call:
    """Read one request; ``fresh_seed`` is asked only when the client gave none. Raises BadRequest."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise BadRequest(f"the body must be a JSON object, got {type(body).__name__}")
    _check_names(body, chat)
    if "model" in body and body["model"] is not None and body["model"] != limits.model:
        raise BadRequest(
            f"model {body['model']!r} is not served here; served: {limits.model!r}", "model", 404
        )
    prompts: tuple[tuple[int, ...], ...]
    if chat:
        prompts = (_conversation(body.get("messages"), limits),)
        max_tokens = _chat_tokens(body, len(prompts[0]), limits)
    else:
        max_tokens = _integer(body, "max_tokens", DEFAULT_MAX_TOKENS, 1, limits.max_context)
        prompts = _prompts(body.get("prompt"), limits)
    field = "messages" if chat else "prompt"
    if limits.max_batch is not None and len(prompts) > limits.max_batch:
        raise BadRequest(f"{len(prompts)} prompts in one call; at most {limits.max_batch} (max_batch)", field)
    for i, prompt in enumerate(prompts):
        where = "the conversation" if chat else f"prompt {i}" if len(prompts) > 1 else "the prompt"
        _check_prompt(prompt, where, max_tokens, limits, field)
    options = body.get("stream_options") or {}
    if not isinstance(options, dict) or set(options) - {"include_usage", "continuous_usage_stats"}:
        raise BadRequest(
            f"stream_options must be {{'include_usage': bool}}, got {options!r}", "stream_options"
        )
    if options.get("continuous_usage_stats"):
        raise BadRequest("continuous_usage_stats is not offered; accepted: false", "stream_options")
    seed = body.get("seed")
    return Call(
        prompts=prompts,
        max_tokens=max_tokens,
        min_tokens=_integer(body, "min_tokens", 0, 0, max_tokens),
        ignore_eos=_boolean(body, "ignore_eos"),
        temperature=_temperature(body),
        seed=fresh_seed() if seed is None else _integer(body, "seed", 0, 0, 2**63 - 1),
        stream=_boolean(body, "stream"),
        include_usage=_boolean(options, "include_usage"),
        return_token_ids=_boolean(body, "return_token_ids"),
    )


def _check_names(body: dict[str, Any], chat: bool) -> None:
    known = ("messages", *KNOWN, "max_completion_tokens") if chat else ("prompt", *KNOWN)
    neutral = NEUTRAL | (NEUTRAL_CHAT if chat else NEUTRAL_COMPLETION)
    for name, value in body.items():
        if name in known:
            continue
        if name not in neutral:
            close = get_close_matches(name, (*known, *neutral), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise BadRequest(f"unknown field {name!r}{hint} (accepted: {', '.join(known)})", name)
        if value not in neutral[name]:
            raise BadRequest(f"{name} = {value!r} is not offered; accepted: {neutral[name][0]!r}", name)


def _conversation(messages: Any, limits: Limits) -> tuple[int, ...]:
    """``messages``: objects of a role and words, the words a text or a list of parts of type ``text``."""
    if not isinstance(messages, list) or not messages:
        shown = "is missing" if messages is None else f"is empty or a {type(messages).__name__}"
        raise BadRequest(f"messages {shown}; accepted: a list of {{'role', 'content'}}", "messages")
    read = []
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise BadRequest(f"{where} has no role that is served; accepted: {', '.join(ROLES)}", "messages")
        if extra := set(message) - {"role", "content", "name"}:
            raise BadRequest(
                f"{where} holds {', '.join(sorted(extra))}; accepted: role, content, name", "messages"
            )
        read.append({"role": message["role"], "content": _words(message.get("content"), where)})
    try:
        return tuple(limits.converse(read))
    except ValueError as error:
        raise BadRequest(f"the chat template refuses these messages: {error}", "messages") from None


def _words(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = [
            part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
            for part in content
        ]
        if content and all(isinstance(text, str) for text in texts):
            return "".join(map(str, texts))
    raise BadRequest(
        f"{where}.content: accepted: a text, or a list of {{'type': 'text', 'text'}}", "messages"
    )


def _chat_tokens(body: dict[str, Any], prompt: int, limits: Limits) -> int:
    """The most tokens of an answer: without a word of it all that the context has left, as OpenAI has it."""
    if (newer := body.get("max_completion_tokens")) is not None and body.get("max_tokens") not in (
        None,
        newer,
    ):
        raise BadRequest("max_completion_tokens and max_tokens differ; give one", "max_tokens")
    name = "max_tokens" if newer is None else "max_completion_tokens"
    return _integer(body, name, max(1, limits.max_context - prompt), 1, limits.max_context)


def _prompts(prompt: Any, limits: Limits) -> tuple[tuple[int, ...], ...]:
    """``prompt`` is text, a list of texts, token ids, or a list of lists of token ids."""
    if isinstance(prompt, str):
        return (tuple(limits.encode(prompt)),)
    if isinstance(prompt, list) and prompt:
        kinds = set(map(type, prompt))
        if kinds == {int}:
            return (tuple(prompt),)
        if kinds == {str}:
            return tuple(tuple(limits.encode(text)) for text in prompt)
        if kinds == {list}:
            return tuple(map(tuple, prompt))
        raise BadRequest(
            f"prompt mixes or holds {', '.join(sorted(k.__name__ for k in kinds))}; accepted: text, list of texts, "
            "list of token ids, list of lists of token ids",
            "prompt",
        )
    shown = "is missing" if prompt is None else f"is empty or a {type(prompt).__name__}"
    raise BadRequest(
        f"prompt {shown}; accepted: text, list of texts, list of token ids, list of lists of token ids",
        "prompt",
    )


def _check_prompt(ids: tuple[int, ...], where: str, max_tokens: int, limits: Limits, field: str) -> None:
    if not ids:
        raise BadRequest(f"{where} has no tokens; at least 1 is needed", field)
    if (kinds := set(map(type, ids))) != {int}:
        odd = ", ".join(sorted(k.__name__ for k in kinds - {int}))
        raise BadRequest(f"{where} holds {odd} among its token ids; accepted: whole numbers", field)
    for edge in (min(ids), max(ids)):
        if not 0 <= edge < limits.vocab:
            raise BadRequest(
                f"{where} holds token id {edge}, outside the vocabulary; accepted: 0 to {limits.vocab - 1}",
                field,
            )
    if len(ids) + max_tokens > limits.max_context:
        raise BadRequest(
            f"{where} has {len(ids)} tokens and max_tokens is {max_tokens}: together {len(ids) + max_tokens}, "
            f"more than the context of {limits.max_context}",
            field,
        )


def _integer(body: dict[str, Any], name: str, default: int, low: int, high: int) -> int:
    value = body.get(name)
    if value is None:
        return default
    if type(value) is not int or not low <= value <= high:
        raise BadRequest(f"{name} = {value!r}; accepted: a whole number from {low} to {high}", name)
    return value


def _boolean(body: dict[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise BadRequest(f"{name} = {value!r}; accepted: true, false", name)
    return value


def _temperature(body: dict[str, Any]) -> float:
    value = body.get("temperature")
    if value is None:
        return 0.0
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not 0 <= value <= 100:
        raise BadRequest(f"temperature = {value!r}; accepted: a number from 0 (greedy) to 100", "temperature")
    return float(value)

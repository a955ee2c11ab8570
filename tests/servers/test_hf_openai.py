"""The ``hf`` server through OpenAI's own client: each route, streamed and whole, and errors in the client's classes."""

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from loadgen.drivers.words import measure
from loadgen.launch.process import Server

TALK: Any = [{"role": "system", "content": "Count."}, {"role": "user", "content": "one two"}]
PLAIN = "system: Count.\nuser: one two\nassistant:"
FORCED: Any = {"ignore_eos": True, "min_tokens": 7, "return_token_ids": True}


@pytest.fixture(scope="module")
def client(tiny_hf: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{tiny_hf.command.base_url}/v1", api_key="none", max_retries=0) as found:
        yield found


def chat(client: openai.OpenAI, **fields: Any) -> Any:
    asked = {"model": "tiny", "messages": TALK, "max_tokens": 7, "extra_body": FORCED} | fields
    return client.chat.completions.create(**asked)


def complete(client: openai.OpenAI, **fields: Any) -> Any:
    asked = {"model": "tiny", "prompt": PLAIN, "max_tokens": 7, "extra_body": FORCED} | fields
    return client.completions.create(**asked)


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]


def test_a_chat_is_a_completion_of_its_templates_text(client: openai.OpenAI) -> None:
    answer, same = chat(client), complete(client)
    choice = answer.choices[0]
    assert choice.message.role == "assistant"
    assert choice.message.content == same.choices[0].text
    assert choice.token_ids == same.choices[0].token_ids
    assert choice.finish_reason == "length"
    assert answer.usage == same.usage
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(PLAIN), 7)


def test_a_streamed_chat_opens_with_the_role_and_ends_with_reason_and_usage(client: openai.OpenAI) -> None:
    whole = chat(client)
    role, *steps, end, usage = chat(client, stream=True, stream_options={"include_usage": True})
    assert {chunk.object for chunk in (role, *steps, end, usage)} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in (role, *steps, end, usage)}) == 1
    assert (role.choices[0].delta.role, role.choices[0].delta.content) == ("assistant", "")
    assert "".join(step.choices[0].delta.content for step in steps) == whole.choices[0].message.content
    assert [token for step in steps for token in step.choices[0].token_ids] == whole.choices[0].token_ids
    assert {step.choices[0].finish_reason for step in steps} == {None}
    assert (end.choices[0].delta.content, end.choices[0].finish_reason) == (None, "length")
    assert usage.choices == []
    assert usage.usage == whole.usage
    assert all(chunk.choices for chunk in chat(client, stream=True))


def test_a_streamed_completion_reads_as_the_whole_one(client: openai.OpenAI) -> None:
    whole = complete(client, prompt=["ab", "c"])
    texts = ["", ""]
    for chunk in complete(client, prompt=["ab", "c"], stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole.choices]
    assert whole.usage.completion_tokens == 14


def test_the_newer_name_of_the_limit_and_parts_of_text_are_taken(client: openai.OpenAI) -> None:
    parts: Any = [{"type": "text", "text": "one"}, {"type": "text", "text": " two"}]
    messages: Any = [TALK[0], {"role": "user", "content": parts}]
    answer = chat(client, messages=messages, max_tokens=openai.omit, max_completion_tokens=7)
    assert answer.choices[0].token_ids == chat(client).choices[0].token_ids


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages is empty"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0] has no role"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "content"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": []}]}, "holds tool_calls"),
        ({"messages": [{"role": "user", "content": "x" * 4090}]}, "context of 4096"),
        ({"max_completion_tokens": 8}, "differ"),
        ({"n": 2}, "n = 2"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"extra_body": {"prompt": "x"}}, "unknown field 'prompt'"),
    ],
)
def test_a_bad_chat_is_the_clients_bad_request(
    client: openai.OpenAI, fields: dict[str, Any], words: str, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, stream=stream, **fields)
    assert words in caught.value.message
    assert caught.value.type == "invalid_request_error"


def test_errors_come_in_the_clients_classes(client: openai.OpenAI, tiny_hf: Server) -> None:
    with pytest.raises(openai.NotFoundError, match="served: 'tiny'"):
        chat(client, model="gpt-5")
    with pytest.raises(openai.NotFoundError, match="POST /v1/embeddings: Not Found"):
        client.embeddings.create(model="tiny", input="x")
    with pytest.raises(openai.BadRequestError, match="suffix"):
        complete(client, suffix="x")
    reply = httpx.get(f"{tiny_hf.command.base_url}/v1/chat/completions", trust_env=False)
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
    assert reply.json()["error"]["code"] == 405


def test_prompts_of_measured_words_are_exact(client: openai.OpenAI) -> None:
    def ask(text: str) -> int:
        answer = chat(client, messages=[{"role": "user", "content": text}], max_tokens=1, extra_body={})
        return int(answer.usage.prompt_tokens)

    words = measure(ask)
    assert words is not None
    assert words.overhead == len("user: \nassistant:")
    assert [ask(words.prompt(range(length))) for length in (20, 333)] == [20, 333]

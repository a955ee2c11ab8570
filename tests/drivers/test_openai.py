from __future__ import annotations

import json
from typing import Any

import pytest

from loadgen.drivers.http_access import proxy_for
from loadgen.drivers.openai import OPTIONS, check_options, make_driver
from loadgen.drivers.openai_endpoint import Endpoint
from loadgen.errors import BadInput
from loadgen.load_records import Timeouts
from loadgen.request_records import Request
from loadgen.urls import shown

PROXIES = (
    "http_proxy",
    "HTTP_PROXY",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
)


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)


def endpoint(url: str = "http://h:1", **options: Any) -> Endpoint:
    return Endpoint(url, "m", options)


@pytest.mark.parametrize(
    ("url", "host", "port", "target"),
    [
        ("http://h", "h", 80, "/v1/completions"),
        ("https://h", "h", 443, "/v1/completions"),
        ("http://h:8000/", "h", 8000, "/v1/completions"),
        ("http://h:8000/v1", "h", 8000, "/v1/completions"),
        ("http://h:8000/v1/", "h", 8000, "/v1/completions"),
        ("http://h/route/v1", "h", 80, "/route/v1/completions"),
        ("http://[::1]:9", "::1", 9, "/v1/completions"),
    ],
)
def test_where_completions_are(url: str, host: str, port: int, target: str) -> None:
    found = endpoint(url)
    assert (found.host, found.port, found.target) == (host, port, target)


@pytest.mark.parametrize("url", ["", "h:8000", "ftp://h", "http://", "http://h:port", "http://h:70000"])
def test_what_is_no_endpoint_is_refused(url: str) -> None:
    with pytest.raises(BadInput, match="base URL"):
        endpoint(url)


def test_credentials_in_the_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(BadInput, match="LOADGEN_API_KEY") as caught:
        endpoint("http://user:sesame@h:1")
    assert "sesame" not in str(caught.value)


def test_a_key_that_is_no_header_value_is_refused_and_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOADGEN_API_KEY", "sesame\r\nx: y")
    with pytest.raises(BadInput, match="printable") as caught:
        endpoint().headers()
    assert "sesame" not in str(caught.value)


def test_the_body_of_one_sequence_and_of_a_batch() -> None:
    def body(stream: bool, *prompts: tuple[int, ...], **options: Any) -> Any:
        request = Request(seq=0, phase="warmup", prompts=prompts, output_tokens=7, stream=stream)
        return json.loads(endpoint(**options).body(request))

    assert body(True, (1, 2)) == {
        "model": "m",
        "prompt": [1, 2],
        "max_tokens": 7,
        "min_tokens": 7,
        "ignore_eos": True,
        "return_token_ids": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert body(False, (1, 2), (3,), extras=False) == {
        "model": "m",
        "prompt": [[1, 2], [3]],
        "max_tokens": 7,
        "temperature": 0,
        "stream": False,
    }


@pytest.mark.parametrize(
    ("url", "options", "name"),
    [
        ("http://127.0.0.1:1", {}, "openai-raw"),
        ("http://127.0.0.1:1", {"transport": "httpx"}, "openai-httpx"),
        ("http://example.org", {}, "openai-raw"),
        ("https://127.0.0.1:1", {}, "openai-httpx"),
    ],
)
def test_which_driver(url: str, options: dict[str, Any], name: str) -> None:
    assert make_driver(url, "m", Timeouts(), options).name == name


def test_a_proxy_takes_the_httpx_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "near.example")
    assert make_driver("http://far.example", "m", Timeouts(), {}).name == "openai-httpx"
    assert make_driver("http://near.example", "m", Timeouts(), {}).name == "openai-raw"
    assert make_driver("http://localhost:1", "m", Timeouts(), {}).name == "openai-raw"
    assert proxy_for("http", "127.0.0.1") is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extra": True}, "'extra': unknown .accepted: endpoint, prompt"),
        ({"extras": 1}, "extras = 1: .accepted: true, false"),
        ({"extras": ["ignore_eos", "seed"]}, "extras = .* some of ignore_eos, min_tokens"),
        ({"request_ids": 1}, "request_ids = 1: .accepted: true, false"),
        ({"endpoint": "responses"}, "endpoint = 'responses': .accepted: chat, completions, messages"),
        ({"endpoint": "chat", "prompt": "ids"}, "prompt = 'ids': chat takes text"),
        ({"extra_body": [1]}, "not a JSON object"),
        ({"extra_body": {"max_tokens": 4}}, "max_tokens: set by loadgen itself"),
        (
            {"extra_body": {"metadata": [{"api_key": "sesame"}]}},
            "api_key: a credential's value would be stored",
        ),
        ({"headers": {"a b": "c"}}, "header 'a b': cannot be set"),
        ({"headers": {"Content-Length": "3"}}, "header 'Content-Length': cannot be set"),
        ({"headers": {"x-one": "a\r\nb: c"}}, "header x-one: not a header value"),
        ({"headers": {"api-key": "sesame"}}, "api-key: .{VARIABLE}, which is read from the environment"),
        ({"words": {"words": []}}, "driver option words"),
        ({"transport": "curl"}, "transport = 'curl': .accepted: auto, raw, httpx"),
        ({"stamps": "nic"}, "stamps = 'nic': .accepted: kernel, user"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        make_driver("http://h:1", "m", Timeouts(), options)


def test_raw_cannot_carry_tls() -> None:
    with pytest.raises(BadInput, match="transport = 'raw'"):
        make_driver("https://h:1", "m", Timeouts(), {"transport": "raw"})


def test_an_option_that_is_none_is_not_given() -> None:
    assert check_options(dict.fromkeys(OPTIONS)) == {}


@pytest.mark.parametrize(
    ("url", "options", "target", "models"),
    [
        ("http://h/v1?api-version=1", {}, "/v1/completions?api-version=1", "http://h/v1/models?api-version=1"),
        ("http://h/v1", {"endpoint": "chat"}, "/v1/chat/completions", "http://h/v1/models"),
        ("http://h/v1/chat/completions", {}, "/v1/chat/completions", "http://h/v1/models"),
        ("http://h/v3/completions/", {}, "/v3/completions", "http://h/v3/models"),
        ("http://h/v1/messages", {}, "/v1/messages", "http://h/v1/models"),
        ("http://[::1]:9/openai/deployments/x/chat/completions?api-version=2", {},
         "/openai/deployments/x/chat/completions?api-version=2",
         "http://[::1]:9/openai/deployments/x/models?api-version=2"),
        ("http+unix://%2Ftmp%2FA.sock/v1", {}, "/v1/completions", "http://localhost/v1/models"),
    ],
)  # fmt: skip
def test_a_path_a_query_and_a_socket_are_kept(
    url: str, options: dict[str, Any], target: str, models: str
) -> None:
    found = endpoint(url, **options)
    assert (found.target, found.page("models")) == (target, models)
    assert found.socket == ("/tmp/A.sock" if "unix" in url else None)


def test_pages_of_the_server_lie_beside_v1() -> None:
    assert endpoint("http://h:1/route/v1?a=b").page("/version") == "http://h:1/route/version?a=b"


def body_of(prompts: Any = ((5, 6, 7),), *, stream: bool = True, **options: Any) -> Any:
    request = Request(seq=0, phase="measured", prompts=prompts, output_tokens=7, stream=stream)
    return json.loads(endpoint(**options).body(request))


def test_a_chat_is_sent_text_of_as_many_words() -> None:
    words = {"words": ["sun", "sea"], "overhead": 1, "opening": "List", "glue": " "}
    found = body_of(endpoint="chat", words=words, extras=["ignore_eos"], limit="max_completion_tokens")
    assert found == {
        "model": "m",
        "messages": [{"role": "user", "content": "List sea sun"}],
        "max_completion_tokens": 7,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_completions_take_text_too() -> None:
    words = {"words": ["sun", "sea"], "overhead": 0, "opening": "", "glue": " "}
    assert body_of(prompt="text", words=words)["prompt"] == "sea sun sea"
    assert body_of(((1,), (2, 2)), prompt="text", words=words)["prompt"] == ["sea", "sun sun"]


def test_messages_have_no_fields_of_openais() -> None:
    found = body_of(endpoint="messages", extras=False)
    assert set(found) == {"model", "messages", "max_tokens", "temperature", "stream"}


def test_fields_are_added_and_left_out() -> None:
    found = body_of(extra_body={"temperature": None, "stream_options": None, "top_k": 1}, extras=False)
    assert set(found) == {"model", "prompt", "max_tokens", "stream", "top_k"}


def test_headers_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOADGEN_TEST_KEY", "sesame-4711")
    found = endpoint(headers={"Api-Key": "${LOADGEN_TEST_KEY}", "x-team": "a"}).headers()
    assert (found["api-key"], found["x-team"]) == ("sesame-4711", "a")
    assert shown("you sent sesame-4711") == "you sent …"
    monkeypatch.delenv("LOADGEN_TEST_KEY")
    with pytest.raises(BadInput, match="LOADGEN_TEST_KEY is not set"):
        endpoint(headers={"api-key": "${LOADGEN_TEST_KEY}"}).headers()


def test_the_key_of_messages_has_a_header_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOADGEN_API_KEY", "sesame-4711")
    found = endpoint(endpoint="messages").headers()
    assert (found["x-api-key"], "anthropic-version" in found) == ("sesame-4711", True)

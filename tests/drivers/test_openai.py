from __future__ import annotations

import json
from typing import Any

import pytest

from loadgen.drivers.openai import OPTIONS, check_options, make_driver
from loadgen.drivers.openai_endpoint import Endpoint, needs_proxy
from loadgen.errors import BadInput
from loadgen.records import Request, Timeouts

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
    assert not needs_proxy("127.0.0.1")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extra": True}, "'extra': unknown .accepted: extras, transport"),
        ({"extras": 1}, "extras = 1: .accepted: true, false"),
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


def test_every_option_has_its_line_of_help() -> None:
    assert set(OPTIONS) == set(check_options({}))

from __future__ import annotations

import pytest

from loadgen import urls


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8000", "https://example.org/v1?api-version=1", "http://[::1]:8000/v1", "grpc://h:1",
        "http+unix://%2Frun%2Fengine.sock/v1",
    ],
)  # fmt: skip
def test_what_is_a_url(url: str) -> None:
    assert urls.problem(url) is None


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("h:8000", "is not a URL"),
        ("http://ann:sesame@h", "holds credentials"),
        ("https://h/v1?api-version=1&key=sesame", "a credential in its query"),
        ("https://h/v1?api_key=sesame", "a credential in its query"),
        ("https://h/v1?a=1;api%5Fkey=sesame", "a credential in its query"),
        ("https://h/api/f?code=sesame", "a credential in its query"),
        ("https://h/v1#token=sesame", "a fragment"),
        ("http://h/é", "printable ASCII"),
        ("http://h:port", "is not a URL"),
        ("http://a..b", "names a host that cannot be"),
        ("http+unix://run/engine.sock", "names no unix socket"),
        ("http+unix://%2F" + 120 * "a", "up to 107 bytes"),
    ],
)
def test_what_is_none(url: str, why: str) -> None:
    assert why in (urls.problem(url) or "")


def test_what_is_kept_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urls, "_SECRETS", set())
    urls.keep_secret("sesame-1")
    monkeypatch.setenv("LOADGEN_API_KEY", "sesame-2")
    assert urls.shown("http://a:b@h sesame-1 sesame-2") == "http://…@h … …"
    assert urls.shown("--url https://h/v1?v=1&token=abc&k=2 x") == "--url https://h/v1?v=1&token=…&k=2 x"


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("key", True), ("api-key", True), ("x_apikey", True), ("accessToken", True), ("client.secret", True),
        ("authorization", True), ("sig", True), ("token", True), ("subscription-key", True), ("pwd", True),
        ("jwt", True), ("X-Amz-Security-Token", True), ("auth", True), ("code", False), ("bypass", False),
        ("prompt_cache_key", False), ("eos_token", False), ("max_tokens", False), ("api-version", False),
        ("monkey", False), ("design", False), ("cache_salt", False),
    ],
)  # fmt: skip
def test_names_of_secrets(name: str, secret: bool) -> None:
    assert urls.names_secret(name) is secret

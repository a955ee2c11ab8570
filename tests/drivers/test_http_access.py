from __future__ import annotations

from pathlib import Path

import pytest

from loadgen.drivers.http_access import access, proxy_for, tls_context
from loadgen.errors import BadInput, MissingDependency


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_this_machine_is_reached_directly_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:port")
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "localhost,fd00::/8")
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent.pem")
    for host in ("127.0.0.1", "localhost", "::1"):
        assert access("http", host) == {"verify": False, "trust_env": False}


def test_another_host_goes_through_the_proxy_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("https_proxy", "proxy:3128")
    monkeypatch.setenv("no_proxy", "near.example")
    assert proxy_for("https", "far.example") == "http://proxy:3128"
    assert proxy_for("https", "near.example") is None
    assert proxy_for("http", "far.example") is None
    assert access("https", "far.example")["proxy"] == "http://proxy:3128"


def test_a_proxy_that_cannot_be_is_said_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "ftp://proxy:1")
    with pytest.raises(BadInput, match="proxy for far"):
        access("http", "far.example")


def test_a_socks_proxy_needs_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("httpx")
    try:
        import socksio  # noqa: F401
    except ImportError:
        monkeypatch.setenv("all_proxy", "socks5://proxy:1")
        with pytest.raises(MissingDependency, match="socksio"):
            access("http", "far.example")


def test_certificates_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(BadInput, match=r"SSL_CERT_FILE = .*does not exist"):
        tls_context()
    (tmp_path / "none.pem").write_text("no certificate")
    with pytest.raises(BadInput, match="holds no certificates"):
        tls_context()
    monkeypatch.delenv("SSL_CERT_FILE")
    assert tls_context().get_ca_certs()

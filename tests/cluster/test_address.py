"""Where a cluster is, before Ray is asked."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from ray_cluster import nobody

from loadgen.cluster.address import check_token, own_address, probe, resolved
from loadgen.errors import BadInput


def test_auto_is_the_cluster_of_the_environment_or_of_this_host(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert resolved("10.0.0.1:6379") == "10.0.0.1:6379"
    with pytest.raises(BadInput, match="no cluster was started on this host"):
        resolved("auto")
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.2:6399\n")
    assert resolved("auto") == "127.0.0.2:6399"
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.9:1")
    assert resolved("auto") == "127.0.0.9:1"


@pytest.mark.parametrize(
    "address", ["here", "ray://127.0.0.1:10001", ":6379", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:²"]
)
def test_what_is_no_address_is_told(address: str) -> None:
    with pytest.raises(BadInput, match=r"accepted: auto, or HOST:PORT"):
        probe(address)


def test_nobody_at_an_address_is_told_at_once() -> None:
    address = nobody()
    with pytest.raises(BadInput, match=f"--ray {address}: nobody answers there"):
        probe(address)


def test_an_open_cluster_beyond_this_host_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    check_token(["127.0.0.2", "127.0.0.3", "localhost", "::1"], allowed=False)
    check_token(["10.1.2.3"], allowed=True)
    with pytest.raises(
        BadInput, match=r"10\.1\.2\.3 is beyond this host, and RAY_AUTH_MODE=token is not set"
    ):
        check_token(["127.0.0.2", "10.1.2.3"], allowed=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    check_token(["10.1.2.3"], allowed=False)


def test_our_own_address_is_the_one_on_the_way() -> None:
    with socket.create_server(("127.0.0.5", 0)) as head:
        assert own_address(f"127.0.0.5:{head.getsockname()[1]}") == "127.0.0.1"
    with pytest.raises(BadInput, match="nobody answers there"):
        own_address("127.0.0.5:1")

"""What is secret is neither stored nor printed, whoever says it; and a page of an endpoint costs no trial, no time."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from endpoints import Manner, endpoint

from loadgen import urls
from loadgen.cli import main
from loadgen.drivers.http1 import take_head
from loadgen.drivers.server_words import shown, words_of
from loadgen.errors import BadReply
from loadgen.launch import endpoint as of_endpoint
from loadgen.load.sound import sound
from loadgen.request_records import Reply
from loadgen.results.store import open_results

PASSWORD, KEY = "PASSW0RD", "sk-SEKRIT-42"
PROFILE = """
name = "t"
[target]
url = "{url}"
model = "m"
vocab = 1000
[load]
input_tokens = 4
output_tokens = 2
requests = 2
warmup = 0
[telemetry]
{telemetry}
"""


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(urls, "_SECRETS", set())


def loadgen(*arguments: str) -> tuple[int, str]:
    """Exit code, and all that was printed."""
    monitored = CliRunner().invoke(main, list(arguments))
    if monitored.exception is not None and not isinstance(monitored.exception, SystemExit):
        raise monitored.exception
    return monitored.exit_code, monitored.output


def written() -> bytes:
    """Every file below this folder but the profile that a user wrote, one after the other."""
    return b"".join(
        path.read_bytes() for path in Path().rglob("*") if path.is_file() and path.name != "t.toml"
    )


RUN = (
    "--model",
    "m",
    "--vocab",
    "1000",
    "--requests",
    "2",
    "--input-tokens",
    "4",
    "--output-tokens",
    "2",
    "--no-live",
)
WITH_PASSWORD = f"http://user:{PASSWORD}@127.0.0.1:9"


@pytest.mark.parametrize(
    ("arguments", "url", "telemetry"),
    [
        (("run", "--url", WITH_PASSWORD, "--out", "r", *RUN), "", ""),
        (("run", "--url", f"http://127.0.0.1:9/v1?api_key={PASSWORD}", "--out", "r", *RUN), "", ""),
        (("capacity", "--url", WITH_PASSWORD, "--out", "r", "--slo", "e2e=1s"), "", ""),
        (("sweep", "t.toml", "--out", "r"), WITH_PASSWORD, "enabled = false"),
        (("sweep", "t.toml", "--out", "r", "--set", f"target.url={WITH_PASSWORD}"), "http://127.0.0.1:9", ""),
        (("sweep", "t.toml", "--out", "r"), "http://127.0.0.1:9", f'sources = ["{WITH_PASSWORD}/metrics"]'),
        (("sweep", "t.toml", "--out", "r"), "http://127.0.0.1:9", f'prometheus = "{WITH_PASSWORD}"'),
        (("sweep", "t.toml", "--dry-run"), WITH_PASSWORD, ""),
        (("run", "--url", f"user:{PASSWORD}@127.0.0.1:9", "--out", "r", *RUN), "", ""),
        (("run", "--url", f"http://user:a/{PASSWORD}@127.0.0.1:9", "--out", "r", *RUN), "", ""),
        (("run", "--url", f"http://127.0.0.1:9/v1#token={PASSWORD}", "--out", "r", *RUN), "", ""),
        (("run", "--url", "http://127.0.0.1:9", "--header", f"Authorization {PASSWORD}", "--out", "r", *RUN), "", ""),
        (("run", "--url", "http://127.0.0.1:9", "-o", f"api_key={PASSWORD}", "--out", "r", *RUN), "", ""),
        (("sweep", "t.toml", "--out", "r", "--set", f"api_key={PASSWORD}"), "http://127.0.0.1:9", ""),
        (("sweep", "t.toml", "--out", "r", "--set", f"target.url=user:{PASSWORD}@h"), "http://127.0.0.1:9", ""),
        (("sweep", "t.toml", "--out", "r", "--set", f"target.api_key={PASSWORD}"), "http://127.0.0.1:9", ""),
    ],
)  # fmt: skip
def test_a_password_in_a_url_is_refused_without_being_told(
    arguments: tuple[str, ...], url: str, telemetry: str
) -> None:
    Path("t.toml").write_text(PROFILE.format(url=url, telemetry=telemetry))
    code, said = loadgen(*arguments)
    assert code == 2, said
    assert re.search("credential|is not a URL|fragment|not a header|not KEY=VALUE|is not a key", said)
    assert PASSWORD not in said
    assert PASSWORD.encode() not in written()


def test_a_key_that_a_server_repeats_everywhere_is_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(urls.API_KEY_VARIABLE, KEY)
    pages = {
        "/v1/models": {"data": [{"id": "m", "owned_by": f"owner of {KEY}", "root": KEY}]},
        "/info": {"engine": f"for {KEY}", "versions": {"x": KEY}, "asked": [KEY]},
        "/version": {"version": KEY},
        "/metrics": f'x{{key="{KEY}"}} 1\n',
    }
    with endpoint(Manner(key=KEY, pages=pages)) as url:
        code, said = loadgen("run", "--url", url, "--out", "r", *RUN)
    assert code == 0, said
    with endpoint(Manner(forms=(), pages={"/v1/models": {"data": [{"id": KEY}]}})) as url:
        _, refused = loadgen("run", "--url", url, "--out", "s", *RUN)
    everything = written() + said.encode() + refused.encode()
    assert len(open_results("r").results()) == 1
    assert KEY.encode() not in everything


def test_a_key_that_is_cut_within_is_left_out_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOADGEN_API_KEY", KEY)
    told = [shown(b"x" * (300 - kept) + KEY.encode()) for kept in range(1, len(KEY))]
    odd = Reply(seq=0, sent_ns=0, end_ns=1, first_tokens=("x" * 35 + KEY,))  # type: ignore[arg-type]
    told.append(str(sound(odd).error))
    with pytest.raises(BadReply) as caught:
        take_head(b"x" * 75 + KEY.encode() + b"\r\n\r\n")
    told.append(str(caught.value))
    assert [each for each in told if "sk-" in each or "xs" in each] == []


def test_a_key_with_escapes_in_it_is_left_out_too(monkeypatch: pytest.MonkeyPatch) -> None:
    key = 'sk-a/b+c"d=='
    monkeypatch.setenv(urls.API_KEY_VARIABLE, key)
    for written_as in (json.dumps(key), '"sk-a\\/b\\u002Bc\\u0022d\\u003d="', '"sk-a%2Fb%2bc%22d%3D%3D"'):
        page = b'{"msg": %s}\xff' % written_as.encode()
        for told in (urls.without_secrets(page).decode("latin-1"), words_of(page), urls.shown(written_as)):
            assert "sk-" not in told


@pytest.mark.parametrize("key", [f"{KEY}\n", f"{KEY}é", f"{KEY}\0"[:12] + "\x7f"])
def test_a_key_that_no_header_can_carry_is_refused_unshown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(urls.API_KEY_VARIABLE, key)
    code, said = loadgen("run", "--url", "http://127.0.0.1:9", *RUN)
    assert code == 2
    assert urls.API_KEY_VARIABLE in said
    assert KEY[:10] not in said


DEEP = '{"engine": ' * 3000 + "1" + "}" * 3000


@pytest.mark.parametrize(
    "page",
    [
        '{"engine": "e", "max_context": 1000000000000000000000000000000}',
        '{"engine": "\\ud800", "vocab": "\\udfff"}',
        '{"engine": NaN, "versions": [1e999]}',
        DEEP,
        "[]",
        "null",
        '{"engine": "' + "x" * 100_000 + '"}',
    ],
    ids=["big", "surrogate", "nan", "deep", "list", "null", "long"],
)
def test_an_odd_info_page_costs_no_trial(page: str) -> None:
    with endpoint(Manner(pages={"/info": page})) as url:
        code, said = loadgen("run", "--url", url, "--out", "r", *RUN)
    assert code == 0, said
    (result,) = open_results("r").results()
    assert result.failure is None
    assert result.summary is not None
    assert result.summary.requests_ok == 2


DRIPS = 200


@contextmanager
def dripping() -> Iterator[tuple[str, Callable[[], int]]]:
    """A page that sends a byte now and then, for ten seconds; and how many it has sent."""
    over, sent = threading.Event(), [0]

    def serve(listener: socket.socket) -> None:
        with listener.accept()[0] as client:
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{")
            while not over.wait(0.05) and sent[0] < DRIPS:
                try:
                    client.sendall(b" ")
                except OSError:
                    return
                sent[0] += 1

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve, args=(listener,))
        server.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/info", lambda: sent[0]
        finally:
            over.set()
            server.join()


def test_an_info_page_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    fetch = of_endpoint.fetch
    monkeypatch.setattr(of_endpoint, "fetch", lambda url, _limit_s: fetch(url, 0.5))
    with dripping() as (url, sent):
        assert of_endpoint.server_info(url) == {}
        assert 0 < sent() < DRIPS

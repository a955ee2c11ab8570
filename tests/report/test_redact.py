"""What is redacted, what must be left alone, and that things told apart stay apart."""

from __future__ import annotations

import pytest

from loadgen.report.redact import Redactor


@pytest.fixture
def redactor() -> Redactor:
    found = Redactor()
    found.learn(
        {
            "environments": {"a": {"host": "vm1.example.org"}},
            "argv": ["/home/ann/run"],
            "spec": {"host": "127.0.0.1"},
            "nodes": [{"address": "10.1.0.5"}, {"address": "127.0.0.2"}],
        }
    )
    return found


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("/home/ann/run/a", "<path>/a"),
        ("/scratch", "<path>/scratch"),
        ("/home/ann", "<path>"),
        ("--out=/srv/x/y", "--out=<path>/y"),
        ("log: /tmp/a/b.log (see '/etc/x/y')", "log: <path>/b.log (see '<path>/y')"),
        ("http://big.corp.net:80/v1/completions", "http://<host>:80/v1/completions"),
        ("http://[fd00::1]:80/v1", "http://<host>:80/v1"),
        ("on vm1: died", "on <host>: died"),
        ("ann@vm1.example.org died", "<user>@<host> died"),
        ('python = "/opt/x/bin/python"', 'python = "<path>/python"'),
    ],
)  # fmt: skip
def test_redacted(redactor: Redactor, text: str, wanted: str) -> None:
    assert redactor.text(text) == wanted
    assert redactor.text(wanted) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:8000/v1/completions",
        "http://localhost:8000/metrics",
        "http://[::1]:8000/a/b",
        "100 tok/s of input/output, 20/100, km/h",
        "hf/generate",
        "vm1",  # an identifier may look like a host
        "annual vm12 report",
        "profiles/exp1.toml",
        "~/results/x",
        "a <path>/b, <host 2>",
        "",
    ],
)
def test_left_alone(redactor: Redactor, text: str) -> None:
    assert redactor.text(text) == text


def test_two_things_never_read_the_same(redactor: Redactor) -> None:
    one, two = redactor.text("/a/x/python"), redactor.text("/b/x/python")
    assert (one, two) == ("<path>/python", "<path 2>/python")
    assert redactor.text("/a/x/python") == one
    assert redactor.text("run /b/x/python/") == "run <path 2>/python"


def test_plain_data_is_redacted_through_and_through(redactor: Redactor) -> None:
    plain = {
        "host": "vm1.example.org",
        "spec": {"host": "127.0.0.1", "tp": 2, "python": None, "share": 0.5, "flag": True},
        "argv": ("vm1", "ann", "sweep"),
        "nodes": [{"address": "127.0.0.2"}, {"address": "10.1.0.5", "workers": 10}],
        "why": "node 10.1.0.5 was lost after 10 s",
        "errors": {"Refused: /data/x/model": 3},
        "profile": 'name = "ann on vm1"\ntrace = "/data/t/a.jsonl"',
    }
    assert redactor.plain(plain) == {
        "host": "<host>",
        "spec": {"host": "127.0.0.1", "tp": 2, "python": None, "share": 0.5, "flag": True},
        "argv": ["<host 2>", "<user>", "sweep"],
        "nodes": [{"address": "127.0.0.2"}, {"address": "<host 3>", "workers": 10}],
        "why": "node <host 3> was lost after 10 s",
        "errors": {"Refused: <path>/model": 3},
        "profile": 'name = "ann on vm1"\ntrace = "<path>/a.jsonl"',
    }


def test_the_trial_of_an_endpoint_tells_no_place(redactor: Redactor) -> None:
    trial = {
        "url": "http://gpu7.corp.net:8000/v1?version=1",
        "driver": {
            "tokenizer": "/data/models/llama",
            "headers": {"x-team": "${TEAM}", "referer": "http://vm1.example.org/a"},
            "extra_body": {"lora_path": "/home/ann/lora", "top_k": 1},
        },
    }
    assert redactor.plain(trial) == {
        "url": "http://<host>:8000/v1?version=1",
        "driver": {
            "tokenizer": "<path>/llama",
            "headers": {"x-team": "${TEAM}", "referer": "http://<host 2>/a"},
            "extra_body": {"lora_path": "<path>/lora", "top_k": 1},
        },
    }

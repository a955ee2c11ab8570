"""Adding a framework touches one file: a toy that loadgen has never heard of, in a folder of its own, is served,
swept, examined and reported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from loadgen.results.store import open_results

TOY = '''"""A framework of nobody: the protocol of OpenAI's completions by the standard library alone."""

import http.server
import json
import sys

from loadgen.protocols import Command, Need

IDS = 3


class Toy:
    name = "toy"
    protocol = "openai"
    ports = 1
    uses_gpus = False
    needs_gpus = False
    options = {"words": "what it says of itself. Default none"}

    def default_dtype(self, on_gpu):
        return "float32"

    def library(self, spec):
        return ""

    def check(self, spec):
        pass

    def command(self, spec, run_dir, ports):
        base = f"http://{spec.host}:{ports[0]}"
        argv = (sys.executable, __file__, spec.host, str(ports[0]), str(spec.options.get("words", "none")))
        return Command(argv=argv, ready_url=base + "/health", base_url=base, info_url=base + "/info")

    def driver_options(self, spec):
        return {}

    def needs(self):
        return [Need(name="toy bricks", ok=True, found="a box of them")]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.reply({"engine": f"toy/{sys.argv[3]}", "kv_ahead": False, "eager": False})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        prompts = asked["prompt"] if isinstance(asked["prompt"][0], list) else [asked["prompt"]]
        n = asked["max_tokens"]
        usage = {"prompt_tokens": sum(map(len, prompts)), "completion_tokens": n * len(prompts)}
        choices = [{"index": i, "text": "", "token_ids": [IDS] * n} for i in range(len(prompts))]
        self.reply({"choices": choices, "usage": usage})

    def reply(self, body):
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *words):
        pass


FRAMEWORK = Toy()
if __name__ == "__main__":
    http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
'''
PROFILE = """
[server]
framework = "toy"
model = "tiny"
dtype = "float32"
gpus = []
[server.options]
words = "bricks"
[load]
input_tokens = 4
output_tokens = 5
requests = 3
stream = false
[sweep]
batch_size = [1, 2]
"""
# The folder joins those of loadgen.servers, as a file beside the others would.
START = (
    "import sys, loadgen.servers as s; s.__path__.append(sys.argv.pop(1)); import loadgen.cli as c; c.main()"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    (folder / "more").mkdir()
    (folder / "more/toy.py").write_text(TOY)
    (folder / "toy.toml").write_text(PROFILE)
    return folder


def loadgen(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", START, str(cwd / "more"), *words]
    return subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=120, env=dict(os.environ))


def test_it_is_known_by_name_and_examined(home: Path) -> None:
    done = loadgen("doctor", cwd=home)
    assert "toy bricks" in done.stdout
    wrong = loadgen("serve", "--framework", "toys", cwd=home)
    assert wrong.returncode == 2
    assert "did you mean 'toy'" in wrong.stderr.lower()


def test_its_command_is_shown(home: Path) -> None:
    done = loadgen("serve", "--framework", "toy", "--option", "words=bricks", "--dry-run", cwd=home)
    assert done.returncode == 0, done.stderr
    assert "toy.py" in done.stdout
    assert "bricks" in done.stdout


def test_it_is_swept_and_reported(home: Path) -> None:
    done = loadgen("sweep", "toy.toml", cwd=home)
    assert done.returncode == 0, done.stdout + done.stderr
    results = open_results(home / "results/toy").results()
    assert [(each.trial.load.batch_size, each.engine["engine"]) for each in results] == [
        (1, "toy/bricks"),
        (2, "toy/bricks"),
    ]
    for each in results:
        assert each.summary is not None
        assert each.summary.output_tokens == 3 * 5 * each.trial.load.batch_size
    assert "toy" in (home / "results/toy/report.md").read_text()
    export = loadgen("report", "results/toy", "--format", "json", "--out", "toy.json", cwd=home)
    assert export.returncode == 0, export.stderr
    assert "toy" in json.dumps(json.loads((home / "toy.json").read_text()))

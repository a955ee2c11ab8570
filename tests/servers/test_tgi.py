"""TGI's launcher against its command line as it was read; nothing of TGI runs here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from loadgen.errors import BadInput, MissingDependency
from loadgen.launch import frameworks
from loadgen.records import ServerSpec
from loadgen.servers.tgi import FRAMEWORK
from loadgen.theory.models import PRESETS

SPEC = ServerSpec(framework="tgi", model=PRESETS["llama-13b"], gpus=(0, 1), tp=2, max_batch=64)


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")


def test_a_command_line() -> None:
    found = FRAMEWORK.command(SPEC, "/run", (30001, 30002, 30003))
    model = found.argv[2]
    assert found.argv == (
        *("text-generation-launcher", "--model-id", model, "--num-shard", "2", "--hostname", "127.0.0.1"),
        *("--port", "30001", "--prometheus-port", "30002", "--master-addr", "127.0.0.1"),
        *("--master-port", "30003", "--shard-uds-path", "/run/shard", "--dtype", "bfloat16"),
        *("--max-input-tokens", "2047", "--max-total-tokens", "2048", "--max-batch-prefill-tokens", "65536"),
        *("--waiting-served-ratio", "0.3", "--max-concurrent-requests", "4096", "--usage-stats", "off"),
    )
    assert found.env["PREFIX_CACHING"] == "0"
    (setup,) = found.setup
    assert setup[setup.index("--out") + 1] == model
    assert FRAMEWORK.driver_options(SPEC) == {"text": "ids"}
    checkpoint = replace(SPEC, model=replace(SPEC.model, checkpoint="/c"), dummy_weights=False)
    assert FRAMEWORK.driver_options(checkpoint) == {"text": "tokenizer", "tokenizer": "/c"}


def test_from_its_image_the_written_folder_is_mounted() -> None:
    spec = replace(SPEC, options={"image": "ghcr.io/huggingface/text-generation-inference:3.3.5"})
    found = frameworks.of(spec).command(spec, "/run", (30001, 30002, 30003))
    model = found.argv[found.argv.index("--model-id") + 1]
    volumes = [found.argv[at + 1] for at, word in enumerate(found.argv) if word == "--volume"]
    folder = model.rpartition("/")[0]
    assert f"{folder}:{folder}:rw" in volumes
    assert found.argv[found.argv.index("--entrypoint") + 1] == "text-generation-launcher"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"options": {"weights": "engine"}}, "no dummy weights"),
        ({"options": {"waiting_served_ratio": -1}}, "waiting_served_ratio = -1"),
        ({"options": {"prefill_tokens": 0}}, "prefill_tokens = 0"),
        ({"pp": 2, "tp": 1}, "pp = 2"),
        ({"dtype": "float32"}, "dtype = 'float32'"),
    ],
)
def test_what_cannot_run_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        FRAMEWORK.check(replace(SPEC, **change))


def test_what_this_machine_lacks_is_told() -> None:
    with pytest.raises(MissingDependency, match="no text-generation-launcher"):
        FRAMEWORK.check(SPEC)
    assert [need.ok for need in FRAMEWORK.needs()] == [True, False, False]

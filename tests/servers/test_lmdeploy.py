"""LMDeploy's launcher against its command line as it was read; nothing of LMDeploy runs here."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from loadgen.errors import BadInput, MissingDependency
from loadgen.records import ServerSpec
from loadgen.servers.lmdeploy import FRAMEWORK
from loadgen.theory.models import PRESETS

SPEC = ServerSpec(
    framework="lmdeploy", model=PRESETS["llama-13b"], gpus=(2, 3), tp=2, max_batch=64, python="/py"
)


def test_a_command_line() -> None:
    found = FRAMEWORK.command(SPEC, "/run", (30001,))
    model = found.argv[5]
    assert found.argv == (
        *("/py", "-m", "lmdeploy", "serve", "api_server", model, "--model-name", "llama-13b"),
        *("--server-name", "127.0.0.1", "--server-port", "30001", "--tp", "2", "--dtype", "bfloat16"),
        *("--session-len", "2048", "--backend", "turbomind", "--max-batch-size", "64"),
        *("--cache-max-entry-count", "0.8"),
    )
    assert found.env["CUDA_VISIBLE_DEVICES"] == "2,3"
    (setup,) = found.setup
    assert setup[setup.index("--out") + 1] == model
    assert json.loads(found.files["info.json"])["by_contract_only"] is True
    checkpoint = replace(SPEC, model=replace(SPEC.model, checkpoint="/c"), dummy_weights=False)
    assert FRAMEWORK.command(checkpoint, "/run", (1,)).argv[5] == "/c"


def test_options_become_flags() -> None:
    options = {"backend": "pytorch", "eager": True, "prefix_caching": True, "cache_share": 0.5}
    argv = FRAMEWORK.command(replace(SPEC, options=options), "/run", (1,)).argv
    assert argv[argv.index("--backend") :] == (
        *("--backend", "pytorch", "--max-batch-size", "64", "--cache-max-entry-count", "0.5"),
        *("--eager-mode", "--enable-prefix-caching"),
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"options": {"weights": "engine"}}, "no dummy weights"),
        ({"options": {"eager": True}}, "eager with backend turbomind"),
        ({"options": {"cache_share": 2}}, "cache_share = 2"),
        ({"options": {"backend": "x"}}, "backend = 'x'"),
        ({"pp": 2, "tp": 1}, "pp = 2"),
        ({"dtype": "float32"}, "dtype = 'float32'"),
    ],
)
def test_what_cannot_run_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        FRAMEWORK.check(replace(SPEC, **change))


def test_what_this_machine_lacks_is_told() -> None:
    with pytest.raises(MissingDependency, match="no GPU is given"):
        FRAMEWORK.check(replace(SPEC, gpus=(), tp=1))
    with pytest.raises(MissingDependency, match="has no lmdeploy"):
        FRAMEWORK.check(replace(SPEC, python=None))

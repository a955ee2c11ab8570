"""llama.cpp's launcher: command lines, refusals, names of weights. No server is started here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from loadgen.errors import BadInput, MissingDependency
from loadgen.records import OptionValue, ServerSpec
from loadgen.servers.llamacpp import FRAMEWORK
from loadgen.theory.models import PRESETS

SPEC = ServerSpec(
    framework="llamacpp", model=PRESETS["llama-7b"], gpus=(0, 1), tp=2, dtype="bfloat16", max_batch=64
)


@pytest.fixture(autouse=True)
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "llama-server"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("LOADGEN_LLAMA_SERVER", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return path


def flags(spec: ServerSpec) -> tuple[str, ...]:
    return FRAMEWORK.command(spec, "/run", (30001,)).argv


def test_a_command_line(program: Path, tmp_path: Path) -> None:
    found = FRAMEWORK.command(SPEC, "/run", (30001,))
    gguf = found.argv[2]
    assert gguf.startswith(f"{tmp_path}/cache/loadgen/gguf/llama-7b-bfloat16-")
    assert found.argv == (
        *(str(program), "-m", gguf, "--alias", "llama-7b", "--host", "127.0.0.1", "--port", "30001"),
        *("-np", "64", "-c", str(64 * 2048), "--metrics", "--slots", "--no-cache-prompt", "--cache-ram", "0"),
        *("-ngl", "all", "-sm", "row"),
    )
    assert found.env["CUDA_VISIBLE_DEVICES"] == "0,1"
    (setup,) = found.setup
    assert setup[setup.index("--out") + 1] == gguf
    assert setup[setup.index("--device") + 1] == "cuda"
    assert found.setup_stays
    page = json.loads(found.files["info.json"])
    assert (page["slots"], page["max_context"], page["kv_tokens"]) == (64, 2048, 64 * 2048)
    assert page["weights"] == {"maker": "loadgen", "distribution": "normal, std 0.02", "seed": 0}


def test_layers_are_split_by_pp_and_slots_have_a_context_of_their_own() -> None:
    argv = flags(replace(SPEC, tp=1, pp=2, options={"slot_context": 256, "ubatch": 4096, "threads": 8}))
    assert argv[argv.index("-sm") + 1] == "layer"
    assert argv[argv.index("-c") + 1] == str(64 * 256)
    assert argv[argv.index("-b") :][:4] == ("-b", "4096", "-ub", "4096")
    assert argv[argv.index("-t") + 1] == "8"
    cpu = flags(replace(SPEC, tp=1, gpus=(), options={"prefix_caching": True, "flash_attention": "on"}))
    assert cpu[cpu.index("-ngl") + 1] == "0"
    assert "--cache-prompt" in cpu
    assert cpu[cpu.index("-fa") + 1] == "on"


def test_files_are_named_by_what_decides_their_content() -> None:
    names = {
        flags(spec)[2]
        for spec in (
            SPEC,
            replace(SPEC, dtype="float16"),
            replace(SPEC, options={"seed": 1}),
            replace(SPEC, gpus=(), tp=1),
            replace(SPEC, model=PRESETS["tiny"]),
            replace(SPEC, model=replace(SPEC.model, checkpoint="/c", fingerprint="aa"), dummy_weights=False),
        )
    }
    assert len(names) == 6
    assert flags(replace(SPEC, max_batch=8, port=9))[2] in names


def test_a_file_that_is_brought_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "my.gguf").write_bytes(b"GGUF")
    spec = replace(SPEC, options={"gguf": str(tmp_path / "my.gguf")})
    FRAMEWORK.check(spec)
    found = FRAMEWORK.command(spec, "/run", (30001,))
    assert found.setup == ()
    assert "weights" not in json.loads(found.files["info.json"])
    assert FRAMEWORK.library(spec) != FRAMEWORK.library(SPEC) != ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dtype": "int8"}, "dtype = 'int8'"),
        ({"tp": 2, "pp": 2, "gpus": (0, 1, 2, 3)}, "one of them above 1"),
        ({"tp": 2, "gpus": ()}, "without GPUs"),
        ({"max_batch": 0}, "max_batch = 0"),
        ({"tp": 3, "gpus": (0, 1, 2)}, "does not divide"),
        ({"gpus": (0,)}, "1 GPUs for tp 2"),
        ({"gpus": (0, 0)}, "names one twice"),
        ({"dummy_weights": False}, "preset without weights"),
    ],
)
def test_what_cannot_run_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        FRAMEWORK.check(replace(SPEC, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"gguf": "/no/such"},
        {"slot_context": 0},
        {"ubatch": "x"},
        {"threads": -1},
        {"flash_attention": "maybe"},
        {"seed": -1},
        {"no_such": 1},
    ],
)
def test_what_is_no_option_is_refused_by_name(options: dict[str, OptionValue]) -> None:
    with pytest.raises(BadInput, match=next(iter(options))) as caught:
        FRAMEWORK.check(replace(SPEC, options=options))
    assert "accepted" in str(caught.value)


def test_a_program_that_is_not_here_is_told(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program.unlink()
    with pytest.raises(MissingDependency, match="no llama-server"):
        FRAMEWORK.check(SPEC)
    assert flags(SPEC)[0] == "llama-server"
    assert not FRAMEWORK.needs()[1].ok
    monkeypatch.setenv("LOADGEN_LLAMA_SERVER", "/opt/llama-server")
    assert flags(SPEC)[0] == "/opt/llama-server"
    told = FRAMEWORK.needs()[1]
    assert (told.ok, told.found) == (False, "no /opt/llama-server")

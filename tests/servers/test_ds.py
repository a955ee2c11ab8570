"""Framework ``ds`` as data: options, engines, commands, and what a machine lacks."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadgen.errors import BadInput, MissingDependency
from loadgen.records import ServerSpec
from loadgen.servers import ds
from loadgen.servers._ds import options as ds_options
from loadgen.servers.ds import FRAMEWORK
from loadgen.system import environment
from loadgen.theory.models import PRESETS

TINY = ServerSpec(framework="ds", model=PRESETS["tiny"], dtype="float32")
LLAMA = ServerSpec(framework="ds", model=PRESETS["llama-13b"], gpus=(0,))
PORTS = (21001, 21002, 21003, 21004)


def options(spec: ServerSpec, **given: Any) -> ds_options.Options:
    return ds_options.read(replace(spec, options=given))


def refusal(spec: ServerSpec, **given: Any) -> str:
    with pytest.raises(BadInput) as caught:
        options(spec, **given)
    return str(caught.value)


def test_auto_takes_fastgen_where_its_kernels_fit_and_says_why() -> None:
    assert options(LLAMA).engine == "mii-fastgen"
    for spec, why in (
        (TINY, "it needs CUDA GPUs"),
        (replace(LLAMA, dtype="float32"), "dtype float32"),
        (replace(LLAMA, model=PRESETS["tiny"]), "head_dim 32 (it has 64, 80, 96, 128)"),
        (replace(LLAMA, model=replace(LLAMA.model, heads=36, kv_heads=12)), "make 4608, not hidden 5120"),
        (replace(LLAMA, model=replace(LLAMA.model, heads=40, kv_heads=4)), "10 query heads a key/value head"),
    ):
        read = options(spec)
        assert read.engine == "ds-inference-autotp"
        assert why in read.reason
        assert "cannot run this" in refusal(spec, engine="mii-fastgen")


def test_autotp_is_never_called_mii() -> None:
    assert options(TINY, engine="ds-inference-autotp").engine == "ds-inference-autotp"
    assert not [name for name in ds_options.ENGINES if "autotp" in name and "mii" in name]


@pytest.mark.parametrize(
    ("spec", "given", "words"),
    [
        (TINY, {"engine": "mii"}, "engine = 'mii' (accepted: auto, mii-fastgen"),
        (TINY, {"sed": 1}, "unknown option 'sed' (accepted: engine, seed"),
        (TINY, {"seed": -1}, "seed = -1 (accepted: a whole number from 0)"),
        (TINY, {"seed": True}, "seed = True"),
        (TINY, {"cuda_graph": 1}, "cuda_graph = 1 (accepted: true, false)"),
        (TINY, {"cuda_graph": True}, "cuda_graph = True on CPU"),
        (
            TINY,
            {"kv_tokens": 5},
            "kv_tokens = 5 with engine ds-inference-autotp (accepted with: mii-fastgen)",
        ),
        (TINY, {"op_cache": "here"}, "op_cache = 'here' (accepted: an absolute folder)"),
        (LLAMA, {"ragged_tokens": 0}, "ragged_tokens = 0"),
        (LLAMA, {"engine": "ds-inference-kernel"}, "dtype bfloat16 (accepted: float16"),
        (TINY, {"engine": "ds-inference-kernel"}, "needs CUDA GPUs (accepted on CPU: ds-inference-autotp)"),
        (replace(TINY, dtype="int8"), {}, "dtype = 'int8' (accepted: bfloat16"),
        (replace(TINY, pp=2), {}, "pp = 2"),
        (replace(TINY, tp=4), {}, "2 key/value heads, which tp = 4 does not divide"),
        (replace(LLAMA, tp=2), {}, "gpus = (0,) for tp 2 (accepted: 2 different GPUs"),
        (replace(LLAMA, tp=2, gpus=(1, 1)), {}, "gpus = (1, 1)"),
        (replace(TINY, dummy_weights=False), {}, "model 'tiny' has no weights"),
        (replace(TINY, max_batch=0), {}, "max_batch = 0"),
    ],
)
def test_bad_specs_are_told_with_what_is_accepted(
    spec: ServerSpec, given: dict[str, Any], words: str
) -> None:
    assert words in refusal(spec, **given)


def test_every_option_has_a_default_and_help() -> None:
    read = options(TINY)
    assert {name for name in ds_options.HELP} == set(read.__dataclass_fields__) - {"reason"}


def test_a_server_of_four_gpus_as_a_command() -> None:
    spec = replace(LLAMA, tp=4, gpus=(3, 2, 1, 0), options={"kv_tokens": 65536, "tuned": True}, port=21777)
    command = FRAMEWORK.command(spec, "/run", PORTS)
    assert command.env["CUDA_VISIBLE_DEVICES"] == "3,2,1,0"
    assert command.env["DS_ACCELERATOR"] == "cuda"
    assert command.base_url == "grpc://127.0.0.1:21777"
    assert command.ready_url == "http://127.0.0.1:21002/health"
    assert json.loads(command.argv[command.argv.index("--ports") + 1]) == [21777, 21002, 21003, 21004]
    sent = json.loads(command.argv[command.argv.index("--spec") + 1])
    assert (sent["tp"], sent["options"], sent["port"]) == (4, {"kv_tokens": 65536, "tuned": True}, 21777)
    (prepare,) = command.setup
    assert prepare[-2:] == ("--task", "prepare")
    assert command.setup_stays, "FastGen's compiled ops"
    autotp = replace(spec, options={"engine": "ds-inference-autotp"})
    assert not FRAMEWORK.command(autotp, "/run", PORTS).setup_stays, "it compiles nothing on GPUs"
    assert "21003" in command.cleanup[0]


def test_one_rank_on_a_cpu_needs_no_preparation() -> None:
    assert FRAMEWORK.command(TINY, "/run", PORTS).setup == ()
    assert FRAMEWORK.command(TINY, "/run", PORTS).env["CUDA_VISIBLE_DEVICES"] == ""
    assert len(FRAMEWORK.command(replace(TINY, tp=2), "/run", PORTS).setup) == 1


def test_the_driver_gets_ids_for_a_preset_and_the_tokenizer_of_a_checkpoint(tmp_path: Path) -> None:
    assert FRAMEWORK.driver_options(TINY) == {"text": "ids"}
    folder = replace(TINY, model=replace(TINY.model, checkpoint=str(tmp_path)))
    assert FRAMEWORK.driver_options(folder) == {"text": "ids"}
    (tmp_path / "tokenizer.json").write_text("{}")
    assert FRAMEWORK.driver_options(folder) == {"text": "tokenizer", "tokenizer": str(tmp_path)}


def machine(monkeypatch: pytest.MonkeyPatch, *capabilities: str, without: tuple[str, ...] = ()) -> None:
    """Make this machine one with GPUs of these compute capabilities, and without some libraries and programs."""
    gpus = tuple({"name": f"GPU of {c}", "compute_capability": c} for c in capabilities)
    monkeypatch.setattr(environment, "read_gpus", lambda: (gpus, "580", "13.0"))
    monkeypatch.setattr(ds.importlib.util, "find_spec", lambda name: None if name in without else object())
    monkeypatch.setattr(ds.shutil, "which", lambda name: None if name in without else f"/usr/bin/{name}")


@pytest.mark.parametrize(
    ("capabilities", "without", "what", "remedy"),
    [
        (
            (),
            (),
            "GPU 0 is asked for, and this machine shows 0 NVIDIA GPUs",
            "on a CPU ds-inference-autotp runs",
        ),
        (
            ("7.5",),
            (),
            "GPU 0 has compute capability 7.5, and mii-fastgen needs 8.0",
            "engine=ds-inference-autotp",
        ),
        (
            ("9.0",),
            ("dskernels",),
            "engine mii-fastgen needs dskernels",
            "pip install --pre deepspeed-kernels",
        ),
        (("9.0",), ("mii",), "engine mii-fastgen needs mii", "DS_BUILD_OPS=0 pip install"),
        (("9.0",), ("requests",), "engine mii-fastgen needs requests", "pip install requests"),
        (("9.0",), ("nvcc",), "engine mii-fastgen has ops to compile, and there is no nvcc", "CUDA toolkit"),
        (("9.0",), ("g++",), "engine mii-fastgen has ops to compile, and there is no g++", "C++ compiler"),
    ],
)
def test_what_a_machine_lacks_is_told_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capabilities: tuple[str, ...],
    without: tuple[str, ...],
    what: str,
    remedy: str,
) -> None:
    machine(monkeypatch, *capabilities, without=without)
    with pytest.raises(MissingDependency) as caught:
        FRAMEWORK.check(replace(LLAMA, options={"op_cache": str(tmp_path)}))
    assert what in caught.value.what
    assert remedy in caught.value.remedy


def test_a_machine_with_everything_is_good_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, "9.0", "9.0")
    FRAMEWORK.check(LLAMA)
    FRAMEWORK.check(replace(LLAMA, tp=2, gpus=(0, 1)))
    assert all(need.ok for need in FRAMEWORK.needs())


def test_compiled_ops_need_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine(monkeypatch, "9.0", without=("nvcc",))
    built = tmp_path / f"py{sys.version_info.major}.{sys.version_info.minor}-torch2-9.0-x" / "ragged_ops.so"
    built.parent.mkdir()
    built.touch()
    FRAMEWORK.check(replace(LLAMA, options={"op_cache": str(tmp_path)}))


def test_an_old_gpu_still_runs_autotp(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, "7.5", without=("dskernels",))
    FRAMEWORK.check(replace(LLAMA, options={"engine": "ds-inference-autotp"}))


def test_doctor_lists_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, "7.0", without=("deepspeed", "nvcc"))
    needs = {need.name: need for need in FRAMEWORK.needs()}
    missing = {name for name, need in needs.items() if not need.ok}
    assert missing == {"deepspeed", "nvcc", "GPU for mii-fastgen"}
    assert needs["GPU for mii-fastgen"].found == "GPU of 7.0 (7.0)"
    assert "CUDA toolkit" in needs["nvcc"].remedy

"""The FasterTransformer launcher: what it refuses, what it would start, and what its guide says."""

import dataclasses
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ft_specs import GOLDEN, GQA, MHA, backend_in, spec
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from loadgen.cli import main
from loadgen.commands.serve import ready_line
from loadgen.drivers.grpc_discover import _told
from loadgen.errors import BadInput, MissingDependency, ServerDied
from loadgen.launch import frameworks
from loadgen.launch.process import Server
from loadgen.plan.plan import make_plan
from loadgen.profile.read import build_profile, load_profile
from loadgen.protocols import Command
from loadgen.records import ServerSpec
from loadgen.servers._ft import checkpoint as ft_checkpoint
from loadgen.servers._ft import weights
from loadgen.servers._ft.tensors import RANDOM_STD
from loadgen.servers._triton import find
from loadgen.servers.ft import FRAMEWORK
from loadgen.system import environment
from loadgen.theory import models

RUN = "/run-dir"


def command(wanted: ServerSpec) -> Command:
    return FRAMEWORK.command(wanted, RUN, (9001, 9000, 9002))


def config(found: Command) -> Any:
    text = found.files["repository/fastertransformer/config.pbtxt"]
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def parameters(found: Command) -> dict[str, str]:
    return {key: value.string_value for key, value in config(found).parameters.items()}


@pytest.fixture
def backend(tmp_path: Path) -> Path:
    return backend_in(tmp_path)


def test_it_is_a_framework() -> None:
    assert frameworks.find("ft") is FRAMEWORK
    assert FRAMEWORK.protocol == "triton-grpc"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": GQA}, "accepted: variant b"),
        ({"dtype": "bfloat16"}, "wrong tokens from the second one on"),
        ({"tp": 3, "gpus": (0, 1, 2)}, "4 heads cannot be split over tp = 3"),
        ({"pp": 3}, "layers cannot be split over pp = 3"),
        ({"gpus": (0,)}, "1 GPUs for tp 2 × pp 1"),
        ({"gpus": (1, 1)}, "names one twice"),
        ({"options": {"variant": "c"}}, r"option variant = 'c' \(accepted: a, b\)"),
        ({"options": {"decoupled": "perhaps"}}, "accepted: true, false"),
        ({"options": {"stream_step": 0}}, "a whole number from 1"),
        ({"options": {"mpirun": "maybe"}}, "accepted: true, false"),
        ({"options": {"colour": "blue"}}, "unknown option 'colour'"),
        ({"options": {"custom_all_reduce": True}}, "accepted: exactly 8"),
        ({"options": {"weights": "backend"}}, "would not load mha"),
        ({"options": {"weights": "written", "checkpoint": "/x"}}, "accepted: one of the two"),
        ({"tp": 1, "pp": 2}, "never answers a streamed request .*accepted: decoupled = false"),
        ({"dtype": "float32"}, "float32 with heads of 32: variant a computes wrong tokens"),
        (
            {"model": GQA, "dtype": "float32", "options": {"variant": "b", "fused_attention": True}},
            "fused_attention with dtype = float32",
        ),
    ],
)
def test_what_cannot_run_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        FRAMEWORK.check(spec(**changes))


@pytest.mark.parametrize(("capability", "refused"), [("9.0", True), ("8.0", False), (None, False)])
def test_fused_attention_is_refused_where_its_kernels_are_wrong(
    monkeypatch: pytest.MonkeyPatch, backend: Path, capability: str | None, refused: bool
) -> None:
    gpus = [{"index": index, "compute_capability": capability} for index in range(2)]
    monkeypatch.setattr(environment, "read_gpus", lambda: (gpus, None, None))
    wanted = spec(options={"fused_attention": True, "backend_dir": str(backend)})
    if refused:
        with pytest.raises(BadInput, match=r"GPU 0 of compute capability 9\.0"):
            FRAMEWORK.check(wanted)
    else:
        FRAMEWORK.check(wanted)


def test_what_variant_a_gets_wrong_is_not_refused_where_it_is_right(backend: Path) -> None:
    options = {"backend_dir": str(backend)}
    FRAMEWORK.check(spec(tp=1, pp=2, options={**options, "decoupled": False}))
    FRAMEWORK.check(spec(GQA, dtype="float32", options={**options, "variant": "b"}))


def test_a_missing_library_is_told_with_every_place_and_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(find.FT_VARIABLE, raising=False)
    with pytest.raises(MissingDependency) as caught:
        FRAMEWORK.check(spec())
    text = str(caught.value)
    assert "libtriton_fastertransformer.so" in text
    assert "/opt/tritonserver/backends" in text
    assert "LOADGEN_FT_BACKEND_DIR is not set" in text
    assert "--option backend_dir=DIR" in text
    assert "--option image=NAME" in text
    with pytest.raises(MissingDependency, match=f"option backend_dir={tmp_path}"):
        FRAMEWORK.check(spec(options={"backend_dir": str(tmp_path)}))
    with pytest.raises(MissingDependency, match="option tritonserver=/nowhere"):
        FRAMEWORK.check(spec(options={"tritonserver": "/nowhere"}))
    needs = {need.name: need for need in FRAMEWORK.needs()}
    assert needs["tritonserver"].ok
    assert not needs[find.FT_LIBRARY].ok
    assert "backend_dir" in needs[find.FT_LIBRARY].remedy


def test_the_backend_is_found_where_the_user_says(backend: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for given in (backend, backend / "fastertransformer"):
        FRAMEWORK.check(spec(options={"backend_dir": str(given)}))
        assert f"--backend-directory={backend}" in command(spec(options={"backend_dir": str(given)})).argv
    monkeypatch.setenv(find.FT_VARIABLE, str(backend))
    FRAMEWORK.check(spec())
    with pytest.raises(MissingDependency, match="no GPU is given"):
        FRAMEWORK.check(spec(gpus=()))


def test_the_model_repository_says_what_the_spec_says(backend: Path) -> None:
    found = command(spec(options={"backend_dir": str(backend), "cache": "/cache"}, max_batch=32))
    read = config(found)
    assert (read.backend, read.max_batch_size, read.model_transaction_policy.decoupled) == (
        "fastertransformer",
        32,
        True,
    )
    told = parameters(found)
    info = json.loads(told.pop("loadgen_info"))
    assert (info["vocab"], info["variant"], info["tp"]) == (512, "a", 2)
    by_url = _told({"loadgen_info": json.dumps(info)})
    assert (by_url["vocab"], by_url["variant"], by_url["engine"]["framework"]) == (512, "a", "ft")
    assert told == {
        "tensor_para_size": "2",
        "pipeline_para_size": "1",
        "data_type": "fp16",
        "model_type": "Llama",
        "model_checkpoint_path": f"/cache/mha-{MHA.fingerprint}-a-fp16/2-gpu",
        "enable_custom_all_reduce": "0",
        "int8_mode": "0",
    }
    unary = command(
        spec(GQA, options={"variant": "b", "decoupled": "false", "dynamic_batching": True}, dtype="float32")
    )
    assert not config(unary).model_transaction_policy.decoupled
    assert config(unary).HasField("dynamic_batching")
    assert (parameters(unary)["model_type"], parameters(unary)["data_type"]) == ("llama", "fp32")


def test_the_environment_of_each_variant() -> None:
    a = command(spec()).env
    assert (a["CUDA_VISIBLE_DEVICES"], a["LLAMA_STREAM_CB_STEP"]) == ("0,1", "1")
    assert (a["FMHA_ENABLE"], a["LLAMA_CONTEXT_ATTENTION_DISABLE_FUSED_MHA"]) == (None, None)
    b = command(spec(GQA, options={"variant": "b", "stream_step": 5})).env
    assert (b["LLAMA_CONTEXT_ATTENTION_DISABLE_FUSED_MHA"], b["LLAMA_STREAM_CB_STEP"]) == ("ON", "5")
    assert command(spec(options={"fused_attention": True})).env["FMHA_ENABLE"] == "ON"


def test_the_server_s_command(backend: Path) -> None:
    found = command(spec(options={"backend_dir": str(backend), "mpirun": "false"}))
    assert found.argv[0].endswith("bin/tritonserver")
    assert found.argv[1:] == (
        "--model-repository=/run-dir/repository",
        f"--backend-directory={backend}",
        "--grpc-address=127.0.0.1",
        "--grpc-port=9001",
        "--http-address=127.0.0.1",
        "--http-port=9000",
        "--metrics-address=127.0.0.1",
        "--metrics-port=9002",
        "--disable-auto-complete-config",
        "--log-info=false",
        "--allow-gpu-metrics=true",
    )
    assert (found.base_url, found.ready_url) == (
        "grpc://127.0.0.1:9001",
        "http://127.0.0.1:9000/v2/health/ready",
    )
    with_mpi = command(spec(options={"mpirun": "true"})).argv
    assert with_mpi[:5] == ("mpirun", "-n", "1", "--bind-to", "none")
    convert, preflight = found.setup
    assert convert[3:5] == ("loadgen.servers._ft.checkpoint", "--spec")
    assert preflight[3] == "loadgen.servers._triton.libraries"
    info = json.loads(found.files["info.json"])
    assert (info["engine"], info["weights"]["maker"]) == ("fastertransformer/a", "checkpoint")


def test_what_decides_a_result_stands_on_its_page(backend: Path) -> None:
    (backend / "fastertransformer" / "libtransformer-shared.so").write_bytes(b"kernels")
    options = {"backend_dir": str(backend), "mpirun": True, "stream_step": 5}
    found = command(spec(options=options))
    page = json.loads(found.files["info.json"])
    assert page["library"] == {
        name: hashlib.sha256(content).hexdigest()
        for name, content in (("libtransformer-shared.so", b"kernels"), (find.FT_LIBRARY, b"not a library"))
    }
    assert page["command"] == list(found.argv)
    assert page["launcher"].startswith("mpirun -n 1 --bind-to none")
    assert (page["variant"], page["stream_step"]) == ("a", 5)
    assert found.version_url == "http://127.0.0.1:9000/v2"


def test_a_trial_is_told_by_its_library_and_not_by_where_that_lies(backend: Path, tmp_path: Path) -> None:
    def ids(folder: Path) -> list[str]:
        tables = {
            "server": {
                "framework": "ft",
                "model": str(GOLDEN / "mha"),
                "options": {"backend_dir": str(folder)},
            },
            "load": {"input_tokens": 4, "output_tokens": 4, "batch_size": 2},
        }
        found = build_profile(tables, frameworks=frameworks.names(), ask=frameworks.find)
        (cell,) = found.cells
        assert cell.server is not None
        assert cell.server.dtype == "float16"  # its own, where none is named
        return [trial.id for trial in make_plan(found).trials]

    elsewhere = shutil.copytree(backend, tmp_path / "elsewhere")
    here = ids(backend)
    assert ids(elsewhere) == here
    (elsewhere / "fastertransformer" / find.FT_LIBRARY).write_bytes(b"another library")
    assert ids(elsewhere) != here
    assert ids(tmp_path / "none") not in (here, ids(elsewhere))


def test_a_shipped_experiment_takes_a_dtype_that_it_has() -> None:
    every = load_profile("exp1", ["framework=ft,hf"], None, frameworks.names(), frameworks.find).cells
    dtypes = {(cell.server.framework, cell.server.dtype) for cell in every if cell.server is not None}
    assert dtypes == {("ft", "float16"), ("hf", "bfloat16")}


def test_mpirun_is_taken_where_it_is_asked_for_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    present = tmp_path / "mpirun"
    present.write_text("#!/bin/sh\n")
    present.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for options in ({}, {"mpirun": "auto"}, {"mpirun": False}, {"mpirun": "auto", "image": "i"}):
        assert "mpirun" not in command(spec(options=options)).argv


def test_a_container_runs_the_same_command() -> None:
    found = command(spec(options={"image": "my/triton-ft:1", "container": "docker", "cache": "/cache"}))
    at = found.argv.index("--")
    client = found.argv[at + 1 :]
    checkpoint = f"/cache/mha-{MHA.fingerprint}-a-fp16"
    assert client[:8] == (
        "docker",
        "run",
        "--rm",
        "--init",
        "--name",
        "loadgen-ft-9001",
        "--gpus",
        '"device=0,1"',
    )
    assert client[8:10] == ("--network", "host")
    assert f"{RUN}:{RUN}:rw" in client
    assert f"{checkpoint}:{checkpoint}:ro" in client
    assert "LLAMA_STREAM_CB_STEP=1" in client
    assert not any(part.startswith("CUDA_VISIBLE_DEVICES") for part in client)
    image = client.index("my/triton-ft:1")
    assert client[image + 1 : image + 4] == (
        "tritonserver",
        "--model-repository=/run-dir/repository",
        "--backend-directory=/opt/tritonserver/backends",
    )
    assert len(found.setup) == 1  # the conversion; its libraries cannot be looked at from outside
    podman = command(spec(options={"image": "i", "container": "podman", "mpirun": True})).argv
    assert "nvidia.com/gpu=1" in podman
    assert podman[podman.index("i") + 1 :][:7] == (
        *("mpirun", "-n", "1", "--bind-to", "none"),
        *("--allow-run-as-root", "tritonserver"),
    )


def test_an_image_needs_something_that_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingDependency, match="docker or podman on PATH"):
        FRAMEWORK.check(spec(options={"image": "i"}))
    assert "docker" in command(spec(options={"image": "i"})).argv


def test_a_large_preset_s_weights_are_an_explicit_choice(backend: Path) -> None:
    where = {"backend_dir": str(backend), "cache": "/cache"}
    large = spec(models.resolve("llama-13b"), tp=4, gpus=(0, 1, 2, 3), dummy_weights=True, options=where)
    with pytest.raises(MissingDependency, match=r"llama-13b has no weights .* 24\.\d+ GiB") as caught:
        FRAMEWORK.check(large)
    assert "weights=backend" in caught.value.remedy
    assert "weights=written" in caught.value.remedy
    own = dataclasses.replace(large, options={**where, "weights": "backend"})
    FRAMEWORK.check(own)
    found = command(own)
    assert "_ft_checkpoint" not in str(found.setup)
    assert parameters(found)["model_checkpoint_path"] == f"{RUN}/checkpoint/4-gpu"
    ini = found.files["checkpoint/4-gpu/config.ini"]
    assert "head_num = 40\nsize_per_head = 128\ninter_size = 13824\nnum_layer = 40\n" in ini
    backends = json.loads(found.files["info.json"])["weights"]
    assert backends == {"maker": "FasterTransformer", "distribution": "its own"}
    said = ready_line(own, found.base_url, json.loads(found.files["info.json"]), None)
    assert said.endswith("weights FasterTransformer's (random, made by the backend itself)")
    assert "random (made by the backend itself" in found.files["checkpoint-plan.txt"]
    written = dataclasses.replace(large, options={**where, "weights": "written"})
    FRAMEWORK.check(written)
    assert "--spec" in command(written).setup[0]
    assert "24." in command(written).files["checkpoint-plan.txt"]
    ours = json.loads(command(written).files["info.json"])["weights"]
    assert ours == {"maker": "loadgen", "distribution": f"uniform, std {RANDOM_STD:g}", "seed": 0}


def test_a_checkpoint_that_is_there_is_checked_and_not_written(tmp_path: Path) -> None:
    ft_checkpoint.convert(MHA, ft_checkpoint.layout_of(MHA, 2, "a", "fp16"), tmp_path)
    for given in (tmp_path, tmp_path / "2-gpu"):
        found = command(spec(options={"checkpoint": str(given)}))
        assert parameters(found)["model_checkpoint_path"] == str(tmp_path / "2-gpu")
        assert "--spec" not in found.setup[0]
        assert subprocess.run(found.setup[0], check=False, capture_output=True).returncode == 0
    (tmp_path / "2-gpu" / "model.lm_head.weight.bin").unlink()
    done = subprocess.run(found.setup[0], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "model.lm_head.weight.bin: missing" in done.stderr


def test_a_checkpoint_for_another_tp_says_for_which(tmp_path: Path, backend: Path) -> None:
    ft_checkpoint.convert(MHA, ft_checkpoint.layout_of(MHA, 4, "a", "fp16"), tmp_path / "mine")
    for given in (tmp_path / "mine", tmp_path / "mine" / "4-gpu"):
        with pytest.raises(BadInput, match=r"cut for tp 4, and tp = 2 is asked for \(accepted: .*--tp 2\)"):
            FRAMEWORK.check(spec(options={"checkpoint": str(given), "backend_dir": str(backend)}))


def test_the_wrong_variant_is_told_by_the_library_s_own_words(tmp_path: Path) -> None:
    words = 'E1130 model_repository.cc] Internal: Unknown model "Llama"'
    found = command(spec())
    found = dataclasses.replace(
        found, argv=("sh", "-c", f"echo '{words}'; exit 1"), setup=(), env={}, ready_url="http://127.0.0.1:1/"
    )
    with pytest.raises(ServerDied, match=r"so it is the other one: option variant = b\n") as caught:
        Server(found, tmp_path / "run", tmp_path / "log").start(20)
    assert "Unknown model" in caught.value.tail


def test_dummy_weights_of_a_checkpoint_s_shape_do_not_read_it() -> None:
    options = weights.Options("ft", {"cache": "/cache"})
    found = weights.weights(spec(dummy_weights=True), options, RUN)
    assert found.label == "random (written by loadgen, seed 0)"
    given = models.from_json(found.setup[0][found.setup[0].index("--spec") + 1])
    assert given.checkpoint is None


GUIDE = (Path(__file__).parents[2] / "docs" / "fastertransformer.md").read_text()


@pytest.mark.parametrize("line", [line for line in GUIDE.splitlines() if line.startswith("loadgen ")])
def test_the_guide_s_commands_parse(line: str) -> None:
    name, *args = shlex.split(line.partition("  #")[0])[1:]
    with main.commands[name].make_context(name, args):
        pass


def test_the_guide_s_options_are_there() -> None:
    shown = set(re.findall(r"-o (\w+)=", GUIDE))
    assert {"backend_dir", "image", "weights"} <= shown <= set(FRAMEWORK.options)

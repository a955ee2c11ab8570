"""The FasterTransformer launcher: what it refuses, what it would start, and the whole of it on a real tritonserver.

The real backend library is on no registry. In the last part its place is taken by a copy of Triton's own Python
backend under its name, so that everything around it is the real thing.
"""

import asyncio
import dataclasses
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from loadgen.cli import main
from loadgen.commands.serve import ready_line
from loadgen.drivers.grpc_discover import _told
from loadgen.drivers.triton_grpc import make_driver
from loadgen.errors import BadInput, MissingDependency, ServerDied
from loadgen.launch import frameworks
from loadgen.launch.process import Server, free_ports, serving
from loadgen.plan.plan import make_plan
from loadgen.profile.read import build_profile, load_profile
from loadgen.protocols import Command
from loadgen.records import Reply, Request, ServerSpec, Timeouts
from loadgen.servers._ft import checkpoint as ft_checkpoint
from loadgen.servers._ft import container, weights
from loadgen.servers._ft.tensors import RANDOM_STD
from loadgen.servers._triton import find
from loadgen.servers.ft import FRAMEWORK
from loadgen.system import environment
from loadgen.theory import models

GOLDEN = Path(__file__).parents[1] / "data" / "ft-golden"
REPLAY = Path(__file__).parents[1] / "drivers" / "triton_replay_model.py"
MHA, GQA = (models.resolve(str(GOLDEN / name)) for name in ("mha", "gqa"))
RUN = "/run-dir"


def spec(model: Any = MHA, **changes: Any) -> ServerSpec:
    given = {"tp": 2, "gpus": (0, 1), "dtype": "float16", "dummy_weights": False, **changes}
    return ServerSpec(framework="ft", model=model, **given)


def command(wanted: ServerSpec) -> Command:
    return FRAMEWORK.command(wanted, RUN, (9001, 9000, 9002))


def config(found: Command) -> Any:
    text = found.files["repository/fastertransformer/config.pbtxt"]
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def parameters(found: Command) -> dict[str, str]:
    return {key: value.string_value for key, value in config(found).parameters.items()}


@pytest.fixture
def backend(tmp_path: Path) -> Path:
    """A folder that looks as if it held the backend."""
    library = tmp_path / "backends" / "fastertransformer" / find.FT_LIBRARY
    library.parent.mkdir(parents=True)
    library.write_bytes(b"not a library")
    return library.parent.parent


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


# The whole of it, on a real tritonserver.


@pytest.fixture(scope="module")
def impostor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backend directory in which Triton's Python backend goes by FasterTransformer's name."""
    triton = find.find_triton()
    folder = tmp_path_factory.mktemp("impostor") / "fastertransformer"
    folder.mkdir()
    shutil.copy(triton.backends / "python" / "libtriton_python.so", folder / find.FT_LIBRARY)
    shutil.copy(triton.backends / "python" / "triton_python_backend_utils.py", folder)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = folder / "triton_python_backend_stub"
    shutil.copy(triton.stubs / version / stub.name, stub)
    note = "\nimport os; open(os.path.join(os.getcwd(), 'seen-environment'), 'w').write(repr(dict(os.environ)))\n"
    (folder / "model.py").write_text(REPLAY.read_text() + note)
    return folder.parent


def launch(impostor: Path, run_dir: Path, **options: Any) -> Command:
    wanted = spec(
        options={"backend_dir": str(impostor), "cache": str(run_dir / "cache"), "mpirun": False, **options}
    )
    FRAMEWORK.check(wanted)
    found = FRAMEWORK.command(wanted, str(run_dir), free_ports(3))
    files = dict(found.files)
    config = files["repository/fastertransformer/config.pbtxt"]
    replay = {"file": GOLDEN / "real-A-tp1-step1.json", "variant": "a"}
    for key, value in replay.items():
        config += f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'
    files["repository/fastertransformer/config.pbtxt"] = config
    wheel = find.find_triton().server.parents[3] / "nvidia_pytriton.libs"
    more = [str(found.env["LD_LIBRARY_PATH"]), str(wheel), str(sysconfig.get_config_var("LIBDIR"))]
    libraries = os.pathsep.join(more)
    env = {**found.env, "LD_LIBRARY_PATH": libraries, "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}"}
    return dataclasses.replace(found, files=files, env=env)


@pytest.fixture(scope="module")
def running(impostor: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    run_dir = tmp_path_factory.mktemp("run")
    with serving(launch(impostor, run_dir), run_dir, run_dir / "log", ready_timeout_s=120) as server:
        yield server, run_dir


def test_it_converts_starts_and_answers(running: tuple[Server, Path]) -> None:
    server, run_dir = running
    prompt = (358, 209, 498, 192, 489, 121, 403, 76, 11, 231, 234, 449)
    options = {
        **FRAMEWORK.driver_options(spec()),
        "vocab": None,
    }  # the recording was made with the model's own end id

    async def go() -> Reply:
        driver = make_driver(server.command.base_url, "mha", Timeouts(total_s=30), options)
        await driver.open(1)
        ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        request = Request(seq=0, phase="measured", prompts=(prompt,), output_tokens=24)
        driver.start(driver.prepare(request), ended.set_result)
        reply = driver.decode(await asyncio.wait_for(ended, 60))
        await driver.close()
        return reply

    reply = asyncio.run(go())
    assert (reply.error, reply.output_tokens, reply.tokens_per_arrival) == (None, (24,), (1,) * 24)
    (folder,) = (run_dir / "cache").iterdir()
    assert ft_checkpoint.check(folder / "2-gpu") == []
    assert "written" in (run_dir / "log").read_text()


def test_the_backend_sees_its_environment(running: tuple[Server, Path]) -> None:
    _, run_dir = running
    seen = (run_dir / "seen-environment").read_text()
    assert "'CUDA_VISIBLE_DEVICES': '0,1'" in seen
    assert "'LLAMA_STREAM_CB_STEP': '1'" in seen
    assert "FMHA_ENABLE" not in seen


def test_a_library_that_cannot_be_loaded_ends_the_start_with_its_words(backend: Path, tmp_path: Path) -> None:
    wanted = spec(options={"backend_dir": str(backend), "cache": str(tmp_path / "cache"), "mpirun": False})
    found = FRAMEWORK.command(wanted, str(tmp_path), free_ports(3))
    with (
        pytest.raises(
            ServerDied,
            match=r"while it loaded \(exit status 1\): the library, or one that it needs, is not where .*\n"
            r"(.*\n)*.*libtriton_fastertransformer\.so.*(invalid ELF header|file too short)",
        ),
        serving(found, tmp_path, tmp_path / "log", ready_timeout_s=60),
    ):
        pytest.fail("a text file was taken for a library")


def test_what_the_library_lacks_is_named_before_triton_s_own_words(tmp_path: Path) -> None:
    triton = find.find_triton()
    lost = tmp_path / "libtriton_python.so"  # away from the folder that its libraries are found beside
    shutil.copy(triton.backends / "python" / lost.name, lost)
    argv = [
        sys.executable,
        "-m",
        "loadgen.servers._triton.libraries",
        str(triton.server),
        str(lost),
        str(tmp_path / "lib"),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "libarchive" in done.stdout
    assert "LD_LIBRARY_PATH" in done.stdout
    assert "libtritonserver" not in done.stdout  # the server itself has it loaded
    gone = subprocess.run(
        [*argv[:-2], str(tmp_path / "absent.so"), argv[-1]], capture_output=True, check=False
    )
    assert gone.returncode == 2


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_library_linked_against_the_common_core_loads_into_the_wheel_s_server(tmp_path: Path) -> None:
    """The wheel's core has a name of its own; a backend that was built elsewhere asks for libtritonserver.so."""
    (tmp_path / "core.c").write_text("const char* TRITONSERVER_DataTypeString(int t) { return 0; }\n")
    (tmp_path / "backend.c").write_text(
        "#include <stdio.h>\n"
        "extern const char* TRITONSERVER_DataTypeString(int);\n"
        "void* TRITONBACKEND_ModelInstanceExecute(void* i, void** r, unsigned n) { return 0; }\n"
        "void* TRITONBACKEND_ModelInitialize(void* m) {\n"
        '  fprintf(stderr, "core says %s\\n", TRITONSERVER_DataTypeString(2)); return 0; }\n'
    )
    library = tmp_path / "backends" / "fastertransformer" / find.FT_LIBRARY
    library.parent.mkdir(parents=True)
    stub = tmp_path / "libtritonserver.so"
    build = ["cc", "-shared", "-fPIC", "-o"]
    subprocess.run([*build, stub, f"-Wl,-soname,{stub.name}", tmp_path / "core.c"], check=True)
    subprocess.run([*build, library, tmp_path / "backend.c", f"-L{tmp_path}", "-ltritonserver"], check=True)
    wanted = spec(
        options={"backend_dir": str(library.parents[1]), "cache": str(tmp_path / "cache"), "mpirun": False}
    )
    run_dir = tmp_path / "run"
    found = FRAMEWORK.command(wanted, str(run_dir), free_ports(3))
    with serving(found, run_dir, run_dir / "log", ready_timeout_s=60):
        assert "core says UINT8" in (run_dir / "log").read_text()


def test_a_damaged_checkpoint_stops_the_start(impostor: Path, tmp_path: Path) -> None:
    ft_checkpoint.convert(MHA, ft_checkpoint.layout_of(MHA, 2, "a", "fp16"), tmp_path / "mine")
    (tmp_path / "mine" / "2-gpu" / "model.wte.weight.bin").write_bytes(b"short")
    found = launch(impostor, tmp_path, checkpoint=str(tmp_path / "mine"))
    with (
        pytest.raises(
            ServerDied,
            match=r"its preparation \(loadgen\.servers\._ft\.checkpoint\) failed \(exit status 2\)\n"
            r"(.*\n)*.*model\.wte\.weight\.bin: 5 bytes, expected 131072",
        ),
        serving(found, tmp_path, tmp_path / "log", ready_timeout_s=60),
    ):
        pytest.fail("the backend would have made random weights of it")


@pytest.mark.parametrize("heeds_sigterm", [True, False])
def test_a_container_never_outlives_its_client(tmp_path: Path, heeds_sigterm: bool) -> None:
    """``docker run`` passes SIGTERM on; one that hangs is answered with ``docker kill``, by name."""
    engine = tmp_path / "docker"
    killed = tmp_path / "killed"
    trap = "trap 'exit 0' TERM" if heeds_sigterm else "trap '' TERM"
    engine.write_text(
        "#!/bin/sh\n"
        f'if [ "$1" = kill ]; then echo "$2" > {killed}; kill -KILL "$(cat {tmp_path}/pid)"; exit 0; fi\n'
        f"{trap}\necho $$ > {tmp_path}/pid.new\nmv {tmp_path}/pid.new {tmp_path}/pid\n"
        "while true; do sleep 0.05; done\n"
    )
    engine.chmod(0o755)
    argv = [sys.executable, "-m", "loadgen.servers._ft.container", "--program", str(engine), "--name", "mine"]
    wrapper = subprocess.Popen([*argv, "--grace", "0.5", "--", str(engine), "run"])
    while not (tmp_path / "pid").exists():
        assert wrapper.poll() is None
    wrapper.send_signal(signal.SIGTERM)
    wrapper.wait(30)
    assert killed.exists() is not heeds_sigterm
    if not heeds_sigterm:
        assert killed.read_text().strip() == "mine"


def test_container_programs_are_looked_for_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    podman = tmp_path / "podman"
    podman.write_text("#!/bin/sh\n")
    podman.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert container.program(weights.Options("ft", {})) == "podman"
    with pytest.raises(MissingDependency, match="needs docker on PATH"):
        container.program(weights.Options("ft", {"container": "docker"}))


GUIDE = (Path(__file__).parents[2] / "docs" / "fastertransformer.md").read_text()


@pytest.mark.parametrize("line", [line for line in GUIDE.splitlines() if line.startswith("loadgen ")])
def test_the_guide_s_commands_parse(line: str) -> None:
    name, *args = shlex.split(line.partition("  #")[0])[1:]
    with main.commands[name].make_context(name, args):
        pass


def test_the_guide_s_options_are_there() -> None:
    shown = set(re.findall(r"-o (\w+)=", GUIDE))
    assert {"backend_dir", "image", "weights"} <= shown <= set(FRAMEWORK.options)

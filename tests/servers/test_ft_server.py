"""FasterTransformer's launcher on a real tritonserver.

The real backend library is on no registry. Its place is taken by a copy of Triton's own Python backend under its
name, so that everything around it is the real thing.
"""

import asyncio
import dataclasses
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ft_specs import GOLDEN, MHA, backend_in, spec

from loadgen.drivers.triton_grpc import make_driver
from loadgen.errors import ServerDied
from loadgen.launch.process import Server, free_ports, serving
from loadgen.load_records import Timeouts
from loadgen.protocols import Command
from loadgen.request_records import Reply, Request
from loadgen.servers._ft import checkpoint as ft_checkpoint
from loadgen.servers._triton import find
from loadgen.servers.ft import FRAMEWORK

REPLAY = Path(__file__).parents[1] / "drivers" / "triton_replay_model.py"


@pytest.fixture
def backend(tmp_path: Path) -> Path:
    return backend_in(tmp_path)


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

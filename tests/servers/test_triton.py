"""Framework ``triton`` on a real tritonserver: transformers in its Python backend, end to end."""

import asyncio
import glob
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from click.testing import CliRunner

from loadgen import cli
from loadgen.drivers.grpc_discover import discover
from loadgen.drivers.triton_grpc import make_driver
from loadgen.errors import BadInput, MissingDependency, ServerDied
from loadgen.launch import frameworks
from loadgen.launch.process import Server, free_ports, serving
from loadgen.launch.running import endpoint_of
from loadgen.load_records import Timeouts
from loadgen.protocols import Command
from loadgen.records import ServerSpec
from loadgen.request_records import Reply, Request
from loadgen.servers._torch import model as hf_model
from loadgen.servers._triton import exec, find
from loadgen.servers._triton.repository import MODEL
from loadgen.servers.triton import FRAMEWORK
from loadgen.theory import models

GOLDEN = Path(__file__).parents[1] / "data" / "ft-golden"
TINY = models.resolve("tiny")
PROMPTS = ((11, 12, 13, 14, 15), (21, 22), (31, 32, 33))
LIMITS = Timeouts(connect_s=10, first_byte_s=60, between_bytes_s=60, total_s=120)


def spec(model: Any = TINY, **changes: Any) -> ServerSpec:
    return ServerSpec(framework="triton", model=model, dtype="float32", **changes)


def launch(run_dir: Path, wanted: ServerSpec) -> Command:
    FRAMEWORK.check(wanted)
    return FRAMEWORK.command(wanted, str(run_dir), free_ports(3))


@pytest.fixture(scope="module")
def streaming(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    run_dir = tmp_path_factory.mktemp("streaming")
    with serving(launch(run_dir, spec()), run_dir, run_dir / "log", ready_timeout_s=120) as server:
        yield server


@pytest.fixture(scope="module")
def merging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Unary, variant b, a checkpoint, dynamic batching."""
    run_dir = tmp_path_factory.mktemp("merging")
    options = {"decoupled": False, "variant": "b", "dynamic_batching": True, "queue_delay_us": 200_000}
    wanted = spec(models.resolve(str(GOLDEN / "gqa")), dummy_weights=False, options=options)
    with serving(launch(run_dir, wanted), run_dir, run_dir / "log", ready_timeout_s=120) as server:
        yield server


def run(server: Server, wanted: ServerSpec, *requests: Request, **options: Any) -> list[Reply]:
    """The requests through the driver, all at once."""

    async def go() -> list[Reply]:
        loop = asyncio.get_running_loop()
        driver = make_driver(
            server.command.base_url, "any", LIMITS, {**FRAMEWORK.driver_options(wanted), **options}
        )
        await driver.open(4)
        ended = []
        for request in requests:
            future: asyncio.Future[Any] = loop.create_future()
            ended.append(future)
            driver.start(driver.prepare(request), future.set_result)
        replies = [driver.decode(raw) for raw in await asyncio.wait_for(asyncio.gather(*ended), 120)]
        await driver.close()
        return replies

    return asyncio.run(go())


def ask(*prompts: tuple[int, ...], tokens: int = 12, seq: int = 0, stream: bool = True) -> Request:
    return Request(seq=seq, phase="measured", prompts=prompts, output_tokens=tokens, stream=stream)


def greedy(wanted: ServerSpec, prompt: tuple[int, ...], tokens: int) -> tuple[int, ...]:
    """What transformers itself generates."""
    model = hf_model.build(wanted, torch.device("cpu"), 0, 0, "sdpa")
    model.generation_config.eos_token_id = None
    out = model.generate(torch.tensor([prompt]), max_new_tokens=tokens, do_sample=False)
    return tuple(out[0, len(prompt) :].tolist())


def test_streamed_greedy_tokens_equal_those_of_transformers(streaming: Server) -> None:
    single = run(streaming, spec(), *(ask(prompt, seq=i) for i, prompt in enumerate(PROMPTS)))
    for prompt, reply in zip(PROMPTS, single, strict=True):
        assert (reply.error, reply.output_tokens, reply.counted_by) == (None, (12,), "ids")
        assert reply.first_tokens == greedy(spec(), prompt, 12)
        assert reply.tokens_per_arrival == (1,) * 12


def test_a_ragged_static_batch_is_one_request(streaming: Server) -> None:
    (reply,) = run(streaming, spec(), ask(*PROMPTS))
    assert (reply.error, reply.output_tokens) == (None, (12, 12, 12))
    assert reply.tokens_per_arrival == (3,) * 12
    assert reply.first_tokens == greedy(spec(), PROMPTS[0], 12)


def test_info_names_the_engine_truthfully(streaming: Server) -> None:
    info = json.loads((streaming.run_dir / "info.json").read_text())
    assert info["engine"] == "triton-python/transformers (generate)"
    assert len(info["code"]) == 12
    assert (info["framework"], info["weights"], info["device"], info["decoupled"]) == (
        "triton",
        {"maker": "loadgen", "distribution": f"normal, std {hf_model.STD:g}", "seed": 0},
        "cpu",
        True,
    )
    assert endpoint_of(FRAMEWORK, spec(), streaming).facts["server"].startswith("triton 2.")
    assert streaming.command.info_url == (streaming.run_dir / "info.json").as_uri()


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (ask((1, 5000)), "Refused: input_ids holds 5000: accepted: 0 to 1023"),
        (ask((1, 2), tokens=5000), "Refused: 2 input and 5000 output tokens exceed the context of 4096"),
    ],
)
def test_impossible_requests_are_refused_in_plain_words(
    streaming: Server, request_: Request, words: str
) -> None:
    (reply,) = run(streaming, spec(), request_)
    assert reply.error is not None
    assert reply.error.startswith(words)
    (good,) = run(streaming, spec(), ask(PROMPTS[0]))
    assert good.error is None


def test_unary_batches_are_merged_and_still_told_apart(merging: Server) -> None:
    golden = json.loads((GOLDEN / "gqa-reference.json").read_text())
    wanted = spec(
        models.resolve(str(GOLDEN / "gqa")),
        dummy_weights=False,
        options={"decoupled": False, "variant": "b", "dynamic_batching": True},
    )
    prompts = [tuple(one["prompt"]) for one in golden]
    replies = run(merging, wanted, *(ask(p, tokens=8 + 4 * i, seq=i) for i, p in enumerate(prompts)))
    for i, (reply, one) in enumerate(zip(replies, golden, strict=True)):
        assert (reply.error, reply.output_tokens, reply.token_ns) == (None, (8 + 4 * i,), ())
        assert list(reply.first_tokens) == one["tokens"][: min(16, 8 + 4 * i)]
    import httpx

    metrics = httpx.get(str(merging.command.metrics_url)).text.splitlines()
    count, executions = (
        int(float(next(line for line in metrics if line.startswith(name + "{")).split()[-1]))
        for name in ("nv_inference_count", "nv_inference_exec_count")
    )
    assert count >= 4
    assert executions < count  # at least two of them ran as one batch


def test_an_end_id_that_is_sampled_ends_a_row_early_and_it_shows(streaming: Server) -> None:
    expected = greedy(spec(), PROMPTS[0], 12)
    end = expected[4]
    stop = expected.index(end) + 1
    (reply,) = run(streaming, spec(), ask(PROMPTS[0]), vocab=end)
    # Asked for 12, and the row ended by itself: never counted in full.
    assert reply.error is not None or reply.output_tokens == (stop,)
    assert reply.output_tokens != (12,)


def test_the_server_killed_in_mid_stream_leaves_nothing(tmp_path: Path) -> None:
    command = launch(tmp_path, spec())
    with serving(command, tmp_path, tmp_path / "log", ready_timeout_s=120) as server:
        assert server.pid is not None
        family = psutil.Process(server.pid).children(recursive=True)
        triton = next(process for process in family if process.name() == "tritonserver")
        assert len(family) >= 2  # server and stub
        assert glob.glob(command.cleanup[0])

        async def go() -> Reply:
            driver = make_driver(command.base_url, "any", LIMITS, FRAMEWORK.driver_options(spec()))
            await driver.open(1)
            ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            driver.start(driver.prepare(ask(PROMPTS[0], tokens=4000)), ended.set_result)
            while not arrived(driver):
                await asyncio.sleep(0.01)
            triton.send_signal(signal.SIGKILL)
            reply = driver.decode(await asyncio.wait_for(ended, 60))
            await driver.close()
            return reply

        reply = asyncio.run(go())
        assert reply.error is not None
        assert reply.error.startswith("BadReply: the connection was lost in the middle of the answer")
        assert reply.output_tokens is None
        assert reply.token_ns
        psutil.wait_procs(family, timeout=30)
        assert isinstance(server.death(), ServerDied)
    assert not [process for process in family if process.is_running()]
    assert not glob.glob(command.cleanup[0])


def arrived(driver: Any) -> bool:
    """Whether the call under way has had a response."""
    return any(call.arrivals for call in driver._calls._under_way)


def test_a_dead_engine_process_ends_the_server(tmp_path: Path) -> None:
    """Left to itself, tritonserver would go on, refuse every request, and hang when told to stop."""
    command = launch(tmp_path, spec())
    with serving(command, tmp_path, tmp_path / "log", ready_timeout_s=120) as server:
        pid = json.loads((tmp_path / "info.json").read_text())["pid"]
        os.kill(pid, signal.SIGKILL)
        assert server._process is not None
        server._process.wait(30)
        assert "the engine's process" in str(server.death())
    assert not glob.glob(command.cleanup[0])


def test_a_port_in_use_ends_the_start_with_its_words(tmp_path: Path, streaming: Server) -> None:
    taken = int(streaming.command.base_url.rpartition(":")[2])
    command = FRAMEWORK.command(spec(), str(tmp_path), (taken, *free_ports(2)))
    with (
        pytest.raises(ServerDied, match=f"127.0.0.1:{taken}"),
        serving(command, tmp_path, tmp_path / "log", ready_timeout_s=120),
    ):
        pytest.fail("two servers share a port")
    assert not glob.glob(f"{command.cleanup[0]}")


def test_a_model_that_cannot_load_ends_the_start_with_its_words(tmp_path: Path) -> None:
    broken = tmp_path / "model"
    broken.mkdir()
    for name in ("config.json", "model.safetensors"):
        (broken / name).write_bytes((GOLDEN / "mha" / name).read_bytes())
    wanted = spec(models.resolve(str(broken)), dummy_weights=False)
    command = launch(tmp_path / "run", wanted)
    (broken / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not safetensors")
    with (
        pytest.raises(ServerDied, match=r"failed to load 'fastertransformer'.*SafetensorError"),
        serving(command, tmp_path / "run", tmp_path / "log", ready_timeout_s=120),
    ):
        pytest.fail("a broken checkpoint was served")


# What is looked at before tritonserver may hang.


def test_a_stub_without_its_libpython_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The real hang: the server waits for ever for a stub that cannot load libpython."""
    triton = find.find_triton()
    env = {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": str(tmp_path)}
    lost = [
        stub
        for stub in sorted(triton.stubs.glob("3.*/triton_python_backend_stub"))
        if exec.missing_libraries(stub, env)
    ]
    assert lost, "no machine has a system-wide libpython of all six versions"
    monkeypatch.setattr(exec, "library_path", lambda _folder: str(tmp_path))
    monkeypatch.setattr(exec, "assemble", lambda *_: lost[0])
    given = {
        "server": triton.server,
        "backends": triton.backends,
        "stubs": triton.stubs,
        "assemble": tmp_path,
    }
    arguments = [part for name, path in given.items() for part in (f"--{name}", str(path))]
    assert exec.main([*arguments, "--info", str(tmp_path / "info.json"), "--"]) == 2
    told = capfd.readouterr().err
    assert f"cannot load libpython{lost[0].parent.name}.so.1.0; the server would hang" in told
    assert "remedy: use a Python built with a shared library" in told


def test_a_python_without_a_stub_is_told_which_have_one(tmp_path: Path) -> None:
    triton = find.find_triton()
    with pytest.raises(MissingDependency, match=r"no Python stub for Python 3\.7") as caught:
        exec.assemble(triton.backends, triton.stubs, tmp_path, "3.7")
    assert "3.11" in caught.value.remedy


def test_a_bare_interpreter_without_python3_beside_it_is_refused(tmp_path: Path) -> None:
    env = {
        **os.environ,
        "PATH": str(tmp_path),
        "LD_LIBRARY_PATH": exec.library_path(tmp_path / "lib"),
    }
    triton = find.find_triton()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = exec.assemble(triton.backends, triton.stubs, tmp_path / "backends", version)
    with pytest.raises(MissingDependency, match="first python3 on PATH"):
        exec.check_stub(stub, env)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tp": 2}, r"triton: tp = 2.*accepted: tp 1"),
        ({"options": {"engine": "continuous"}}, r"engine = 'continuous' \(accepted: generate, compiled\)"),
        ({"options": {"stream_step": "x"}}, "a whole number from 1"),
        ({"options": {"color": 1}}, "unknown option 'color'"),
        ({"gpus": (0, 1)}, "2 GPUs for tp 1"),
        ({"dummy_weights": False}, "preset without weights"),
    ],
)
def test_what_cannot_run_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        FRAMEWORK.check(spec(**changes))
    assert frameworks.find("triton") is FRAMEWORK


def test_a_missing_tritonserver_is_told_with_every_place(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingDependency, match="option tritonserver=/nowhere") as caught:
        FRAMEWORK.check(spec(options={"tritonserver": "/nowhere"}))
    assert "nvidia-pytriton" in caught.value.remedy
    monkeypatch.setattr(find.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingDependency, match="tritonserver on PATH; the wheel nvidia-pytriton in"):
        FRAMEWORK.check(spec())
    assert not FRAMEWORK.needs()[0].ok


def test_the_command_is_pure_and_binds_where_it_is_told() -> None:
    wanted = spec(host="0.0.0.0", gpus=(1,), python="/env/bin/python")
    one, two = (FRAMEWORK.command(wanted, "/run-dir", (7001, 7002, 7003)) for _ in range(2))
    assert one == two
    assert one.argv[0] == "/env/bin/python"
    assert "--grpc-address=0.0.0.0" in one.argv
    assert (one.base_url, one.ready_url) == ("grpc://127.0.0.1:7001", "http://127.0.0.1:7002/v2/health/ready")
    assert one.env["CUDA_VISIBLE_DEVICES"] == "1"
    assert "shm-region-prefix-name=loadgen_triton_7001_" in str(one.argv)
    assert one.cleanup == ("/dev/shm/loadgen_triton_7001_*",)


def test_the_stub_is_led_to_libpython_and_to_nothing_beside_it(tmp_path: Path) -> None:
    """Other libraries in that folder would take the place of torch's own."""
    first, *rest = exec.library_path(tmp_path / "lib").split(os.pathsep)
    assert rest == [path for path in [os.environ.get("LD_LIBRARY_PATH")] if path]
    assert all(path.name.startswith("libpython3") for path in Path(first).iterdir())


def test_a_served_model_is_known_by_its_url_alone(streaming: Server, merging: Server) -> None:
    found = discover(streaming.command.base_url)
    assert found.options == {"model": MODEL, "variant": "a", "vocab": 1024, "merged": False}
    assert (found.vocab, found.max_context, found.engine["model"]) == (1024, 4096, "tiny")
    assert str(found.engine["server"]).startswith("triton 2.")
    other = discover(merging.command.base_url, protocol="triton-grpc")
    assert (other.options["variant"], other.options["merged"]) == ("b", True)


def test_run_loads_it_by_its_url_alone(streaming: Server, merging: Server, tmp_path: Path) -> None:
    shape = [
        "--mode",
        "static",
        "--batch-size",
        "3",
        "--requests",
        "2",
        "--input-tokens",
        "9",
        "--output-tokens",
        "6",
    ]
    for server, variant in ((streaming, "a"), (merging, "b")):
        out = tmp_path / variant
        done = CliRunner().invoke(cli.run, ["--url", server.command.base_url, *shape, "--out", str(out)])
        assert done.exit_code == 0, done.output
        assert "triton-grpc: triton 2." in done.output
        (result,) = map(json.loads, (out / "trials.jsonl").read_text().splitlines())
        assert result["summary"]["output_tokens"] == 2 * 3 * 6
        assert result["engine"]["variant"] == variant
        assert result["trial"]["driver"]["protocol"] == "triton-grpc"
        assert (result["summary"]["ttft_s"] is None) == (variant == "b")  # which answers whole

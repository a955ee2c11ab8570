"""``loadgen run`` with default options against servers of others: figures, and lengths that are exact or say so."""

from __future__ import annotations

import csv
import dataclasses
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from endpoints import STANDARD, Manner, endpoint
from tokenizer_files import SYLLABLES, trained_tokenizer

from loadgen.api.loads import Load, as_it_fits, load_spec
from loadgen.api.runs import refuse_used
from loadgen.api.sweeps import SweepOptions, make
from loadgen.commands import sweep
from loadgen.commands.run import driver_options, run
from loadgen.drivers.words import COMMON, LONG_OPENING
from loadgen.errors import BadInput
from loadgen.launch.page import fetch
from loadgen.launch.process import free_ports
from loadgen.records import TrialResult
from loadgen.results.store import open_results

SHAPE: dict[str, Any] = {
    "mode": "closed", "concurrency": 2, "batch_size": 1, "rate": None, "rate_end": None, "burstiness": 1.0,
    "trace": None, "max_rate": None, "input_tokens": 48, "output_tokens": 6, "requests": 4, "warmup": 1,
    "stream": True, "seed": 0, "workers": 1, "timeout": 60.0,
}  # fmt: skip


def measured(url: str, out: Path, code: int = 0, **given: Any) -> TrialResult:
    usual: dict[str, Any] = {"model": None, "vocab": None, "exact": False, "live": False, "strict": False}
    assert run(argv=(), url=url, out=out, **{**usual, **SHAPE, **given}) == code
    (result,) = open_results(out).results()
    return result


def served(manner: Manner, out: Path, code: int = 0, **given: Any) -> TrialResult:
    with endpoint(manner) as url:
        return measured(url, out, code, **given)


def kinds(result: TrialResult) -> set[str]:
    return {caveat.kind for caveat in result.caveats}


@pytest.fixture(scope="module")
def transformers_serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of ``transformers serve`` with a tiny llama whose tokenizer knows our words."""
    pytest.importorskip("fastapi")
    import torch
    from tokenizers import Tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    made: Path = tmp_path_factory.mktemp("served")
    trained_tokenizer(made, [*COMMON, *LONG_OPENING.split()], bos=False)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_file(str(made / "tokenizer.json")), eos_token="<s>"
    )
    fast.chat_template = "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {% endfor %}"
    fast.save_pretrained(made)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=1000, eos_token_id=0, bos_token_id=0, **shape)).save_pretrained(
        made
    )
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    with (made / "log").open("wb") as log:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("transformers"), "serve", "--device", "cpu", "--port", str(port), made],
            stdout=log, stderr=subprocess.STDOUT,
            env={"HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": "", "HOME": str(made)},
        )  # fmt: skip
    try:
        up = threading.Event()
        for _ in range(600):
            if fetch(f"{url}/health", 1.0) is not None or process.poll() is not None:
                break
            up.wait(0.2)
        assert process.poll() is None, (made / "log").read_text()
        yield url
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("route", "first_answer"), [(None, False), ("chat", True)])
def test_transformers_serve(
    transformers_serve: str, tmp_path: Path, route: str | None, first_answer: bool
) -> None:
    result = measured(transformers_serve, tmp_path / "out", endpoint=route)
    summary = result.summary
    assert summary is not None
    assert (summary.requests_ok, summary.requests_failed) == (4, 0)
    assert result.trial.load.at_most
    assert 4 <= summary.output_tokens <= 24
    assert summary.ttft_s is not None
    assert summary.output_tokens_per_s is not None
    assert (summary.first_answer_s is not None) is first_answer
    assert result.engine["route"] == ("chat by text" if first_answer else "completions by text")
    assert summary.input_tokens == 4 * 48  # as the server counted them
    assert not kinds(result) & {"prompt-mismatch", "prompt-uncounted", "wrong-length"}


def test_a_strict_server(tmp_path: Path) -> None:
    result = served(Manner(fields=STANDARD), tmp_path / "out")
    assert result.summary is not None
    assert (result.summary.requests_ok, result.summary.output_tokens) == (4, 24)
    assert result.trial.driver == {"extras": []}
    assert result.engine["lengths"] == "at most"


@pytest.mark.parametrize("form", ["chat text", "completions text"])
def test_a_server_of_one_route_whose_outputs_end_early(form: str, tmp_path: Path) -> None:
    manner = Manner(forms=(form,), overhead=7, fields=STANDARD, stops=5)
    result = served(manner, tmp_path / "out")
    summary = result.summary
    assert summary is not None
    assert (summary.requests_ok, summary.output_tokens, summary.input_tokens) == (4, 20, 192)
    (caveat,) = [each for each in result.caveats if each.kind == "output-at-most"]
    assert "4 of 4 outputs ended early, with 5 of 6 tokens on average" in caveat.message
    texts = {json.dumps(body.get("messages") or body["prompt"]) for _, body in manner.asked[-4:]}
    assert len(texts) == 4


def test_exact_makes_a_short_output_an_error(tmp_path: Path) -> None:
    result = served(Manner(fields=STANDARD, stops=5), tmp_path / "out", 1, exact=True)
    assert result.failure is not None
    assert result.failure.error == "WrongLength"
    assert "asked 6, got 5" in result.failure.message
    assert "without --exact" in result.failure.message


def test_without_usage_nothing_is_guessed(tmp_path: Path) -> None:
    result = served(Manner(forms=("chat text",), usage=False), tmp_path / "out")
    assert result.summary is not None
    assert result.summary.output_tokens_per_s is None
    assert {"tokens-uncounted", "prompt-uncounted"} <= kinds(result)


def test_a_server_that_refuses_all_ends_the_trial_with_its_words_and_a_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manner = Manner(key="sesame")
    result = served(manner, tmp_path / "out", 1)
    assert result.failure is not None
    assert (result.failure.error, result.failure.phase) == ("Refused", "warmup")
    assert "401 Unauthorized: Incorrect API key provided" in result.failure.message
    assert "set LOADGEN_API_KEY" in result.failure.message
    said = capsys.readouterr()
    assert "Incorrect API key provided" in said.out
    assert "Incorrect API key provided" in said.err
    assert len(manner.asked) == 3 + 2  # three forms tried, two warm-ups of one request, and no load


def test_more_than_the_context_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    manner = Manner(ids=True, pages={"/v1/models": {"data": [{"id": "small", "max_model_len": 50}]}})
    with endpoint(manner) as url, pytest.raises(BadInput, match="accepted: a sum up to 50"):
        measured(url, tmp_path / "out")
    assert len(manner.asked) == 1
    assert not (tmp_path / "out").exists()


def test_a_static_batch_over_chat_goes_out_as_single_calls(tmp_path: Path) -> None:
    result = served(
        Manner(forms=("chat text",)), tmp_path / "out", mode="static", concurrency=1, batch_size=3
    )
    assert result.summary is not None
    assert (result.summary.requests_ok, result.summary.output_tokens) == (4, 72)
    assert "arrival-skew" in kinds(result)


def test_workers_send_text_too(tmp_path: Path) -> None:
    result = served(Manner(forms=("chat text",), overhead=3), tmp_path / "out", workers=2)
    assert result.summary is not None
    assert (result.summary.requests_ok, result.summary.input_tokens) == (4, 192)


def test_a_whole_reply_is_measured_too(tmp_path: Path) -> None:
    result = served(Manner(forms=("chat text",), ids=True), tmp_path / "out", stream=False)
    assert result.summary is not None
    assert (result.summary.requests_ok, result.summary.output_tokens, result.summary.ttft_s) == (4, 24, None)


TARGET = """
name = "target"
[target]
url = "{url}"
endpoint = "chat"
[target.extra_body]
top_k = 1
[load]
mode = "closed"
input_tokens = 40
requests = 2
[sweep]
output_tokens = [4, 60]
[telemetry]
enabled = false
"""


def test_a_profiles_target_is_asked_first_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manner = Manner(
        forms=("chat text",), fields=STANDARD | {"top_k"}, stops=3, overhead=2,
        pages={"/v1/models": {"data": [{"id": "small", "max_model_len": 90}]}},
    )  # fmt: skip
    with endpoint(manner) as url:
        (tmp_path / "p.toml").write_text(TARGET.format(url=url))
        profile, plan = make(str(tmp_path / "p.toml"), (), dry_run=False)
        options = SweepOptions(out=tmp_path / "out")
        assert sweep.run(profile, plan, options, live=False, report_after=False) == 1
    short, long = open_results(tmp_path / "out").results()
    assert short.summary is not None
    assert (short.summary.requests_ok, short.summary.output_tokens, short.summary.input_tokens) == (2, 6, 80)
    assert short.trial.load.at_most
    assert short.engine["route"] == "chat by text"
    assert long.failure is not None
    assert (long.failure.error, long.failure.phase) == ("BadInput", "start")
    assert "accepted: a sum up to 90" in long.failure.message
    assert "chat by text, with no extras, output at most as long as asked" in capsys.readouterr().err
    assert {trial.id for trial in plan.trials} == {short.trial.id, long.trial.id}
    assert all(body["top_k"] == 1 for _, body in manner.asked)


def test_a_targets_options_are_checked_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(TARGET.format(url="http://127.0.0.1:1").replace("top_k", "max_tokens"))
    with pytest.raises(BadInput, match="max_tokens: set by loadgen itself"):
        make(str(tmp_path / "p.toml"), (), dry_run=True)


def test_a_unix_socket_is_reached(tmp_path: Path) -> None:
    manner = Manner(ids=True)
    with endpoint(manner, socket_path=tmp_path / "s") as url:
        assert url.startswith("http+unix://")
        result = measured(url, tmp_path / "out")
    assert result.summary is not None
    assert (result.summary.requests_ok, result.summary.output_tokens) == (4, 24)
    assert result.client is not None
    assert result.client.stamps == "user"


@pytest.mark.parametrize("stream", [True, False])
def test_messages_of_anthropics_are_measured_by_the_url_of_their_route(stream: bool, tmp_path: Path) -> None:
    manner = Manner(forms=("messages text",), fields=STANDARD, overhead=4)
    with endpoint(manner) as url:
        result = measured(f"{url}/v1/messages", tmp_path / "out", stream=stream)
    summary = result.summary
    assert summary is not None
    assert (summary.requests_ok, summary.input_tokens, summary.output_tokens) == (4, 192, 24)
    assert (summary.first_answer_s is not None) is stream
    assert result.trial.driver["endpoint"] == "messages"


def test_an_address_of_ipv6_is_reached(tmp_path: Path) -> None:
    with endpoint(Manner(ids=True), host="::1") as url:
        result = measured(url, tmp_path / "out")
    assert result.summary is not None
    assert result.summary.requests_ok == 4


def test_the_command_line_as_options_of_the_driver() -> None:
    headers = ("x-team: a", "api-key: ${KEY}")
    found = driver_options("chat", None, '{"top_k": 1}', headers, ("extras=ignore_eos,min_tokens",))
    assert found == {
        "endpoint": "chat",
        "extra_body": {"top_k": 1},
        "headers": {"x-team": "a", "api-key": "${KEY}"},
        "extras": "ignore_eos,min_tokens",
    }
    assert driver_options(None, None, None, (), ("extras=false", "request_ids=true")) == {
        "extras": False,
        "request_ids": True,
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((None, None, "{", (), ()), "--extra-body: not JSON"),
        ((None, None, "[]", (), ()), "not a JSON object"),
        ((None, None, None, ("bearer",), ()), "--header: one is not a header"),
        ((None, None, None, ("api-key: sesame",), ()), "read from the environment"),
        ((None, None, None, (), ("extras",)), "--option extras: not KEY=VALUE"),
        ((None, None, None, (), ("words=a",)), "--option words=a"),
        ((None, None, None, (), ("transport=pigeon",)), "transport = 'pigeon'"),
    ],
)
def test_options_that_cannot_be_are_named(given: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        driver_options(*given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rate": float("inf"), "mode": "poisson"}, "--rate inf"),
        ({"rate": float("nan"), "mode": "poisson"}, "--rate nan"),
        ({"timeout": float("inf")}, "--timeout inf"),
        ({"timeout": 1e300}, "--timeout 1e\\+300"),
        ({"max_rate": float("inf")}, "--max-rate inf"),
        ({"burstiness": float("nan")}, "--burstiness nan"),
        ({"warmup": -1}, "--warmup -1"),
        ({"requests": 0}, "--requests 0"),
        ({"input_tokens": 10**13}, "--input-tokens"),
    ],
)
def test_a_number_that_cannot_be_is_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        load_spec(Load(**{**SHAPE, **given}))


def test_a_run_without_a_folder_can_be_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    usual: dict[str, Any] = {"model": None, "vocab": None, "exact": False, "live": False, "strict": False}
    with endpoint(Manner()) as url:
        assert run(argv=(), url=url, out=None, export=tmp_path / "one.csv", **usual, **SHAPE) == 0
    assert f"exported: {tmp_path / 'one.csv'}" in capsys.readouterr().out
    with (tmp_path / "one.csv").open(newline="") as file:
        (trial,) = csv.DictReader(file)
    with (tmp_path / "one-requests.csv").open(newline="") as file:
        requests = list(csv.DictReader(file))
    assert (trial["concurrency"], trial["batch"], trial["requests_ok"]) == ("2", "1", "4")
    assert sorted(row["phase"] for row in requests) == ["measured"] * 4 + ["warmup"]
    assert {path.name for path in tmp_path.iterdir()} == {"one.csv", "one-requests.csv"}


@pytest.mark.parametrize(
    ("name", "said"),
    [("one.xls", r"one\.xls: .*accepted: .*\.csv"), ("no/one.csv", r"no/one\.csv: its folder is none")],
)
def test_an_export_that_cannot_be_is_bad_input_before_anything_is_asked(
    name: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=f"--export .*{said}"):
        run(
            argv=(), url="http://127.0.0.1:9", out=None, export=tmp_path / name, model=None, vocab=None,
            exact=False, live=False, strict=False, **SHAPE,
        )  # fmt: skip


def test_a_folder_with_results_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text('{"schema_version": 1, "plan": []}')
    with pytest.raises(BadInput, match="already holds results"):
        refuse_used(tmp_path)
    assert (tmp_path / "sweep.json").read_text() == '{"schema_version": 1, "plan": []}'


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A data set of texts, one of chats, and the tokenizer of both."""
    folder = tmp_path_factory.mktemp("prompts")
    trained_tokenizer(folder, SYLLABLES, bos=False)
    texts = [" ".join(SYLLABLES[at : at + 9 + at]) for at in range(6)]
    rows = {
        "texts": [{"prompt": text, "output_tokens": 3 + at} for at, text in enumerate(texts)],
        "chats": [
            {"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": text}]}
            for text in texts
        ],
    }
    for name, each in rows.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, each)))
    return {name: str(folder / f"{name}.jsonl") for name in rows} | {"tokenizer": str(folder)}


@pytest.mark.parametrize("route", ["completions ids", "completions text", "chat text"])
def test_prompts_of_a_file_go_out_as_each_route_takes_them(
    prompts: dict[str, str], tmp_path: Path, route: str
) -> None:
    manner = Manner(forms=(route,), overhead=2 if route == "chat text" else 0)
    given = {"dataset": prompts["texts"], "tokenizer": prompts["tokenizer"], "requests": 6}
    result = served(manner, tmp_path / "r", **given)
    asked = [body for _, body in manner.asked if body.get("max_tokens") in range(3, 9)][-6:]
    assert sorted(body["max_tokens"] for body in asked) == [3, 4, 5, 6, 7, 8]
    first = next(body for body in asked if body["max_tokens"] == 3)
    text = " ".join(SYLLABLES[:9])
    if route == "completions ids":
        assert len(first["prompt"]) == 9
        assert all(isinstance(each, int) for each in first["prompt"])
    else:
        assert first.get("prompt", first.get("messages")) in (text, [{"role": "user", "content": text}])
    assert result.workload is not None
    assert result.workload["prompts"] == 6
    assert result.summary is not None
    lengths = result.summary.lengths
    assert (lengths["input_asked"].min, lengths["input_asked"].max) == (9, 14)
    assert (lengths["output_asked"].min, lengths["output_had"].max) == (3, 8)
    assert lengths["input_had"].max == 14 + manner.overhead
    assert not kinds(result) & {"prompt-mismatch", "failed-requests", "wrong-length"}


def test_chats_of_a_file_are_for_chat_routes(prompts: dict[str, str], tmp_path: Path) -> None:
    manner = Manner(forms=("chat text",))
    given = {
        "dataset": prompts["chats"],
        "tokenizer": prompts["tokenizer"],
        "requests": 6,
        "output_tokens": 5,
    }
    result = served(manner, tmp_path / "r", **given)
    assert result.summary is not None
    assert result.summary.requests_ok == 6
    assert [len(body.get("messages", ())) for _, body in manner.asked].count(2) == 6
    other = served(Manner(forms=("completions ids",)), tmp_path / "o", 2, **given)
    assert other.failure is not None
    assert "does not send here (accepted: a chat route" in other.failure.message


def test_a_data_set_that_cannot_be_sent(prompts: dict[str, str], tmp_path: Path) -> None:
    texts, tokenizer = prompts["texts"], prompts["tokenizer"]
    for given, of, words in (
        ({"dataset": texts}, None, "--dataset .*: needs --tokenizer"),
        ({"dataset": texts, "mode": "static", "concurrency": 1}, tokenizer, "has no effect in mode static"),
        ({"dataset": texts, "prefixes": "groups=1,tokens=2"}, tokenizer, "stands beside --dataset"),
    ):
        with pytest.raises(BadInput, match=words):
            load_spec(Load(**{**SHAPE, **given}), of)
    spec = load_spec(Load(**{**SHAPE, "dataset": texts, "requests": 7}), tokenizer)
    with pytest.raises(BadInput, match="--requests 7: the data set has 6 prompts"):
        as_it_fits(spec, None)
    with pytest.raises(BadInput, match="--requests 4: the data set has 2 prompts"):
        as_it_fits(dataclasses.replace(spec, requests=4), 14)

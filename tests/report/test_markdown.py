"""A results folder, written by the real store, as report.md and on the terminal."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from loadgen.commands import report as command
from loadgen.commands.run import print_result
from loadgen.errors import StoreError
from loadgen.records import ServerSpec
from loadgen.report import markdown
from loadgen.report.markdown import escape, markdown_table
from loadgen.report.sections import gpu_words, missing_words
from loadgen.results.store import Store
from loadgen.system.environment import capture
from loadgen.text_table import Table
from loadgen.theory.models import PRESETS


@pytest.fixture
def folder(tmp_path: Path, build: Any) -> Path:
    """A sweep with something of everything: good, client-limited, doubtful, failed, lossy and missing trials."""
    trials = [build.trial(b, i, tp=tp) for tp in (1, 2) for i in (20, 2048) for b in (1, 8, 64)]
    environment = capture(["loadgen", "sweep", "exp1"])
    gpu = {"name": "NVIDIA H200", "memory_bytes": 141 << 30, "power_cap_w": 700.0, "links": {"1": "NVLink"}}
    environment = replace(environment, gpus=(gpu, gpu), driver="580.1", cuda="13.0")
    record = {"name": "exp1", "description": "batch and input", "argv": [], "trials": [t.id for t in trials]}
    with Store.create(tmp_path / "exp1", record) as store:
        store.add_environment(environment)
        for number, trial in enumerate(trials[:-2]):
            special: dict[str, Any] = {
                1: {"caveats": (build.client,)},
                2: {"caveats": (build.spread,)},
                3: {"failure": build.out_of_memory},
                4: {"requests_ok": 18, "requests_failed": 2, "errors": {"WrongLength": 2}},
            }.get(number, {})
            store.append(build.result(trial, 0.5 + number, environment=environment.id, **special))
    return tmp_path / "exp1"


def test_the_report_tells_everything(folder: Path) -> None:
    path = markdown.write_report(folder)
    assert path == folder / "report.md"
    text = path.read_text()
    headings = re.findall(r"^#+ (.*)", text, flags=re.M)
    assert headings == [
        "exp1",
        "E2E p50: input tokens × batch, static load",
        "output tok/s: batch × tp, static load",
        "E2E p50: batch × tp, static load",
        "All trials",
        "Failures",
        "Caveats",
        "Not measured",
        "What ran",
        "Environment",
    ]
    for part in (
        "10 trials in 1m40s, 1 failed, 1 limited by the load generator.",
        "model llama-13b, dtype bfloat16",
        "2 of 12 planned trials have no result yet",
        "| 1 | 20 | 500.0 ms | 1.50 s !client | 2.50 s \\* |",
        "| 1 | 2048 | failed: ServerOutOfMemory | 4.50 s (10.0 % of requests failed) | 5.50 s |",
        "| tp 1, batch 1, input tokens 2048 | ServerOutOfMemory | load | CUDA out of memory |",
        "WrongLength × 2 | requests | 2 of 20 requests; kept out of findings (--with-failures)",
        "| !client client-limited | 1 | event loop 12 ms late at p99 | use --workers 4 |",
        "| spread | 1 | stdev is 12 % of the mean | measure more requests |",
        "| send lag p99 | 9 of 9 |",
        "| E2E p99 | 9 of 9 | from 100 values on; below it is but the largest |",
        "| hf/generate llama-13b tp1 | transformers/generate (torch 2.13.0, weights loadgen's (normal, std 0.02)) |",
        "2 × NVIDIA H200, 141.00 GiB, 700 W cap, linked by NVLink",
        "| version: torch |",
    ):
        assert part in text, part
    assert not list(folder.glob("*.new"))


def test_every_table_row_has_as_many_cells_as_its_head(folder: Path) -> None:
    text = markdown.write_report(folder).read_text()
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.M):
        widths = {len(re.split(r"(?<!\\)\|", line.strip())) for line in block.splitlines()}
        assert len(widths) == 1, block


def test_the_terminal_shows_the_same_tables(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = markdown.gather(folder)
    titles = [table.title for table in found.tables]
    command.print_tables(folder)
    out = capsys.readouterr().out
    assert out.startswith("exp1: 10 trials in 1m40s, 1 failed, 1 limited by the load generator\n")
    assert "2 of 12 planned trials have no result yet" in out
    assert "1.50 s !client" in out
    for title in titles:
        assert title in out


def test_missing_trials_are_named_where_the_plan_is_known(folder: Path, build: Any) -> None:
    sweep = json.loads((folder / "sweep.json").read_text())
    trials = [build.trial(b, i, tp=tp) for tp in (1, 2) for i in (20, 2048) for b in (1, 8, 64)]
    sweep["plan"] = [asdict(trial) for trial in trials]
    (folder / "sweep.json").write_text(json.dumps(sweep))
    text = markdown.write_report(folder).read_text()
    assert "tp 2, batch 8, input tokens 2048; tp 2, batch 64, input tokens 2048." in text
    assert "| 2 | 2048 | 9.50 s | not run | not run |" in text


def test_many_missing_trials_are_counted(build: Any) -> None:
    trials = [build.trial(2**n) for n in range(20)]
    words = missing_words([build.result(trials[0])], [trial.id for trial in trials], trials)
    assert words.startswith("19 of 20 planned trials have no result yet: batch 2; batch 4;")
    assert words.endswith("; and 7 more.")
    assert missing_words([build.result(trials[0])], [trials[0].id], trials[:1]) == ""


def test_one_trial_in_full(build: Any, capsys: pytest.CaptureFixture[str]) -> None:
    print_result(build.result(build.endpoint_trial(), 0.5, ttft_s=None, caveats=(build.client,)))
    out = capsys.readouterr().out
    assert re.search(r"E2E latency +20 +500.0 ms", out)
    assert re.search(r"TTFT +0 +– +–", out)
    assert "use --workers 4" in out
    assert "of the served ones" not in out
    lost = {"requests_ok": 18, "requests_failed": 2, "errors": {"TimedOut": 2}}
    print_result(build.result(build.endpoint_trial(), 0.5, **lost))
    out = capsys.readouterr().out
    assert "Latency of the served ones" in out
    assert "10.0 % (2 of 20)" in out
    print_result(build.result(build.endpoint_trial(), failure=build.out_of_memory))
    assert "ServerOutOfMemory" in capsys.readouterr().out


def test_a_folder_without_results_yet(tmp_path: Path) -> None:
    with Store.create(tmp_path / "new", {"name": "new", "trials": ["a", "b"]}):
        pass
    text = markdown.write_report(tmp_path / "new").read_text()
    assert "0 trials" in text
    assert "2 of 2 planned trials have no result yet: a; b." in text
    command.print_tables(tmp_path / "new")


def test_no_results_folder_is_one_clear_error(tmp_path: Path) -> None:
    for ask in (markdown.write_report, command.print_tables):
        with pytest.raises(StoreError, match=re.escape(str(tmp_path))):
            ask(tmp_path)
    assert not list(tmp_path.iterdir())


def test_names_from_outside_stay_text(tmp_path: Path, build: Any) -> None:
    evil = "a|b\n## h <script>alert(1)</script> [x](y) `c` *d* \x1b[31m"
    server = ServerSpec(
        framework="hf", model=replace(PRESETS["tiny"], name=evil), options={"engine": "generate"}
    )
    results = [build.result(build.trial(b, i, server=server)) for b in (1, 2) for i in (1, 2)]
    with Store.create(tmp_path / "evil", {"name": evil}) as store:
        for result in results:
            store.append(replace(result, engine={"engine": evil}))
    text = markdown.write_report(tmp_path / "evil").read_text()
    assert "<script" not in text
    assert "\x1b" not in text
    assert not re.search(r"(?<!\\)\[x\\?\]", text)
    assert not re.search(r"^## h", text, flags=re.M)
    test_every_table_row_has_as_many_cells_as_its_head(tmp_path / "evil")


def test_escape() -> None:
    assert escape("a|b_c*d") == r"a\|b\_c\*d"
    assert escape("<b>&\\") == "&lt;b&gt;&amp;\\\\"
    assert escape("one\n two") == "one two"


def test_an_empty_table_is_still_a_table() -> None:
    assert markdown_table(Table(title="t", head=("a", "b"), rows=())) == "| a | b |\n| --- | --- |"


def test_gpus_are_counted_by_kind() -> None:
    one = {"name": "A", "memory_bytes": 1 << 30, "power_cap_w": None, "links": {}}
    assert gpu_words([one, one, {"name": None}]) == "2 × A, 1.00 GiB; 1 × unnamed GPU"


def test_reading_needs_no_event_loop_and_no_network(folder: Path) -> None:
    program = (
        "import sys; from loadgen.report import markdown; markdown.write_report(sys.argv[1]);"
        "bad = {'httpx', 'torch', 'loadgen.load.client', 'loadgen.launch.process', 'loadgen.launch.frameworks'};"
        "bad &= set(sys.modules);"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", program, str(folder)], check=True, timeout=60)

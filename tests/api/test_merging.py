"""Shares against one null server: each sends its part of one schedule, and merged they are the trial of one process."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import loadgen
from loadgen.api.merging import merge
from loadgen.api.runs import Target, ask, measure, stored
from loadgen.api.share import Asked, asked_share, share_of
from loadgen.drivers.openai import make_driver
from loadgen.errors import BadInput
from loadgen.load.merging import shift
from loadgen.load.run import run_trial_load
from loadgen.plan.bisection import Unseen
from loadgen.records import ClientNode, Failure, TrialResult
from loadgen.request_records import Sample
from loadgen.results.other_folders import held
from loadgen.results.store import Store, open_results, read_samples

LOAD = loadgen.Load(mode="poisson", rate=100, input_tokens=16, output_tokens=4, requests=40, warmup=4)
AT_NS = 1_800_000_000_000_000_000
Places = Callable[[int], Path]


@pytest.fixture(scope="module")
def whole(null: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trial that one process sent."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    loadgen.run(null, LOAD, out=folder, slo=["e2e=120ms"])
    return folder


def one(folder: Path) -> TrialResult:
    (result,) = open_results(folder).results()
    return result


def samples_of(folder: Path) -> list[Sample]:
    stored = open_results(folder).samples(one(folder).trial.id)
    assert stored is not None
    return list(read_samples(stored))


def cut(whole: Path, folder: Path, number: int, **changes: Any) -> Path:
    """The part of a trial that one of two hosts would have stored, whose clock stands elsewhere."""
    result, theta_ns = one(whole), 7_000_000_000 * number
    start_ns = min(sample.reply.sent_ns for sample in samples_of(whole))
    asked = Asked(number=number, of=2, start_at_ns=AT_NS)
    asked = replace(asked, **{key: changes.pop(key) for key in ("of", "start_at_ns") if key in changes})
    trial = share_of(result.trial, asked, text=False)
    assert result.client is not None
    host = ClientNode(
        address=f"host{number}",
        workers=1,
        bound_s=None,
        drift_ppm=None,
        began_s=0.0,
        start_ns=start_ns - theta_ns,
    )
    with Store.create(folder, {"name": folder.name}) as store:
        for environment in open_results(whole).environments().values():
            store.add_environment(environment)
        writer = store.sample_writer(trial.id)
        for sample in samples_of(whole):
            if sample.seq % 2 == number:
                shift(sample, theta_ns)
                writer.add(sample)
        writer.close()
        store.append(replace(result, trial=trial, client=replace(result.client, nodes=(host,)), **changes))
    return folder


@pytest.fixture(scope="module")
def parts(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    base = tmp_path_factory.mktemp("parts")
    return cut(whole, base / "a", 0), cut(whole, base / "b", 1)


def test_the_figures_of_merged_shares_are_those_of_one_process(
    whole: Path, parts: tuple[Path, Path], tmp_path: Path
) -> None:
    found, truth = merge(parts[::-1], tmp_path / "m"), one(whole)
    assert one(tmp_path / "m") == found
    assert found.trial == truth.trial
    assert found.summary is not None
    assert truth.summary is not None
    for name in ("requests_ok", "duration_s", "output_tokens_per_s", "total_tokens_per_s", "requests_per_s"):
        assert getattr(found.summary, name) == getattr(truth.summary, name), name
    # One process counts what is in flight as it sees it, several by the stamps, as workers do.
    unlike = {"in_flight_mean": None, "in_flight_max": None}
    assert replace(found.summary, **unlike) == replace(truth.summary, **unlike)
    assert found.attained == truth.attained
    merged, sent = (sorted(samples_of(each), key=lambda one: one.seq) for each in (tmp_path / "m", whole))
    assert merged == sent
    assert found.client is not None
    assert truth.client is not None
    assert [node.address for node in found.client.nodes] == ["host0", "host1"]
    assert (found.client.workers, found.client.send_lag_s) == (2, truth.client.send_lag_s)
    kinds = {caveat.kind: caveat for caveat in found.caveats}
    assert "nobody compared" in kinds["clock"].message
    assert "share" not in kinds


def test_a_part_passes_for_no_trial(whole: Path, parts: tuple[Path, Path], tmp_path: Path) -> None:
    assert one(whole).trial.id not in held([str(parts[0])], retry_failed=False)
    with pytest.raises(BadInput, match="share 0/2 of a trial: no figure of it is the trial's"):
        loadgen.compare(parts[0], whole)
    table = loadgen.read(parts[0]).trials
    assert table["share"].to_pylist() == ["0/2"]
    assert "loadgen merge" in table["excluded"].to_pylist()[0]
    assert loadgen.read(whole).trials["share"].to_pylist() == [None]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"start_at_ns": AT_NS + 1}, "another start than that of"),
        ({"of": 3}, "another number of shares than that of"),
        ({"failure": Failure(error="Refused", message="no", phase="load")}, "share 1/2 failed: Refused: no"),
        ({"workload": {"rows": 1}}, "another trace or data set than that of"),
    ],
)
def test_parts_that_do_not_go_together_are_refused_by_name(
    changes: dict[str, Any], words: str, whole: Path, parts: tuple[Path, Path], tmp_path: Path
) -> None:
    odd = cut(whole, tmp_path / "odd", 1, **changes)
    with pytest.raises(BadInput, match=f"^{odd}: {words}"):
        merge([parts[0], odd], tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_missing_and_a_doubled_share_are_refused_by_name(
    whole: Path, parts: tuple[Path, Path], tmp_path: Path
) -> None:
    bare = cut(whole, tmp_path / "bare", 1)
    shutil.rmtree(bare / "samples")
    swapped = cut(whole, tmp_path / "swapped", 1)
    (theirs,), (ours,) = ((path / "samples").iterdir() for path in (parts[0], swapped))
    shutil.copy(theirs, ours)
    for given, words in (
        ([parts[1]], r"^0/2 missing: 1 of 2 shares are no trial"),
        ([parts[0], parts[1], parts[0]], f"^{parts[0]}: share 0/2 once more"),
        ([parts[0], whole], f"^{whole}: not a share"),
        ([parts[0], bare], f"^{bare}: has not all samples of share 1/2"),
        (
            [parts[0], swapped],
            f"^{swapped}: has not all samples of share 1/2: {ours}: holds the samples of trial",
        ),
    ):
        with pytest.raises(BadInput, match=words):
            merge(given, tmp_path / "m")
    with pytest.raises(BadInput, match="already holds results"):
        merge(parts, whole)


def sent_by(null: str, out: Path, share: str, start_at: int) -> TrialResult:
    ready = ask(null, LOAD, Target(), [], out, asked_share(share, str(start_at)))
    with stored(out, ready.trial, ()) as (store, environment):
        return measure(ready, Unseen(), store, environment)


def test_two_hosts_send_the_schedule_of_one(null: str, whole: Path, tmp_path: Path) -> None:
    for wait_s in (3, 9, 27):  # as long as this machine needs to have both ready
        at_s, base = int(time.time()) + wait_s, tmp_path / str(wait_s)
        with ThreadPoolExecutor(2) as hosts:
            sent = list(hosts.map(lambda n, b=base, t=at_s: sent_by(null, b / f"{n}", f"{n}/2", t), range(2)))
        if all(result.failure is None for result in sent):
            break
        assert all("too late for --start-at" in result.failure.message for result in sent if result.failure)
    found = merge([base / "0", base / "1"], base / "m")
    assert found.client is not None
    start_ns = found.client.nodes[0].start_ns
    due = sorted(sample.due_ns - start_ns for sample in samples_of(base / "m") if sample.due_ns is not None)
    assert len(due) == 40
    alone: list[int] = []
    begun: list[int] = []
    run_trial_load(
        found.trial,
        null,
        make_driver,
        {},
        lambda sample, _: alone.append(sample.due_ns) if sample.due_ns is not None else None,
        workers=1,
        on_start=begun.append,
    )
    assert due == sorted(each - begun[0] for each in alone)
    assert sorted(sample.seq for sample in samples_of(base / "m")) == list(range(44))
    assert found.client.workers == 2
    assert all(node.began_s is not None and node.began_s >= 0 for node in found.client.nodes)
    assert {caveat.kind for caveat in sent[0].caveats} >= {"share"}
    assert found.summary is not None
    assert found.summary.requests_ok == 40
    lasted_s = found.summary.duration_s
    assert lasted_s is not None
    assert found.summary.requests_per_s == 40 / lasted_s
    assert found.summary.output_tokens_per_s == 160 / lasted_s

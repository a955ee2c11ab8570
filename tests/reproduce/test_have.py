"""What other folders hold counts as done, and a kept copy takes no trial."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from null_study import check_whole, here, parts_in, reproduce, stored, write

from loadgen.results.other_folders import held

PARTS = ("reproduce", "--profiles", "parts", "--out", "out")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return parts_in(tmp_path)


@pytest.fixture(scope="module")
def once_kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One part measured and kept; its wider grid is what is asked for next, and the original is gone."""
    study = parts_in(tmp_path_factory.mktemp("kept"))
    assert reproduce(study, "--parts", "10-one").returncode == 0
    done = here("keep", "out/10-one", "kept/10-one", cwd=study)
    assert done.exit_code == 0, done.stderr
    shutil.rmtree(study / "out")
    part = study / "parts/core/10-one.toml"
    part.write_text(part.read_text().replace("[1, 2, 3]", "[1, 2, 3, 4]"))
    return study


@pytest.fixture
def kept(study: Path, once_kept: Path) -> Path:
    shutil.copytree(once_kept, study, dirs_exist_ok=True)
    return study / "kept/10-one"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    "args",
    [
        ("sweep", "parts/core/10-one.toml", "--resume", "--out", "kept/10-one"),
        ("sweep", "parts/core/10-one.toml", "--out", "kept/10-one"),
        ("reproduce", "--profiles", "parts", "--out", "kept"),
        ("reproduce", "--profiles", "parts", "--out", "kept", "--dry-run"),
        ("run", "--url", "http://127.0.0.1:9", "--out", "kept/10-one", "--model", "m", "--vocab", "9"),
    ],
)
def test_no_trial_is_added_to_a_kept_copy(study: Path, kept: Path, args: tuple[str, ...]) -> None:
    before = contents(study / "kept")
    done = here(*args, cwd=study)
    assert done.exit_code == 2
    assert (
        "kept/10-one: a kept copy, to which no trial is added (accepted: the original results folder, carried here, "
        "or another --out)"
    ) in done.stderr
    assert contents(study / "kept") == before


def test_trials_of_other_folders_count_as_done(study: Path, kept: Path) -> None:
    have = "kept/[0-9]*"
    ways = [held([str(study / way)], retry_failed=False) for way in ("kept", "kept/10-one", have)]
    assert ways[0] == ways[1] == ways[2] == set(stored(kept))
    before = contents(kept)
    done = reproduce(study, "--parts", "10-one", "--have", have)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 parts, 1 trials beside 3 of --have" in done.stdout
    assert "core/10-one: 1 stored, 0 failed, 0 left, 3 in folders of --have" in done.stdout
    check_whole(study / "out/10-one", 1)
    assert not set(stored(study / "out/10-one")) & set(stored(kept))
    (row,) = json.loads((study / "out/summary.json").read_bytes())["parts"]
    assert (row["planned"], row["stored"], row["missing"], row["held_elsewhere"]) == (1, 1, [], 3)
    assert contents(kept) == before
    again = here(*PARTS, "--parts", "10-one", "--have", have, cwd=study)
    assert again.exit_code == 0
    assert "starts on" not in again.stdout
    report = here("report", kept, "out/10-one", "--format", "csv", "--out", "all.csv", cwd=study)
    assert report.exit_code == 0, report.stderr
    rows = list(csv.DictReader((study / "all.csv").read_text().splitlines()))
    assert sorted(row["batch"] for row in rows) == ["1", "2", "3", "4"]


def test_a_part_that_other_folders_hold_whole_is_not_started(study: Path, kept: Path) -> None:
    write(study / "parts/core/10-one.toml", "10-one")
    done = here(*PARTS, "--parts", "10-one", "--have", "kept", cwd=study)
    assert done.exit_code == 0, done.output
    assert "starts on" not in done.stdout
    assert "core/10-one: 0 stored, 0 failed, 0 left, 3 in folders of --have" in done.stdout
    assert not (study / "out/10-one").exists()


def test_a_failed_trial_elsewhere_is_done_unless_it_is_to_be_tried_again(study: Path, kept: Path) -> None:
    lines = [json.loads(line) for line in (kept / "trials.jsonl").read_bytes().splitlines()]
    lines[0]["failure"] = {"error": "ServerDied", "message": "gone", "phase": "load"}
    (kept / "trials.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ids = {line["trial"]["id"] for line in lines}
    assert held([str(kept)], retry_failed=False) == ids
    assert held([str(kept)], retry_failed=True) == ids - {lines[0]["trial"]["id"]}
    done = here(*PARTS, "--parts", "10-one", "--have", "kept", "--retry-failed", "--dry-run", cwd=study)
    assert "2 trials beside 2 of --have" in done.stdout, done.stderr


@pytest.mark.parametrize("name", ["sweep", "reproduce"])
def test_a_folder_without_results_is_told(study: Path, name: str) -> None:
    rest = ["parts/core/10-one.toml"] if name == "sweep" else ["--profiles", "parts", "--out", "out"]
    done = here(name, *rest, "--have", "parts", cwd=study)
    assert done.exit_code == 2
    assert (
        "--have parts: no results there (accepted: a results folder, a folder of some, or a glob)"
        in done.stderr
    )

"""What is no file is refused at once: nobody writes into the pipe, and the device never ends."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loadgen.errors import LoadgenError
from loadgen.input_files import open_input, read_input
from loadgen.profile.read import load_profile
from loadgen.profile.workloads import read_length
from loadgen.results.rows import Rows
from loadgen.results.store import open_results
from loadgen.theory.checkpoint import from_folder
from loadgen.traces.files import measure_trace


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"four")
    with open_input(path) as file:
        assert file.read() == b"four"
    assert read_input(path, 4) == b"four"
    with pytest.raises(OSError, match="longer than"):
        read_input(path, 3)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop", "nul"])
def test_what_is_no_file_is_bad_input_wherever_a_file_is_taken(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    name = {"device": "/dev/zero", "nul": "a\0b"}.get(kind, str(folder / "config.json"))
    if kind == "pipe":
        os.mkfifo(name)
    elif kind == "folder":
        Path(name).mkdir()
    elif kind == "loop":
        Path(name).symlink_to(name)
    for take in (open_input, read_input):
        with pytest.raises(OSError, match=r"pipe|device|folder|symbolic|NUL|null"):
            take(name)
    takers = [
        lambda: load_profile(name),
        lambda: measure_trace(name),
        lambda: read_length({"kind": "empirical", "file": name}, "--input-tokens"),
        lambda: list(Rows(Path(name)).batches(8)),
    ]
    if kind in ("pipe", "folder", "loop"):
        takers += [lambda: from_folder(str(folder)), lambda: open_results(folder)]
        (folder / "sweep.json").symlink_to("config.json")
    for take in takers:
        with pytest.raises(LoadgenError, match=r"pipe|device|folder|symbolic|cannot|no such"):
            take()

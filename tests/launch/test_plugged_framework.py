"""Frameworks, drivers and names of telemetry of another package, found by its entry points alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ENTRIES = """
[loadgen.servers]
toy = toy_package:FRAMEWORK
hf = toy_package:FRAMEWORK
half = toy_package:HALF
torn = toy_package.gone:FRAMEWORK

[loadgen.drivers]
toy-wire = toy_package:make_driver
torn-wire = toy_package:no_such_name

[loadgen.telemetry]
toy = toy_package:RULES
odd = toy_package:make_driver
"""
PACKAGE = """
import sys

from loadgen.errors import BadInput
from loadgen.protocols import Command, Need
from loadgen.telemetry.prometheus_text import Rule


class Toy:
    name = "toy"
    protocol = "toy-wire"
    ports = 1
    uses_gpus = False
    needs_gpus = False
    options = {"words": "what it says of itself. Default none"}

    def default_dtype(self, on_gpu):
        return "float32"

    def library(self, spec):
        return ""

    def check(self, spec):
        for name in spec.options:
            if name not in self.options:
                raise BadInput(f"toy: unknown option {name!r} (accepted: words)")
        if spec.tp != 1:
            raise BadInput("toy: tp (accepted: 1)")

    def command(self, spec, run_dir, ports):
        base = f"http://{spec.host}:{ports[0]}"
        return Command(argv=(sys.executable, "-c", "pass"), ready_url=base, base_url=base)

    def driver_options(self, spec):
        return {}

    def needs(self):
        return [Need(name="toy bricks", ok=True, found="a box of them")]


class Half:
    name = "half"


FRAMEWORK, HALF = Toy(), Half()
RULES = {"toy:running": Rule("engine_running"), "vllm:num_requests_running": Rule("engine_waiting")}


def make_driver(base_url, model, timeouts, options):
    raise BadInput("not asked for here")
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugged")
    (folder / "toy_package.py").write_text(PACKAGE)
    info = folder / "toy_package-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-package\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    return folder


def python(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(home)},
    )


def test_its_author_runs_the_contract(home: Path) -> None:
    done = python(home, "-m", "loadgen.cli", "check-framework", "toy")
    assert (done.returncode, done.stderr) == (0, "")
    assert "toy: the contract is kept" in done.stdout


def test_doctor_names_what_works_and_what_is_broken(home: Path) -> None:
    told = python(home, "-m", "loadgen.cli", "doctor").stdout
    assert "toy bricks" in told
    assert "plug-in 'torn' of toy-package 1.2 (loadgen.servers: toy_package.gone:FRAMEWORK)" in told
    assert "plug-in 'half' of toy-package 1.2 does not answer check, command" in told
    assert "driver toy-wire" in told
    assert "plug-in 'torn-wire' of toy-package 1.2" in told
    assert "plug-in 'odd' of toy-package 1.2 (loadgen.telemetry): not a mapping" in told
    assert "pip uninstall toy-package" in told
    assert "accelerate" in told.partition("Framework hf")[2].partition("Framework")[0], "ours won the name"


def test_a_broken_one_that_is_asked_for_is_one_clear_error(home: Path) -> None:
    done = python(home, "-m", "loadgen.cli", "serve", "--framework", "torn", "--dry-run")
    assert done.returncode == 2
    assert "plug-in 'torn' of toy-package 1.2" in done.stderr
    assert "ModuleNotFoundError" in done.stderr
    assert "Traceback" not in done.stderr


def test_drivers_and_series_are_loaded_when_asked_for_and_ours_win(home: Path) -> None:
    program = """
import sys
from loadgen.drivers.find import driver_factory
from loadgen.errors import BadInput
from loadgen.telemetry.known_series import known_series
from loadgen.telemetry.prometheus_text import read_page

driver_factory("openai")
assert "toy_package" not in sys.modules
assert driver_factory("toy-wire") is sys.modules["toy_package"].make_driver
try:
    driver_factory("nobody")
except BadInput as error:
    assert "toy-wire" in str(error)
else:
    raise AssertionError
rules, faults = known_series()
assert len(faults) == 1
for line in ("toy:running 3", "vllm:num_requests_running 3"):
    page = read_page(line + chr(10), rules)
    assert page.readings == (("engine_running", "engine", 3.0),), page
"""
    done = python(home, "-c", program)
    assert (done.returncode, done.stderr) == (0, "")

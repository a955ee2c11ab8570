"""Discovery by module name, and the contract that every framework found keeps."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from loadgen.errors import BadInput, MissingDependency, UnknownFramework
from loadgen.launch import frameworks
from loadgen.protocols import Command, Framework, Need
from loadgen.records import ServerSpec
from loadgen.theory.models import PRESETS

NAMES = frameworks.names()
ENGINES = {"torch", "transformers", "accelerate", "deepspeed", "mii", "tritonclient", "pytriton"}


def test_frameworks_are_the_modules_without_an_underscore() -> None:
    folder = Path(__file__).resolve().parents[2] / "servers"
    assert set(NAMES) == {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")}
    assert "hf" in NAMES
    assert [framework.name for framework in frameworks.every()] == list(NAMES)


def test_an_unknown_name_is_told_with_its_neighbour_and_the_list() -> None:
    with pytest.raises(UnknownFramework) as caught:
        frameworks.find("hff")
    assert "'hff'" in str(caught.value)
    assert "Did you mean 'hf'?" in str(caught.value)
    assert ", ".join(NAMES) in str(caught.value)
    with pytest.raises(UnknownFramework) as caught:
        frameworks.find("zzzzzz")
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize("name", ["_hf_server", "__init__", "os", "../hf", "hf.HuggingFace", ""])
def test_only_frameworks_are_found(name: str) -> None:
    with pytest.raises(UnknownFramework):
        frameworks.find(name)


def test_a_module_without_framework_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import loadgen.servers

    (tmp_path / "hollow_framework.py").write_text("x = 1\n")
    monkeypatch.setattr(loadgen.servers, "__path__", [*loadgen.servers.__path__, str(tmp_path)])
    with pytest.raises(UnknownFramework, match="binds no FRAMEWORK"):
        frameworks.find("hollow_framework")


def test_an_answer_that_is_missing_is_told_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import loadgen.servers

    (tmp_path / "mute_framework.py").write_text(
        "class Mute:\n    name, protocol, ports, options, uses_gpus = 'mute_framework', 'openai', 1, {}, False\n"
        "    def check(self, spec): ...\n    def command(self, spec, run_dir, ports): ...\n"
        "    def driver_options(self, spec): ...\n    def needs(self): ...\nFRAMEWORK = Mute()\n"
    )
    monkeypatch.setattr(loadgen.servers, "__path__", [*loadgen.servers.__path__, str(tmp_path)])
    with pytest.raises(
        UnknownFramework, match=r"mute_framework\.py does not answer default_dtype, library, needs_gpus \("
    ):
        frameworks.find("mute_framework")


def spec_for(framework: Framework) -> ServerSpec:
    """A spec that the framework accepts on any machine, or at least on one with a GPU."""
    spec = ServerSpec(framework=framework.name, model=PRESETS["tiny"], dtype="float32")
    refusals = []
    for candidate in (
        spec,
        replace(spec, gpus=(0,)),
        replace(spec, gpus=(0,), dtype="float16"),
        replace(spec, gpus=(0,), dtype="float16", model=PRESETS["llama-7b"], options={"weights": "backend"}),
    ):
        try:
            framework.check(candidate)
        except MissingDependency:
            return candidate  # nothing is wrong with it but the machine
        except BadInput as error:
            refusals.append(str(error))
        else:
            return candidate
    raise AssertionError(f"{framework.name} accepts none of the specs: {refusals}")


@pytest.mark.parametrize("name", NAMES)
class TestContract:
    def test_it_describes_itself(self, name: str) -> None:
        framework = frameworks.find(name)
        assert framework.name == name
        assert framework.protocol == framework.protocol.strip().lower() != ""
        assert framework.ports >= 1
        for option, words in framework.options.items():
            assert option.isidentifier(), option
            assert len(words) > 10, f"{option} needs a line of help"
            assert "\n" not in words

    def test_it_says_whether_it_takes_gpus(self, name: str) -> None:
        framework = frameworks.find(name)
        assert isinstance(framework.uses_gpus, bool)
        assert isinstance(framework.needs_gpus, bool)
        assert framework.uses_gpus or not framework.needs_gpus
        assert spec_for(framework).gpus or not framework.needs_gpus, "it accepts a spec without GPUs"

    def test_the_dtype_that_it_takes_unasked_is_one_that_it_accepts(self, name: str) -> None:
        framework = frameworks.find(name)
        spec = spec_for(framework)
        places = [*([] if framework.needs_gpus else [()]), *([(0,)] if framework.uses_gpus else [])]
        for gpus in places:
            with suppress(MissingDependency):  # nothing is wrong with it but the machine
                framework.check(replace(spec, gpus=gpus, dtype=framework.default_dtype(bool(gpus))))

    def test_its_command_is_plain_data_and_always_the_same(self, name: str, tmp_path: Path) -> None:
        framework = frameworks.find(name)
        spec = spec_for(framework)
        ports = tuple(range(30001, 30001 + framework.ports))
        run_dir = tmp_path / "run"
        one, two = (framework.command(spec, str(run_dir), ports) for _ in range(2))
        assert one == two
        assert isinstance(one, Command)
        assert not run_dir.exists(), "command() wrote files; it must return them"
        assert all(isinstance(part, str) for argv in (one.argv, *one.setup) for part in argv)
        assert all(value is None or isinstance(value, str) for value in one.env.values())
        assert all(not Path(file).is_absolute() and ".." not in Path(file).parts for file in one.files)
        for url in (one.ready_url, one.base_url):
            assert str(ports[0]) in url or any(str(port) in url for port in ports), url
            assert spec.host in url

    def test_an_unknown_option_is_refused_by_name(self, name: str) -> None:
        framework = frameworks.find(name)
        spec = replace(spec_for(framework), options={"no_such_option": 1})
        with pytest.raises(BadInput, match="no_such_option"):
            framework.check(spec)

    def test_heads_that_do_not_divide_are_refused(self, name: str) -> None:
        framework = frameworks.find(name)
        spec = replace(spec_for(framework), tp=3, gpus=(0, 1, 2))
        with pytest.raises(BadInput):
            framework.check(spec)

    def test_its_needs_come_with_remedies(self, name: str) -> None:
        for need in frameworks.find(name).needs():
            assert isinstance(need, Need)
            assert need.name
            assert need.found
            assert need.ok or need.remedy, f"{need.name}: no remedy"

    def test_it_is_light_to_import_ask_and_examine(self, name: str) -> None:
        """Neither the module nor needs() may pull an engine in: `loadgen run` starts in half a second."""
        program = (
            "import json, sys\n"
            "from loadgen.launch import frameworks\n"
            f"frameworks.find({name!r}).needs()\n"
            "print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
        )
        assert not ENGINES & set(json.loads(done.stdout))

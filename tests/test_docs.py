"""README, docs and CONTRIBUTING are true: their commands parse, their profiles and programs are ones, the files, make
targets, frameworks and modules that they name are there."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from click.shell_completion import BashComplete

import loadgen
from loadgen.cli import main
from loadgen.launch import frameworks
from loadgen.profile.read import build_profile
from loadgen.theory.models import PRESETS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


PAGES = sorted([ROOT / "README.md", *ROOT.glob("CONTRIBUTING.md"), *ROOT.glob("docs/**/*.md")])


def blocks(text: str) -> list[tuple[str, str]]:
    """Each fenced block with its language."""
    return re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.S | re.M)


def shown_commands(text: str) -> list[str]:
    lines = [line for _, block in blocks(text) for line in block.splitlines() if line.startswith("loadgen ")]
    return [re.split(r"  +#| > ", line)[0].strip() for line in lines]


def all_commands() -> list[str]:
    return sorted({line for page in PAGES for line in shown_commands(page.read_text())})


def readme_commands() -> list[str]:
    return shown_commands(README)


def help_commands() -> list[str]:
    texts = [main.help or "", *(command.help or "" for command in main.commands.values())]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    return [line.partition(" > ")[0] for line in lines if line.startswith("loadgen ")]


@pytest.mark.parametrize("line", sorted({*all_commands(), *help_commands()}))
def test_every_shown_command_parses(line: str) -> None:
    name, *args = shlex.split(line)[1:]
    command = main.commands[name]
    with command.make_context(name, args):  # raises UsageError for an unknown option or argument
        pass


def test_there_are_commands_to_check() -> None:
    assert len(readme_commands()) >= 8
    assert len(all_commands()) >= 40


def profiles_of_pages() -> list[tuple[str, str]]:
    return [
        (page.name, block) for page in PAGES for kind, block in blocks(page.read_text()) if kind == "toml"
    ]


@pytest.mark.parametrize(("page", "text"), profiles_of_pages())
def test_every_shown_profile_is_one(
    page: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = (f'{{"offset_s": {at}, "input_tokens": 8, "output_tokens": 4}}' for at in (0, 1))
    (tmp_path / "window.jsonl").write_text("\n".join(rows))
    cells = build_profile(
        tomllib.loads(text), file=page, frameworks=frameworks.names(), ask=frameworks.find
    ).cells
    assert cells or "[capacity]" in text


def test_every_shown_program_compiles() -> None:
    programs = [block for page in PAGES for kind, block in blocks(page.read_text()) if kind == "python"]
    assert len(programs) >= 3
    for program in programs:
        compile(program, "page", "exec")


def test_the_site_has_every_page_once() -> None:
    config = (ROOT / "mkdocs.yml").read_text()
    listed = re.findall(r"^ +- (\S+\.md)$", config, flags=re.M)
    assert sorted(listed) == sorted(
        page.relative_to(ROOT / "docs").as_posix() for page in ROOT.glob("docs/**/*.md")
    )


def site() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_site", ROOT / "docs/site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_pages_take_from_the_code_is_there() -> None:
    hooks = site()
    taken = {name for page in PAGES for name in re.findall(r"^::: (\S+)$", page.read_text(), flags=re.M)}
    assert {"commands", "profile", "public", "loadgen.theory.physics", "loadgen.analysis.gates"} <= taken
    told = {name: hooks.told(name) for name in taken}
    assert all(len(text) > 200 for text in told.values())
    assert all(f"## {name}\n" in told["commands"] for name in main.commands)
    assert all(f"### {name}\n" in told["public"] for name in loadgen.__all__ if name != "errors")
    assert "`concurrency` | whole number from 1 or a list of: whole number from 1" in told["profile"]
    assert hooks.on_page_markdown("a\n::: loadgen.errors\nb").startswith("a\nEvery exception")


def test_a_shell_completes_commands_and_options() -> None:
    shell = BashComplete(main, {}, "loadgen", "_LOADGEN_COMPLETE")
    assert [item.value for item in shell.get_completions([], "sw")] == ["sweep"]
    assert [item.value for item in shell.get_completions(["run"], "--conc")] == ["--concurrency"]
    assert "_LOADGEN_COMPLETE=bash_source loadgen" in README


def test_every_command_is_taught() -> None:
    shown = {shlex.split(line)[1] for line in readme_commands()}
    assert shown == set(main.commands)


TARGETS = {name for page in PAGES for name in re.findall(r"(?:`|^)make (\w+)", page.read_text(), flags=re.M)}


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_make_targets_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.M)


def test_every_framework_and_preset_is_named() -> None:
    for name in frameworks.names():
        assert f"| `{name}` |" in README, name
    for preset in PRESETS:
        assert preset in README or preset.removeprefix("llama") in README, preset


def named_paths(text: str) -> set[str]:
    """Files and folders of this repository that a text names in code marks; NAME stands for any."""
    found = set(re.findall(r"`((?:loadgen|servers|tests|profiles|docs)/[\w./-]*)`", text))
    return {path for path in found if "NAME" not in path}


def tree_of(readme: str) -> set[str]:
    """What the table of where things live names within ``loadgen/``."""
    table = readme.partition("| where | what |")[2].partition("\n\n")[0]
    return {path.rstrip("/") for path in named_paths(table) if path.startswith("loadgen/")}


@pytest.mark.parametrize("path", [page.relative_to(ROOT).as_posix() for page in PAGES])
def test_named_files_and_folders_exist(path: str) -> None:
    text = (ROOT / path).read_text()
    assert [named for named in sorted(named_paths(text)) if not (ROOT / named).exists()] == []


def test_a_path_that_is_not_there_would_be_seen() -> None:
    assert named_paths("see `loadgen/gone.py`, `servers/_x/` and `results/NAME/`") == {
        "loadgen/gone.py",
        "servers/_x/",
    }


def test_the_table_of_where_things_live_is_the_tree() -> None:
    package = ROOT / "loadgen"
    folders = {path.parent.relative_to(ROOT).as_posix() for path in package.rglob("__init__.py")} - {
        "loadgen"
    }
    files = {path.relative_to(ROOT).as_posix() for path in package.glob("*.py")} - {"loadgen/__init__.py"}
    assert tree_of(README) == folders | files


def test_the_figure_names_folders_that_exist() -> None:
    figure = README.partition("## How a number comes about")[2].split("```")[1]
    named = set(re.findall(r"(\w+)/", figure)) - {"results", "servers"}
    assert len(named) >= 9
    assert [name for name in sorted(named) if not (ROOT / "loadgen" / name).is_dir()] == []


def test_every_package_is_installed() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {path.parent.relative_to(ROOT) for path in ROOT.glob("loadgen/**/__init__.py")}
    servers = {path.parent.relative_to(ROOT) for path in ROOT.glob("servers/**/__init__.py")}
    ours = {".".join(path.parts) for path in folders} | {
        ".".join(("loadgen", *path.parts)) for path in servers
    }
    assert ours | {"loadgen.profiles"} == listed


def public_definitions(
    source: str,
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    """Public classes, functions and methods with their names; those within functions are nobody's."""
    waiting = [("", node) for node in ast.parse(source).body]
    while waiting:
        prefix, node = waiting.pop()
        if not isinstance(
            node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        ) or node.name.startswith("_"):
            continue
        yield prefix + node.name, node
        if isinstance(node, ast.ClassDef):
            waiting += [(f"{prefix}{node.name}.", inner) for inner in node.body]


# ruff's D rules pass over packages whose name begins with an underscore, where the servers' processes live.
@pytest.mark.parametrize(
    "path", [path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("servers/*/*.py"))]
)
def test_what_a_servers_process_defines_is_documented(path: str) -> None:
    bare = [
        name for name, node in public_definitions((ROOT / path).read_text()) if not ast.get_docstring(node)
    ]
    assert bare == []


def test_a_bare_definition_would_be_seen() -> None:
    source = "class A:\n    'a'\n    def b(self): pass\n    def _c(self): pass\ndef d():\n    'd'\n"
    found = {name: ast.get_docstring(node) for name, node in public_definitions(source)}
    assert found == {"A": "a", "A.b": None, "d": "d"}


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob(".github/ISSUE_TEMPLATE/[!c]*.yml")), ids=lambda path: path.stem
)
def test_issue_templates_ask_for_what_the_doctor_says(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    assert {"name", "description", "body"} <= set(form)
    asked = {part["id"]: part for part in form["body"]}
    assert "`loadgen doctor --json`" in asked["doctor"]["attributes"]["label"]
    assert asked["doctor"]["validations"] == {"required": True}
    assert all(part["type"] in ("textarea", "input") and part["attributes"]["label"] for part in form["body"])


CLUSTERS = ROOT / "docs" / "clusters"


def element_scripts() -> dict[str, tuple[str, int]]:
    """What an element of each kind of array runs, and how many there are."""
    import yaml

    batch = (CLUSTERS / "array.sbatch").read_text()
    last = re.search(r"^#SBATCH --array=0-(\d+)$", batch, flags=re.M)
    assert last is not None
    job = yaml.safe_load((CLUSTERS / "job.yaml").read_text())["spec"]
    (pod,) = job["template"]["spec"]["containers"]
    assert job["completionMode"] == "Indexed"
    assert job["parallelism"] == job["completions"]
    return {
        "SLURM_ARRAY_TASK_ID": (batch, int(last[1]) + 1),
        "JOB_COMPLETION_INDEX": (pod["args"][0], job["completions"]),
    }


def test_elements_of_an_array_share_out_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their scripts run in a real shell, with a loadgen that prints what it was asked."""
    import os
    import subprocess

    from loadgen.launch import frameworks
    from loadgen.plan.plan import make_plan
    from loadgen.profile.read import load_profile

    said = tmp_path / "loadgen"
    said.write_text('#!/bin/sh\nfor each in "$@"; do echo "$each"; done\n')
    said.chmod(0o755)
    for variable, (script, count) in element_scripts().items():
        parts: list[set[str]] = []
        folders = set()
        for index in range(count):
            env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", variable: str(index)}
            ran = subprocess.run(
                ["bash", "-eu", "-c", script], env=env, capture_output=True, text=True, check=True
            )
            name, *arguments = ran.stdout.splitlines()
            with main.commands[name].make_context(name, list(arguments)) as context:
                profile = load_profile(
                    str(ROOT / context.params["profile"]),
                    context.params["sets"],
                    4,
                    frameworks.names(),
                    frameworks.find,
                )
                assert context.params["resume"]
                folders.add(context.params["out"])
            parts.append({trial.id for trial in make_plan(profile).trials})
        assert len(folders) == count
        assert len(set().union(*parts)) == sum(map(len, parts)) == 3 * count

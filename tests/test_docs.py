"""The README is true: its commands parse, its make targets exist, its frameworks and engines are all there."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadgen.cli import main
from loadgen.launch import frameworks
from loadgen.theory.models import PRESETS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def readme_commands() -> list[str]:
    blocks = re.findall(r"^```\w*\n(.*?)^```", README, flags=re.S | re.M)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("loadgen ")]
    return [re.split(r"  #| > ", line)[0].strip() for line in lines]


def help_commands() -> list[str]:
    texts = [main.help or "", *(command.help or "" for command in main.commands.values())]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    return [line.partition(" > ")[0] for line in lines if line.startswith("loadgen ")]


@pytest.mark.parametrize("line", [*readme_commands(), *help_commands()])
def test_every_shown_command_parses(line: str) -> None:
    name, *args = shlex.split(line)[1:]
    command = main.commands[name]
    with command.make_context(name, args):  # raises UsageError for an unknown option or argument
        pass


def test_there_are_commands_to_check() -> None:
    assert len(readme_commands()) >= 8


def test_every_command_is_taught() -> None:
    shown = {shlex.split(line)[1] for line in readme_commands()}
    assert shown == set(main.commands)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"make (\w+)", README))))
def test_make_targets_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.M)


def test_every_framework_and_preset_is_named() -> None:
    for name in frameworks.names():
        assert f"| `{name}` |" in README, name
    for preset in PRESETS:
        assert preset in README or preset.removeprefix("llama") in README, preset


def named_paths(text: str) -> set[str]:
    """Files and folders of this repository that a text names in code marks."""
    return set(re.findall(r"`((?:loadgen|servers|tests|profiles|docs)/[\w./-]*)`", text))


def tree_of(readme: str) -> set[str]:
    """What the table of where things live names within ``loadgen/``."""
    table = readme.partition("| where | what |")[2].partition("\n\n")[0]
    return {path.rstrip("/") for path in named_paths(table) if path.startswith("loadgen/")}


@pytest.mark.parametrize("path", ["README.md", *(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))])
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

"""The README is true: its commands parse, its make targets exist, its frameworks and engines are all there."""

from __future__ import annotations

import re
import shlex
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
    return [line.partition("  #")[0].strip() for line in lines]


def help_commands() -> list[str]:
    texts = [main.help or "", *(command.help or "" for command in main.commands.values())]
    return [
        line.strip() for text in texts for line in text.splitlines() if line.strip().startswith("loadgen ")
    ]


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


def test_files_named_in_the_readme_exist() -> None:
    for path in set(re.findall(r"profiles/\w+\.toml", README)):
        assert (ROOT / path).exists(), path

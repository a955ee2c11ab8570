"""Hooks of MkDocs: a line ``::: NAME`` of a page becomes what the code says of NAME, so that no text stands twice.

``commands``: every command's help; ``profile``: the tables of a profile; ``public``: what ``import loadgen`` offers;
anything else is a module, shown with its docstring and those of its public functions and classes.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import loadgen  # noqa: E402
from loadgen.cli import main  # noqa: E402
from loadgen.schemas.json_schemas import profile_schema  # noqa: E402


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs asks this for each page."""
    return re.sub(r"^::: (\S+)$", lambda found: told(found[1]), markdown, flags=re.M)


def told(name: str) -> str:
    """What the code says of ``name``, as Markdown."""
    if name == "commands":
        return "\n".join(commands())
    if name == "profile":
        return "\n".join(profile())
    if name == "public":
        objects = [(each, getattr(loadgen, each)) for each in loadgen.__all__]
        return "\n".join(
            described(each, thing) for each, thing in objects if not isinstance(thing, ModuleType)
        )
    module = importlib.import_module(name)
    own = [
        (each, thing)
        for each, thing in vars(module).items()
        if not each.startswith("_")
        and getattr(thing, "__module__", "") == name
        and (inspect.isclass(thing) or inspect.isfunction(thing))
    ]
    return "\n".join([prose(module.__doc__), *(described(each, thing) for each, thing in own)])


def described(name: str, thing: Any) -> str:
    """A function or class: its signature, its docstring, and a class's public methods."""
    parts = [f"### {name}", "", f"```python\n{name}{signature(thing)}\n```", "", prose(thing.__doc__)]
    if inspect.isclass(thing):
        for key, part in vars(thing).items():
            if (
                not key.startswith("_")
                and getattr(part, "__doc__", None)
                and (inspect.isfunction(part) or hasattr(part, "fget") or hasattr(part, "func"))
            ):
                brackets = (
                    signature(part).replace("(self, ", "(").replace("(self)", "()")
                    if inspect.isfunction(part)
                    else ""
                )
                parts.append(f"- `{key}{brackets}`: {prose(part.__doc__).strip()}")
    return "\n".join([*parts, ""])


def signature(thing: Any) -> str:
    """How it is called; a class without a signature of its own has none."""
    try:
        return re.sub(r"'", "", str(inspect.signature(thing)))
    except (TypeError, ValueError):
        return ""


def prose(docstring: str | None) -> str:
    """A docstring as Markdown."""
    return inspect.cleandoc(docstring or "").replace("``", "`") + "\n"


def commands() -> Iterator[str]:
    """Each command's ``--help``, as a terminal shows it."""
    context = main.make_context("loadgen", [], resilient_parsing=True)
    for name, command in main.commands.items():
        inside = command.make_context(name, [], parent=context, resilient_parsing=True)
        yield f"## {name}\n\n```\n{command.get_help(inside)}\n```\n"


def profile() -> Iterator[str]:
    """Each table of a profile, with its keys."""
    schema = profile_schema()
    tables = {"(top)": schema, **schema["$defs"]}
    for name, table in tables.items():
        yield f"## {name.removesuffix('Table')}\n\n{table.get('description', '')}\n"
        yield "| key | takes | default |\n|---|---|---|"
        for key, kind in table["properties"].items():
            default = f"`{kind['default']!r}`" if "default" in kind else "–"
            yield f"| `{key}` | {taken(kind)} | {default} |"
        yield ""


def taken(kind: dict[str, Any]) -> str:
    """What a key takes, in words."""
    if "anyOf" in kind:
        return " or ".join(dict.fromkeys(map(taken, kind["anyOf"])))
    if "$ref" in kind:
        name = kind["$ref"].rpartition("/")[2].removesuffix("Table")
        return f"a table: [{name}](#{name.lower()})"
    if "enum" in kind:
        return ", ".join(f"`{each}`" for each in kind["enum"])
    if "const" in kind:
        return f"`{kind['const']}`"
    if kind.get("type") == "array":
        return f"a list of: {taken(kind.get('items', {}))}"
    words = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "true, false",
        "object": "table",
    }
    kinds = kind.get("type", [])
    text = ", ".join(words[each] for each in ([kinds] if isinstance(kinds, str) else kinds)) or "any"
    if "exclusiveMinimum" in kind:
        text += f" above {kind['exclusiveMinimum']}"
    if "minimum" in kind:
        text += f" from {kind['minimum']}"
    return text

"""A Profile from a file, a shipped name or tables at hand."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from loadgen.errors import ProfileError
from loadgen.input_files import read_input
from loadgen.profile.profile import Profile
from loadgen.protocols import Framework


def load_profile(
    path_or_name: str,
    sets: Sequence[str] = (),
    gpu_count: int | None = None,
    frameworks: Sequence[str] | None = None,
    ask: Callable[[str], Framework] | None = None,
) -> Profile:
    """Read and check a profile: a file, or by bare name one that loadgen ships.

    ``gpu_count`` is how many GPUs the machine has (``None``: unknown, not checked); ``frameworks`` are the known
    names (``None``: not checked), ``ask`` gives one by name, for what only it knows. Raises ProfileError, one line for
    each problem.
    """
    file, text = _read(path_or_name)
    import tomllib

    try:
        data = tomllib.loads(text)
    except ValueError as error:  # of TOML, and of a number of thousands of digits
        raise ProfileError(file, "TOML", None, str(error)) from None
    except RecursionError:
        raise ProfileError(file, "TOML", None, "is nested too deeply") from None
    return build_profile(
        data, file=file, text=text, sets=sets, gpu_count=gpu_count, frameworks=frameworks, ask=ask
    )


def build_profile(
    data: Mapping[str, Any],
    *,
    file: str = "command line",
    text: str = "",
    sets: Sequence[str] = (),
    gpu_count: int | None = None,
    frameworks: Sequence[str] | None = None,
    ask: Callable[[str], Framework] | None = None,
) -> Profile:
    """The same from tables at hand, such as those that command line flags make."""
    # Imported here: pydantic takes time that a plain `loadgen run` does not have.
    from loadgen.profile.capacity import with_searches
    from loadgen.profile.expand import expand
    from loadgen.profile.max_batch import searches
    from loadgen.profile.overrides import lay_over
    from loadgen.profile.placement import side_by_side
    from loadgen.profile.schema import parse, telemetry_of

    merged, origins = lay_over(data, sets, file)
    tables = parse(merged, origins)
    cells = expand(tables, origins, gpu_count, frameworks, ask)
    if tables.order == "interleaved":
        cells = side_by_side(cells, tables, origins, gpu_count)
    largest = searches(cells, tables, origins)
    cells, capacities = with_searches(cells, tables, origins)
    return Profile(
        name=tables.name or _name_from(file),
        description=tables.description,
        file=file,
        text=text,
        sets=tuple(sets),
        cells=cells,
        order=tables.order,
        searches=largest,
        capacities=capacities,
        telemetry=telemetry_of(tables.telemetry),
        findings=tuple(tables.finding),
    )


def shipped() -> dict[str, str]:
    """The profiles that loadgen ships: bare name → TOML text."""
    from importlib import resources

    folder = resources.files("loadgen.profiles")
    found = {entry.name: entry for entry in folder.iterdir() if entry.name.endswith(".toml")}
    return {name.removesuffix(".toml"): found[name].read_text("utf-8") for name in sorted(found)}


def _read(path_or_name: str) -> tuple[str, str]:
    path = Path(path_or_name)
    if not path.is_file():
        ours = shipped()
        if path_or_name in ours:
            return f"{path_or_name}.toml", ours[path_or_name]
    if not os.path.lexists(path):
        import difflib

        near = difflib.get_close_matches(path.stem, ours, n=1)
        why = "no such file or shipped profile" + (f"; did you mean {near[0]!r}?" if near else "")
        raise ProfileError(path_or_name, "profile", None, why, f"a TOML file, or one of {', '.join(ours)}")
    try:
        text = read_input(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        raise ProfileError(path_or_name, "profile", None, why, "UTF-8 TOML") from None
    return path_or_name, text.replace("\r\n", "\n")


def _name_from(file: str) -> str:
    stem = "".join(c if c.isalnum() or c in "._-" else "-" for c in Path(file).stem)
    return stem.lstrip(".-_") or "profile"

"""The parts of a reproduction: profiles in a folder, each with a results folder of its own.

A part's id is its file's path in that folder without the ending, such as ``core/10-hf-generate-tp1``. Parts of one
file name in different folders (a core grid, the full one) share a results folder, so that no trial is run twice.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadgen.errors import BadInput, MissingDependency
from loadgen.launch import frameworks
from loadgen.plan.plan import Plan, make_plan
from loadgen.profile.read import load_profile
from loadgen.records import TrialResult
from loadgen.results.store import open_to_go_on

HERE = Path("profiles/reproduce")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One profile with its plan, and how many trials it is without, since other folders hold them.

    ``lacks`` says why its framework cannot run here, ``None`` when it can.
    """

    id: str
    file: Path
    folder: Path
    plan: Plan
    gpus: int
    lacks: str | None
    held: int = 0

    @property
    def name(self) -> str:
        """Its profile's file name without the ending."""
        return self.file.stem

    @property
    def tier(self) -> str:
        """The folder of its profile: ``core``, ``fine`` and so on."""
        return self.id.rpartition("/")[0]

    def results(self) -> list[TrialResult]:
        """What is stored of its trials. Raises BadInput for a folder that is a kept copy."""
        if not (self.folder / "sweep.json").exists():
            return []
        planned = {trial.id for trial in self.plan.trials}
        return [result for result in open_to_go_on(self.folder).results() if result.trial.id in planned]

    def missing(self) -> Plan:
        """The trials that have no result yet."""
        return self.plan.without(result.trial.id for result in self.results())


def home(given: Path | None) -> Path:
    """The folder of parts: as given, else that of the working directory, else what loadgen ships."""
    if given is not None:
        return given
    if HERE.is_dir():
        return HERE
    from importlib import resources

    return Path(str(resources.files("loadgen.profiles"))) / HERE.name


def find(
    folder: Path, wanted: Sequence[str], sets: Sequence[str], out: Path, have: Container[str] = frozenset()
) -> list[Part]:
    """The parts in order of their ids, narrowed to the ``wanted`` patterns (ids, or file names, or globs of them).

    Their plans are without the trials of the ids in ``have``.

    Raises BadInput for a pattern without a part, ProfileError for a part that is wrong.
    """
    files = {file.relative_to(folder).with_suffix("").as_posix(): file for file in folder.rglob("*.toml")}
    if not files:
        raise BadInput(f"--profiles {folder}: no parts there (accepted: a folder with TOML profiles)")
    chosen = {id_ for pattern in wanted for id_ in _matching(pattern, sorted(files))} or set(files)
    return [_part(id_, files[id_], sets, out, have) for id_ in sorted(chosen)]


def _matching(pattern: str, ids: Sequence[str]) -> list[str]:
    found = [id_ for id_ in ids if any(fnmatch.fnmatchcase(name, pattern) for name in (id_, Path(id_).name))]
    if not found:
        raise BadInput(f"--parts {pattern}: matches no part (accepted: {', '.join(ids)}, or a glob of them)")
    return found


def _part(id_: str, file: Path, sets: Sequence[str], out: Path, have: Container[str]) -> Part:
    profile = load_profile(str(file), sets, None, frameworks.names(), frameworks.find)
    if profile.findings:
        from loadgen.analysis.findings import (
            declared,  # it imports the analysis, which most sweeps need at the end
        )

        declared.parse(profile.findings, profile.file)
    whole = make_plan(profile)
    plan = whole.without(trial.id for trial in whole.trials if trial.id in have)
    devices = {gpu for spec, _ in plan.groups() if spec is not None for gpu in spec.gpus}
    lacks = None
    for spec, _ in plan.groups():
        if spec is not None and lacks is None:
            try:
                frameworks.of(spec).check(spec)
            except MissingDependency as error:
                lacks = str(error)
    return Part(
        id=id_,
        file=file,
        folder=out / file.stem,
        plan=plan,
        gpus=len(devices),
        lacks=lacks,
        held=len(whole.trials) - len(plan.trials),
    )

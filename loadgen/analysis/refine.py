"""The cells that would resolve what a sweep left open, as trials to run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from loadgen.analysis.finding import Finding, Wanted, split_text
from loadgen.analysis.table import Key, Row
from loadgen.load_records import LoadSpec
from loadgen.records import ServerSpec, Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class RefineCell:
    """A point to run ``repeats`` times, from repeat number ``first_repeat`` on. ``why`` names the open question.

    ``load.seed`` is 0: a trial's own seed is made from its load, so that frameworks meet equal prompts here too.
    """

    server: ServerSpec | None
    load: LoadSpec
    url: str | None
    model_name: str | None
    vocab: int | None
    repeats: int
    first_repeat: int
    why: str

    @property
    def text(self) -> str:
        """The cell, its repeats, and why they are wanted, in one line."""
        load = self.load
        split = f" tp {self.server.tp} pp {self.server.pp}" if self.server else ""
        name = self.server.framework if self.server else self.url
        width = load.sequences or load.batch_size
        return f"{name}{split} batch {width} {load.input_tokens}/{load.output_tokens} × {self.repeats}: {self.why}"


def refine(findings: Iterable[Finding], rows: Sequence[Row]) -> list[RefineCell]:
    """One cell per wanted key, made like the nearest trial of the same server.

    Never one that already ran out of memory, nor one past the model's context.
    """
    by_server: dict[Key, list[Row]] = {}
    for row in rows:
        by_server.setdefault(_server(row.key), []).append(row)
    wanted: dict[Key, Wanted] = {}
    for finding in findings:
        for each in finding.wanted:
            wanted.setdefault(each.key, each)
    cells = [_cell(each, by_server.get(_server(each.key), [])) for each in wanted.values()]
    return [cell for cell in cells if cell is not None]


def trials(cells: Iterable[RefineCell]) -> list[Trial]:
    """The cells' repeats as trials, with the ids that a profile asking for them would have given."""
    from loadgen.plan.plan import trial_of
    from loadgen.profile.profile import Cell, Target

    found = []
    for cell in cells:
        target = Target(url=cell.url, model_name=cell.model_name, vocab=cell.vocab) if cell.url else None
        found += [
            trial_of(Cell(load=cell.load, server=cell.server, target=target, repeat=repeat))
            for repeat in range(cell.first_repeat, cell.first_repeat + cell.repeats)
        ]
    return list({trial.id: trial for trial in found}.values())


def _server(key: Key) -> Key:
    return replace(key, batch=-1, input_tokens=-1, output_tokens=-1)


def _cell(wanted: Wanted, rows: Sequence[Row]) -> RefineCell | None:
    key = wanted.key
    if not rows or _hopeless(key, rows):
        return None
    done = [row for row in rows if row.key == key]
    if done and not wanted.again:
        return None
    like = min(done or rows, key=lambda row: _distance(row.key, key))
    per_point: dict[Key, int] = {}
    for row in rows:
        per_point[row.key] = per_point.get(row.key, 0) + 1
    usual = max(per_point.values())
    load = like.trial.load
    if load.kind == "closed" and load.concurrency > 1:
        load = replace(load, concurrency=max(1, key.batch // load.batch_size))
    else:
        load = replace(load, batch_size=key.batch)
    load = replace(load, input_tokens=key.input_tokens, output_tokens=key.output_tokens, seed=0)
    server = like.trial.server
    if server is not None:
        if key.input_tokens + key.output_tokens > server.model.max_context:
            return None
        if server.max_batch is not None:
            server = replace(server, max_batch=max(server.max_batch, key.batch), port=0)
    return RefineCell(
        server=server,
        load=load,
        url=like.trial.url,
        model_name=like.trial.model_name,
        vocab=like.trial.vocab,
        repeats=max(usual, 3),
        first_repeat=max((row.trial.repeat + 1 for row in done), default=0),
        why=f"{wanted.why} ({split_text(key)})",
    )


def _hopeless(key: Key, rows: Sequence[Row]) -> bool:
    """Something smaller in every way already ran out of memory."""
    return any(
        row.out_of_memory
        and row.key.batch <= key.batch
        and row.key.input_tokens <= key.input_tokens
        and row.key.output_tokens <= key.output_tokens
        for row in rows
    )


def _distance(one: Key, other: Key) -> tuple[int, int, int]:
    return (
        abs(one.input_tokens - other.input_tokens),
        abs(one.output_tokens - other.output_tokens),
        abs(one.batch - other.batch),
    )

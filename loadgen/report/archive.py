"""A results folder in compact form, to be stored in a repository: the same report from a fraction of the bytes.

Every trial's line is kept, since findings, tables and charts are made from those; of the samples what a report reads
of them. Before anything appears under its name the copy's findings and tables are compared with the source's.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from itertools import zip_longest
from pathlib import Path
from typing import Any

import orjson

from loadgen.analysis.analyse import Analysis, analyse_rows
from loadgen.analysis.finding import Rules
from loadgen.analysis.requests import REQUESTS_READ
from loadgen.analysis.table import read
from loadgen.errors import BadInput, NotResults, StoreError
from loadgen.input_files import MARK, open_input, read_input
from loadgen.report import redact
from loadgen.report.markdown import gather
from loadgen.report.redact import Redactor
from loadgen.report.timeline import chosen
from loadgen.results import capacity_log, samples
from loadgen.results.max_batch_log import OUTCOMES, PROBES
from loadgen.results.rows import SharedWriter
from loadgen.results.store import Results, open_results
from loadgen.telemetry import downsample
from loadgen.theory.ceilings import CEILINGS_FILE

LARGEST_BYTES = 5_000_000  # of one file: what hosts of repositories still show
SAMPLES_LIMIT = 10_000  # token times of one trial
DRAWN_LIMIT = 1_000_000  # of a trial that the report draws over time: 3 to 4 MB
SCRAPES = 20  # of one source in one trial
KEPT = "kept"  # the entry of sweep.json that says what was left out
LINES = ("trials.jsonl", PROBES, OUTCOMES, capacity_log.TRIALS, capacity_log.OUTCOMES)
# A copy of before had a file a trial, in folders.
OWN = ("sweep.json", *LINES, CEILINGS_FILE, "samples", "telemetry", "samples.parquet", "telemetry.parquet")


def keep(sources: Iterable[Path], target: Path, samples_limit: int = SAMPLES_LIMIT) -> list[Path]:
    """Copy results folders in compact form: one becomes ``target``, several become folders in it.

    An earlier kept copy is replaced; its other files stay. Raises StoreError for a source that is none, and for a copy
    that would say otherwise than its source; BadInput for a target with other things in it, and for results that do
    not fit into files of LARGEST_BYTES.
    """
    listed = [source.resolve() for source in sources]
    names = [source.name for source in listed]
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise BadInput(f"two folders are called {doubles[0]} (accepted: folders of different names)")
    if samples_limit < 0:
        raise BadInput(
            f"--samples-limit {samples_limit}: cannot be negative (accepted: a whole number from 0)"
        )
    targets = [target] if len(listed) == 1 else [target / name for name in names]
    opened = [open_results(source) for source in listed]
    for results, place in zip(opened, targets, strict=True):
        _check(results, place)
    for results, place in zip(opened, targets, strict=True):
        _keep(results, place, samples_limit)
    return targets


def _check(results: Results, target: Path) -> None:
    if KEPT in results.sweep:
        raise BadInput(f"{results.path}: is a kept copy itself (accepted: the results of a sweep)")
    if target.exists() and not target.is_dir():
        raise BadInput(f"{target}: is a file (accepted: a folder)")
    if not target.exists() or not any(target.iterdir()):
        return
    if not (target / "sweep.json").exists() or KEPT not in open_results(target).sweep:
        raise BadInput(
            f"{target}: holds other things (accepted: a new or empty folder, or an earlier kept copy)"
        )


def _keep(results: Results, target: Path, samples_limit: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as beside:
        made = Path(beside)
        redactor = Redactor()
        before = analyse_rows([read(results, target.name)], Rules())
        _write_words(results, made, redactor, samples_limit)
        _write_samples(
            results, made, redactor, samples_limit, {row.id for row in chosen(before.rows).values()}
        )
        _check_sizes(made, target, samples_limit)
        _compare(results, before, made, target, redactor)
        target.mkdir(exist_ok=True)
        for name in OWN:
            old = target / name
            if old.is_dir():
                shutil.rmtree(old)
            old.unlink(missing_ok=True)
            if (made / name).exists():
                (made / name).rename(old)


def _write_words(results: Results, made: Path, redactor: Redactor, samples_limit: int) -> None:
    """``sweep.json`` with the rule in it, every trial's line, and the ceilings."""
    files = {name: _records(results.path / name) for name in LINES}
    redactor.learn([results.sweep, *files.values()])
    kept = {"rule": rule(samples_limit), "redacted": redact.RULE, "samples_limit": samples_limit}
    sweep = redactor.plain(results.sweep) | {KEPT: kept}
    (made / "sweep.json").write_bytes(orjson.dumps(sweep) + b"\n")
    for name, lines in files.items():
        if lines or name == "trials.jsonl":
            text = b"".join(orjson.dumps(redactor.plain(line)) + b"\n" for line in lines)
            (made / name).write_bytes(text)
    ceilings = results.path / CEILINGS_FILE
    if ceilings.exists():
        (made / CEILINGS_FILE).write_bytes(
            orjson.dumps(redactor.plain(orjson.loads(read_input(ceilings).removeprefix(MARK))))
        )


def _records(path: Path) -> list[Any]:
    try:
        return [orjson.loads(line) for line in whole_lines(path)]
    except ValueError as error:
        raise NotResults(f"{path}: a line is not JSON: {error}") from None


def whole_lines(path: Path) -> list[bytes]:
    """The lines of a file that end in a newline, blank ones left out: a sweep may still be writing the last one."""
    if not path.exists():
        return []
    with open_input(path) as file:
        return [line for line in file.read().removeprefix(MARK).split(b"\n")[:-1] if line.strip()]


def rule(samples_limit: int) -> str:
    """What is left out, in words for a reader of the report."""
    return (
        "Kept in compact form: all trials' figures and all requests' times and counts, but token times only of a "
        f"trial's first requests (up to {samples_limit}; {DRAWN_LIMIT} where drawn over time), first tokens of "
        f"{REQUESTS_READ} requests, every k-th scrape of telemetry (up to {SCRAPES} a source) with each series' "
        "highest and lowest; no logs, no samples of probes."
    )


def _write_samples(
    results: Results, made: Path, redactor: Redactor, samples_limit: int, drawn: set[str]
) -> None:
    requests = SharedWriter(made / "samples.parquet", **samples.PACKING)
    scrapes = SharedWriter(made / "telemetry.parquet")
    for result in results.results():
        trial_id = result.trial.id
        if (stored := results.samples(trial_id)) is not None:
            most = max(samples_limit, DRAWN_LIMIT) if trial_id in drawn else samples_limit
            for table in samples.thinned(
                stored, arrivals=most, first_tokens=REQUESTS_READ, text=redactor.text
            ):
                requests.add(trial_id, table)
        if (stored := results.telemetry(trial_id)) is not None:
            scrapes.add(trial_id, downsample.thinned(stored.table(), scrapes=SCRAPES, text=redactor.text))
    if results.broken:
        raise StoreError(
            f"{results.broken[0]}\n  remedy: sweep --resume runs its trial again; remove the file to keep the rest"
        )
    requests.close()
    scrapes.close()


def _check_sizes(made: Path, target: Path, samples_limit: int) -> None:
    for path in sorted(made.rglob("*")):
        size = path.stat().st_size
        if path.is_file() and size >= LARGEST_BYTES:
            name = path.relative_to(made)
            remedy = (
                f"a --samples-limit below {samples_limit}, or sweeps of fewer requests per trial"
                if name.name == "samples.parquet"
                else "sweeps of fewer trials, each in a folder of its own"
            )
            raise BadInput(
                f"{target / name}: {size / 1e6:.1f} MB in compact form; every file must stay under "
                f"{LARGEST_BYTES / 1e6:g} MB (accepted: {remedy})"
            )


def _compare(results: Results, before: Analysis, made: Path, target: Path, redactor: Redactor) -> None:
    """Raises StoreError when the copy's findings or tables are not the source's."""
    after = analyse_rows([read(Results(made), target.name)], Rules())
    wanted = [redactor.text(line) for line in _said(before, results.path)]
    found = [redactor.text(line) for line in _said(after, made)]
    for left, right in zip_longest(wanted, found, fillvalue="nothing"):
        if left != right:
            raise StoreError(
                f"{results.path}: its compact form would say otherwise, so nothing was kept:\n"
                f"  {right}\n  instead of\n  {left}"
            )


def _said(analysis: Analysis, folder: Path) -> list[str]:
    """Findings and tables, line by line."""
    # A server's name is in the seed of its bootstrap, and may be redacted: verdicts must agree, not last digits.
    lines = [" | ".join((each.id, each.subject, each.verdict)) for each in analysis.findings]
    lines += [f"{run} is kept out: {why}" for run, why in analysis.excluded.items()]
    lines += [repr(proof) for proof in analysis.proofs]
    tables = gather(folder).tables
    return lines + [" | ".join((table.title, *row)) for table in tables for row in (table.head, *table.rows)]

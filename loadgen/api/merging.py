"""One trial of the shares that several hosts sent, each into a folder of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from loadgen.api.runs import refuse_used
from loadgen.errors import BadInput
from loadgen.load.merging import merge as merge_samples
from loadgen.load.merging import shift, sum_of_sessions
from loadgen.load.quality import quality_of_hosts
from loadgen.metrics.in_flight import in_flight
from loadgen.metrics.slo_watch import SloWatch
from loadgen.records import ClientQuality, Trial, TrialResult
from loadgen.request_records import Sample
from loadgen.results.store import Results, Store, open_results, read_samples
from loadgen.trial import accumulator_of, doubted, possible
from loadgen.workload_records import Share


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A share's result and where it lies."""

    results: Results
    result: TrialResult
    share: Share
    client: ClientQuality
    start_ns: int

    def samples(self, theta_ns: int) -> Iterator[Sample]:
        """Its samples, their times moved back by so much."""
        stored = self.results.samples(self.result.trial.id)
        assert stored is not None, "a part has samples, else it is none"
        for sample in read_samples(stored):
            shift(sample, theta_ns)
            yield sample


def merge(folders: Sequence[str | Path], out: str | Path) -> TrialResult:
    """One trial of all its shares, as ``loadgen merge`` makes it, in the new or empty folder ``out``.

    Its figures are those of all samples together, on the clock of share 0: where each host took the common start to be,
    they are laid upon each other. Raises BadInput for what are not the shares of one trial, each once, StoreError for
    folders that cannot be read.
    """
    target = Path(out)
    refuse_used(target)
    parts = _whole([_part(Path(folder)) for folder in folders])
    first = parts[0]
    trial = _whole_trial(first)
    accumulator, objectives = accumulator_of(trial, text=first.share.text), SloWatch(trial)
    window = trial.load.window(first.start_ns)
    if window is not None:
        accumulator.count_within(window)
    sent = 0
    argv = tuple(sys.argv)
    record = {"name": target.name, "description": f"shares of a load on {trial.url}", "argv": list(argv)}
    with Store.create(target, record) as store:
        for part in parts:
            for environment in part.results.environments().values():
                store.add_environment(environment)
        writer = store.sample_writer(trial.id)

        def heard(sample: Sample, at_once: int) -> None:
            nonlocal sent
            sent += 1
            accumulator.add(sample)
            objectives.heard(sample, at_once)
            writer.add(sample)

        try:
            merged = merge_samples([part.samples(part.start_ns - first.start_ns) for part in parts], heard)
        except BaseException:
            writer.abandon()
            raise
        writer.close()
        summary = accumulator.summary(*in_flight(merged.sent_ns, merged.end_ns))
        result = TrialResult(
            trial=trial,
            environment=first.result.environment,
            engine=first.result.engine,
            started=min(part.result.started for part in parts),
            wall_s=max(part.result.wall_s for part in parts),
            summary=summary,
            client=quality_of_hosts([part.client for part in parts], merged.replies),
            attained=objectives.attained(trial.load.duration_s or summary.duration_s),
            cores=next((part.result.cores for part in parts if part.result.cores), None),
            window=window,
            workload=first.result.workload,
            sessions=sum_of_sessions(
                [None if (told := part.result.sessions) is None else asdict(told) for part in parts]
            ),
        )
        result = possible(doubted(result, accumulator, objectives, sent))
        store.append(result)
    return result


def _part(folder: Path) -> _Part:
    """The share in a folder. Raises BadInput for one that holds anything else, or a share that failed."""
    results = open_results(folder)
    found = results.results()
    if len(found) != 1 or found[0].trial.share is None:
        raise BadInput(
            f"{folder}: not a share of a load (accepted: the folder of a loadgen run with --share)"
        )
    result, share = found[0], found[0].trial.share
    client = result.client
    if result.failure is not None:
        raise BadInput(
            f"{folder}: {share.words} failed: {result.failure.error}: {result.failure.message} (accepted: shares that "
            "all sent their part)"
        )
    if results.left_out or not results.has_samples(result.trial.id):
        why = "".join(f": {words}" for words in results.broken)
        raise BadInput(
            f"{folder}: has not all samples of {share.words}{why} (accepted: the folder as loadgen run --share left it)"
        )
    began = [node.start_ns for node in client.nodes] if client is not None else []
    if client is None or len(began) != 1 or began[0] is None:
        raise BadInput(
            f"{folder}: does not say when its host began (accepted: the folder of a loadgen run with --share)"
        )
    return _Part(results=results, result=result, share=share, client=client, start_ns=began[0])


def _whole_trial(part: _Part) -> Trial:
    return replace(part.result.trial, id=part.share.trial, share=None)


def _whole(parts: Sequence[_Part]) -> list[_Part]:
    """The parts by their numbers. Raises BadInput where they are not all shares of one trial, each once."""
    first = parts[0]
    for part in parts[1:]:
        for what, ours, theirs in (
            ("trial", first.share.trial, part.share.trial),
            ("number of shares", first.share.of, part.share.of),
            ("start", first.share.start_at_ns, part.share.start_at_ns),
            ("loadgen", first.share.package, part.share.package),
            ("form of prompts", first.share.text, part.share.text),
            ("load", _whole_trial(first), _whole_trial(part)),
            ("trace or data set", first.result.workload, part.result.workload),
        ):
            if ours != theirs:
                told = f" ({theirs}, {ours} there)" if isinstance(ours, str | int) else ""
                raise BadInput(
                    f"{part.results.path}: another {what} than that of {first.results.path}{told} (accepted: shares of "
                    "one loadgen run, by the same command, start and loadgen on every host)"
                )
    held: dict[int, _Part] = {}
    for part in parts:
        if part.share.number in held:
            there = held[part.share.number].results.path
            raise BadInput(
                f"{part.results.path}: {part.share.words} once more, as {there} (accepted: each once)"
            )
        held[part.share.number] = part
    if missing := [f"{number}/{first.share.of}" for number in range(first.share.of) if number not in held]:
        raise BadInput(
            f"{', '.join(missing)} missing: {len(held)} of {first.share.of} shares are no trial (accepted: the folders "
            "of all)"
        )
    return [held[number] for number in range(first.share.of)]

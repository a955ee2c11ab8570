"""What a report says beside its figures: where it ran, what really ran, doubts with remedies, failures, one trial."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from loadgen.engine_facts import weights_of
from loadgen.labels import failed_label, of_the_served, place_label
from loadgen.metrics.objectives import slo_words
from loadgen.metrics.percentiles import PERCENTILES, tail_words, with_interval
from loadgen.records import Caveat, Environment, Trial, TrialResult
from loadgen.report.attained import attained_words, kept_words
from loadgen.report.tables import CLIENT_MARK, describe, varying
from loadgen.text_table import Table, table_of
from loadgen.units import show_bytes, show_duration, show_number, show_rate, show_s

NAMED = 12  # trials listed by name before "and n more"


def environment_table(environments: Sequence[Environment]) -> Table | None:
    """One column per environment that results come from."""
    if not environments:
        return None
    facts = [_facts(environment) for environment in environments]
    names = dict.fromkeys(name for fact in facts for name in fact)
    rows = tuple((name, *(fact.get(name, "–") for fact in facts)) for name in names)
    return Table(title="Environment", head=("", *(environment.id for environment in environments)), rows=rows)


def _facts(environment: Environment) -> dict[str, str]:
    facts = {
        "host": environment.host,
        "system": environment.os,
        "CPU": f"{environment.cpu}, {environment.cpus} usable"
        + (f" (cores {environment.affinity})" if environment.affinity else ""),
        "memory": show_bytes(environment.memory_bytes),
        "GPUs": gpu_words(environment.gpus) if environment.gpus else "none",
        "driver": environment.driver or "–",
        "CUDA of the driver": environment.cuda or "–",
        "loadgen commit": environment.commit or "–",
        "started": environment.started,
        "command": " ".join(environment.argv),
    }
    return facts | {f"version: {name}": version for name, version in environment.packages.items()}


def gpu_words(gpus: Sequence[Mapping[str, object]]) -> str:
    """GPUs of a kind counted: ``4 × NVIDIA H200 139.81 GiB, 700 W cap, NVLink``."""
    kinds: Counter[str] = Counter()
    for gpu in gpus:
        memory, cap, links = gpu.get("memory_bytes"), gpu.get("power_cap_w"), gpu.get("links")
        words = [str(gpu.get("name") or "unnamed GPU")]
        words += [show_bytes(memory)] if isinstance(memory, int | float) else []
        words += [f"{cap:.0f} W cap"] if isinstance(cap, int | float) else []
        ways = sorted({str(way) for way in links.values() if way}) if isinstance(links, Mapping) else []
        words += ["linked by " + "/".join(ways)] if ways else []
        kinds[", ".join(words)] += 1
    return "; ".join(f"{count} × {words}" for words, count in kinds.items())


def engine_table(results: Sequence[TrialResult]) -> Table | None:
    """What each server said that it is, which need not be what its framework's name suggests."""
    said: dict[tuple[str, str], int] = Counter()
    for result in results:
        if result.engine:
            asked = place_label(result.trial)
            told = {
                key: value
                for key, value in result.engine.items()
                if isinstance(value, str | int | float | bool)
            }
            name = str(told.pop("engine", "unnamed"))
            facts = [f"{key} {value}" for key, value in told.items() if key in ENGINE_FACTS]
            weights = weights_of(result.engine, result.trial.server)
            facts += [f"weights {weights.text}"] if weights else []
            facts += [f"cores {result.cores.affinity}"] if result.cores else []
            rest = ", ".join(facts)
            said[asked, f"{name} ({rest})" if rest else name] += 1
    rows = [(asked, told, str(count)) for (asked, told), count in said.items()]
    return table_of("What ran", ("asked for", "in the server's own words", "trials"), rows)


ENGINE_FACTS = (
    *("dtype", "tp", "pp", "device", "attention", "torch", "transformers", "version", "context", "chosen"),
    *("server", "launcher", "variant", "stream_step"),
)


def caveat_table(results: Sequence[TrialResult]) -> Table | None:
    """Doubts, those about the client first; each kind with its remedy and an example of what was seen."""
    axes = varying(result.trial for result in results)
    groups: dict[tuple[str, str, bool], list[tuple[TrialResult, Caveat]]] = {}
    for result in results:
        for caveat in result.caveats:
            groups.setdefault((caveat.kind, caveat.remedy, caveat.client), []).append((result, caveat))
    rows = []
    for (kind, remedy, client), cases in sorted(groups.items(), key=lambda group: not group[0][2]):
        result, caveat = cases[0]
        seen = caveat.message if len(cases) == 1 else f"{caveat.message} (at {describe(result.trial, axes)})"
        trials = str(len({(result.trial.id, result.started) for result, _ in cases}))
        rows.append((f"{CLIENT_MARK} {kind}" if client else kind, trials, seen, remedy))
    note = f"{CLIENT_MARK}: the load generator, not the server, may have set these trials' latencies."
    clients = any(client for _, _, client in groups)
    return table_of("Caveats", ("kind", "trials", "seen", "remedy"), rows, note if clients else "")


def failure_table(results: Sequence[TrialResult]) -> Table | None:
    """Trials without figures, and trials that lost some of their requests."""
    axes = varying(result.trial for result in results)
    rows = []
    for result in results:
        if result.failure:
            words = result.failure.message.strip().partition("\n")[0]
            rows.append((describe(result.trial, axes), result.failure.error, result.failure.phase, words))
        elif result.summary and result.summary.requests_failed:
            listed = ", ".join(f"{error} × {count}" for error, count in result.summary.errors.items())
            total = result.summary.requests_ok + result.summary.requests_failed
            words = f"{result.summary.requests_failed} of {total} requests; kept out of findings (--with-failures)"
            rows.append((describe(result.trial, axes), listed, "requests", words))
    return table_of("Failures", ("trial", "error", "phase", "what happened"), rows)


def missing_words(
    results: Sequence[TrialResult], planned_ids: Sequence[str], planned: Sequence[Trial]
) -> str:
    """Which planned trials have no result, in a sentence; empty when all have one."""
    ended = {result.trial.id for result in results}
    missing = [trial_id for trial_id in dict.fromkeys(planned_ids) if trial_id not in ended]
    if not missing:
        return ""
    by_id = {trial.id: trial for trial in planned}
    axes = varying([*planned, *(result.trial for result in results)])
    names = [
        describe(by_id[trial_id], axes) if trial_id in by_id else trial_id for trial_id in missing[:NAMED]
    ]
    more = f"; and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
    return f"{len(missing)} of {len(set(planned_ids))} planned trials have no result yet: {'; '.join(names)}{more}."


def headline(results: Sequence[TrialResult]) -> str:
    """How many trials there are, failed, and may be the client's; and how long they took."""
    failed = sum(result.failure is not None for result in results)
    limited = sum(any(caveat.client for caveat in result.caveats) for result in results)
    words = [
        f"{len(results)} trial{'s' * (len(results) != 1)} in {show_duration(sum(result.wall_s for result in results))}"
    ]
    words += [f"{failed} failed"] if failed else []
    words += [f"{limited} limited by the load generator"] if limited else []
    return ", ".join(words)


def _of_objectives(result: TrialResult) -> tuple[tuple[str, str], ...]:
    """Rows of a trial that was held to objectives."""
    found = result.attained
    if found is None:
        return ()
    share, goodput = attained_words(found)
    each = ", ".join(f"{name} {kept_words(found, name)}" for name in found.kept)
    return (
        ("objectives", slo_words(found.slo)),
        (
            "kept",
            f"{share} of {found.due} ({each})" if found.share is not None else "– (a reply does not tell)",
        ),
        ("goodput", f"{goodput} req/s"),
    )


def _of_traffic(result: TrialResult) -> tuple[tuple[str, str], ...]:
    """Rows of a trial whose requests were turns of sessions, or were given up in part."""
    told, summary = result.sessions, result.summary
    rows = []
    if summary is not None and result.trial.load.cancel is not None:
        rows.append(("requests cancelled", str(summary.requests_cancelled)))
    if told is not None and told.begun is not None:
        words = f"{told.begun} begun, {told.whole} whole, {told.failed} failed"
        rows.append(("sessions", f"{words}, {show_number(told.active_mean)} at once"))
    if told is not None and told.not_sent:
        rows.append(("turns not sent", str(told.not_sent)))
    if summary is not None and summary.session_lag_s is not None:
        lag = summary.session_lag_s
        rows.append(("session lag", f"{show_s(lag.p50)}, {tail_words(lag, 'p99')}"))
    return tuple(rows)


def result_tables(result: TrialResult) -> list[Table]:
    """One trial in full."""
    rates = result_rates(result)
    found = [
        result_latencies(result), Table(title="Throughput", head=("", "measured"), rows=rates) if rates else None,
        failure_table([result]), caveat_table([result]),
    ]  # fmt: skip
    return list(filter(None, found))


def result_latencies(result: TrialResult) -> Table | None:
    """One trial's distributions; ``None`` where it has no figures."""
    summary = result.summary
    if summary is None:
        return None
    dists = {
        "E2E latency": summary.e2e_s,
        "TTFT": summary.ttft_s,
        **({"first answer": summary.first_answer_s} if summary.first_answer_s else {}),
        "TPOT": summary.tpot_s,
        "ITL": summary.itl_s,
        "latency per output token": summary.latency_per_output_token_s,
        "send lag": summary.send_lag_s,
    }
    rows = tuple(
        (
            name,
            str(d.n),
            *map(show_s, (d.mean, d.stdev)),
            *(with_interval(d, each) for each in PERCENTILES),
            show_s(d.max),
        )
        if d
        else (name, "0", *["–"] * 7)
        for name, d in dists.items()
    )
    head = ("latency", "n", "mean", "stdev", *PERCENTILES, "max")
    note = (
        "Percentiles are nearest ranks with the 95 % interval within this run: – at its upper end where n values have "
        "none, and in place of a percentile that would be the largest of n."
    )
    return Table(title=f"Latency{of_the_served(summary)}", head=head, rows=rows, note=note)


def result_rates(result: TrialResult) -> tuple[tuple[str, str], ...]:
    """One trial's counts and rates, each with its name; none where it has no figures."""
    summary = result.summary
    if summary is None:
        return ()
    in_flight = f"{show_number(summary.in_flight_mean)} mean, {show_number(summary.in_flight_max)} at most"
    return (
        ("requests failed", failed_label(summary)),
        ("requests served", str(summary.requests_ok)),
        ("measured over", show_s(summary.duration_s)),
        ("output throughput", show_rate(summary.output_tokens_per_s, "tok/s")),
        ("total throughput", show_rate(summary.total_tokens_per_s, "tok/s")),
        ("requests", show_rate(summary.requests_per_s, "req/s")),
        *_of_objectives(result),
        ("in flight", in_flight if summary.in_flight_mean is not None else "–"),
        *_of_traffic(result),
    )

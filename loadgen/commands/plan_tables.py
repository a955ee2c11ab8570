"""``--dry-run``: a plan as tables, with what it will need, before anything is started."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from loadgen.identity import server_key
from loadgen.labels import IN_LABEL, again_label, bound_text, lengths_text, server_label
from loadgen.live.progress import trial_row
from loadgen.metrics.objectives import slo_words
from loadgen.plan.capacity import MOST_TRIALS
from loadgen.plan.detectable import Noise, assumed, of_plan
from loadgen.plan.plan import Plan
from loadgen.records import ServerSpec
from loadgen.system.environment import read_gpus
from loadgen.text_table import Table, table_of
from loadgen.theory.ceilings import datasheet
from loadgen.theory.predict import Outlook, check_fit, outlook
from loadgen.units import show_bytes, show_duration, show_s, show_share

LETTERS = string.ascii_uppercase
HEAD = ("trial", "load", "in", "out", "requests", "weights/GPU", "KV/GPU", "floor/call", "about")


def print_plan(plan: Plan, noise_from: Sequence[Path] = ()) -> None:
    """Every trial by server, its predicted memory and time, sums, what is predicted not to fit, and what it can tell.

    ``noise_from``: results folders whose noise is taken for that of the same engines. Raises StoreError for another.
    """
    from loadgen.live import terminal

    gpus, _, _ = read_gpus()
    device = datasheet(str(gpus[0]["name"])) if gpus else None
    groups = plan.groups()
    starts = sum(spec is not None for spec, _ in groups)
    ahead = outlook(plan.trials, starts, device)
    terminal.print_tables(server_tables(plan, ahead))
    searches = search_table(plan, gpus)
    capacities = capacity_table(plan)
    terminal.print_tables([table for table in (searches, capacities) if table])
    memory = [memory for gpu in gpus if isinstance(memory := gpu.get("memory_bytes"), int)]
    warnings = check_fit(plan.trials, min(memory)) if memory else []
    terminal.print_lines([f"warning: {warning}" for warning in warnings])
    terminal.print_lines(together(plan))
    noise: Callable[[ServerSpec], Noise] = assumed
    if noise_from:
        from loadgen.analysis.plan_noise import (
            measured,
        )  # it imports the analysis, which other plans do not need

        noise = measured(noise_from)
    terminal.print_lines(of_plan(plan, {each.trial_id: each.estimate_s for each in ahead.predictions}, noise))
    terminal.print_lines([headline(plan, ahead)])


def server_tables(plan: Plan, ahead: Outlook) -> list[Table]:
    """One table for each server start; a dash stands for what cannot be known before."""
    several = len({trial.start for trial in plan.trials}) > 1
    by_id = {prediction.trial_id: prediction for prediction in ahead.predictions}
    tables = []
    for spec, trials in plan.groups():
        rows = []
        for trial in trials:
            row, need = trial_row(trial), by_id[trial.id]
            load = row.load + again_label(0, trial.repeat)
            lengths = (str(trial.load.input_tokens), str(trial.load.output_tokens))
            calls = f"{trial.load.warmup}+{bound_text(trial.load)}"
            memory = (show_bytes(need.weight_bytes), show_bytes(need.kv_bytes))
            times = (show_s(need.floor_s), show_duration(need.estimate_s))
            rows.append((trial.id, load, *lengths, calls, *memory, *times))
        again = f", start {trials[0].start + 1}" if several else ""
        tables.append(Table(title=title(spec) + again, head=HEAD, rows=tuple(rows)))
    return tables


def search_table(plan: Plan, gpus: Sequence[Mapping[str, object]]) -> Table | None:
    """The bounds of every search for a largest batch; ``None`` without any."""
    if not plan.searches:
        return None
    import psutil

    from loadgen.plan import bisection

    host = psutil.virtual_memory().total
    rows = []
    for search in plan.searches:
        state = bisection.begin(search, bisection.memory_of(search, gpus, host))
        lengths = (str(search.load.input_tokens), str(search.load.output_tokens))
        predicted = "–" if state.predicted is None else str(state.predicted)
        bounds = (predicted, str(state.start), str(state.most), show_share(search.within))
        rows.append((title(search.server), *lengths, *bounds))
    head = ("server", "in", "out", "predicted to fit", "starts at", "at most", "to within")
    note = "Doubled until one does not fit, then bisected; each try is one wire call, and out of memory a restart."
    return Table(title='max_batch = "auto": largest batches', head=head, rows=tuple(rows), note=note)


def capacity_table(plan: Plan) -> Table | None:
    """Every search for a highest load within objectives; ``None`` without any."""
    rows = []
    for search in plan.capacities:
        load, slo = search.point.load, search.point.slo
        window = "by rule" if search.window_s is None else show_duration(search.window_s)
        held = slo_words(slo) if slo else "–"
        server = title(search.point.server) + again_label(search.point.start, 0)
        rows.append((server, lengths_text(load), search.variable, held, window))
    note = f"Up to {MOST_TRIALS} trials each; the next one follows from those before it."
    return table_of("Capacity searches", ("server", "lengths", "of", "objectives", "window"), rows, note)


def together(plan: Plan) -> list[str]:
    """Which servers are up side by side, and in which order their trials come."""
    if plan.order == "grouped":
        return []
    lines = []
    for trials in plan.sets():
        names = {server_key(trial): title(trial.server) for trial in trials}
        letters = dict(zip(names, LETTERS, strict=False))
        turns = " ".join(letters.get(server_key(trial), "…") for trial in trials[: 4 * len(names)])
        listed = "; ".join(f"{letters.get(key, '…')} = {name}" for key, name in names.items())
        lines.append(
            f"up together: {listed}; trials in the order {turns}{' …' if len(trials) > 4 * len(names) else ''}"
        )
    return lines


def title(spec: ServerSpec | None) -> str:
    """A server in one line: its label, dtype and devices, and its options, by which it may differ from the next;
    ``None`` is an endpoint."""
    if spec is None:
        return "an endpoint that already runs"
    where = f"GPUs {', '.join(map(str, spec.gpus))}" if spec.gpus else "CPU"
    named = {name: value for name, value in spec.options.items() if name not in IN_LABEL}
    options = "".join(f", {name}={value}" for name, value in sorted(named.items()))
    return f"{server_label(spec)}, {spec.dtype}, {where}{options}"


def headline(plan: Plan, ahead: Outlook) -> str:
    """Counts, and the time: at least (by the device's ceilings) and about."""
    if not plan.trials:
        time = "nothing is missing"
    elif ahead.estimate_s is None or ahead.at_least_s is None:
        time = "time not predicted (no known GPU: the CPU's ceilings are not in the table)"
    else:
        time = f"at least {show_duration(ahead.at_least_s)}, about {show_duration(ahead.estimate_s)} ({ahead.device})"
    planned = {server_key(trial) for trial in plan.trials}
    searched = {server_key(each.point) for each in plan.capacities if each.point.server is not None}
    starts = ahead.server_starts + len(searched - planned)
    if plan.capacities:
        most = f"and up to {MOST_TRIALS * len(plan.capacities)} of searches, whose time is not predicted"
        time = f"{most}; {time} without them" if plan.trials else most
    return f"{len(plan.trials)} trials, {starts} server starts, {time}"

"""Short names for people: of a load, a server, a trial's caveats; and text from outside made safe to print."""

from __future__ import annotations

from loadgen.load_records import LoadSpec
from loadgen.records import ServerSpec, Summary, Trial, TrialResult
from loadgen.units import show_number, show_share
from loadgen.workload_records import Spread

CLIENT_MARK = "!client"
IN_LABEL = ("engine", "transport")  # the options that a server's label shows


def clean(text: str) -> str:
    """Text from outside without control characters, which could repaint or retitle the user's terminal."""
    return "".join(
        mark if mark.isprintable() or mark == "\n" else "\N{REPLACEMENT CHARACTER}" for mark in text
    )


def load_label(trial: Trial) -> str:
    """How the load is released: ``batch 8``, ``8 in flight`` or ``poisson 2/s``; then what varies in it, and the
    share of it that is sent."""
    parts = (_released(trial), varied_text(trial.load), trial.share.words if trial.share else "")
    return ", ".join(filter(None, parts))


def _released(trial: Trial) -> str:
    load = trial.load
    if load.kind == "static":
        return f"batch {load.batch_size}"
    each = f" × {load.batch_size}" if load.batch_size > 1 else ""
    if load.kind == "closed":
        return f"{load.concurrency} in flight{each}"
    if load.sessions is not None:
        return f"{load.sessions.users} users"
    if load.kind == "ramp":
        return f"ramp {show_number(load.rate)}–{show_number(load.rate_end)}/s{each}"
    return f"{load.kind} {show_number(load.due_rate)}/s{each}" if load.due_rate else f"{load.kind}{each}"


def lengths_text(load: LoadSpec) -> str:
    """Its lengths: ``512 in, 128 out``, or what they are drawn from."""
    return f"{input_text(load)} in, {output_text(load)} out"


def input_text(load: LoadSpec) -> str:
    """Its prompts' length, or what that is drawn from."""
    return spread_text(load.input_spread) if load.input_spread else str(load.input_tokens)


def output_text(load: LoadSpec) -> str:
    """Its outputs' length, or what that is drawn from."""
    return spread_text(load.output_spread) if load.output_spread else str(load.output_tokens)


def varied_text(load: LoadSpec) -> str:
    """What of a load differs from request to request, but for a trace's rows: ``in lognormal 512, sigma 0.8, 1–4096``;
    empty where nothing does."""
    parts = [
        f"{way} {spread_text(spread)}"
        for way, spread in (("in", load.input_spread), ("out", load.output_spread))
        if spread is not None
    ]
    if load.dataset is not None:
        parts.append(f"prompts of {load.dataset.path.rpartition('/')[2]}")
    if (cut := load.cancel) is not None:
        when = f"{show_number(cut.after_s)} s" if cut.after_s is not None else f"{cut.after_tokens} tokens"
        parts.append(f"{show_share(cut.share)} cancelled after {when}")
    if (talk := load.sessions) is not None:
        parts.append(f"{_always_text(talk.turns)} turns")
        parts += [f"think {_always_text(talk.think_ms)} ms"] if talk.think_ms.most else []
    if (shared := load.prefixes) is not None:
        share = "" if shared.share == 1 else f" of {show_share(shared.share)}"
        parts.append(f"{shared.groups} prefixes × {shared.tokens}{share}")
    if (replay := load.replay) is not None:
        parts += [f"× {show_number(replay.speed)}"] if replay.speed != 1 else []
        parts += [f"sample {show_share(replay.sample)}"] if replay.sample < 1 else []
    return ", ".join(parts)


def _always_text(spread: Spread) -> str:
    return str(spread.least) if spread.least == spread.most else spread_text(spread)


def spread_text(spread: Spread) -> str:
    """A distribution of lengths in a few words."""
    bounds = f"{spread.least}–{spread.most}"
    if spread.kind == "uniform":
        return f"uniform {bounds}"
    shape = {
        "lognormal": f"lognormal {show_number(spread.median)}, sigma {show_number(spread.sigma)}",
        "gamma": f"gamma {show_number(spread.mean)}, cv {show_number(spread.cv)}",
        "empirical": f"{len(spread.values)} lengths of a file",
    }[spread.kind]
    return f"{shape}, {bounds}"


def bound_text(load: LoadSpec) -> str:
    """What bounds a load: ``64`` requests, ``120s``, ``30s+120s`` with a lead-in."""
    if load.duration_s is None:
        return str(load.requests)
    lead_in = f"{show_number(load.lead_in_s)}s+" if load.lead_in_s else ""
    return f"{lead_in}{show_number(load.duration_s)}s"


def again_label(start: int, repeat: int) -> str:
    """Which start and which repeat of it a trial is, behind its name: ``, start 2, repeat 3``; the first is unnamed."""
    return (f", start {start + 1}" if start else "") + (f", repeat {repeat + 1}" if repeat else "")


def server_label(spec: ServerSpec) -> str:
    """A short name of a server for people: ``hf/generate llama-13b tp2``, ``tgi/shard llama-13b tp2``."""
    engine = next((value for name in IN_LABEL if (value := spec.options.get(name))), None)
    split = f" tp{spec.tp}" + (f" pp{spec.pp}" if spec.pp > 1 else "")
    return f"{spec.framework}{f'/{engine}' if engine else ''} {spec.model.name}{split}"


def place_label(trial: Trial) -> str:
    """What a trial is of: its server, or the model at its endpoint, which may have been left to that."""
    if trial.server is not None:
        return server_label(trial.server)
    return f"{trial.model_name or 'the model'} at {trial.url}"


def failed_label(summary: Summary | None) -> str:
    """How many of a trial's requests failed: ``18.2 % (2 of 11)``, ``0`` of none; a dash without figures."""
    if summary is None:
        return "–"
    if not summary.requests_failed:
        return "0"
    asked = summary.requests_ok + summary.requests_failed
    return f"{show_share(summary.failed_share)} ({summary.requests_failed} of {asked})"


def of_the_served(summary: Summary | None) -> str:
    """What to set behind a latency of a trial that lost requests; empty of others."""
    return " of the served ones" if summary is not None and summary.requests_failed else ""


def caveat_marks(result: TrialResult) -> tuple[str, ...]:
    """The kinds of a trial's caveats, each once; ``!client`` comes first, as it voids the latency."""
    limited = any(caveat.client for caveat in result.caveats)
    kinds = dict.fromkeys(clean(caveat.kind) for caveat in result.caveats if not caveat.client)
    return (*([CLIENT_MARK] if limited else []), *kinds)

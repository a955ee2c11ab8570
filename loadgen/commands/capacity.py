"""``loadgen capacity``: the highest load at which an endpoint keeps its objectives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loadgen.api.sweeps import SweepOptions
from loadgen.commands import sweep
from loadgen.commands.run import driver_options
from loadgen.errors import BadInput
from loadgen.metrics.objectives import slo_of_options
from loadgen.plan.plan import make_plan
from loadgen.profile.read import build_profile
from loadgen.slo_records import Slo

IN_LOAD = ("input_tokens", "output_tokens", "burstiness", "seed", "workers")
IN_TARGET = ("url", "model", "vocab", "protocol", "tokenizer", "exact")
IN_DRIVER = ("endpoint", "prompt", "extra_body", "headers", "options")
IN_SEARCH = ("variable", "window", "lead_in", "within", "confirm", "saturating", "near")


def run(*, argv: tuple[str, ...], slo: tuple[str, ...], out: Path | None, resume: bool, **given: Any) -> int:
    """Search, store every trial, and report. Returns the exit code: 1 without a capacity.

    Raises BadInput that names what is wrong and what is accepted.
    """
    objectives = slo_of_options(slo)
    if objectives is None:
        raise BadInput("--slo is missing (accepted: such as --slo ttft=500ms --slo tpot=50ms@99%)")

    def of(names: tuple[str, ...]) -> dict[str, Any]:
        return {name: given[name] for name in names if given[name] is not None}

    load = of(IN_LOAD)
    mode = "poisson" if load.get("burstiness", 1.0) == 1.0 else "gamma"
    if mode == "poisson":
        load.pop("burstiness", None)
    driver = driver_options(**{name: given[name] for name in IN_DRIVER}, grpc=given["url"].startswith("grpc"))
    tables: dict[str, Any] = {
        "name": (out or Path("results/capacity")).name,
        "target": of(IN_TARGET)
        | {"options": {key: value for key, value in driver.items() if value is not None}},
        "load": {"mode": mode, **load},
        "slo": table_of(objectives),
        "capacity": of(IN_SEARCH),
        "telemetry": {"enabled": False},
    }
    profile = build_profile(tables)
    plan = make_plan(profile)
    options = SweepOptions(argv=argv, out=out or Path("results/capacity"), resume=resume)
    return sweep.run(profile, plan, options)


def table_of(slo: Slo) -> dict[str, Any]:
    """Objectives as a profile's [slo] table."""
    bounds: dict[str, Any] = {
        each.name: f"{each.limit_s:.9f}s" + (f"@{each.share!r}" if each.share is not None else "")
        for each in slo.objectives
    }
    return {**bounds, "share": slo.share}

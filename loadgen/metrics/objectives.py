"""Objectives: read from words such as ``ttft=500ms@99%``, and judged request by request. Pure."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from loadgen.errors import BadInput
from loadgen.metrics.effective import independent, wilson
from loadgen.metrics.summary import e2e_ns, start_ns, token_gaps_ns, tokens_per_sequence, tpot_ns, ttft_ns
from loadgen.request_records import Sample
from loadgen.slo_records import OBJECTIVES, SHARE, Attained, GoalKept, Objective, Slo
from loadgen.units import nanoseconds, parse_span, show_s

LONGEST_S = 1e9
SHARES = "50% to 99.9%"
BOUNDS = 'a time such as "500ms" or "1.5s", and with a share of its own "500ms@99%"'
UNKNOWN = 1 << 7  # a bit above those of the objectives


def parse_share(text: str) -> float:
    """``95%`` or ``0.95``. Raises BadInput for anything else, or a share that no load can be held to."""
    words = text.strip()
    try:
        share = round(float(words.removesuffix("%")) / (100 if words.endswith("%") else 1), 6)
    except ValueError:
        share = math.nan
    if not 0.5 <= share <= 0.999:
        raise BadInput(f"{text!r}: not a share of requests (accepted: {SHARES})")
    return share


def parse_objective(name: str, text: str) -> Objective:
    """One objective of ``[slo]`` or ``--slo``. Raises BadInput, which says what is accepted."""
    if name not in OBJECTIVES:
        raise BadInput(f"{name}: no objective (accepted: {', '.join(OBJECTIVES)}, share)")
    bound, at, own = text.partition("@")
    limit_s = parse_span(bound)
    bare = bound.strip()[-1:].isdigit()  # 500 would be taken for 500 s where 500 ms were meant
    if bare or limit_s is None or not 0 < limit_s < LONGEST_S:
        raise BadInput(f"{name} = {text!r}: not a bound (accepted: {BOUNDS})")
    share = parse_share(own) if at else None
    return Objective(name=name, limit_s=limit_s, share=share)  # type: ignore[arg-type]  # looked up above


def make_slo(bounds: Mapping[str, str], share: str | float | None = None) -> Slo | None:
    """Objectives by name, in the order of OBJECTIVES; ``None`` without any. Raises BadInput."""
    found = {name: parse_objective(name, text) for name, text in bounds.items()}
    if not found:
        if share is not None:
            raise BadInput(
                f"share = {share}: of no objective (accepted: beside one of {', '.join(OBJECTIVES)})"
            )
        return None
    wanted = SHARE if share is None else parse_share(str(share))
    return Slo(objectives=tuple(found[name] for name in OBJECTIVES if name in found), share=wanted)


def slo_of_options(given: Iterable[str]) -> Slo | None:
    """``--slo`` as given, each ``NAME=BOUND`` or ``share=95%``. Raises BadInput that names the option."""
    bounds: dict[str, str] = {}
    for text in given:
        name, equals, bound = text.partition("=")
        if not equals or name.strip() in bounds:
            why = "given twice" if equals else "not NAME=BOUND"
            raise BadInput(f"--slo {text}: {why} (accepted: {', '.join(OBJECTIVES)}, share; {BOUNDS})")
        bounds[name.strip()] = bound
    share = bounds.pop("share", None)
    try:
        return make_slo(bounds, share)
    except BadInput as error:
        raise BadInput(f"--slo {error}") from None


def unseen_objectives(slo: Slo) -> list[str]:
    """Those that need token times, which a reply that is not streamed has not."""
    return [each.name for each in slo.objectives if each.name != "e2e"]


def slo_words(slo: Slo) -> str:
    """``ttft ≤ 500 ms, tpot ≤ 50 ms (95 % together)``."""
    bound: dict[str, str] = {each.name: f"{each.name} ≤ {show_s(each.limit_s)}" for each in slo.objectives}
    parts = []
    for goal in slo.goals:
        together = " together" if len(goal.objectives) > 1 else ""
        named = ", ".join(bound[name] for name in goal.objectives)
        parts.append(f"{named} ({goal.share * 100:.4g} %{together})")
    return ", ".join(parts)


class Judge:
    """Takes samples one by one, measured ones alone, and keeps when each was due and which objectives it kept."""

    def __init__(self, slo: Slo) -> None:
        self.slo = slo
        self._limits_ns = [(each.name, nanoseconds(each.limit_s)) for each in slo.objectives]
        self._due_ns, self._bits = array("q"), array("B")
        self._kept = [0] * len(self._limits_ns)

    def add(self, sample: Sample) -> bool | None:
        """Take a sample in; says whether it was good, ``None`` where that cannot be told."""
        self._due_ns.append(start_ns(sample))
        bits = 0
        if sample.error is None:
            for place, (name, limit_ns) in enumerate(self._limits_ns):
                took = _time_ns(name, sample)
                if took is None:
                    bits |= UNKNOWN
                elif took <= limit_ns:
                    bits |= 1 << place
                    self._kept[place] += 1
        self._bits.append(bits)
        return None if bits & UNKNOWN else bits == (1 << len(self._limits_ns)) - 1

    def kept(self) -> dict[str, int]:
        """By objective: how many requests kept it so far."""
        return {name: count for (name, _), count in zip(self._limits_ns, self._kept, strict=True)}

    def attained(self, window_s: float | None, unfinished: int = 0) -> Attained | None:
        """What the samples so far come to; ``None`` without any. ``unfinished`` more were due last and did not end."""
        if not len(self._bits) + unfinished:
            return None
        order = np.argsort(np.array(self._due_ns), kind="stable")
        bits = np.concatenate([np.array(self._bits, np.uint8)[order], np.zeros(unfinished, np.uint8)])
        return attained(self.slo, bits, window_s)


def attained(slo: Slo, bits: NDArray[np.uint8], window_s: float | None) -> Attained:
    """Of requests in the order in which they were due: bit i of each says that it kept objective i."""
    place: dict[str, int] = {each.name: 1 << i for i, each in enumerate(slo.objectives)}
    every = np.uint8(sum(place.values()))
    goals = []
    for goal in slo.goals:
        wanted = np.uint8(sum(place[name] for name in goal.objectives))
        kept = (bits & wanted) == wanted
        worth = independent(kept)
        low, high = wilson(int(kept.sum()), len(kept), worth)
        goals.append(GoalKept(kept=int(kept.sum()), independent=worth, low=low, high=high))
    return Attained(
        slo=slo,
        due=len(bits),
        good=int(((bits & every) == every).sum()),
        kept={name: int(((bits & np.uint8(mask)) != 0).sum()) for name, mask in place.items()},
        goals=tuple(goals),
        window_s=window_s,
        unknown=int(((bits & UNKNOWN) != 0).sum()),
    )


def _time_ns(name: str, sample: Sample) -> float | None:
    """What an objective bounds of a served request; ``None`` where its reply does not tell."""
    reply = sample.reply
    if name == "e2e":
        return e2e_ns(sample)
    if not reply.token_ns:
        return None
    if name == "ttft":
        return ttft_ns(sample)
    tokens = tokens_per_sequence(sample)
    if tokens is not None and tokens < 2:
        return 0  # one token has no pace to keep
    if len(reply.token_ns) < 2 or (tokens is None and name == "tpot"):
        return None
    if name == "tpot":
        return tpot_ns(sample)
    return max(token_gaps_ns(sample), default=0)

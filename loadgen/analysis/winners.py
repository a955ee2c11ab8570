"""Who wins: the best configuration for each goal at one job, the next one, and whether the noise tells them apart.

A job is what is asked for: a model, lengths and a way of loading, on one kind of machine, in numbers of one width. A
configuration is how it is done: a stack (engine and options), its GPUs, and the load that it works at, a batch or a
rate. Each stack enters with its best configuration; where there is but one stack, each of its splits does.

The winner is the best figure of all; of latency, which only noise lowers as the load rises, the best at the lowest load
that two have in common. Its rivals are the others that have a figure at the winner's load, so that all had the same
chance; each stands by its own best. The unit is the server's start, as in every comparison: with one start on a side
nothing is told, and servers held to the power cap on other weights are not compared.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from loadgen.analysis.finding import server_text, split_text
from loadgen.analysis.ratios import Ratio
from loadgen.analysis.same_data import OTHER_DATA, other_data
from loadgen.analysis.starts import Cell
from loadgen.analysis.study import Study
from loadgen.analysis.table import Key
from loadgen.theory.models import width_text
from loadgen.units import show_number, show_rate, show_s

Prices = Mapping[str, float]  # price of a GPU hour by a part of the machine's name; "" is any machine
LATENCY, RATE, ENERGY = "e2e_s", "output_tokens_per_s", "joules_per_output_token"
MANY_TIMES = 2.0  # from here on a lead is told as a factor, and not in percent
ONLY = "nothing to compare with"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What to be best at: a metric, less or more of it, and by what it is divided."""

    name: str
    metric: str
    unit: str
    lower: bool = False
    per: Callable[[Key, Prices], float | None] = lambda _key, _prices: 1.0

    def show(self, value: float) -> str:
        """A figure with its unit."""
        return show_s(value) if self.unit == "s" else show_rate(value, self.unit)


def _tokens_per_price(key: Key, prices: Prices) -> float | None:
    price = price_of(key.machine, prices)
    return None if price is None else price * key.gpus / 3600 * 1e6


GOALS = (
    Goal(name="lowest latency", metric=LATENCY, unit="s", lower=True),
    Goal(name="most tokens/s", metric=RATE, unit="tok/s"),
    Goal(name="most tokens/s per GPU", metric=RATE, unit="tok/s per GPU", per=lambda key, _: float(key.gpus)),
    Goal(name="least energy per token", metric=ENERGY, unit="J/token", lower=True),
    Goal(name="most tokens per $", metric=RATE, unit="million tok/$", per=_tokens_per_price),
)
PER_GPU, PER_PRICE = GOALS[2], GOALS[4]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Who is best at one goal. ``value`` and its 95 % interval are in ``unit``.

    ``ahead`` is the interval of rival / winner (of less is better) or winner / rival, ``None`` without one. ``told``:
    shown ahead of every rival; else ``reason`` says why not. ``runner_up`` is the next best, empty without a rival.
    """

    goal: str
    sentence: str
    server: str
    cell: Key
    value: float
    low: float | None
    high: float | None
    unit: str
    text: str
    runner_up: str
    runner_up_text: str
    ahead: tuple[float, float] | None
    told: bool
    reason: str


def price_of(machine: str, prices: Prices) -> float | None:
    """The price of a GPU hour on a machine, by the longest name that occurs in the machine's; ``None`` without one."""
    known = [name for name in prices if name.lower() in machine.lower()]
    return prices[max(known, key=len)] if known else None


def job_of(key: Key) -> Key:
    """What a cell was asked for, without how it was done; floats of one width are one dtype."""
    dtype = width_text(key.dtype)
    return replace(key, label="", variant="", dtype=dtype, tp=-1, pp=-1, batch=-1, rate=-1.0, stream=False)


def jobs(study: Study) -> dict[Key, list[Cell]]:
    """The cells of each job, the one first at which most stacks meet (then: of most servers, of most cells)."""
    found: dict[Key, list[Cell]] = defaultdict(list)
    for key, cell in study.cells.items():
        found[job_of(key)].append(cell)
    return dict(sorted(found.items(), key=lambda item: _size(item[1]), reverse=True))


def _size(cells: Sequence[Cell]) -> tuple[int, int, int]:
    return len(set(map(stack, cells))), len({_server(cell) for cell in cells}), len(cells)


def job_text(job: Key) -> str:
    """``llama-13b, 16-bit, static batches, 20 tokens in, 100 out, on NVIDIA H200``."""
    kind, comma, varied = job.kind.partition(", ")
    load = "static batches" if kind == "static" else f"{kind} load"
    told = {part.partition(" ")[0] for part in varied.split(", ")}  # which lengths its distributions tell
    lengths = [] if "in" in told else [f"{job.input_tokens} tokens in"]
    if "out" not in told:
        lengths.append(f"{job.output_tokens} {'' if lengths else 'tokens '}out")
    where = f", on {job.machine}" if job.machine else ""
    parts = [job.model, *([job.dtype] if job.dtype != "unknown" else []), f"{load}{comma}{varied}", *lengths]
    return f"{', '.join(parts)}{where}"


def answers(study: Study, prices: Prices | None = None) -> tuple[Answer, ...]:
    """The answers at the job at which most stacks meet; none of an empty study."""
    job = next(iter(jobs(study)), None)
    return answers_at(study, job, prices) if job is not None else ()


def answers_at(study: Study, job: Key, prices: Prices | None = None) -> tuple[Answer, ...]:
    """One answer for each goal that has figures at ``job``. Per price machines compete that have one."""
    prices = prices or {}
    cells = [cell for cell in study.cells.values() if job_of(cell.key) == job]
    everywhere = [
        cell for cell in study.cells.values() if replace(job_of(cell.key), machine=job.machine) == job
    ]
    found = [
        _answer(study, goal, everywhere if goal is PER_PRICE else cells, prices)
        for goal in GOALS
        if goal is not PER_GPU or any(cell.key.gpus > 1 for cell in cells)  # else it is tokens/s once more
    ]
    return tuple(filter(None, found))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One cell's figure for a goal; ``per`` divides the metric."""

    cell: Cell
    value: float
    per: float


def _answer(study: Study, goal: Goal, cells: Iterable[Cell], prices: Prices) -> Answer | None:
    entries = []
    for cell in cells:
        estimate, per = study.estimate(cell, goal.metric), goal.per(cell.key, prices)
        if estimate is not None and per is not None:
            entries.append(_Entry(cell=cell, value=estimate.value / per, per=per))
    if not entries:
        return None
    entries.sort(key=lambda entry: entry.value if goal.lower else -entry.value)
    named = names([entry.cell for entry in entries])
    several = len({stack(entry.cell) for entry in entries}) > 1
    side: Callable[[Cell], tuple[str, ...]] = stack if several else _server
    if goal.metric == LATENCY:
        entries = _at_lowest_load(entries, side)
    winner = entries[0]
    best: dict[tuple[str, ...], _Entry] = {}
    for entry in entries:
        best.setdefault(side(entry.cell), entry)
    at_load = {side(entry.cell) for entry in entries if _load(entry.cell) == _load(winner.cell)}
    rivals = [entry for at, entry in best.items() if entry is not winner and at in at_load]
    apart = [_apart(study, goal, winner, rival) for rival in rivals]
    figure = study.estimate(winner.cell, goal.metric)
    assert figure is not None
    low, high = (None if end is None else end / winner.per for end in (figure.low, figure.high))
    untold = [(rival, why) for rival, (_, why) in zip(rivals, apart, strict=True) if why]
    reason = ""
    if not rivals:
        reason = ONLY if len(best) == 1 else "no other server has a figure at this load"
    elif untold:
        reason = f"{named(untold[0][0].cell)}: {untold[0][1]}"
    ratio = apart[0][0] if apart else None
    answer = Answer(
        goal=goal.name,
        sentence="",
        server=named(winner.cell),
        cell=winner.cell.key,
        value=winner.value,
        low=low,
        high=high,
        unit=goal.unit,
        text=goal.show(winner.value),
        runner_up=_where(named, rivals[0].cell, winner.cell) if rivals else "",
        runner_up_text=goal.show(rivals[0].value) if rivals else "",
        ahead=None if ratio is None or ratio.low is None or ratio.high is None else (ratio.low, ratio.high),
        told=bool(rivals) and not untold,
        reason=reason,
    )
    return replace(answer, sentence=_sentence(answer, goal, apart[0][1] if apart else "", len(untold)))


def _at_lowest_load(entries: Sequence[_Entry], side: Callable[[Cell], tuple[str, ...]]) -> list[_Entry]:
    """The entries at the lowest load that two sides have, or that any has."""
    sides: dict[tuple[int, float], set[tuple[str, ...]]] = defaultdict(set)
    for entry in entries:
        sides[_load(entry.cell)].add(side(entry.cell))
    lowest = min((load for load, met in sides.items() if len(met) > 1), default=min(sides))
    return [entry for entry in entries if _load(entry.cell) == lowest]


def _apart(study: Study, goal: Goal, winner: _Entry, rival: _Entry) -> tuple[Ratio | None, str]:
    """How far the winner leads, as a ratio over 1, ``None`` where none may be told; and why it is not told."""
    if other_data(winner.cell.rows, rival.cell.rows):
        return None, OTHER_DATA
    over, under = (rival, winner) if goal.lower else (winner, rival)
    ratio = study.ratio(over.cell, under.cell, goal.metric)
    if ratio is None:
        return None, "not measured"
    scale = under.per / over.per
    low, high = (None if end is None else end * scale for end in (ratio.low, ratio.high))
    ratio = replace(ratio, value=ratio.value * scale, low=low, high=high)
    if not ratio.told:
        return ratio, ratio.source.removesuffix(": not told")
    return ratio, "" if ratio.above(1) else "not told apart"


def _sentence(answer: Answer, goal: Goal, nearest: str, untold: int) -> str:
    """The answer in words; ``nearest``: why the runner-up is not told, ``untold``: how many rivals are not."""
    show = show_s if goal.unit == "s" else show_number
    span = ""
    if answer.low is not None and answer.high is not None:
        span = f" [{show(answer.low)}, {show(answer.high)}]"
    words = f"{answer.server}, {load_text(answer.cell)}: {answer.text}{span}"
    if not answer.runner_up:
        return f"{words}; {answer.reason}."
    rival = f"{answer.runner_up} ({answer.runner_up_text})"
    if not nearest:
        assert answer.ahead is not None
        words += f", ahead of {rival} by {lead_text(answer.ahead)}"
        return f"{words}; not told from {answer.reason}{_more(untold)}." if untold else f"{words}."
    if answer.ahead is not None:
        return f"{words}, not told apart from {rival}{_more(untold)}: {lead_text(answer.ahead)}."
    return f"{words}, ahead of {rival} by figure alone: {nearest}{_more(untold)}."


def _more(untold: int) -> str:
    return f" (likewise {untold - 1} more)" if untold > 1 else ""


def lead_text(ahead: tuple[float, float]) -> str:
    """``4–9 %``, ``−1 to +4 %``, or ``×2.1–2.4`` of a lead of many times."""
    low, high = ahead
    if low >= MANY_TIMES:
        return f"×{low:.3g}–{high:.3g}"
    low, high = 100 * (low - 1), 100 * (high - 1)
    if low > 0:
        return f"{low:.2g}–{high:.2g} %" if high < 100 else f"{low:.0f}–{high:.0f} %"
    return f"{low:+.2g} to {high:+.2g} %".replace("-", "−")


def load_text(key: Key) -> str:
    """``batch 8``, ``8 at once`` of a closed loop, ``2/s`` of an open one, ``its pace`` of a trace that has its own."""
    if key.rate > 0:
        return f"{show_number(key.rate)}/s"
    if key.kind.partition(",")[0] == "trace":
        return "its pace"
    return f"batch {key.batch}" if key.kind == "static" else f"{key.batch} at once"


def stack(cell: Cell) -> tuple[str, str, str, str]:
    """What runs, and on which machine, without its GPUs."""
    key = cell.key
    return key.label, key.variant, key.dtype, key.machine


def _server(cell: Cell) -> tuple[str, ...]:
    return *stack(cell), split_text(cell.key)


def _load(cell: Cell) -> tuple[int, float]:
    return cell.key.batch, cell.key.rate


def names(cells: Sequence[Cell]) -> Callable[[Cell], str]:
    """How servers are called: with a dtype that is not the usual one, and what else differs among them."""
    keys = [cell.key for cell in cells]
    usual = Counter(key.dtype for key in keys).most_common(1)[0][0]
    machines, streamed = len({key.machine for key in keys}) > 1, len({key.stream for key in keys}) > 1

    def name(cell: Cell) -> str:
        key = cell.key
        parts = [server_text(key)]
        parts += [] if key.dtype == usual else [key.dtype]
        parts += [] if key.stream or not streamed else ["not streamed"]
        parts += [f"on {key.machine}"] if machines else []
        return " ".join(parts)

    return name


def _where(named: Callable[[Cell], str], cell: Cell, winner: Cell) -> str:
    """The server, with its load where that is another than the winner's."""
    return named(cell) if _load(cell) == _load(winner) else f"{named(cell)}, {load_text(cell.key)}"

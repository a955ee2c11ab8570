"""What a finding is, and what the deciders of all findings share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from loadgen.analysis.ratios import Ratio
from loadgen.analysis.roofline import Physics
from loadgen.analysis.study import Study
from loadgen.analysis.table import Key, Row
from loadgen.analysis.thresholds import Threshold
from loadgen.theory.ceilings import Ceilings
from loadgen.units import show_interval, show_number

Verdict = Literal["holds", "refuted", "not tested"]

LONGEST = 200  # characters of a sentence
SHOWN = 0.05  # a claim holds, or is refuted, where its contrary has less than this

CLAIMS = {
    "F1": "At small batch the input length does not change latency; past a threshold batch B* it does.",
    "F2": "B* grows with the number of GPUs.",
    "F3a": "More TP gives lower latency.",
    "F3b": "Below a threshold batch, latency does not rise with the batch.",
    "F4a": "Throughput rises with TP.",
    "F4b": "Throughput rises with the batch.",
    "F4c": "A batch in [32, 256] is the best value.",
    "F5": "With the input fixed, the output length does not change latency (for FT: longer is lower).",
    "F6a": "GPU memory is flat at small batch and climbs past a threshold.",
    "F6b": "That threshold of memory grows with the number of GPUs.",
    "F7": "Doubling the GPUs leaves slightly more than half the memory per GPU.",
    "F8": "A threshold of total input tokens, given by bandwidth and compute, parts bandwidth-bound from "
    "compute-bound latency.",
    "F9a": "Layers spread over GPUs (PP): more GPUs lower throughput and raise latency.",
    "F9b": "More GPUs by layers (PP) allow larger batches.",
    "F10a": "On 1 GPU transformers is a little slower than DeepSpeed.",
    "F10b": "On more GPUs DeepSpeed is far faster than transformers.",
    "F11": "GPUs of different generations match in latency while the bandwidth suffices (batch < 32).",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The margins that words stand for. A change within ``margin`` counts as none, and a larger one as a change.

    ``with_failures`` lets trials speak that lost requests. ``prices`` are of a GPU hour, by a part of a machine's name.
    """

    margin: float = 0.10
    best_batches: tuple[int, int] = (32, 256)
    little_slower: float = 1.5  # up to so many times is "a little slower"
    far_faster: float = 2.0  # from so many times on is "far faster"
    slightly_more: float = 0.60  # (0.5, 0.6] is "slightly more than half"
    ridge_factor: float = 1.5  # a measured ridge within this factor agrees with the predicted one
    alike_below: int = 32  # F11: batches below this
    prices: Mapping[str, float] = field(default_factory=dict)
    with_failures: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """One figure behind a finding, in words; ``value`` and its interval where it is a plain number."""

    name: str
    text: str
    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A cell to measure (or, with ``again``, to repeat) before something can be said."""

    key: Key
    why: str
    again: bool = False

    @property
    def text(self) -> str:
        """What to do, and why, in one line."""
        return f"{'repeat' if self.again else 'add'} {cell_text(self.key)}: {self.why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """How much lies behind a finding: trials, starts of servers, and machines."""

    trials: int = 0
    starts: int = 0
    machines: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A claim decided for one subject (a framework and model on a machine), with the cells behind it.

    ``sentence`` is plain and has at most ``LONGEST`` characters; ``effect`` is the one figure that decides, at the
    lengths ``at``. ``p`` is the p-value of the verdict's contrary, ``None`` where nothing random is in it; a headline
    over several servers goes by it.
    """

    id: str
    claim: str
    subject: str
    verdict: Verdict
    sentence: str
    effect: Number | None = None
    at: str = ""
    p: float | None = None
    behind: Behind = Behind()
    numbers: tuple[Number, ...] = ()
    cells: tuple[Key, ...] = ()
    wanted: tuple[Wanted, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """All that the deciders may look at."""

    study: Study
    rows: Sequence[Row]
    physics: Mapping[str, Physics]
    ceilings: Mapping[str, Ceilings]
    rules: Rules = field(default_factory=Rules)

    def subjects(self) -> dict[Key, Study]:
        """One study per framework, model, machine and way of loading, closed and static batches only."""
        groups: dict[Key, list[Key]] = defaultdict(list)
        for key in self.study.cells:
            if key.kind in ("static", "closed"):
                groups[subject_of(key)].append(key)
        return {key: self.study.narrowed(keys) for key, keys in sorted(groups.items())}


def subject_of(key: Key) -> Key:
    """The key without batch, lengths and split: what one finding speaks of."""
    return replace(key, batch=-1, input_tokens=-1, output_tokens=-1, tp=-1, pp=-1)


def subject_text(key: Key) -> str:
    """``hf/generate · llama-13b · bfloat16 · NVIDIA H200``, and what else sets it apart."""
    parts = [key.label, key.model, key.dtype, key.machine]
    parts += [key.kind] if key.kind != "static" else []
    parts += ["" if key.stream else "not streamed", key.variant]
    return " · ".join(part for part in parts if part)


def split_text(key: Key) -> str:
    """The GPUs of a cell in words: ``tp 2``, ``pp 4``, ``tp 2 × pp 2``."""
    if key.pp == 1:
        return f"tp {key.tp}"
    return f"pp {key.pp}" if key.tp == 1 else f"tp {key.tp} × pp {key.pp}"


def server_text(key: Key, *, split: bool = True) -> str:
    """A server in words, with what sets it apart and (``split``) its GPUs: ``hf/generate tp 2``."""
    return " ".join(filter(None, (key.label, key.variant, split_text(key) if split else "")))


def cell_text(key: Key) -> str:
    """A cell in one line: server, split, load and lengths."""
    return f"{key.label} {split_text(key)}, {key.load}, {key.input_tokens}/{key.output_tokens}"


def ratio_text(ratio: Ratio) -> str:
    """``×1.2 [1.15, 1.25]``, or that there is no interval."""
    if ratio.low is None or ratio.high is None:
        return f"×{show_number(ratio.value)} (no interval)"
    return f"×{show_interval(ratio.value, ratio.low, ratio.high)}"


def ratio_number(name: str, ratio: Ratio) -> Number:
    """The ratio as a number of a finding, with its interval."""
    return Number(name=name, text=ratio_text(ratio), value=ratio.value, low=ratio.low, high=ratio.high)


def threshold_number(name: str, threshold: Threshold, unit: str = "") -> Number:
    """The threshold as a number of a finding, with the points that bracket it."""
    return Number(
        name=name, text=threshold.text(unit), value=threshold.estimate, low=threshold.low, high=threshold.high
    )


def not_tested(id: str, subject: str, why: str, wanted: Sequence[Wanted] = ()) -> Finding:
    """A finding that the results cannot decide: ``why``, and what to measure."""
    return Finding(
        id=id, claim=CLAIMS[id], subject=subject, verdict="not tested", sentence=why, wanted=tuple(wanted)
    )

"""F5: what the output length does to latency."""

from __future__ import annotations

from loadgen.analysis.finding import (
    CLAIMS,
    Case,
    Finding,
    Verdict,
    not_tested,
    ratio_number,
    some,
    split_text,
    subject_text,
)
from loadgen.analysis.study import Study
from loadgen.analysis.table import Key
from loadgen.units import show_share


def f5(case: Case, subject: Key, study: Study) -> Finding:
    """Latency here is latency per output token, the only reading under which the claim can hold; E2E is told beside."""
    name, margin = subject_text(subject), case.rules.margin
    falls = subject.framework == "ft"
    verdicts, numbers, cells, ends = [], [], [], []
    for _key, row in study.series("output_tokens").items():
        row = [cell for cell in row if cell.key.output_tokens > 1]
        if len(row) < 2:
            continue
        short, long = row[0], row[-1]
        ratio = study.ratio(long, short, "latency_per_output_token_s")
        whole = study.ratio(long, short, "e2e_s")
        if ratio is None:
            continue
        verdict: Verdict = "not tested"
        if falls:
            verdict = "holds" if ratio.below(1) else "refuted" if ratio.above(1) else "not tested"
        elif ratio.above(1 / (1 + margin)) and ratio.below(1 + margin):
            verdict = "holds"
        elif ratio.below(1 / (1 + margin)) or ratio.above(1 + margin):
            verdict = "refuted"
        verdicts.append(verdict)
        place = f"{split_text(short.key)}, batch {short.key.batch}, input {short.key.input_tokens}"
        step = f"{short.key.output_tokens} → {long.key.output_tokens} output tokens"
        numbers.append(ratio_number(f"latency per output token, {step} ({place})", ratio))
        if whole is not None:
            ends.append(whole.value)
            numbers.append(ratio_number(f"end-to-end latency, {step} ({place})", whole))
        cells += [cell.key for cell in row]
    if not verdicts:
        return not_tested("F5", name, "Needs at least two output lengths at one input length and batch.")
    kept, broken = verdicts.count("holds"), verdicts.count("refuted")
    reading = "falls as the output grows" if falls else f"stays within {show_share(margin)}"
    whole_text = (
        f" End-to-end latency itself grows {min(ends):.3g} to {max(ends):.3g} times over the same steps."
        if ends
        else ""
    )
    return Finding(
        id="F5",
        claim=CLAIMS["F5"],
        subject=name,
        verdict=some(verdicts),
        sentence=f"Read as latency per output token (end to end / output tokens), it {reading} in {kept} of "
        f"{len(verdicts)} series and does not in {broken}.{whole_text}",
        numbers=tuple(numbers),
        cells=tuple(cells),
    )

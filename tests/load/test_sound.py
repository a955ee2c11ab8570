"""Whatever a driver hands over, a sample can be stored."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from loadgen.load.sound import sound
from loadgen.request_records import Reply, Sample
from loadgen.results.samples import SampleWriter, read_samples

ODD = st.one_of(st.integers(), st.text(max_size=3), st.booleans(), st.floats(), st.none())
TEXT = st.none() | st.text(st.characters(codec=None), max_size=5)


@given(st.lists(ODD, max_size=3), st.lists(ODD, max_size=3), ODD, TEXT)
def test_a_reply_is_storable_or_a_bad_one(
    tmp_path_factory: object, first: list[object], counts: list[object], usage: object, text: str | None
) -> None:
    reply = sound(
        Reply(
            seq=1,
            sent_ns=1,
            end_ns=2,
            token_ns=(1,) * len(counts),
            tokens_per_arrival=tuple(counts),  # type: ignore[arg-type]
            output_tokens=tuple(counts),  # type: ignore[arg-type]
            first_tokens=tuple(first),  # type: ignore[arg-type]
            usage_prompt_tokens=usage,  # type: ignore[arg-type]
            finish=text,
        )
    )
    folder: Path = tmp_path_factory.mktemp("s")  # type: ignore[attr-defined]
    writer = SampleWriter(folder / "s.parquet")
    sample = Sample(
        phase="measured", batch_size=1, input_tokens=1, output_tokens_asked=1, due_ns=None, reply=reply
    )
    writer.add(sample)
    writer.close()
    assert list(read_samples(folder / "s.parquet")) == [sample]
    odd = [*first, *counts, *([] if usage is None else [usage])]
    plain = all(type(one) is int and 0 <= one < 2**31 for one in odd)
    assert plain or reply.error is not None or all(type(one) is int and one >= 0 for one in odd)

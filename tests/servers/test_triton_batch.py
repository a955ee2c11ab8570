"""FasterTransformer's tensors as torch sees them: what is understood, refused, and answered."""

from typing import Any

import pytest
import torch

from loadgen.servers._triton.batch import Ask, Refusal, Rows, place, read

VOCAB, CONTEXT = 100, 64


def inputs(**changes: Any) -> dict[str, torch.Tensor]:
    given = {
        "input_ids": [[1, 2, 3], [4, 0, 0]],
        "input_lengths": [3, 1],
        "request_output_len": [[4], [4]],
        **changes,
    }
    return {
        name: value if isinstance(value, torch.Tensor) else torch.tensor(value).to(torch.uint32)
        for name, value in given.items()
        if value is not None
    }


def test_rows_lose_their_padding() -> None:
    ask = read(inputs(end_id=[100, 100]), VOCAB, CONTEXT)
    assert ask == Ask(prompts=((1, 2, 3), (4,)), limits=(4, 4), width=3, end_id=100, temperature=0.0, seed=0)


def test_sampling_needs_top_p_of_one_as_the_engine_offers_no_other() -> None:
    warm = inputs(
        runtime_top_p=torch.tensor([1.0, 1.0]), temperature=torch.tensor([0.7, 0.7]), random_seed=[9, 9]
    )
    ask = read(warm, VOCAB, CONTEXT)
    assert (ask.temperature, ask.seed) == (pytest.approx(0.7), 9)
    greedy = read(inputs(temperature=torch.tensor([0.7, 0.7])), VOCAB, CONTEXT)
    assert greedy.temperature == 0.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"input_ids": None}, "input_ids is missing"),
        ({"input_lengths": [3]}, "2 input_ids, 1 input_lengths"),
        ({"input_lengths": [4, 1]}, r"input_lengths = 4: accepted: 1 to the width of input_ids, 3"),
        ({"input_lengths": [3, 0]}, "input_lengths = 0"),
        ({"request_output_len": [[4], [0]]}, "request_output_len = 0"),
        ({"request_output_len": [[4], [64]]}, "exceed the context of 64"),
        ({"input_ids": [[1, 2, 100], [4, 0, 0]]}, r"input_ids holds 100: accepted: 0 to 99"),
        ({"beam_width": [2, 2]}, r"beam_width = 2 is not offered \(accepted: 1\)"),
        ({"runtime_top_k": [40, 40]}, "runtime_top_k = 40"),
        ({"runtime_top_p": torch.tensor([0.9, 0.9])}, "runtime_top_p = 0.9"),
        ({"is_return_log_probs": torch.tensor([True, True])}, "is_return_log_probs = 1"),
        ({"stop_words_list": [[[1], [1]]]}, "stop_words_list is not offered"),
    ],
)
def test_what_would_be_silently_ignored_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(Refusal, match=words):
        read(inputs(**changes), VOCAB, CONTEXT)


def rows(*, padded_count: bool = True, end_id: int | None = 100, limits: tuple[int, int] = (2, 2)) -> Rows:
    ask = Ask(prompts=((1, 2, 3), (4,)), limits=limits, width=3, end_id=end_id, temperature=0.0, seed=0)
    return Rows(ask, padded_count=padded_count, fill=VOCAB)


def test_answers_follow_the_contract_token_by_token() -> None:
    found = rows()
    found.take(0, 50)
    found.take(1, 60)
    answer = found.tensors()
    assert answer["output_ids"].dtype == answer["sequence_length"].dtype == torch.uint32
    assert answer["output_ids"].tolist() == [[[1, 2, 3, 50, 100]], [[4, 60, 100, 100, 100]]]
    assert answer["sequence_length"].tolist() == [[4], [4]]
    assert not found.done
    found.take(0, 51)
    found.take(1, 61)
    found.take(1, 62)  # beyond its limit: ignored
    assert found.tensors()["output_ids"].tolist() == [[[1, 2, 3, 50, 51]], [[4, 60, 61, 100, 100]]]
    assert found.done
    b = rows(padded_count=False)
    b.take(0, 50)
    assert b.tensors()["sequence_length"].tolist() == [[1], [0]]


def test_a_sampled_end_id_ends_its_row_and_counts() -> None:
    found = rows(end_id=7, limits=(4, 4))
    for token in (5, 7, 9):
        found.take(0, token)
        found.take(1, token + 1)
    assert found.counts == [2, 3]
    assert found.tensors()["output_ids"].tolist()[0] == [[1, 2, 3, 5, 7, 7, 7]]


def test_end_ids_beyond_the_signed_range_keep_their_bits() -> None:
    found = rows(end_id=2**32 - 1)
    assert found.tensors()["output_ids"][1, 0, -1].item() == 2**32 - 1


def test_steps_are_counted_from_the_padded_width() -> None:
    found = rows(limits=(20, 20))
    due = []
    for token in range(12):
        found.take(0, token)
        due.append(found.due(5))
    assert [at for at, now in enumerate(due, 1) if now] == [2, 7, 12]


def test_merged_rows_know_their_request() -> None:
    one, two = rows(), rows()
    assert place([one, two]) == [(one, 0), (one, 1), (two, 0), (two, 1)]

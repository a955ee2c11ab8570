"""What the two output tensors mean, in both variants, alone and merged."""

from array import array

import pytest

from loadgen.drivers import ft_counts
from loadgen.drivers.ft_counts import Meaning, Tensors
from loadgen.errors import BadReply

PROMPTS = ((5, 6, 7), (8,))
END = 100


def tensors(generated: tuple[int, int], lengths: tuple[int, int], width: int = 8) -> Tensors:
    rows = []
    for prompt, count in zip(PROMPTS, generated, strict=True):
        row = [*prompt, *range(10, 10 + count)]
        rows.append(array("I", row + [END] * (width - len(row))))
    return Tensors(rows, list(lengths))


@pytest.mark.parametrize(("variant", "lengths"), [("a", (8, 7)), ("b", (5, 4))])
def test_each_variant_has_its_own_base(variant: str, lengths: tuple[int, int]) -> None:
    meaning = Meaning(variant=variant, end_id=END)
    found = tensors((5, 4), lengths)
    counted = ft_counts.counts(found, PROMPTS, meaning)
    assert counted == (5, 4)
    assert ft_counts.check_whole(found, counted, PROMPTS, meaning) is True


@pytest.mark.parametrize(("variant", "lengths"), [("b", (8, 8)), ("a", (5, 5))])
def test_a_server_of_the_other_variant_is_noticed(variant: str, lengths: tuple[int, int]) -> None:
    meaning = Meaning(variant=variant, end_id=END)
    found = tensors((5, 5), lengths)
    with pytest.raises(BadReply, match="is it variant"):
        ft_counts.check_whole(found, ft_counts.counts(found, PROMPTS, meaning), PROMPTS, meaning)


def test_a_length_below_the_input_width_is_no_variant_a() -> None:
    with pytest.raises(BadReply, match="less than the input width 3"):
        ft_counts.counts(tensors((2, 2), (2, 2)), PROMPTS, Meaning(variant="a"))


def test_a_length_that_the_ids_contradict_is_not_believed() -> None:
    meaning = Meaning(variant="b", end_id=END)
    found = tensors((4, 5), (5, 5))
    with pytest.raises(BadReply, match=r"sequence 0: 5 tokens by sequence_length = 5 .*, 4 by its ids"):
        ft_counts.check_whole(found, (5, 5), PROMPTS, meaning)


def test_the_prompt_must_be_echoed() -> None:
    found = tensors((5, 5), (5, 5))
    found.rows[1][0] = 9
    for end_id in (END, None):
        with pytest.raises(BadReply, match="does not begin with the prompt"):
            ft_counts.check_whole(found, (5, 5), PROMPTS, Meaning(variant="b", end_id=end_id))


def test_merged_requests_are_counted_by_ids_whatever_the_width() -> None:
    meaning = Meaning(variant="a", end_id=END, merged=True)
    found = tensors((6, 5), (26, 25), width=40)
    assert ft_counts.counts(found, PROMPTS, meaning) == (6, 5)
    assert ft_counts.without_extra((6, 5), 5, meaning) == (5, 5)
    assert ft_counts.without_extra((7, 4), 5, meaning) == (7, 4)
    assert ft_counts.without_extra((6, 5), 5, Meaning(variant="a", end_id=END)) == (6, 5)
    with pytest.raises(BadReply, match="end_id that cannot be sampled"):
        ft_counts.counts(found, PROMPTS, Meaning(variant="a", merged=True))


@pytest.mark.parametrize(
    ("ids_shape", "lengths_shape", "ids", "lengths"),
    [((2, 8), (2, 1), 16, 2), ((2, 1, 8), (2,), 16, 2), ((2, 1, 8), (2, 1), 0, 0), ((1, 0, 8), (1, 0), 0, 0)],
)
def test_tensors_that_do_not_fit_their_shape_are_refused(
    ids_shape: tuple[int, ...], lengths_shape: tuple[int, ...], ids: int, lengths: int
) -> None:
    with pytest.raises(BadReply):
        ft_counts.tensors(ids_shape, array("I", [1] * ids), lengths_shape, array("I", [1] * lengths))


def test_only_the_first_beam_counts() -> None:
    found = ft_counts.tensors((2, 2, 3), array("I", range(12)), (2, 2), array("I", [4, 9, 5, 9]))
    assert found == Tensors([array("I", [0, 1, 2]), array("I", [6, 7, 8])], [4, 5])


def test_another_number_of_sequences_is_no_answer() -> None:
    with pytest.raises(BadReply, match="2 sequences sent, 1 came back"):
        ft_counts.counts(Tensors([array("I", [1])], [1]), PROMPTS, Meaning())

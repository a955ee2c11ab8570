"""A few odd inputs for every edge; ``make fuzz`` tries 200,000."""

import pytest
from edge_inputs import EDGES, fuzz


@pytest.mark.parametrize("edge", EDGES)
def test_nothing_but_our_own_errors(edge: str) -> None:
    assert fuzz(edge, 40).wrong == {}

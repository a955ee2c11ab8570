"""A load of several nodes, and the cluster that they are of, go together."""

from __future__ import annotations

import pytest

from loadgen.api.nodes import connected
from loadgen.errors import BadInput
from loadgen.load_records import LoadSpec

ONE = LoadSpec(kind="closed", input_tokens=1, output_tokens=1)
TWO = LoadSpec(kind="closed", input_tokens=1, output_tokens=1, nodes=2)


def test_one_without_the_other_is_refused() -> None:
    with pytest.raises(BadInput, match="nodes = 2: of which cluster"), connected([ONE, TWO], None, False):
        pass
    with (
        pytest.raises(BadInput, match="--ray auto: no load is of several nodes"),
        connected([ONE], "auto", False),
    ):
        pass
    with connected([ONE], None, False):
        pass

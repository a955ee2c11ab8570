"""The fast part of the matrix: what hits a sweep loses nothing, leaves nothing, and says what it was."""

import pytest
from fault_matrix import FAULTS, FRAMEWORKS, Fault, run

NULL = FRAMEWORKS[0]
FAST = {"server killed", "server stopped", "results deleted", "disk full", "terminal closed"}


@pytest.mark.parametrize("fault", [f for f in FAULTS if f.name in FAST], ids=lambda fault: fault.name)
def test_a_fault_costs_its_trial_and_nothing_else(fault: Fault) -> None:
    assert run(NULL, fault).faults == []

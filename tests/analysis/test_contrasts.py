"""Effects within starts: draws for thresholds, sets that hold the best, and thresholds put in order by effects."""

from __future__ import annotations

import numpy as np
import pytest

from loadgen.analysis.contrasts import effect_draws, effects_ratio
from loadgen.analysis.variance import t_quantile


def test_draws_have_the_spread_of_students_t() -> None:
    draws = effect_draws([0.0, 0.1, 0.3], 0.02, 4, np.random.default_rng(1), draws=20_000)
    assert draws.mean(axis=0) == pytest.approx([0.0, 0.1, 0.3], abs=1e-3)
    assert np.quantile(draws[:, 1] - 0.1, 0.975) == pytest.approx(t_quantile(0.975, 4) * 0.02, rel=0.03)


def test_thresholds_are_put_in_order_by_effects_where_they_tell() -> None:
    lower, upper = [0.0, 0.08, 0.12, 0.9], [0.0, 0.05, 0.09, 0.8]
    found = effects_ratio(lower, upper, (1e-4, 3e-4), 8, 0.10)
    assert found is not None
    assert np.log(found.value) == pytest.approx(-0.03)
    assert found.se == pytest.approx((4e-4 / 2) ** 0.5)
    assert found.p_below(1) < 0.05
    assert effects_ratio([0.0, 0.9], [0.0, 0.8], (1e-4, 1e-4), 8, 0.10) is None

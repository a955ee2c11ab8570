"""A ridge lies in its interval whatever the host adds, and is refused where sizes, noise or the law cannot place it."""

from __future__ import annotations

import numpy as np
import pytest

from loadgen.analysis.ridge_fit import FLOOR, Ridge, Scatter, fit

TOKENS = [20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10_240, 20_480]
READ_S = 5.4e-3


def law(tokens: list[int], ridge: float, sharpness: float, host_s: float) -> list[float]:
    return [host_s + READ_S * (1 + (size / ridge) ** sharpness) ** (1 / sharpness) for size in tokens]


def noisy(times: list[float], sigma: float, seed: int = 0) -> tuple[list[float], Scatter]:
    source = np.random.default_rng(seed)
    scatter = Scatter(variance=sigma**2 * source.chisquare(12) / 12, freedom=12)
    return (np.array(times) * np.exp(source.normal(0, sigma, len(times)))).tolist(), scatter


def found(tokens: list[int], times: list[float], scatter: Scatter | None) -> Ridge:
    fitted = fit(tokens, times, scatter, READ_S)
    assert fitted is not None
    return fitted


def test_the_values_of_the_method_s_own_reference() -> None:
    """T* 200, h 3, a 5.4, κ 4, without noise: the law without h is far off and sure of itself."""
    sizes = [2**power for power in range(3, 14)]
    times = [3 + (5.4**4 + (0.027 * size) ** 4) ** 0.25 for size in sizes]
    scatter = Scatter(variance=1e-4, freedom=12)
    without = fit(sizes, times, scatter, None, in_series=False)
    assert without is not None
    assert (without.tokens, without.low, without.high) == pytest.approx((289.8, 278.1, 314.8), abs=0.05)
    whole = fit(sizes, times, scatter, 5.4)
    assert whole is not None
    assert (whole.tokens, whole.low, whole.high) == pytest.approx((199.7, 183.9, 226.1), abs=0.06)
    assert (whole.host_s, whole.read_s) == pytest.approx((3.010, 5.391), abs=0.0005)
    assert whole.resolved
    assert whole.seconds(np.array(sizes, dtype=float)) == pytest.approx(times, rel=0.002)


@pytest.mark.parametrize("host_s", [0.0, 3e-3, 6e-3])
@pytest.mark.parametrize("sharpness", [1.5, 3.0, 6.5])
def test_a_ridge_lies_in_its_interval_whatever_the_host_adds(sharpness: float, host_s: float) -> None:
    """At a true 95 % fewer than 13 of 16 right have a chance of 1 in 500 a case; the seeds are fixed."""
    seen = [found(TOKENS, *noisy(law(TOKENS, 213.0, sharpness, host_s), 0.01, seed)) for seed in range(16)]
    assert sum(each.low <= 213 <= each.high for each in seen) >= 13
    assert sum(each.resolved for each in seen) >= 14
    assert all(each.host_most_s >= host_s for each in seen)
    assert all(each.read_least_s >= FLOOR * READ_S * 0.999 for each in seen)


def test_times_that_add_up_never_give_a_wrong_ridge() -> None:
    """κ = 1: T* and h are one direction, which only the floor bounds; a wide interval is refused."""
    for seed in range(10):
        soft = found(TOKENS, *noisy(law(TOKENS, 213.0, 1.0, 3e-3), 0.005, seed))
        assert not soft.resolved or soft.low <= 213 <= soft.high


def test_host_and_a_soft_turn_that_look_alike_are_said_to() -> None:
    """A datasheet that leaves the reading open (a third of it) leaves the turn open, too; where time rises is seen."""
    times = law(TOKENS, 700.0, 1.0, 3e-3)
    soft = fit(TOKENS, times, Scatter(variance=4e-4, freedom=12), READ_S / 3)
    assert soft is not None
    assert not soft.resolved
    assert "host time and a soft turn look alike" in soft.why
    assert soft.turn.low < next(
        size for size, time in zip(TOKENS, times, strict=True) if time > 1.25 * times[0]
    )


@pytest.mark.parametrize(("truth", "why"), [(5.0, "no plateau"), (400_000.0, "does not yet rise")])
def test_a_ridge_outside_of_the_sizes_is_refused(truth: float, why: str) -> None:
    fitted = found(TOKENS, *noisy(law(TOKENS, truth, 8.0, 0.0), 0.01))
    assert not fitted.resolved
    assert why in fitted.why
    assert fitted.add


def test_one_size_repeated_is_no_plateau() -> None:
    sizes = [20, 20, 20, 256, 512, 1280, 2048, 8192]
    fitted = found(sizes, *noisy(law(sizes, 250.0, 16.0, 0.0), 0.002))
    assert not fitted.resolved
    assert "only one size" in fitted.why
    assert set(fitted.add) < set(range(21, 256))


def test_a_law_that_misses_by_more_than_the_noise_widens_the_interval() -> None:
    """Efficiency that grows with the size bends the line: the misfit must be in the interval, not the noise alone."""
    sizes = [20, 64, 128, 512, 1280, 2048, 5120, 8192, 32768]
    bent = [0.0135 * max(1.0, size / 250 * (1 + 30 / size) ** 2 * (size / 250) ** -0.03) for size in sizes]
    straight = [0.0135 * max(1.0, size / 250) for size in sizes]
    exact = Scatter(variance=0.008**2, freedom=30)
    crooked, plain = (found(sizes, noisy(times, 0.008)[0], exact) for times in (bent, straight))
    assert crooked.misses
    assert not plain.misses
    assert crooked.high / crooked.low > plain.high / plain.low


def test_where_time_passes_a_quarter_more_needs_no_law() -> None:
    times = law(TOKENS, 213.0, 6.5, 3e-3)
    fitted = found(TOKENS, *noisy(times, 0.005))
    passes = next(size for size, time in zip(TOKENS, times, strict=True) if time > 1.25 * times[0])
    assert fitted.turn.resolved
    assert fitted.turn.high == passes


def test_a_ridge_needs_sizes_repeats_and_a_datasheet() -> None:
    assert fit([20, 40, 80], [1.0, 1.0, 2.0], None, READ_S) is None
    times = law(TOKENS, 300.0, 3.0, 0.0)
    assert "nothing says how large the noise is" in found(TOKENS, times, None).why
    unknown = fit(TOKENS, times, Scatter(variance=1e-4, freedom=12), None)
    assert unknown is not None
    assert "no datasheet" in unknown.why

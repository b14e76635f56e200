"""The tail of importance weights, where its shape is known."""

import numpy as np
import pytest
from scipy.stats import norm

from numpyro_dsn.certificate.pareto import pareto_k

NUM_DRAWS = 5000


def found(variance, rng):
    """Shape for draws of N(0, variance) that are weighted to N(0, 1)."""
    z = np.sqrt(variance) * rng.normal(size=NUM_DRAWS)
    return pareto_k(norm.logpdf(z) - norm.logpdf(z, scale=np.sqrt(variance)))


@pytest.mark.parametrize(("variance", "exact"), [(0.5, 1.0), (0.65, 0.54), (0.8, 0.25)])
def test_a_narrow_fit_has_the_tail_of_its_variance(variance, exact, rng):
    """P(w > t) falls as t^(-s / (1 - s)), where s is the variance."""
    # 213 draws are in the tail; a logarithm beside the power takes up to 0.15 from the shape.
    error = (1 + exact) / np.sqrt(213)
    assert exact - 0.15 - 4 * error < found(variance, rng) < exact + 4 * error


def test_a_wide_fit_has_bounded_weights(rng):
    assert found(1.5, rng) < 0.3


def test_a_constant_factor_changes_nothing(rng):
    log_weights = rng.normal(size=NUM_DRAWS)
    assert pareto_k(log_weights) == pytest.approx(pareto_k(log_weights + 300.0), abs=1e-6)


def test_too_few_weights_have_an_infinite_shape(rng):
    """Without a warning beside it, which the suite would raise."""
    z = rng.normal(size=NUM_DRAWS)
    assert pareto_k(np.where(np.abs(z) < 1e-4, 0.0, -np.inf)) == np.inf

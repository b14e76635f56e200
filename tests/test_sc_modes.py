"""Superior colliculus: what is said of the modes of a fit."""

import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose
from scipy.stats import linregress

from models import sc_modes


class Fit:
    """A result whose circuits have given eigenvalues; corrected ones are 3 larger."""

    def __init__(self, eigenvalue, ess):
        self.eigenvalue, self.ess = eigenvalue, ess

    def get_samples(self):
        return {"eigenvalue": jnp.asarray(self.eigenvalue)}

    def draw_corrected(self, rng_key, num_samples):
        return {"eigenvalue": jnp.asarray(self.eigenvalue[:num_samples] + 3)}, jnp.asarray(self.ess)


def test_choosing_from_few_effective_draws_adds_to_the_error(rng, rng_key):
    values = rng.normal(0, 2, (1000, 4)).astype(np.float32)
    fitted, corrected = sc_modes.mode_draws(Fit(values, 250.0), rng_key)
    assert fitted.num_effective == 1000
    assert_allclose(corrected.num_effective, 200)
    assert_allclose(corrected.values, fitted.values + 3, rtol=1e-6)
    lines = sc_modes.tabulate({0.6: corrected, 0.5: fitted}).splitlines()
    assert [line.split()[0] for line in lines] == ["accuracy", "0.50", "0.60"]
    for line, draws in zip(lines[1:], (fitted, corrected), strict=True):
        mean, sign, error, *_ = line.split()[1:]
        assert sign == "+-"
        assert float(mean) == round(float(draws.values[:, 0].mean()), 2)
        exact = draws.values[:, 0].std() / np.sqrt(draws.num_effective)
        assert float(error) == round(float(exact), 2)
        assert int(line.split()[-1]) == round(draws.num_effective)


def test_a_corrected_mean_has_the_error_that_is_said(rng):
    """500 times: draws weighted towards the right, chosen from ten times as many."""
    errors, said = [], []
    for _ in range(500):
        draws = rng.normal(size=5000)
        weights = np.exp(draws)
        weights /= weights.sum()
        chosen = rng.choice(draws, 500, p=weights)
        effective = sc_modes.num_effective(1 / np.sum(weights**2), 500)
        errors.append(chosen.mean() - 1)
        said.append(chosen.std() / np.sqrt(effective))
    # The spread of 500 means is known to 3 %; the second-order error of weights to a few more.
    assert_allclose(np.std(errors), np.mean(said), rtol=0.2)


def test_the_bend_is_that_of_a_regression_in_each_range():
    rng = np.random.default_rng(0)
    weights = rng.uniform(-2, 2, (3000, 4))
    weights[:, 2] = np.abs(weights[:, 0]) + 0.1 * rng.standard_normal(3000)
    (below, error), (middle, _), (above, _) = sc_modes.bend(weights)
    assert abs(below + 1) < 4 * error
    assert abs(above - 1) < 4 * error
    assert abs(middle) < 0.1
    inside = (weights[:, 0] > -2) & (weights[:, 0] < -0.5)
    found = linregress(weights[inside, 0], weights[inside, 2])
    np.testing.assert_allclose((below, error), (found.slope, found.stderr), rtol=1e-6)

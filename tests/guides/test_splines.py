"""Splines of the unit interval: increasing, onto itself, and their own inverse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from numpyro_dsn.guides.splines import forward, inverse, num_outputs, spline

pytestmark = pytest.mark.usefixtures("quick_compilation")

MIN_WIDTH = 1e-3


def random_splines(rng, number, num_bins=6, weight=1.0):
    shape = rng.normal(0, weight, (number, num_outputs(num_bins)))
    return spline(jnp.asarray(shape), MIN_WIDTH)


@jax.jit
def there_and_back(curve, x):
    y, log_slope = forward(curve, x)
    back, same = inverse(curve, y)
    slope = jax.jvp(lambda x: forward(curve, x)[0], (x,), (jnp.ones_like(x),))[1]
    return y, log_slope, back, same, slope


@pytest.mark.parametrize("num_bins", [1, 2, 16])
def test_zeros_are_the_identity(num_bins):
    x = jnp.linspace(0.0, 1.0, 101)
    curve = spline(jnp.zeros((101, num_outputs(num_bins))), MIN_WIDTH)
    y, log_slope, back, *_ = there_and_back(curve, x)
    assert_allclose(y, x, atol=1e-6)
    assert_allclose(log_slope, 0.0, atol=1e-5)
    assert_allclose(back, x, atol=1e-6)


def test_the_inverse_and_the_slope_are_exact(x64, rng):
    x = jnp.asarray(rng.uniform(size=500))
    y, log_slope, back, same, slope = there_and_back(random_splines(rng, 500), x)
    assert np.abs(y - x).max() > 0.1
    assert_allclose(back, x, atol=1e-12)
    assert_allclose(np.exp(log_slope), slope, rtol=1e-9)
    assert_allclose(same, log_slope, atol=1e-8)


def test_splines_increase_from_0_to_1(rng):
    x = jnp.linspace(0.0, 1.0, 1001)
    curve = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (1001, leaf.shape[-1])), random_splines(rng, 1)
    )
    y = np.asarray(there_and_back(curve, x)[0])
    assert np.all(np.diff(y) > 0)
    assert_allclose(y[[0, -1]], [0, 1], atol=1e-6)


def test_no_slope_is_beyond_the_least_width_and_its_inverse(rng):
    curve = random_splines(rng, 2000, weight=20.0)
    log_slope = there_and_back(curve, jnp.asarray(rng.uniform(size=2000)))[1]
    assert np.ptp(log_slope) > 5
    # Between knots a slope is at most about the steeper of the chord and of the ends.
    assert np.all(np.asarray(curve.slopes) >= MIN_WIDTH)
    assert np.all(np.diff(curve.x) > 0.5 * MIN_WIDTH)
    assert np.all(np.diff(curve.y) > 0.5 * MIN_WIDTH)


def test_extreme_splines_have_a_gradient():
    """Where rounding brings the discriminant to zero, in some of these draws."""
    rng = np.random.default_rng(0)
    shape = jnp.asarray(20 * rng.standard_normal((4000, num_outputs(8))), jnp.float32)
    value = jnp.asarray(rng.uniform(size=4000), jnp.float32)

    def evaluate(shape, value, move):
        return sum(jnp.sum(part) for part in move(spline(shape, MIN_WIDTH), value))

    for move in (forward, inverse):
        gradients = jax.jit(jax.grad(evaluate, (0, 1)), static_argnums=2)(shape, value, move)
        assert all(np.isfinite(gradient).all() for gradient in gradients)

"""The offset of the natural parameters: exact for small errors, bounded for large ones."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from numpy.testing import assert_allclose, assert_array_equal

from numpyro_dsn.correction import (
    FAR,
    KEPT,
    MAX_LATENTS,
    MAX_MOVE,
    RIDGE,
    RIDGE_OF_SLOPES,
    corrected_exponent,
    forgotten,
    newton_move,
    shortened,
    wider_move,
    with_latents,
)
from numpyro_dsn.dual import exponent, tilt
from numpyro_dsn.pool import Draws, empty_pool

NORMAL = ndtri((jnp.arange(10_000) + 0.5) / 10_000)
BOTH = jnp.ones(2, bool)
EVEN = jnp.full(NORMAL.size, 1 / NORMAL.size)


def test_move_undoes_a_small_violation():
    covariance, residual = jnp.array([[2.0, 0.5], [0.5, 1.0]]), jnp.array([0.1, -0.05])
    assert_allclose(
        newton_move(residual, BOTH, covariance, RIDGE),
        -jnp.linalg.solve(covariance, residual),
        1e-4,
    )


def test_an_inequality_that_holds_nothing_is_left_alone():
    covariance, residual = jnp.array([[2.0, 0.9], [0.9, 1.0]]), jnp.array([0.1, 0.0])
    move = newton_move(residual, jnp.array([True, False]), covariance, RIDGE)
    assert_allclose(move, [-0.05, 0.0], rtol=1e-4)


def test_move_is_bounded_where_statistics_are_redundant():
    """The difference of two statistics has a standard deviation of 0.01, and is violated by 10."""
    covariance = jnp.array([[1.0, 0.99995], [0.99995, 1.0]])
    residual = jnp.array([0.05, -0.05])
    unbounded = -np.linalg.solve(covariance, residual)
    move = np.asarray(newton_move(residual, BOTH, covariance, RIDGE))
    distance = np.sqrt(move @ covariance @ move)
    assert np.sqrt(unbounded @ covariance @ unbounded) > 9
    assert distance <= MAX_MOVE * np.sqrt(2) * 1.01
    assert move @ residual < 0


class Line:
    """A flow whose coordinates are those of the draws."""

    @staticmethod
    def coordinates(flat):
        return flat


def pool_of(flat, statistic=None, error=0.0):
    """A pool of draws of the prior alone, whose statistic is zero if none is given."""
    zeros = jnp.zeros(len(flat))
    statistics = (zeros if statistic is None else statistic)[:, None]
    noise = jnp.full((len(flat), 1, 1), error)
    draws = Draws(flat, statistics, noise, zeros, zeros, jnp.ones(len(flat), bool))
    return empty_pool(draws, zeros, {}, 0, 0)


def moments_of(pool):
    return with_latents(pool, Line, EVEN).statistics[:, 1:]


def test_moments_of_latents_are_in_standard_deviations_and_bounded():
    flat = jnp.stack([5 + 0.1 * NORMAL, -1000 * NORMAL], axis=-1)
    moments = moments_of(pool_of(flat))
    assert moments.shape == (len(flat), 4)
    assert_allclose(moments.mean(0), [0, 0, 1, 1], atol=0.01)  # 0.3 % of draws are beyond FAR
    assert_allclose(jnp.abs(moments).max(0), [FAR, FAR, FAR**2, FAR**2])


def test_moments_of_many_latents_are_left_alone():
    pool = pool_of(jnp.zeros((3, MAX_LATENTS + 1)))
    assert with_latents(pool, Line, jnp.ones(3)).statistics.shape == (3, 1)


def test_what_a_statistic_says_of_the_latents_is_left_to_it():
    """A statistic that is the square, and half of the latent besides."""
    square = jnp.clip(NORMAL, -FAR, FAR) ** 2
    for statistic, known in ((square, [False, True]), (square + 0.5 * NORMAL, [False, False])):
        moments = moments_of(pool_of(NORMAL[:, None], statistic))
        assert_array_equal(jnp.all(moments == 0, axis=0), known)
        deviations = statistic - statistic.mean()
        # But for a thousandth, the ridge: covariances of what is left out are at most 2.
        assert_allclose(deviations @ moments / len(moments), 0.0, atol=2 * RIDGE_OF_SLOPES)


def test_what_a_noisy_statistic_says_of_the_latents(rng_key):
    """The error of T, of a standard deviation of 0.5, hides nothing and gives m no mean."""
    noise = 0.5 * jax.random.normal(rng_key, NORMAL.shape)
    square = jnp.clip(NORMAL, -FAR, FAR) ** 2
    assert jnp.all(moments_of(pool_of(NORMAL[:, None], square + noise, 0.5))[:, 1] == 0)
    # Half known, half new. Weights prefer draws with a lucky error, and m has its share of it.
    mixed, eta = square + 1.5 * NORMAL, jnp.array([0.2, 0.0, 0.0])
    clear, noisy = (
        with_latents(pool, Line, EVEN)
        for pool in (
            pool_of(NORMAL[:, None], mixed),
            pool_of(NORMAL[:, None], mixed + noise, 0.5),
        )
    )
    exact, found = (
        tilt(eta, jnp.log(EVEN), wider.statistics, wider.noise) for wider in (clear, noisy)
    )
    error = 0.5 * np.sqrt(1 / found.ess)
    assert_allclose(found.mean, exact.mean, atol=4 * error)
    biased = jnp.exp(found.log_weights) @ noisy.statistics
    assert jnp.any(jnp.abs(biased - exact.mean)[1:] > 4 * error)


def test_what_cannot_be_known_of_a_statistic_that_is_error_is_left_alone(rng_key):
    """Its covariance without that of its error is negative: slopes would have the wrong sign."""
    noise = jax.random.normal(rng_key, NORMAL.shape)
    statistic = 0.5 * noise / noise.std() + 0.02 * NORMAL
    for error in 0.501, 0.505:
        moments = moments_of(pool_of(NORMAL[:, None], statistic, error))
        assert jnp.all(moments[:, 0] == 0)
        assert jnp.all(jnp.isfinite(moments))


def move_of(residual, statistic, log_target):
    wider = with_latents(pool_of(NORMAL[:, None], statistic), Line, EVEN)
    target = tilt(jnp.zeros(3), log_target, wider.statistics, wider.noise)
    return wider_move(jnp.array([residual]), BOTH[:1], wider, EVEN, target)


def test_move_undoes_an_error_of_mean_and_variance():
    """For normal distributions it is the difference of their natural parameters, to first order."""
    mean, std = 0.02, 1.03
    log_target = -0.5 * ((NORMAL - mean) / std) ** 2 + 0.5 * NORMAL**2
    # A statistic that is met, and knows nothing of these.
    move = move_of(0.0, jnp.sin(40 * NORMAL), log_target)
    assert_allclose(move, [0.0, mean / std**2, 0.5 * (1 - 1 / std**2)], rtol=0.1, atol=1e-4)


def test_an_error_of_the_latents_does_not_move_the_statistic():
    """Otherwise a violation would balance what is forgotten of the latents' part."""
    log_target = 0.02 * NORMAL**2
    of_statistic, *of_latents = move_of(0.0, NORMAL**2 * (NORMAL > 0), log_target)
    assert of_statistic == 0.0
    assert abs(of_latents[1]) > 1e-3


def test_a_moment_that_the_statistic_knows_is_not_moved():
    """All that is left of it is rounding, which a division by its spread would blow up."""
    move = move_of(0.1, jnp.clip(NORMAL, -FAR, FAR) ** 2, 0.02 * NORMAL)
    assert move[1] != 0.0
    assert move[2] == 0.0


def test_only_the_part_of_latents_is_forgotten():
    assert_allclose(forgotten(jnp.array([1.0, 2.0, 3.0]), 1), [1, 2 * KEPT, 3 * KEPT])


def test_correction_leaves_half_of_the_effective_draws(rng_key):
    """Constraints come first: what they leave is for the moments of the latents."""
    statistics = jax.random.normal(rng_key, (1000, 3))
    draws = jnp.zeros(1000), statistics, jnp.zeros((1000, 1, 3))
    eta = jnp.array([0.2, 0.0])

    def ess(correction):
        return 1 / jnp.sum(jax.nn.softmax(corrected_exponent(correction, *draws[1:])) ** 2)

    # The flow is the optimum.
    log_flow = exponent(jnp.array([0.2, 0.0, 0.0]), *draws[1:])
    draws = (log_flow, eta, *draws)
    half = 0.5 * ess(jnp.zeros(3))
    far = shortened(jnp.array([2.0, 0.0, 1.0]), *draws)
    assert ess(jnp.array([2.0, 0.0, 0.0])) < 0.8 * half
    assert ess(far) >= half
    assert_allclose(far[:2], shortened(jnp.array([2.0, 0.0, 0.0]), *draws)[:2])
    assert far[0] > 0.5
    of_latents = shortened(jnp.array([0.1, -0.1, 2.0]), *draws)
    assert_allclose(of_latents[:2], [0.1, -0.1])
    assert ess(of_latents) >= half
    assert 0.5 < of_latents[2] < 1.0
    near = jnp.array([0.1, -0.1, 0.1])
    assert_allclose(shortened(near, *draws), near)


def test_a_draw_that_the_flow_does_not_have_forbids_no_correction():
    """It has a tenth of the optimum's mass, and the statistic that is corrected is large there."""
    statistics = NORMAL.at[-1].set(5.0)[:, None]
    log_flow = jnp.log(EVEN)
    log_target = log_flow.at[-1].set(jnp.log(0.1))
    draws = log_target, statistics, jnp.zeros((NORMAL.size, 1, 1))
    move, eta = jnp.array([0.2]), jnp.zeros(1)
    assert_allclose(shortened(move, log_flow, eta, *draws), move)
    assert shortened(move, log_target, eta, *draws) < 0.9 * move


def test_a_small_correction_is_a_tilt(rng_key):
    """But for a constant, with the terms of the error of T."""
    statistics, noise = jax.random.normal(rng_key, (2, 1000, 2))
    eta, correction = jnp.array([0.3]), jnp.array([0.05, -0.1])
    draws = jnp.zeros(1000), statistics, 0.5 * noise[:, None]
    found = corrected_exponent(correction, eta, *draws)
    difference = found - exponent(jnp.array([0.35, -0.1]), *draws[1:])
    assert_allclose(difference, difference[0], atol=1e-5)


def test_long_tails_do_not_shorten_a_correction():
    """One draw in a thousand is 1,000 standard deviations of the others away."""
    statistics = jnp.where(jnp.arange(NORMAL.size) % 1000 == 0, 1000.0, NORMAL)[:, None]
    draws = jnp.log(EVEN), statistics, jnp.zeros((NORMAL.size, 1, 1))
    move = jnp.array([0.02])
    assert tilt(move, *draws).ess < 11
    assert_allclose(shortened(move, draws[0], jnp.zeros(1), *draws), move)
    weights = jax.nn.softmax(draws[0] + corrected_exponent(move, jnp.zeros(1), *draws))
    others = jnp.abs(statistics[:, 0]) < 10
    mean = (weights * others) @ statistics[:, 0] / (weights @ others)
    assert_allclose(mean, 0.02, rtol=0.1)

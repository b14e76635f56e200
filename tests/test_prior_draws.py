"""Draws of the prior: thinning keeps every mean, and the search ends when the optimum is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

from numpyro_dsn.dual import solve_dual, tilt
from numpyro_dsn.pool import Draws
from numpyro_dsn.prior_draws import gather, spread, thin, unthinned

NUM_DRAWS, MIN_ESS = 1000, 50.0


def normal_draws(key):
    """Draws of a standard normal distribution whose statistic is the draw itself."""
    flat = jax.random.normal(key, (NUM_DRAWS, 1))
    log_prior, zeros = norm.logpdf(flat[:, 0]), jnp.zeros(NUM_DRAWS)
    return Draws(flat, flat, jnp.zeros((NUM_DRAWS, 1, 1)), log_prior, zeros, zeros == 0)


def gathered(rng_key, mean, max_simulations=10**6, simulate=normal_draws):
    bound = jnp.array([mean])
    return gather(rng_key, simulate, max_simulations, bound, bound, MIN_ESS)


def solved(first, mean):
    """Natural parameter of a mean, and the effective draws of its tilted density."""
    draws, bound = (first.log_share, first.draws.statistics, first.draws.noise), jnp.array([mean])
    eta, reached = solve_dual(jnp.zeros(1), *draws, bound, bound, MIN_ESS)
    assert reached
    return eta[0], tilt(eta, *draws)


def test_draws_are_chosen_with_the_chances_that_are_stated(rng_key):
    score = jnp.array([0.0, 5.0, 1.0, 1.0, 0.5, 0.5, 0.0, 1.0])
    chosen, chance = jax.vmap(lambda key: thin(key, score, 3))(jax.random.split(rng_key, 4000))
    # One is certain; the others share two places in proportion to their score.
    expected = np.where(score == 5, 1.0, 2 * score / 4)
    frequency = np.bincount(np.asarray(chosen).ravel(), minlength=8) / 4000
    np.testing.assert_allclose(frequency, expected, atol=4 * 0.5 / 4000**0.5)
    np.testing.assert_allclose(chance, expected[np.asarray(chosen)], rtol=1e-5)
    assert all(len(set(row)) == 3 for row in np.asarray(chosen)[:100].tolist())


@pytest.mark.parametrize("num_scored", [0, 2, 4])
def test_all_with_a_score_are_kept_where_there_is_room(rng_key, num_scored):
    score = jnp.zeros(9).at[3 : 3 + num_scored].set(0.3)
    chosen, chance = thin(rng_key, score, 4)
    assert set(range(3, 3 + num_scored)) <= set(np.asarray(chosen).tolist())
    assert len(set(np.asarray(chosen).tolist())) == 4
    np.testing.assert_allclose(chance, 1.0, rtol=1e-6)


def test_a_common_property_takes_one_round_that_is_kept_whole(rng_key):
    first = gathered(rng_key, 0.5)
    assert first.num_simulated == NUM_DRAWS
    np.testing.assert_allclose(first.log_share, 0.0, atol=1e-5)
    assert len(np.unique(first.draws.flat)) == NUM_DRAWS


def test_a_rare_property_takes_as_many_as_know_it(rng_key):
    # Tilting to a mean of 2.5 leaves exp(-6.25), 0.2 % of the draws, effective: 100 need 5e4.
    first = gathered(rng_key, 2.5)
    assert 1.5e4 < first.num_simulated < 1.5e5
    eta, tilted = solved(first, 2.5)
    assert tilted.ess >= 0.9 * 0.1 * NUM_DRAWS
    # The variance of the tilted density is one, and so is the change of its mean with eta.
    assert abs(eta - 2.5) < 4 / tilted.ess**0.5


def test_a_thin_band_beside_much_mass_is_reached(rng_key):
    """Where the band and the mass beside it weigh the same, draws are fewer than at the end."""

    def band(key):
        u = jax.random.uniform(key, (NUM_DRAWS, 1), minval=-21.0, maxval=9.0)
        excess = jax.nn.sigmoid(40 * u) - 0.75
        statistics = jnp.concatenate([excess, excess**2 - 0.075**2], 1)
        zeros = jnp.zeros(NUM_DRAWS)
        noise = jnp.zeros((NUM_DRAWS, 1, 2))
        return Draws(u, statistics, noise, zeros, zeros, zeros == 0)

    def is_reached(key):
        bound = jnp.zeros(2)
        first = gather(key, band, 150_000, bound, bound, MIN_ESS)
        draws = first.log_share, first.draws.statistics, first.draws.noise
        return solve_dual(bound, *draws, bound, bound, MIN_ESS)[1]

    assert jax.lax.map(is_reached, jax.random.split(rng_key, 6)).all()


def test_thinned_draws_have_the_means_of_all(rng_key):
    def means(key):
        first = gathered(key, 2.5, 10**5)
        x, share = first.draws.flat[:, 0], jnp.exp(first.log_share) / first.num_simulated
        return jnp.stack([share.sum(), share @ x, share @ x**2, share @ jnp.exp(2 * x - 2)])

    values = np.asarray(jax.lax.map(means, jax.random.split(rng_key, 200)))
    error = values.std(0) / 200**0.5
    # E[exp(2 x - 2)] = 1 under the prior: the mass of the normal distribution about 2.
    np.testing.assert_array_less(np.abs(values.mean(0) - [1, 0, 1, 1]), 4 * error)
    # Had draws been thinned at random to 1,000, the last one's error would be 10 times larger.
    assert values[:, 3].std() < 3 * (np.exp(4) - 1) ** 0.5 / 1e5**0.5


def test_more_effective_draws_than_can_be_kept_are_not_looked_for(rng_key):
    """A region of trust as large as a third of the draws that are kept."""
    bound = jnp.array([0.5])
    first = gather(rng_key, normal_draws, 10**6, bound, bound, NUM_DRAWS / 3)
    assert first.num_simulated == NUM_DRAWS


def test_the_search_ends_at_the_largest_number_of_simulations(rng_key):
    assert gathered(rng_key, 8.0, 5500).num_simulated == 5000
    assert gathered(rng_key, 8.0, 1).num_simulated == NUM_DRAWS

    def replicated(key):
        draws = normal_draws(key)
        return draws._replace(noise=jnp.zeros((NUM_DRAWS, 2, 1)))

    assert gathered(rng_key, 8.0, 5500, replicated).num_simulated == 2000


def test_circuits_that_fail_are_counted_and_not_kept(rng_key):
    def half(key):
        draws = normal_draws(key)
        return draws._replace(finite=draws.flat[:, 0] > 0)

    first = gathered(rng_key, 2.5, 20_000, half)
    assert abs(first.num_nonfinite / first.num_simulated - 0.5) < 4 * 0.5 / 20_000**0.5
    assert first.draws.finite.all()

    def none(key):
        return normal_draws(key)._replace(finite=jnp.zeros(NUM_DRAWS, bool))

    first = gathered(rng_key, 2.5, 20_000, none)
    assert first.num_nonfinite == first.num_simulated == NUM_DRAWS
    assert not first.draws.finite.any()


def test_unthinned_draws_stand_for_themselves(rng_key):
    first = unthinned(normal_draws(rng_key))
    assert first.num_simulated == NUM_DRAWS
    assert first.num_nonfinite == 0
    assert not first.log_share.any()


def test_the_spread_of_a_constant_statistic_is_one():
    statistics = jnp.array([[1.0, 2.0], [3.0, 2.0]])
    np.testing.assert_allclose(spread(statistics, jnp.array([0.5, 0.5])), [1.0, 1.0])
    np.testing.assert_allclose(spread(2 * statistics, jnp.array([0.5, 0.5])), [2.0, 1.0])

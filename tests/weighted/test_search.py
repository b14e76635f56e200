"""Search of the prior: subsampling keeps every mean, and it ends when the optimum is known."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from weighted_draws import draws_of, solve_compiled, targets_of

from numpyro_dsn.weighted.dual import Weighted, tilt
from numpyro_dsn.weighted.search import search_prior, unweighted

NUM_DRAWS, MIN_ESS = 1000, 100.0


@jax.jit
def normal_draws(key):
    """Draws of a standard normal distribution whose statistic is the draw itself."""
    flat = jax.random.normal(key, (NUM_DRAWS, 1))
    return draws_of(flat, log_prior=norm.logpdf(flat[:, 0]))


def search(rng_key, targets, max_batches=1000, simulate=normal_draws, min_ess=MIN_ESS):
    first_key, key = jax.random.split(rng_key)
    return search_prior(key, simulate, simulate(first_key), targets, min_ess, max_batches)


def solved(kept, targets):
    """Natural parameter of a mean, and the effective draws of its tilted density."""
    draws = Weighted(kept.log_share, kept.draws.statistics, kept.draws.noise)
    eta, is_solved = solve_compiled(jnp.zeros_like(targets.unit), draws, targets.bounds, 50.0)
    assert is_solved
    return eta[0], tilt(eta, draws)


def test_a_common_property_takes_one_batch_that_is_kept_whole(rng_key):
    kept = search(rng_key, targets_of(0.5))
    assert kept.num_simulated == NUM_DRAWS
    assert not kept.log_share.any()
    assert len(np.unique(kept.draws.flat)) == NUM_DRAWS


def test_a_rare_property_takes_as_many_as_know_it(rng_key):
    # Tilting to a mean of 2.5 leaves exp(-6.25), 0.2 % of the draws, effective: 100 need 5e4.
    kept = search(rng_key, targets_of(2.5))
    assert 1.5e4 < kept.num_simulated < 1.5e5
    assert len(kept.log_share) == NUM_DRAWS
    eta, tilted = solved(kept, targets_of(2.5))
    assert tilted.ess >= 0.9 * MIN_ESS
    # The variance of the tilted density is one, and so is the change of its mean with eta.
    assert abs(eta - 2.5) < 4 / tilted.ess**0.5


def test_a_thin_band_beside_much_mass_is_reached(rng_key):
    """Where the band and the mass beside it weigh the same, draws are fewer than at the end."""

    @jax.jit
    def band(key):
        u = jax.random.uniform(key, (NUM_DRAWS, 1), minval=-21.0, maxval=9.0)
        excess = jax.nn.sigmoid(40 * u) - 0.75
        return draws_of(u, jnp.concatenate([excess, excess**2 - 0.075**2], 1))

    targets = targets_of(jnp.zeros(2))
    for index in range(2):
        kept = search(jax.random.fold_in(rng_key, index), targets, 150, band)
        solved(kept, targets)


def test_subsampled_draws_have_the_means_of_all(rng_key):
    num_batches, values = 20, []
    for key in jax.random.split(rng_key, 30):
        kept = search(key, targets_of(2.5), num_batches)
        x, share = np.asarray(kept.draws.flat)[:, 0], np.exp(kept.log_share) / kept.num_simulated
        values.append([share.sum(), share @ x, share @ x**2, share @ np.exp(2 * x - 2)])
    values = np.array(values)
    error = values.std(0) / len(values) ** 0.5
    # E[exp(2 x - 2)] = 1 under the prior: the mass of the normal distribution about 2.
    np.testing.assert_array_less(np.abs(values.mean(0) - [1, 0, 1, 1]), 4 * error)
    # Draws chosen at random would make the last one's error that of 1,000: 4 times larger.
    assert values[:, 3].std() < 2 * (np.exp(4) - 1) ** 0.5 / (num_batches * NUM_DRAWS) ** 0.5


def test_the_search_ends_at_the_largest_number_of_batches(rng_key):
    assert search(rng_key, targets_of(8.0), 5).num_simulated == 5000
    assert search(rng_key, targets_of(8.0), 0).num_simulated == NUM_DRAWS


def test_circuits_that_fail_are_counted_and_not_kept(rng_key):
    @jax.jit
    def half(key):
        draws = normal_draws(key)
        return draws._replace(finite=draws.flat[:, 0] > 0)

    kept = search(rng_key, targets_of(2.5), 20, half)
    assert abs(kept.num_nonfinite / kept.num_simulated - 0.5) < 4 * 0.5 / 20_000**0.5
    assert kept.draws.finite.all()

    @jax.jit
    def none(key):
        return normal_draws(key)._replace(finite=jnp.zeros(NUM_DRAWS, bool))

    kept = search(rng_key, targets_of(2.5), 20, none)
    assert kept.num_nonfinite == kept.num_simulated == NUM_DRAWS
    assert not kept.draws.finite.any()


def test_a_share_counts_the_draws_that_fail(rng_key):
    """The shares of all that run add up to how many run, failed ones in their number included."""

    @jax.jit
    def some(key):
        draws = normal_draws(key)
        return draws._replace(finite=draws.flat[:, 0] > -0.5)

    kept = search(rng_key, targets_of(2.5), 20, some)
    running = 1 - kept.num_nonfinite / kept.num_simulated
    found = jnp.exp(kept.log_share).sum() / kept.num_simulated
    # Half of the draws are chosen evenly, of a tail that is known far better.
    assert abs(found - running) < 4 * running * (2 / NUM_DRAWS) ** 0.5


def test_draws_that_were_not_searched_for_stand_for_themselves(rng_key):
    kept = unweighted(normal_draws(rng_key))
    assert kept.num_simulated == NUM_DRAWS
    assert kept.num_nonfinite == 0
    assert not kept.log_share.any()

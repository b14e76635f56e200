"""The augmented Lagrangian: exact on average, finite with NaN, and blind to simulator noise."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats
from numpy.testing import assert_allclose, assert_array_equal
from numpyro import handlers
from numpyro.infer import SVI

from numpyro_dsn import MaxEntropyELBO, behavior, simulator
from numpyro_dsn.constraints import AtLeast, AtMost, Moments
from numpyro_dsn.guides import AutoRealNVP
from numpyro_dsn.solver.objective import (
    Particles,
    augmented_lagrangian,
    draw_particles,
    mean_statistics,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

PRIOR_SD = 2.0
TARGET = np.array([0.5, 1.5])
PARAMS = {"loc": jnp.array(0.8), "scale": jnp.array(0.7)}
MULTIPLIERS = jnp.array([0.6, -0.3])
PENALTY = 3.0


def prior():
    return numpyro.sample("z", dist.Normal(0.0, PRIOR_SD))


def gaussian():
    z = prior()
    behavior("f", jnp.stack([z, z**2]), Moments(TARGET))


def guide():
    loc, scale = numpyro.param("loc", 0.8), numpyro.param("scale", 0.7)
    numpyro.sample("z", dist.Normal(loc, scale))


def particles_of(rng_key, params, model, num_particles, constraints=None):
    return draw_particles(rng_key, params, model, guide, constraints, num_particles, (), {})


def exact_kl(params):
    loc, scale = params["loc"], params["scale"]
    return jnp.log(PRIOR_SD / scale) + (scale**2 + loc**2) / (2 * PRIOR_SD**2) - 0.5


def exact_lagrangian(params):
    loc, scale = params["loc"], params["scale"]
    residual = jnp.stack([loc, loc**2 + scale**2]) - TARGET
    square = jnp.sum(residual**2)
    return exact_kl(params) + jnp.dot(MULTIPLIERS, residual) + PENALTY / 2 * square


def plain_lagrangian(rng_key, params, num_particles):
    particles = particles_of(rng_key, params, gaussian, num_particles)
    residual = mean_statistics(particles) - TARGET
    kl = jnp.mean(particles.log_q - particles.log_prior)
    return kl + jnp.dot(MULTIPLIERS, residual) + PENALTY / 2 * jnp.sum(residual**2)


def z_scores(rng_key, loss, num_batches=20_000):
    """Return how far the mean loss and its mean gradient are from exact, in standard errors."""
    keys = jax.random.split(rng_key, num_batches)
    value, gradient = jax.jit(jax.vmap(jax.value_and_grad(loss, 1), (0, None)))(keys, PARAMS)
    exact_value, exact_gradient = jax.value_and_grad(exact_lagrangian)(PARAMS)

    def z_score(sample, exact):
        return np.abs(sample.mean() - exact) / (np.std(sample) / np.sqrt(num_batches))

    return z_score(value, exact_value), jax.tree.map(z_score, gradient, exact_gradient)


@pytest.mark.parametrize("num_particles", [4, 8])
def test_value_and_gradient_are_exact_on_average(num_particles, rng_key):
    loss = MaxEntropyELBO(MULTIPLIERS, PENALTY, num_particles=num_particles)
    value, gradient = z_scores(rng_key, lambda key, params: loss.loss(key, params, gaussian, guide))
    assert value < 4
    assert gradient["loc"] < 4
    assert gradient["scale"] < 4


@pytest.mark.parametrize("num_particles", [4, 8])
def test_the_plain_square_fails_the_same_test(num_particles, rng_key):
    value, gradient = z_scores(
        rng_key, lambda key, params: plain_lagrangian(key, params, num_particles)
    )
    assert value > 4
    assert gradient["loc"] > 4
    assert gradient["scale"] > 4


def lagrangian_gradients(rng_key, constraint, multipliers, penalty, num_batches):
    """Return the gradients of batches, and those of their KL to the prior alone."""

    def model():
        z = prior()
        behavior("f", jnp.stack([z, z**2]), constraint)

    def loss(params, key, multipliers, penalty):
        return MaxEntropyELBO(multipliers, penalty, num_particles=6).loss(key, params, model, guide)

    gradient = jax.jit(jax.vmap(jax.grad(loss), (None, 0, None, None)))
    keys = jax.random.split(rng_key, num_batches)
    return (
        gradient(PARAMS, keys, multipliers, penalty),
        gradient(PARAMS, keys, jnp.zeros(2), 0.0),
    )


INACTIVE = {
    "no multiplier": (AtMost(np.array([50.0, 50.0])), jnp.zeros(2)),
    "at most": (AtMost(np.array([50.0, 50.0])), jnp.array([0.5, 2.0])),
    "at least": (AtLeast(np.array([-50.0, -50.0])), jnp.array([-0.5, -2.0])),
}


@pytest.mark.parametrize(("constraint", "multipliers"), INACTIVE.values(), ids=INACTIVE)
def test_an_inactive_inequality_has_no_gradient(constraint, multipliers, rng_key):
    # Neither on the mean of T nor, through the size of a batch, on its variance.
    gradients, of_kl = lagrangian_gradients(rng_key, constraint, multipliers, 1000.0, 20)
    for name in PARAMS:
        assert_allclose(gradients[name], of_kl[name], atol=1e-4)


def test_an_active_inequality_pulls_like_an_equality(rng_key):
    # E[z] = 0.8 and E[z^2] = 1.13 lie far above the bounds, so that no batch finds them inactive.
    multipliers, bound = jnp.array([3.0, 4.0]), np.array([-5.0, -5.0])
    inequality, _ = lagrangian_gradients(rng_key, AtMost(bound), multipliers, 3.0, 20)
    equality, _ = lagrangian_gradients(rng_key, Moments(bound), multipliers, 3.0, 20)
    for name in PARAMS:
        assert_allclose(inequality[name], equality[name], rtol=1e-5)
        assert np.all(np.abs(equality[name]) > 1)


def by_hand(statistics, finite, log_ratio, target, multipliers, penalty):
    """The augmented Lagrangian of an equality with loops over draws and pairs of draws."""
    draws = [row - target for row, keep in zip(statistics, finite, strict=True) if keep]
    count = len(draws)
    pairs = [
        np.dot(one, two) for i, one in enumerate(draws) for j, two in enumerate(draws) if i != j
    ]
    square = sum(pairs) / (count * (count - 1))
    return np.mean(log_ratio) + np.dot(multipliers, sum(draws) / count) + penalty / 2 * square


def test_the_loss_of_svi_is_that_by_hand(rng_key):
    loss = MaxEntropyELBO(MULTIPLIERS, PENALTY, num_particles=5)
    svi = SVI(gaussian, guide, numpyro.optim.Adam(0.1), loss)
    state = svi.init(rng_key)
    value = svi.evaluate(state)
    # `SVI.evaluate` spends one half of the state's key, and z is the first statistic.
    particles = particles_of(jax.random.split(state.rng_key)[1], PARAMS, gaussian, 5)
    z = np.asarray(particles.statistics[:, 0], dtype=float)
    log_q = scipy.stats.norm.logpdf(z, 0.8, 0.7)
    log_prior = scipy.stats.norm.logpdf(z, 0.0, PRIOR_SD)
    assert_allclose(particles.log_q, log_q, rtol=1e-5)
    assert_allclose(particles.log_prior, log_prior, rtol=1e-5)
    assert_allclose(particles.statistics[:, 1], z**2, rtol=1e-6)
    statistics = np.stack([z, z**2], axis=1)
    expected = by_hand(
        statistics, np.ones(5, bool), log_q - log_prior, TARGET, MULTIPLIERS, PENALTY
    )
    assert_allclose(value, expected, rtol=1e-5)


def of_finite(log_q, statistics, finite):
    """Particles of a flat prior."""
    return Particles(log_q, jnp.zeros(len(log_q)), statistics, finite, ~finite[:, None])


def test_draws_that_are_not_finite_count_in_kl_alone():
    rng = np.random.default_rng(1)
    finite = np.array([True, False, True, True, False, True])
    statistics = np.where(finite[:, None], rng.normal(size=(6, 2)), 0.0)
    log_q = rng.normal(size=6)
    particles = of_finite(jnp.asarray(log_q), jnp.asarray(statistics), jnp.asarray(finite))
    value = augmented_lagrangian(particles, MULTIPLIERS, PENALTY, *2 * [jnp.asarray(TARGET)])
    expected = by_hand(statistics, finite, log_q, TARGET, MULTIPLIERS, PENALTY)
    assert_allclose(value, expected, rtol=1e-5)
    assert_allclose(mean_statistics(particles), statistics[finite].mean(0), rtol=1e-6)


@pytest.mark.parametrize("count", [0, 1])
def test_without_a_pair_of_finite_draws_there_is_no_square(count):
    finite = jnp.arange(3) < count
    statistics = jnp.where(finite, 7.0, 0.0)[:, None]
    particles = of_finite(jnp.ones(3), statistics, finite)

    def loss(statistics, penalty):
        particles_ = particles._replace(statistics=statistics)
        return augmented_lagrangian(particles_, 2 * jnp.ones(1), penalty, *2 * [jnp.ones(1)])

    value, gradient = jax.value_and_grad(loss)(statistics, 100.0)
    assert_allclose(value, 1 + count * 2 * (7 - 1), rtol=1e-6)
    assert_allclose(gradient[:, 0], np.where(finite, 2.0, 0.0))


def test_the_square_survives_many_draws_and_large_statistics():
    # More pairs than a 32-bit integer counts, and a spread that is the last digit of the mean.
    count, offset = 70_000, 1e5
    residual = jnp.where(jnp.arange(count) % 2 == 0, 1.5, -0.5)[:, None]
    particles = of_finite(jnp.zeros(count), offset + residual, jnp.ones(count, bool))
    target = jnp.array([offset])
    value, gradient = jax.value_and_grad(
        lambda t: augmented_lagrangian(
            particles._replace(statistics=t), jnp.zeros(1), 4.0, target, target
        )
    )(particles.statistics)
    # Mean 1/2 and variance 1, so the square is 1/4 - 1/n; the pull on each draw is c R / n.
    assert_allclose(value, 2 * (0.25 - 1 / count), rtol=1e-4)
    assert_allclose(gradient * count, np.full((count, 1), 4 * 0.5), rtol=1e-3)


def test_svi_finds_the_truncated_exponential_of_a_multiplier(rng_key):
    # On [0, 1] with E[z] = 0.3 the density is exp(eta z) / Z, and eta = -lambda.
    eta = -2.6721038552733853
    assert_allclose(1 / (1 - np.exp(-eta)) - 1 / eta, 0.3, rtol=1e-9)

    def model():
        z = numpyro.sample("z", dist.Uniform(0.0, 1.0))
        behavior("f", z, Moments(0.3))

    flow = AutoRealNVP(handlers.block(model, hide=["f"]))
    loss = MaxEntropyELBO(jnp.array([-eta]), num_particles=100)
    svi = SVI(model, flow, numpyro.optim.Adam(0.01), loss)
    result = svi.run(rng_key, 500, progress_bar=False)
    num_draws = 20_000
    particles = jax.jit(
        lambda key: draw_particles(key, result.params, model, flow, None, num_draws, (), {})
    )(jax.random.fold_in(rng_key, 1))
    # Without a penalty L - L* is KL(q || q*), and a KL moves E[z] by at most width sqrt(KL / 2).
    maximum = -0.2528455630041859
    gap = augmented_lagrangian(particles, jnp.array([-eta]), 0.0, *2 * [jnp.array([0.3])]) + maximum
    z = particles.statistics[:, 0]
    log_weight = particles.log_q - particles.log_prior - eta * z
    error = 4 * np.std(log_weight) / np.sqrt(num_draws)
    assert abs(gap) < 2e-3 + error
    error = 4 * z.std() / np.sqrt(num_draws)
    assert abs(z.mean() - 0.3) < np.sqrt(2e-3 / 2) / 3 + error


def noisy():
    z = prior()
    with simulator():
        x = numpyro.sample("x", dist.Normal(z, 0.5))
        numpyro.sample("spikes", dist.Poisson(3.0))
    noise = jax.random.normal(numpyro.prng_key())
    behavior("f", jnp.stack([z, (x - z) / 0.5, noise]), Moments(np.zeros(3)))


def test_noise_of_the_simulator_has_no_density_and_is_fresh_in_every_draw(rng_key):
    count = 4000
    draw = jax.jit(lambda key: particles_of(key, PARAMS, noisy, count))
    one, two = (draw(jax.random.fold_in(rng_key, i)) for i in range(2))
    z = np.asarray(one.statistics[:, 0], dtype=float)
    assert_allclose(one.log_prior, scipy.stats.norm.logpdf(z, 0, PRIOR_SD), rtol=1e-5)
    assert_allclose(one.log_q, scipy.stats.norm.logpdf(z, 0.8, 0.7), rtol=1e-4, atol=1e-5)
    noise = np.asarray(one.statistics[:, 1:])
    for column in noise.T:
        assert len(np.unique(column)) > 0.99 * count
        assert scipy.stats.kstest(column, "norm").statistic < 1.95 / np.sqrt(count)
    # Neither the parameters nor the two kinds of noise share a key: 1 / sqrt(n) by chance.
    correlation = np.corrcoef(np.asarray(one.statistics).T) - np.eye(3)
    assert np.abs(correlation).max() < 4 / np.sqrt(count)
    assert not np.any(np.all(one.statistics == two.statistics, axis=1))
    assert np.array_equal(one.statistics, draw(jax.random.fold_in(rng_key, 0)).statistics)


@jax.custom_jvp
def square_root(z):
    return jnp.sqrt(z)


@square_root.defjvp
def _(primals, tangents):
    return jnp.sqrt(primals[0]), tangents[0] * 0.5 / jnp.sqrt(primals[0])


def looped(z):
    return jax.lax.scan(lambda x, _: (jnp.sqrt(x), None), z, length=3)[0]


# Not a number where z < 0, in the value and in the derivative.
FRAGILE = {
    "primitive": jnp.sqrt,
    "infinite": lambda z: jnp.where(z < 0, jnp.inf, 1.0) * z,
    "custom derivative": square_root,
    "jit": jax.jit(jnp.sqrt),
    "scan": looped,
    "linear algebra": lambda z: jnp.linalg.slogdet(jnp.diag(jnp.stack([jnp.sqrt(z), 1 / z])))[1],
}


@cache
def standard_draws(count):
    """The standard normal draws behind the guide's draws from one key."""

    def model():
        behavior("f", prior(), Moments(0.0))

    draw = jax.jit(lambda key: particles_of(key, PARAMS, model, count))
    z = np.asarray(draw(jax.random.key(0)).statistics[:, 0])
    return (z - PARAMS["loc"]) / PARAMS["scale"]


@pytest.mark.parametrize("fragile", FRAGILE.values(), ids=FRAGILE)
def test_a_statistic_that_is_not_finite_is_masked_and_counted(fragile):
    def model():
        behavior("f", fragile(prior()), Moments(1.0))

    @jax.jit
    def evaluate(params, multiplier, penalty):
        def loss(params):
            particles = particles_of(jax.random.key(0), params, model, 50)
            bounds = 2 * [jnp.ones(1)]
            return augmented_lagrangian(particles, multiplier, penalty, *bounds), particles

        return jax.value_and_grad(loss, has_aux=True)(params)

    standard = standard_draws(50)
    z = PARAMS["loc"] + PARAMS["scale"] * standard
    (value, particles), gradient = evaluate(PARAMS, jnp.array([0.7]), 2.0)
    assert jnp.isfinite(value)
    assert all(jnp.isfinite(leaf) for leaf in gradient.values())
    assert 0 < particles.finite.sum() < 50
    assert_array_equal(particles.finite, z > 0)
    assert_array_equal(particles.failed[:, 0], ~(z > 0))
    expected = jnp.where(z > 0, jax.vmap(fragile)(z), 0.0)
    assert_allclose(particles.statistics[:, 0], expected, rtol=1e-4, atol=1e-5)
    # Prior and guide keep their pull on the draws that are not finite: KL of these draws is the
    # mean of z^2 / (2 sd^2) - log(scale), with z = loc + scale * standard.
    _, of_kl = evaluate(PARAMS, jnp.zeros(1), 0.0)
    assert_allclose(of_kl["loc"], np.mean(z) / PRIOR_SD**2, rtol=1e-4)
    by_scale = np.mean(z * standard) / PRIOR_SD**2 - 1 / PARAMS["scale"]
    assert_allclose(of_kl["scale"], by_scale, rtol=1e-4)


def test_constraints_can_be_given_by_site_name(rng_key):
    given = MaxEntropyELBO(MULTIPLIERS[:1], PENALTY, {"z": Moments(0.5)}, num_particles=5)

    def stated():
        behavior("f", prior(), Moments(0.5))

    loss = MaxEntropyELBO(MULTIPLIERS[:1], PENALTY, num_particles=5)
    assert_allclose(
        given.loss(rng_key, PARAMS, prior, guide),
        loss.loss(rng_key, PARAMS, stated, guide),
        rtol=1e-6,
    )


def test_a_guide_whose_draws_have_no_gradient_is_refused(rng_key):
    mixture = dist.MixtureSameFamily(
        dist.Categorical(logits=jnp.zeros(2)), dist.Normal(jnp.array([0.0, 1.0]), 1.0)
    )
    loss = MaxEntropyELBO(MULTIPLIERS, num_particles=5)
    with pytest.raises(ValueError, match=r"Draws of the guide's site 'z' have no gradient"):
        loss.loss(rng_key, {}, gaussian, lambda: numpyro.sample("z", mixture))
